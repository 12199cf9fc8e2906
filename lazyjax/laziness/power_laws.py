"""Means over seeds, and power laws fitted to what is measured at several widths."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lazyjax._brief import brief
from lazyjax._checks import check_floating
from lazyjax.files.results import Storable
from lazyjax.typing import AnyArray


def mean_and_sem(
    values: Float[AnyArray, "*batch seeds"],
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """Mean over seeds, and the standard error of that mean.

    Args:
        values: One value per seed along the last axis.

    Returns:
        The mean and its standard error (with `seeds - 1` degrees of freedom, so NaN
        for a single seed).

    Raises:
        TypeError: If `values` is not floating point.

    Example:
        >>> import jax.numpy as jnp
        >>> mean, sem = mean_and_sem(jnp.array([1.0, 2.0, 3.0]))
        >>> float(mean), float(sem)
        (2.0, 0.57735)
    """
    check_floating("values", values)
    values = jnp.asarray(values)
    num_seeds = values.shape[-1]
    mean = jnp.mean(values, axis=-1)
    if num_seeds < 2:
        return mean, jnp.full_like(mean, jnp.nan)
    return mean, jnp.std(values, axis=-1, ddof=1) / math.sqrt(num_seeds)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class SlopeFit(Storable):
    r"""Power law $y \approx e^{\text{intercept}} x^{\text{slope}}$ and its uncertainty.

    Attributes:
        slope: Least-squares slope of $\log y$ against $\log x$.
        intercept: Natural logarithm of the fitted $y$ at $x = 1$.
        slope_sem: Standard error of the slope, from the scatter about the line.
        low: Lower end of the confidence interval of the slope.
        high: Upper end.
        confidence: Probability with which the interval covers the true slope, if the
            scatter of $\log y$ is normal, independent and equally wide everywhere.
    """

    slope: Float[Array, "*batch"]
    intercept: Float[Array, "*batch"]
    slope_sem: Float[Array, "*batch"]
    low: Float[Array, "*batch"]
    high: Float[Array, "*batch"]
    confidence: float = dataclasses.field(metadata={"static": True})

    def __call__(self, x: Float[AnyArray, "*points"]) -> Float[Array, "*points"]:
        """The fitted law at `x`, for a single fit."""
        return jnp.exp(self.intercept + self.slope * jnp.log(x))


def log_log_slope(
    x: Float[AnyArray, "num_x"],
    y: Float[AnyArray, "num_x *seeds"],
    *,
    confidence: float = 0.95,
) -> SlopeFit:
    r"""Power law fitted to `y` against `x` by least squares on logarithms.

    Give the values of every seed, not their means: the scatter over seeds is what the
    standard error is made of, and it has then `num_x * num_seeds - 2` degrees of
    freedom.

    Args:
        x: Positive abscissae, such as widths; at least two must differ.
        y: Positive values at each, with a trailing axis over seeds if there are any.
        confidence: Of the interval, between 0 and 1.

    Returns:
        The fit; NaN throughout if a value is not positive or not finite.

    Raises:
        ValueError: If shapes do not match, there are fewer than three values, or
            `confidence` is out of range.
        TypeError: If `x` or `y` is not floating point.

    Example:
        >>> import jax.numpy as jnp
        >>> width = jnp.array([64.0, 256.0, 1024.0])
        >>> float(log_log_slope(width, 3 / jnp.sqrt(width)).slope)
        -0.5
    """
    check_floating("x", x)
    check_floating("y", y)
    if x.ndim != 1 or y.ndim not in (1, 2) or y.shape[0] != x.shape[0]:
        raise ValueError(
            "`y` must have one row per entry of `x`, shape (num_x,) or (num_x, seeds); "
            f"got shapes {y.shape} and {x.shape}."
        )
    if y.size < 3 or x.shape[0] < 2:
        raise ValueError(
            f"`y` must hold at least three values at two `x`; got shape {y.shape}."
        )
    if not 0 < confidence < 1:
        raise ValueError(
            f"`confidence` must be between 0 and 1; got {brief(confidence)}."
        )
    y = jnp.asarray(y).reshape(y.shape[0], -1)
    log_x = jnp.broadcast_to(jnp.log(jnp.asarray(x, y.dtype))[:, None], y.shape)
    log_y = jnp.log(jnp.where(y > 0, y, jnp.nan))

    centred = log_x - jnp.mean(log_x)
    spread = jnp.sum(centred**2)
    slope = jnp.sum(centred * log_y) / spread
    intercept = jnp.mean(log_y) - slope * jnp.mean(log_x)
    degrees = y.size - 2
    residual = log_y - intercept - slope * log_x
    slope_sem = jnp.sqrt(jnp.sum(residual**2) / degrees / spread)
    from scipy.special import stdtrit  # takes a tenth of a second, which few need

    # Student's T is within this of 0 with probability `confidence`.
    quantile = -stdtrit(degrees, (1 - confidence) / 2)
    half_width = jnp.asarray(quantile, y.dtype) * slope_sem
    return SlopeFit(
        slope=slope,
        intercept=intercept,
        slope_sem=slope_sem,
        low=slope - half_width,
        high=slope + half_width,
        confidence=confidence,
    )
