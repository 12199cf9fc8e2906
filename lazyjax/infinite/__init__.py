"""Analytic kernels of infinitely wide networks, and predictions with them."""

from lazyjax.infinite import predict as predict
from lazyjax.infinite.kernels import (
    infinite_nngp as infinite_nngp,
    infinite_ntk as infinite_ntk,
)
