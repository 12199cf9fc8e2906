"""Finite-width neural tangent kernels of any pure function `apply_fn(params, x)`."""

from lazyjax.ntk.empirical import empirical_ntk as empirical_ntk
