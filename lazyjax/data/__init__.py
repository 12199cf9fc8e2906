"""Data sets: tables and images, of scikit-learn or of one's own files; random spheres."""

from lazyjax.data._bundled import (
    breast_cancer as breast_cancer,
    diabetes as diabetes,
    digits as digits,
    wine as wine,
)
from lazyjax.data._cifar10 import cifar10 as cifar10
from lazyjax.data._dataset import Dataset as Dataset, minimum_angle as minimum_angle
from lazyjax.data._mnist import mnist as mnist
from lazyjax.data._sources import SOURCES as SOURCES, Source as Source, where as where
from lazyjax.data._sphere import sphere as sphere
