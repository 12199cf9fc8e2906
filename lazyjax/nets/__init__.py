"""Finite networks: pure functions built from an `Architecture` and a width."""

from lazyjax.nets.mlp import mlp as mlp
from lazyjax.nets.network import Network as Network, symmetrize as symmetrize
