"""Lazy training and neural tangent kernels in JAX."""

from importlib.metadata import version as _version

from lazyjax import nets as nets
from lazyjax.architecture import Architecture as Architecture
from lazyjax.nets import Network as Network
from lazyjax.ntk import empirical_ntk as empirical_ntk

__version__ = _version("lazyjax")
