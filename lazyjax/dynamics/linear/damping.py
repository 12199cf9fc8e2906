r"""What gradient flow with friction does to one eigendirection of the kernel.

The decay $p$ obeys $\ddot p + \gamma \dot p + \lambda p = 0$ from $p = 1$ at rest: a damped
oscillator. As in `filters`, $1 - p$ and the integral $q = (1 - p) / \lambda$ are computed by
themselves, as sums of what is not negative, so that none loses accuracy where it is small.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from lazyjax.dynamics.linear.filters import Filter, over_rates
from lazyjax.linalg import is_long


def damped_filter(
    rates: Float[Array, " m"],
    time: Float[Array, ""],
    friction: Float[Array, ""],
    cutoff: Float[Array, ""],
) -> Filter:
    """Gradient flow with friction, up to infinite time; without, that has no end: NaN."""
    is_end = jnp.isinf(time)
    times = jnp.where(is_end, 0, time)
    # Directions of rates up to the cutoff do not move at all, where the time is too long
    # to tell whether they would.
    is_lost = (rates <= cutoff) & is_long(damped_reach(times, friction), cutoff)
    times = jnp.where(is_lost, 0, times)
    # Roots of the characteristic polynomial: -half -+ part, or -half -+ part * i.
    half, root = friction / 2, jnp.sqrt(rates)
    is_real = half > root
    part = jnp.sqrt(jnp.abs(half - root)) * jnp.sqrt(half + root)
    slow = rates / jnp.where(is_real, half + part, 1)
    most = float(jnp.finfo(rates.dtype).max)
    x = jnp.minimum(jnp.where(is_real, slow, half) * times, most)
    decay_x, stays = jnp.exp(-x), _progress_of_double_root(x)

    z = jnp.minimum(jnp.where(is_real, 2 * part * times, 0), most)
    lag = _lag(z)
    real_decay = decay_x * (1 + x * (1 - lag))
    real_progress = stays + decay_x * x * lag

    angle = jnp.minimum(jnp.where(is_real, 0, part * times), most)
    sine_gap = _one_minus_sinc(angle)
    complex_decay = decay_x * (jnp.cos(angle) + x * (1 - sine_gap))
    complex_progress = stays + decay_x * (
        2 * jnp.square(jnp.sin(angle / 2)) + x * sine_gap
    )

    decay = jnp.where(is_real, real_decay, complex_decay)
    progress = jnp.where(is_real, real_progress, complex_progress)
    ends_at = jnp.where(friction > 0, jnp.where(rates > cutoff, 0.0, 1.0), jnp.nan)
    decay = jnp.where(is_end, ends_at.astype(decay.dtype), decay)
    progress = jnp.where(is_end, 1 - decay, progress)
    # Where the progress is so small, squares that it was made of may have underflowed.
    rounded = progress * float(jnp.finfo(rates.dtype).eps)
    integral = over_rates(rates, rounded, progress, damped_reach(times, friction))
    integral = jnp.where(jnp.isnan(decay), jnp.nan, integral)
    return Filter(decay, integral, jnp.zeros_like(integral))


def damped_reach(
    time: Float[Array, "*times"], friction: Float[Array, ""]
) -> Float[Array, "*times"]:
    r"""Time $(\gamma t - 1 + e^{-\gamma t}) / \gamma^2$ of the plain flow for small rates."""
    # Without friction it is half the square.
    z = friction * time
    over_z = jnp.where(z < 1, _lag_over_z(z), _lag(z) / jnp.maximum(z, 1))
    return jnp.where(jnp.isinf(time), time, time * (time * over_z))


def _lag(z: Array) -> Array:
    r"""$1 - (1 - e^{-z}) / z$ for $z \ge 0$."""
    far = 1 + jnp.expm1(-z) / jnp.maximum(z, 1)
    return jnp.where(z < 1, z * _lag_over_z(z), far)


def _lag_over_z(z: Array) -> Array:
    """Its series, for `z` below 1."""
    return _polynomial(z, [(-1) ** n / math.factorial(n + 2) for n in range(17)])


def _progress_of_double_root(x: Array) -> Array:
    r"""$1 - (1 + x) e^{-x}$ for $x \ge 0$."""
    near_zero = x * (-jnp.expm1(-x) - _lag(x))
    return jnp.where(x < 1, near_zero, 1 - (1 + x) * jnp.exp(-x))


def _one_minus_sinc(angle: Array) -> Array:
    r"""$1 - \sin(\theta) / \theta$."""
    square = jnp.square(angle)
    series = [(-1) ** n / math.factorial(2 * n + 3) for n in range(9)]
    far = 1 - jnp.sin(angle) / jnp.maximum(angle, 1)
    return jnp.where(angle < 1, square * _polynomial(square, series), far)


def _polynomial(x: Array, coefficients: list[float]) -> Array:
    """Polynomial in `x`, at most 1, by Horner's rule."""
    x, total = jnp.minimum(x, 1), jnp.zeros_like(x)
    for coefficient in reversed(coefficients):
        total = total * x + coefficient
    return total
