r"""Infinitely wide networks as predictors: Gaussian processes, and trained ensembles.

Outputs are independent and share one kernel, so that `y: (n, k)` holds k separate
problems. Training is gradient flow on $L = \tfrac12\lVert f - y\rVert^2$, summed over
examples, as in `lazyjax.linear_dynamics`.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lazyjax._checks import (
    check_finite,
    check_floating,
    check_nonnegative,
    check_targets,
)
from lazyjax.architecture import Architecture
from lazyjax.files.results import Storable
from lazyjax.infinite.kernels import infinite_nngp, infinite_ntk
from lazyjax.linalg import (
    check_semidefinite,
    condition,
    eigh,
    factorized,
    frobenius_norm,
    is_long,
    share_of,
    warn_of_dropped,
)
from lazyjax.typing import AnyArray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Grams(Storable):
    """One kernel on training and test inputs.

    Attributes:
        train: Training inputs with themselves.
        cross: Test inputs with training inputs.
        test: Test inputs with themselves.
    """

    train: Float[AnyArray, "n n"]
    cross: Float[AnyArray, "m n"]
    test: Float[AnyArray, "m m"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction(Storable):
    r"""Gaussian distribution of outputs at test inputs.

    Attributes:
        mean: Mean of each output.
        covariance: Covariance between test inputs, the same for every output.
        condition: Largest over smallest eigenvalue of the matrix that was inverted (or
            would be at infinite time), infinite if directions are dropped; an estimate
            from below, by less than a factor of 2, where nothing but a solve is needed.
        num_dropped: Its eigenvalues that are zero to rounding, by the rule of
            `lazyjax.linalg.eigen`: what they belong to is not fitted at all, but at
            times too short for them to matter, up to 0.01 over the cutoff.
        dropped_share: Share of the sum of squares of the targets that lies there. Where
            it is not fitted, a share above 1e-3 is warned of, where values are known:
            under `jit`, look here.
    """

    mean: Float[Array, "m k"]
    covariance: Float[Array, "m m"]
    condition: Float[Array, ""]
    num_dropped: Int[Array, ""]
    dropped_share: Float[Array, ""]

    @property
    def variance(self) -> Float[Array, " m"]:
        """Variance at each test input; negative by rounding, if at all."""
        return jnp.diagonal(self.covariance)


def nngp_grams(
    architecture: Architecture,
    x_train: Float[AnyArray, "n *d"],
    x_test: Float[AnyArray, "m *d"],
) -> Grams:
    """`infinite_nngp` on training and test inputs.

    Args:
        architecture: Description of the network.
        x_train: Training inputs.
        x_test: Test inputs.

    Returns:
        The three Gram matrices.
    """
    return Grams(
        train=infinite_nngp(architecture, x_train),
        cross=infinite_nngp(architecture, x_test, x_train),
        test=infinite_nngp(architecture, x_test),
    )


def ntk_grams(
    architecture: Architecture,
    x_train: Float[AnyArray, "n *d"],
    x_test: Float[AnyArray, "m *d"],
    *,
    width: int | None = None,
) -> Grams:
    """`infinite_ntk` on training and test inputs.

    Args:
        architecture: Description of the network.
        x_train: Training inputs.
        x_test: Test inputs.
        width: Units of each layer, for "standard" parameterization only.

    Returns:
        The three Gram matrices.
    """
    return Grams(
        train=infinite_ntk(architecture, x_train, width=width),
        cross=infinite_ntk(architecture, x_test, x_train, width=width),
        test=infinite_ntk(architecture, x_test, width=width),
    )


def posterior(
    nngp: Grams,
    y: Float[AnyArray, "n k"],
    *,
    noise_sq: float | Float[AnyArray, ""] = 0.0,
) -> Prediction:
    r"""Posterior of the Gaussian process that networks are at initialization.

    Mean $K_* (K + \sigma^2)^{-1} y$ and covariance
    $K_{**} - K_* (K + \sigma^2)^{-1} K_*^\top$, of noiseless outputs.

    Args:
        nngp: Covariances, as by `nngp_grams`.
        y: Targets at training inputs.
        noise_sq: Variance $\sigma^2$ of noise on targets.

    Returns:
        The posterior; if directions are dropped, with the pseudo-inverse.

    Raises:
        ValueError: If shapes do not fit, a value is not finite, `noise_sq` is negative,
            or the kernel is clearly not symmetric or not positive semidefinite. Values
            are looked at only where they are known: not under `jit`.
        TypeError: If an array is not floating point.

    Example:
        >>> import jax.numpy as jnp
        >>> from lazyjax.infinite.predict import Grams, posterior
        >>> one = jnp.ones((1, 1))
        >>> it = posterior(Grams(train=one, cross=one, test=one), 2 * one, noise_sq=1.0)
        >>> it.mean.item(), it.variance.item()
        (1.0, 0.5)

    References:
        Rasmussen and Williams (2006), equations 2.23 and 2.24 (not checked).
    """
    _check_grams("nngp", nngp, y)
    _check_noise(noise_sq, nngp.train)
    result, smallest = _posterior(nngp, jnp.asarray(y), noise_sq)
    _check_kernel("nngp.train", nngp.train, smallest)
    _warn("nngp.train", result, "Use float64, or `noise_sq` for contradictory targets.")
    return result


def trained_ensemble(
    nngp: Grams,
    ntk: Grams,
    y: Float[AnyArray, "n k"],
    *,
    time: float | Float[AnyArray, ""] = math.inf,
) -> Prediction:
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
            are looked at only where they are known: not under `jit`.
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
    _check_grams("nngp", nngp, y)
    _check_grams("ntk", ntk, y)
    check_nonnegative("time", time)
    _check_scalar("time", time)
    y = jnp.asarray(y)
    if not _is_known_infinity(time):
        result, smallest, num_dropped = _ensemble_on_the_way(nngp, ntk, y, time)
    else:
        result, smallest = _ensemble_at_the_end(nngp, ntk, y)
        num_dropped = result.num_dropped
    _check_kernel("ntk.train", ntk.train, smallest)
    share = jnp.where(num_dropped > 0, result.dropped_share, 0)
    warn_of_dropped(
        "ntk.train",
        num_dropped,
        share,
        remedy="Use float64, or a shorter `time`.",
        stacklevel=2,
    )
    return result


def log_marginal_likelihood(
    nngp_train: Float[AnyArray, "n n"],
    y: Float[AnyArray, "n k"],
    *,
    noise_sq: float | Float[AnyArray, ""] = 0.0,
) -> Float[Array, ""]:
    r"""Log density of targets under the Gaussian process, summed over outputs.

    Eigenvalues of $K + \sigma^2$ that are zero to rounding, by the rule of
    `lazyjax.linalg.eigen`, are raised to the cutoff: for singular kernels the result is
    finite but means little, as `posterior` tells by `num_dropped` and `dropped_share`.

    Args:
        nngp_train: Covariance $K$ at training inputs.
        y: Targets.
        noise_sq: Variance $\sigma^2$ of noise on targets.

    Returns:
        $-\frac12 \sum_a y_a^\top (K + \sigma^2)^{-1} y_a - \frac k2 \log\det(2 \pi (K +
        \sigma^2))$.

    Raises:
        ValueError: If shapes do not fit, a value is not finite, `noise_sq` is negative,
            or the kernel is clearly not symmetric or not positive semidefinite. Values
            are looked at only where they are known: not under `jit`.
        TypeError: If an array is not floating point.

    Example:
        >>> import jax.numpy as jnp
        >>> from lazyjax.infinite.predict import log_marginal_likelihood
        >>> round(log_marginal_likelihood(jnp.eye(1), jnp.zeros((1, 1))).item(), 4)
        -0.9189
    """
    _check_gram("nngp_train", nngp_train, y)
    _check_noise(noise_sq, nngp_train)
    result, smallest, num_dropped, share = _log_likelihood(
        nngp_train, jnp.asarray(y), noise_sq
    )
    _check_kernel("nngp_train", nngp_train, smallest)
    warn_of_dropped(
        "nngp_train",
        num_dropped,
        share,
        remedy="Use float64, or `noise_sq` for contradictory targets.",
        stacklevel=2,
    )
    return result


@jax.jit
def _posterior(
    nngp: Grams, y: Array, noise_sq: float | Array
) -> tuple[Prediction, Array]:
    """The posterior, and the smallest eigenvalue of what was inverted."""
    matrix = factorized(_with_noise(nngp.train, noise_sq))
    test, cross = jnp.asarray(nngp.test), jnp.asarray(nngp.cross)
    y = y.astype(cross.dtype)
    num_outputs = y.shape[1]
    # One solve for all: its two ways are compiled once.
    solutions = matrix.solve(jnp.concatenate([y, cross.T], axis=1))
    result = Prediction(
        mean=_dot(cross, solutions[:, :num_outputs]),
        covariance=_symmetric(test - _dot(cross, solutions[:, num_outputs:])),
        condition=matrix.condition,
        num_dropped=matrix.num_dropped,
        dropped_share=share_of(matrix.dropped_part(y), y),
    )
    return result, matrix.smallest


@jax.jit
def _log_likelihood(
    nngp_train: AnyArray, y: Array, noise_sq: float | Array
) -> tuple[Array, Array, Array, Array]:
    """The likelihood, the smallest eigenvalue, how many are dropped, and their share."""
    matrix = factorized(_with_noise(nngp_train, noise_sq))
    size, num_outputs = y.shape
    dropped = matrix.dropped_part(y)
    # Nothing dropped costs nothing, also where the cutoff vanishes beside zero.
    cutoff = jnp.maximum(matrix.cutoff, jnp.finfo(y.dtype).tiny)
    quadratic = jnp.sum(y * matrix.solve(y)) + jnp.sum(dropped**2) / cutoff
    log_det = size * math.log(2 * math.pi) + matrix.log_det()
    result = -(quadratic + num_outputs * log_det) / 2
    return result, matrix.smallest, matrix.num_dropped, share_of(dropped, y)


@jax.jit
def _ensemble_at_the_end(nngp: Grams, ntk: Grams, y: Array) -> tuple[Prediction, Array]:
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
) -> tuple[Prediction, Array, Array]:
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
        response=_dot(_dot(ntk.cross, vectors) * rate[None], vectors.T),
        condition=spectral_condition,
        num_dropped=num_dropped,
        dropped=jnp.where(is_dropped[:, None], _dot(vectors.T, y), 0),
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
) -> Prediction:
    shared = _dot(response, jnp.asarray(nngp.cross).T)
    spread = _dot(_dot(response, nngp.train), response.T)
    return Prediction(
        mean=_dot(response, y),
        covariance=_symmetric(jnp.asarray(nngp.test) + spread - shared - shared.T),
        condition=condition,
        num_dropped=num_dropped,
        dropped_share=share_of(dropped, y),
    )


def _with_noise(gram: AnyArray, noise_sq: float | Array) -> Array:
    gram = jnp.asarray(gram)
    noise_sq = jnp.asarray(noise_sq, gram.dtype)
    return gram + noise_sq * jnp.eye(gram.shape[0], dtype=gram.dtype)


def _dot(first: AnyArray, second: AnyArray) -> Array:
    return jnp.matmul(first, second, precision=jax.lax.Precision.HIGHEST)


def _symmetric(matrix: Array) -> Array:
    return (matrix + matrix.T) / 2


def _warn(name: str, result: Prediction, remedy: str) -> None:
    warn_of_dropped(
        name, result.num_dropped, result.dropped_share, remedy=remedy, stacklevel=3
    )


def _check_gram(name: str, gram: AnyArray, y: AnyArray) -> None:
    check_floating(name, gram)
    check_finite(name, gram)
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or gram.size == 0:
        raise ValueError(f"`{name}` must be a square matrix; got shape {gram.shape}.")
    check_targets("y", y, gram.shape[0], y.shape[-1] if y.ndim == 2 else 1)


def _check_grams(name: str, grams: object, y: AnyArray) -> None:
    if not isinstance(grams, Grams):
        raise TypeError(
            f"`{name}` must be Grams, as by `nngp_grams`; got {type(grams).__name__}."
        )
    _check_gram(f"{name}.train", grams.train, y)
    n = grams.train.shape[0]
    for field, gram in (("cross", grams.cross), ("test", grams.test)):
        check_floating(f"{name}.{field}", gram)
        check_finite(f"{name}.{field}", gram)
    m = grams.cross.shape[0]
    if grams.cross.shape != (m, n) or grams.test.shape != (m, m):
        raise ValueError(
            f"`{name}` must have shapes (n, n), (m, n) and (m, m); got "
            f"{grams.train.shape}, {grams.cross.shape} and {grams.test.shape}."
        )


def _check_kernel(name: str, gram: AnyArray, smallest: Array) -> None:
    gram = jnp.asarray(gram)
    check_semidefinite(
        name,
        asymmetry=frobenius_norm(gram - gram.T),
        smallest=smallest,
        scale=frobenius_norm(gram),
    )


def _check_noise(noise_sq: float | AnyArray, gram: AnyArray) -> None:
    check_nonnegative("noise_sq", noise_sq, infinity_allowed=False)
    _check_scalar("noise_sq", noise_sq)
    # A number of Python may overflow in the kernel's dtype.
    largest = float(jnp.finfo(gram.dtype).max)
    if isinstance(noise_sq, int | float) and noise_sq > largest:
        raise ValueError(
            f"`noise_sq` must be finite in the kernel's dtype, {gram.dtype}; got "
            f"{noise_sq}."
        )


def _check_scalar(name: str, value: float | AnyArray) -> None:
    if jnp.ndim(value) != 0:
        raise ValueError(
            f"`{name}` must be one number; got shape {jnp.shape(value)}. Map over "
            "several with `jax.vmap`."
        )


def _is_known_infinity(time: float | AnyArray) -> bool:
    try:
        return math.isinf(time)
    except jax.errors.ConcretizationTypeError:
        return False
