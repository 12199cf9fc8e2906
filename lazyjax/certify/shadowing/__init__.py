"""Certificates of runs whose beginning is computed, with proof of how far off it is."""

from lazyjax.certify.shadowing.descent import shadowed_descent as shadowed_descent
from lazyjax.certify.shadowing.flow import shadowed_flow as shadowed_flow
