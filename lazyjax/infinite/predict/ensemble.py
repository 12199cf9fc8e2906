"""Ensembles of infinitely wide networks at any time of training."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lazyjax._checks import check_nonnegative
from lazyjax.infinite.predict.grams import (
    GaussianPrediction,
    Grams,
    check_grams,
    check_kernel,
    check_scalar,
    symmetric_part,
)
from lazyjax.linalg import (
    condition,
    eigh,
    factorized,
    is_long,
    share_of,
    warn_of_dropped,
)
from lazyjax.linalg.eigen import dot
from lazyjax.typing import AnyArray


def trained_ensemble(
    nngp: Grams,
    ntk: Grams,
    y: Float[AnyArray, "n k"],
    *,
    time: float | Float[AnyArray, ""] = math.inf,
) -> GaussianPrediction:
    r"""Outputs at some time of training, over random initializations.

    From $f_0 \sim N(0, K)$, each member follows $\dot f = -\Theta (f - y)$. With
    $A = \Theta_* \Theta^{-1} (1 - e^{-\Theta t})$ the outputs have mean $A y$ and
    covariance $K_{**} + A K A^\top - A K_*^\top - K_* A^\top$. Pass the NNGP as the NTK
    for networks of which only the last layer is trained.

    Args:
        nngp: Covariances at initialization, as by `nngp_grams`.
        ntk: Neural tangent kernels, as by `ntk_grams`.
        y: Targets at training inputs.
        time: Time $t$ of gradient flow; infinite by default. For a loss $c L$ it is
            `time / c` that plays its part.

    Returns:
        Their distribution.

    Raises:
        ValueError: If shapes do not fit, a value is not finite, `time` is negative, or
            `ntk.train` is clearly not symmetric or not positive semidefinite. Values
            are not checked under `jit`.
        TypeError: If an array is not floating point.

    Example:
        >>> import jax.numpy as jnp
        >>> from lazyjax.infinite.predict import Grams, trained_ensemble
        >>> one = jnp.ones((1, 1))
        >>> k = Grams(train=one, cross=one, test=one)
        >>> start, end = (trained_ensemble(k, k, 2 * one, time=t) for t in (0.0, jnp.inf))
        >>> start.mean.item(), start.variance.item(), end.mean.item()
        (0.0, 1.0, 2.0)

    References:
        Lee, Xiao, Schoenholz, Bahri, Novak, Sohl-Dickstein and Pennington (2019),
        arXiv:1902.06720, section 2.4 (equation numbers not checked).
    """
    check_grams("nngp", nngp, y)
    check_grams("ntk", ntk, y)
    check_nonnegative("time", time)
    check_scalar("time", time)
    y = jnp.asarray(y)
    if not _is_known_infinity(time):
        result, smallest, num_dropped = _ensemble_on_the_way(nngp, ntk, y, time)
    else:
        result, smallest = _ensemble_at_the_end(nngp, ntk, y)
        num_dropped = result.num_dropped
    check_kernel("ntk.train", ntk.train, smallest)
    share = jnp.where(num_dropped > 0, result.dropped_share, 0)
    warn_of_dropped(
        "ntk.train",
        num_dropped,
        share,
        remedy="Use float64, or a shorter `time`.",
        stacklevel=2,
    )
    return result


@jax.jit
def _ensemble_at_the_end(
    nngp: Grams, ntk: Grams, y: Array
) -> tuple[GaussianPrediction, Array]:
    """The ensemble, and the smallest eigenvalue of the tangent kernel."""
    matrix = factorized(ntk.train)
    result = _ensemble(
        nngp,
        y,
        response=matrix.solve(jnp.asarray(ntk.cross).T).T,
        condition=matrix.condition,
        num_dropped=matrix.num_dropped,
        dropped=matrix.dropped_part(y),
    )
    return result, matrix.smallest


@jax.jit
def _ensemble_on_the_way(
    nngp: Grams, ntk: Grams, y: Array, time: float | Array
) -> tuple[GaussianPrediction, Array, Array]:
    """The same at any time, also an infinite one, and how many are dropped by then."""
    values, vectors, cutoff = eigh(jnp.asarray(ntk.train))
    smallest = values[0]
    dtype = values.dtype
    is_dropped = values <= cutoff
    num_dropped = jnp.sum(is_dropped)
    spectral_condition = condition(values[0], values[-1], num_dropped)
    values = jnp.maximum(values, 0)
    time = jnp.asarray(time, dtype)
    at_end = jnp.where(is_dropped, 0, 1 / jnp.where(is_dropped, 1, values))
    # (1 - exp(-l t)) / l, which is t where l is 0; the limit is taken where t is.
    is_end = jnp.isinf(time) | (is_dropped & is_long(time, cutoff))
    decay = jnp.where(is_end, 0, time) * values
    is_small = decay < jnp.finfo(dtype).eps
    positive = jnp.where(is_small, 1, values)
    in_between = jnp.where(is_small, time, -jnp.expm1(-decay) / positive)
    rate = jnp.where(is_end, at_end, in_between)
    result = _ensemble(
        nngp,
        y,
        response=dot(dot(ntk.cross, vectors) * rate[None], vectors.T),
        condition=spectral_condition,
        num_dropped=num_dropped,
        dropped=jnp.where(is_dropped[:, None], dot(vectors.T, y), 0),
    )
    return result, smallest, jnp.sum(is_dropped & is_end)


def _ensemble(
    nngp: Grams,
    y: Array,
    *,
    response: Array,
    condition: Array,
    num_dropped: Array,
    dropped: Array,
) -> GaussianPrediction:
    shared = dot(response, jnp.asarray(nngp.cross).T)
    spread = dot(dot(response, nngp.train), response.T)
    return GaussianPrediction(
        mean=dot(response, y),
        covariance=symmetric_part(jnp.asarray(nngp.test) + spread - shared - shared.T),
        condition=condition,
        num_dropped=num_dropped,
        dropped_share=share_of(dropped, y),
    )


def _is_known_infinity(time: float | AnyArray) -> bool:
    try:
        return math.isinf(time)
    except jax.errors.ConcretizationTypeError:
        return False
