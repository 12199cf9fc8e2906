"""Convergence arguments from the literature, confronted with networks and data."""

from lazyjax.certify import du2019 as du2019
