"""Theorems about one start: what they need, and what follows."""

from lazyjax.certify.theorems.registry import (
    THEOREMS as THEOREMS,
    register_theorem as register_theorem,
)
from lazyjax.certify.theorems.residual import (
    descent_theorem as descent_theorem,
    existence_theorem as existence_theorem,
    flow_theorem as flow_theorem,
    kernel_drift as kernel_drift,
)
from lazyjax.certify.theorems.theorem import Theorem as Theorem
