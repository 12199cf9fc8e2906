r"""What linear dynamics do to one eigendirection of the kernel, in closed form.

In a direction of rate $\lambda$ (eigenvalue plus ridge) all of them have a *decay* $p$,
the share of an initial residual that is left, and an *integral* $q = (1 - p) / \lambda$,
the sum of what the gradients were. Both are computed by themselves, so that neither
loses accuracy where $p$ or $\lambda$ is small; and beside a power of two, so that what
grows beyond all numbers keeps its sign and can be added up.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lazyjax.linalg import is_long


class Filter(NamedTuple):
    """Decay and integral of every direction."""

    decay: Float[Array, " m"]  # the $p$, divided by $2^e$
    integral: Float[Array, " m"]  # the $q$, divided by it too
    # The integer $e$, 0 or more: 0 of all that does not grow.
    exponent: Float[Array, " m"]


def grown(
    coefficients: Float[Array, "m c"], exponents: Float[Array, " m"]
) -> tuple[Float[Array, "m c"], Float[Array, ""]]:
    """Coefficients times powers of two, over a common one, and the exponent of that."""
    # So they can be added up, which infinities of both signs cannot. The exponent is 0
    # if no direction that has a coefficient grows.
    largest = jnp.max(jnp.abs(coefficients), axis=1)
    grows = (largest > 0) & (exponents > 0)
    # A large power may belong to a small coefficient.
    own = jnp.ceil(jnp.log2(jnp.where(grows, largest, 1)))
    total = jnp.where(grows, exponents + own, 0)
    common = jnp.max(total, initial=0)
    scaled = coefficients * jnp.exp2(-own)[:, None]
    return scaled * jnp.exp2(total - common)[:, None], common


def scaled_up(
    values: Float[Array, "*shape"], exponent: Array
) -> Float[Array, "*shape"]:
    """Values times a power of two: infinite where they overflow, and never NaN."""
    # In two factors: one alone may overflow where the product does not.
    half = jnp.floor(exponent / 2)
    return jnp.where(
        values == 0, 0, values * jnp.exp2(half) * jnp.exp2(exponent - half)
    )


def flow_filter(
    rates: Float[Array, " m"], time: Float[Array, ""], cutoff: Float[Array, ""]
) -> Filter:
    r"""Gradient flow: $p = e^{-\lambda t}$, up to infinite $t$."""
    # Directions of rates up to the cutoff do not move at all, where the time is too long
    # to tell whether they would.
    is_end = jnp.isinf(time)
    times = jnp.where(is_end, 0, time)
    times = jnp.where((rates <= cutoff) & is_long(time, cutoff), 0, times)
    at_end = jnp.where(rates > cutoff, jnp.inf, 0).astype(rates.dtype)
    exponents = jnp.where(is_end, at_end, rates * times)
    progress = -jnp.expm1(-exponents)
    integral = over_rates(rates, exponents, progress, times)
    return Filter(jnp.exp(-exponents), integral, jnp.zeros_like(integral))


def descent_filter(
    rates: Float[Array, " m"], step: Int[Array, ""], learning_rate: Float[Array, ""]
) -> Filter:
    r"""Gradient descent: $p = (1 - \eta \lambda)^s$."""
    scaled = jnp.minimum(learning_rate * rates, float(jnp.finfo(rates.dtype).max))
    count = step.astype(scaled.dtype)
    decay, exponent = _power_of_one_minus(scaled, step)
    # Below 1, so that a tiny product is not lost in 1 - product.
    slow = -jnp.expm1(count * jnp.log1p(-jnp.where(scaled < 1, scaled, 0)))
    progress = jnp.where(scaled < 1, slow, jnp.exp2(-exponent) - decay)
    integral = over_rates(rates, scaled, progress, learning_rate * count)
    return Filter(decay, integral, exponent)


def heavy_ball_filter(
    rates: Float[Array, " m"],
    step: Int[Array, ""],
    learning_rate: Float[Array, ""],
    momentum: Float[Array, ""],
) -> Filter:
    r"""Heavy ball: $p_{s+1} = (1 + \beta - \eta \lambda) p_s - \beta p_{s-1}$."""
    # From p_0 = p_{-1} = 1; q obeys the same, plus eta, from q_0 = q_{-1} = 0. Powers of
    # the matrix of both recurrences are taken by squaring, without regard to whether its
    # roots are real, complex or equal.
    zero, one = jnp.zeros_like(rates), jnp.ones_like(rates)
    # Finite, and far enough from the largest number that the entries 1 are not lost.
    limit = float(jnp.finfo(rates.dtype).max) / 2**10
    diagonal = one + momentum - jnp.minimum(learning_rate * rates, limit)
    matrix = jnp.stack(
        [
            jnp.stack([diagonal, -momentum * one, one], axis=-1),
            jnp.stack([one, zero, zero], axis=-1),
            jnp.stack([zero, zero, one], axis=-1),
        ],
        axis=-2,
    )
    # The corner counts the constant 1: powers of the block without it are those of p.
    homogeneous, exponent = _matrix_power(matrix[:, :2, :2], step)
    affine, affine_exponent = _matrix_power(matrix, step)
    common = jnp.maximum(jnp.maximum(exponent, affine_exponent), 0)
    return Filter(
        (homogeneous[:, 0, 0] + homogeneous[:, 0, 1]) * jnp.exp2(exponent - common),
        learning_rate * affine[:, 0, 2] * jnp.exp2(affine_exponent - common),
        common,
    )


def scheduled_filters(
    rates: Float[Array, " m"],
    learning_rates: Float[Array, " num_rates"],
    momentum: Float[Array, ""] | None,
) -> Filter:
    r"""Descent or heavy ball after 0, 1, ... steps of learning rates $\eta_s$, stacked."""
    # As in optax, momentum sums up gradients, not steps: v_s = p_s + beta v_{s-1},
    # q_{s+1} = q_s + eta_s v_s, p_{s+1} = p_s - eta_s lambda v_s.
    limit = float(jnp.finfo(rates.dtype).max) / 2**10
    zero, one = jnp.zeros_like(rates), jnp.ones_like(rates)

    def step(carry: tuple, learning_rate: Array) -> tuple:
        (p, p_error, q, q_error, v), exponent = carry
        v = p if momentum is None else p + momentum * v
        step_size = jnp.minimum(learning_rate * rates, limit)
        p, p_error = _compensated_sum(p, p_error, -step_size * v)
        q, q_error = _compensated_sum(q, q_error, learning_rate * v)
        # Far from 1, p says what q is, also where it comes back from large numbers.
        unit = jnp.ldexp(one, -exponent)
        is_near = jnp.abs(unit - p) < unit / 2
        q = jnp.where(is_near, q, (unit - p) / jnp.where(is_near, 1, rates))
        q_error = jnp.where(is_near, q_error, 0)
        # Powers of two, by which nothing is rounded, keep what grows at 2**20 or below.
        largest = jnp.maximum(jnp.abs(p), jnp.abs(v))
        shift = jnp.frexp(jnp.where(largest > 0, largest, 1))[1] - 20
        shift = jnp.maximum(shift, -exponent)
        values = tuple(jnp.ldexp(x, -shift) for x in (p, p_error, q, q_error, v))
        exponent = exponent + shift
        return (values, exponent), (values[0], values[2], exponent)

    start = (one, zero, zero, zero, zero), jnp.zeros(rates.shape, jnp.int32)
    _, later = jax.lax.scan(step, start, learning_rates)
    p, q, exponent = (
        jnp.concatenate([first[None], rest])
        for first, rest in zip((one, zero, start[1]), later, strict=True)
    )
    return Filter(p, q, exponent.astype(rates.dtype))


def _compensated_sum(total: Array, error: Array, term: Array) -> tuple[Array, Array]:
    """Kahan's sum, and the part of it that was rounded away."""
    term = term - error
    new = total + term
    return new, (new - total) - term


