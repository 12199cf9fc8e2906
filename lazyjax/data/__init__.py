"""Data sets for experiments on kernels: real handwritten digits and random spheres."""

from lazyjax.data._dataset import Dataset as Dataset, minimum_angle as minimum_angle
from lazyjax.data._digits import digits as digits
from lazyjax.data._sphere import sphere as sphere
