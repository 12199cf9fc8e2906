"""Whether kernels are accurate, as far as their activations have no closed form."""

import warnings

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lazyjax.activations.moments import safe_sqrt
from lazyjax.activations.registry import find
from lazyjax.infinite.duals.dual import dual_disagreement, is_closed_form
from lazyjax.infinite.duals.hermite import TOLERANCE
from lazyjax.typing import Activation

# Beyond this share of a second moment there is a warning; beyond `TOLERANCE`, no kernel.
_WARNED = 1e-3

_NUM_STDS = 9  # between the smallest and the largest that occur
_SMALLEST = 1e-3  # of the largest; where variances are less, so are the contributions


def std_range(variances: list[Array]) -> Float[Array, "2"]:
    """Smallest positive and largest standard deviation; both 0 if all are."""
    flat = jnp.concatenate([jnp.ravel(variance) for variance in variances])
    largest = jnp.max(flat)
    smallest = jnp.min(jnp.where(flat > 0, flat, largest))
    return safe_sqrt(jnp.stack([smallest, largest]))


def largest_error(
    stds: list[tuple[Activation, Float[Array, "2"]]], with_slope: bool
) -> Float[Array, ""]:
    """Share by which Gaussian moments of activations are not known."""
    errors = [jnp.zeros(())]
    for activation, ends in stds:
        if is_closed_form(activation) or _is_tabulated(activation, ends):
            continue
        low, high = jax.lax.stop_gradient(ends)
        high = jnp.where(high > 0, high, 1)
        low = jnp.maximum(low, _SMALLEST * high)
        steps = jnp.linspace(0, 1, _NUM_STDS, dtype=ends.dtype)
        between = high * (low / high) ** steps
        error = dual_disagreement(activation, between, with_slope)
        errors.append(error.astype(errors[0].dtype))
    return jnp.max(jnp.stack(errors))


def _is_tabulated(activation: Activation, ends: Float[Array, "2"]) -> bool:
    """Whether errors are known to be small, where standard deviations are known."""
    spec = find(activation)
    if spec is None:
        return False
    try:
        return float(ends[1]) <= spec.accurate_std
    except jax.errors.ConcretizationTypeError:
        return False


def checked(
    kernel: Float[Array, "n1 n2"], error: Float[Array, ""], name: str
) -> Float[Array, "n1 n2"]:
    """The kernel, if moments of its activations are known; NaN if it is traced."""
    try:
        share, is_known = float(error), not bool(jnp.any(jnp.isnan(kernel)))
    except jax.errors.ConcretizationTypeError:
        return jnp.where(error <= TOLERANCE, kernel, jnp.nan)
    if not share <= TOLERANCE:
        raise ValueError(
            f"`{name}` has an activation that varies too fast, at the standard deviations "
            "of its argument, for its Gaussian moments to be known: two rules of "
            f"quadrature differ by a share of {share:.2g}. {_REMEDY}"
        )
    if not is_known:
        raise ValueError(
            f"`{name}` has an activation that varies too fast, at the standard deviations "
            "of its argument, for the series of its Gaussian moments between nearly "
            f"parallel inputs, or whose moments are not finite. {_REMEDY}"
        )
    if share > _WARNED:
        warnings.warn(
            "The kernel may be wrong by a share of some "
            f"{share:.2g}: its activation varies fast. {_REMEDY}",
            stacklevel=3,
        )
    return kernel


_REMEDY = (
    "Make inputs or weights smaller, take an activation with a closed form (see "
    "`lazyjax.infinite.duals`), or average kernels of finite networks by "
    "`lazyjax.monte_carlo_ntk`."
)