def over_rates(
    rates: Array, exponents: Array, progress: Array, at_zero: Array
) -> Array:
    """Progress over rates; `at_zero` where the exponents underflow."""
    # Where the exponent underflows, so would the progress: the limit is exact there.
    positive = exponents > jnp.finfo(rates.dtype).tiny
    return jnp.where(positive, progress / jnp.where(positive, rates, 1), at_zero)


def _power_of_one_minus(z: Array, step: Array) -> tuple[Array, Array]:
    """`(1 - z) ** step` for `z >= 0`, accurate near 1 and -1, and its power of two."""
    log = jnp.where(
        z < 1, jnp.log1p(-jnp.where(z < 1, z, 0)), jnp.log1p(jnp.maximum(z, 1) - 2)
    )
    total = jnp.where(step == 0, 0, step.astype(z.dtype) * log)
    exponent = jnp.floor(jnp.maximum(total, 0) / math.log(2))
    magnitude = jnp.exp(total - exponent * math.log(2))
    return jnp.where((z > 1) & (step % 2 == 1), -magnitude, magnitude), exponent


def _matrix_power(matrices: Float[Array, "m r r"], step: Array) -> tuple[Array, Array]:
    """Powers by squaring: entries of at most 1, and the exponents of two beside them."""

    def normalized(values: Array) -> tuple[Array, Array]:
        largest = jnp.max(jnp.abs(values), axis=(1, 2))
        # Powers of two, by which nothing is rounded; a matrix of zeros stays so.
        exponent = jnp.ceil(jnp.log2(jnp.where(largest > 0, largest, 1)))
        return values * jnp.exp2(-exponent)[:, None, None], exponent

    def product(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
        values = jnp.sum(a[0][:, :, :, None] * b[0][:, None, :, :], axis=2)
        values, exponent = normalized(values)
        return values, a[1] + b[1] + exponent

    def bit(carry: tuple) -> tuple:
        left, base, power = carry
        multiplied = product(power, base)
        is_set = left % 2 == 1
        power = jax.tree.map(
            lambda new, old: jnp.where(is_set, new, old), multiplied, power
        )
        return left // 2, product(base, base), power

    size = matrices.shape[-1]
    eye = jnp.broadcast_to(jnp.eye(size, dtype=matrices.dtype), matrices.shape)
    no_exponent = jnp.zeros(matrices.shape[0], matrices.dtype)
    carry = (step, normalized(matrices), (eye, no_exponent))
    _, _, power = jax.lax.while_loop(lambda c: c[0] > 0, bit, carry)
    return power
