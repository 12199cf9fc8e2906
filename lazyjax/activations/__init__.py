"""Activations: by name, of families with parameters, or any function."""

from lazyjax.activations.functions import (
    ABReLU as ABReLU,
    Polynomial as Polynomial,
    RectifiedPower as RectifiedPower,
    activation_fn as activation_fn,
    check_activation as check_activation,
    hermite as hermite,
    monomial as monomial,
    named_breaks as named_breaks,
    unit_scale as unit_scale,
)
