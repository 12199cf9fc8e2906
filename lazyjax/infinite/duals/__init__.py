"""Dual activations: Gaussian expectations of products of two units."""

from lazyjax.infinite.duals.dual import (
    dual_activation as dual_activation,
    dual_derivative as dual_derivative,
    dual_disagreement as dual_disagreement,
    dual_error as dual_error,
    dual_mean as dual_mean,
    dual_variance as dual_variance,
    is_closed_form as is_closed_form,
)
