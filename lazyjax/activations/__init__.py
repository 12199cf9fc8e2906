"""Activations: one record a name, families with parameters, or any function.

The files by kind, from `elementary` to `sigmoids`, hold the records. Records of other
packages come by `register`.
"""

from lazyjax.activations import (
    elementary as elementary,
    error_functions as error_functions,
    sigmoids as sigmoids,
)
from lazyjax.activations.piecewise import (
    ABReLU as ABReLU,
    RectifiedPower as RectifiedPower,
)
from lazyjax.activations.polynomials import (
    Polynomial as Polynomial,
    hermite as hermite,
    monomial as monomial,
)
from lazyjax.activations.registry import (
    ACTIVATIONS as ACTIVATIONS,
    ActivationSpec as ActivationSpec,
    Float64Activation as Float64Activation,
    activation_fn as activation_fn,
    check_activation as check_activation,
    closed_form as closed_form,
    find as find,
    named_breaks as named_breaks,
    register as register,
)
from lazyjax.activations.unit_scale import unit_scale as unit_scale
