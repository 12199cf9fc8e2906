"""Theorems about one start: what they assume, measured, and what follows."""

from lazyjax.certify.theorems.residual import (
    descent_theorem as descent_theorem,
    existence_theorem as existence_theorem,
    flow_theorem as flow_theorem,
    kernel_drift as kernel_drift,
)
