"""Analytic kernels of infinitely wide networks, and predictions with them."""

from lazyjax.infinite import predict as predict
from lazyjax.infinite.kernels import (
    infinite_nngp as infinite_nngp,
    infinite_ntk as infinite_ntk,
)
from lazyjax.infinite.lift import (
    infinite_nngp_of as infinite_nngp_of,
    infinite_ntk_of as infinite_ntk_of,
)
