r"""Dual activations: second moments of an activation of two correlated Gaussians.

For $(u, v) \sim N(0, [[q_{11}, q_{12}], [q_{12}, q_{22}]])$ the two functions here return
$E[\phi(u)\phi(v)]$ and $E[\phi'(u)\phi'(v)]$, elementwise in arrays of covariances.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lazyjax.activations.breakpoints import marks
from lazyjax.activations.moments import correlation, safe_sqrt
from lazyjax.activations.registry import (
    activation_fn,
    check_elementwise,
    closed_form,
    find,
    named_breaks,
)
from lazyjax.infinite.duals.estimate import disagreement, series_error
from lazyjax.infinite.duals.hermite import hermite_dual, hermite_mean
from lazyjax.infinite.duals.piecewise import Piecewise, derivative, piecewise
from lazyjax.typing import Activation


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def dual_activation(
    activation: Activation,
    q11: Float[Array, "*#q"],
    q12: Float[Array, "*#q"],
    q22: Float[Array, "*#q"],
) -> Float[Array, "*q"]:
    r"""Second moment $E[\phi(u)\phi(v)]$ of an activation of two correlated Gaussians.

    "abs", "cos", "erf", "exp", "gaussian", "gelu", "identity", "leaky_relu", "relu",
    "sign" and "sin" are in closed form, and so are `ABReLU`, `RectifiedPower` and
    `Polynomial` of `lazyjax.activations`, and what is registered there with `moments`.
    Any other function is expanded in Hermite polynomials up to degree 125, with
    coefficients by Gauss–Legendre quadrature and the variance left over put into two
    further terms; the result is positive semidefinite, and exact for $u = \pm v$ up to
    quadrature. Kinks and jumps, which such a series cannot follow, are found in the
    program of the function, wherever they are, and taken into account in closed form by
    bivariate normal probabilities; each pair of them costs as much as some ten series.
    Piecewise polynomials of degree 2 are exact. The largest errors of other functions
    are at correlations just below 1, relative to the value at $u = v$ in float64 for
    equal variances $\sigma^2$; `dual_error` estimates them for any function and variance:

    | activation | $\sigma = 1$ | $\sigma = 2$ | $\sigma = 4$ |
    |---|---|---|---|
    | "tanh" | 3e-14, 2e-14 | 1e-9, 1e-7 | 5e-6, 4e-4 |
    | "softplus" | 2e-14, 2e-14 | 3e-14, 2e-14 | 3e-12, 5e-10 |
    | "sigmoid" | 2e-14, 2e-14 | 2e-14, 2e-14 | 5e-10, 1e-7 |
    | "silu" | 3e-14, 2e-14 | 3e-14, 2e-14 | 3e-10, 4e-8 |

    Where the terms that are left out may make up more than 1 % of the value at $u = v$,
    the result is NaN: large variances make smooth functions steep.

    Entries with $q_{11} = q_{12} = q_{22}$ to the last bit are taken as $u = v$. First
    derivatives are finite everywhere: by Price's theorem, which asks for a continuous
    activation, that in $q_{12}$ is `dual_derivative` (for "sign", that of the formula);
    those in variances are taken as 0 at variance 0.

    Args:
        activation: Name of an activation, or an elementwise function of one array.
        q11: Variance of $u$.
        q12: Covariance; clipped to what the variances allow.
        q22: Variance of $v$.

    Returns:
        The second moments, one per entry of the broadcast arguments.

    Raises:
        ValueError: If `activation` is an unknown name, not elementwise, or has more
            kinks and jumps than 32, or some at places that are traced values.
        TypeError: If `activation` is neither a name nor callable.

    Example:
        >>> import jax.numpy as jnp
        >>> from lazyjax.infinite.duals import dual_activation
        >>> q = jnp.ones(1)
        >>> dual_activation("relu", q, q, q).item()  # E[relu(u)**2]
        0.5

    References:
        Cho and Saul (2009) for ReLU; Williams (1997) for erf; Daniely, Frostig and
        Singer (2016), arXiv:1602.05897, for dual activations and their Hermite series
        (equation numbers not checked).
    """
    return _moment(activation, q11, q12, q22, order=0)


@dual_activation.defjvp
def _dual_activation_jvp(
    activation: Activation,
    primals: tuple[Array, Array, Array],
    tangents: tuple[Array, Array, Array],
) -> tuple[Array, Array]:
    q11, q12, q22 = primals
    dq11, dq12, dq22 = tangents
    moment = partial(_moment, activation, order=0)
    if not _is_continuous(activation, q12.dtype):
        return jax.jvp(moment, primals, tangents)
    # Through the series, the derivative in q12 would divide by zero at variance 0 and
    # lose its factor at the clipped ends; Price's theorem gives it exactly.
    value, in_variances = jax.jvp(
        lambda a, b: moment(a, q12, b), (q11, q22), (dq11, dq22)
    )
    return value, in_variances + dual_derivative(activation, q11, q12, q22) * dq12


def dual_derivative(
    activation: Activation,
    q11: Float[Array, "*#q"],
    q12: Float[Array, "*#q"],
    q22: Float[Array, "*#q"],
) -> Float[Array, "*q"]:
    r"""Second moment $E[\phi'(u)\phi'(v)]$ of the derivative of an activation.

    Computed as `dual_activation` says, and as accurate; a jump of $\phi$ itself adds
    nothing, as to gradients of finite networks, though limits of steep functions are
    infinite. Gradients in $q_{12}$ of kinked activations are infinite at $u = v$: there,
    0 is returned.

    Args:
        activation: Name of an activation, or an elementwise function of one array.
        q11: Variance of $u$.
        q12: Covariance; clipped to what the variances allow.
        q22: Variance of $v$.

    Returns:
        The second moments, one per entry of the broadcast arguments.

    Raises:
        ValueError: As `dual_activation` does.
        TypeError: As `dual_activation` does.

    Example:
        >>> import jax.numpy as jnp
        >>> from lazyjax.infinite.duals import dual_derivative
        >>> dual_derivative("relu", jnp.ones(1), jnp.zeros(1), jnp.ones(1)).item()
        0.25
    """
    return _moment(activation, q11, q12, q22, order=1)


def is_closed_form(activation: Activation) -> bool:
    """Whether moments of `activation` are closed forms, and not series."""
    return closed_form(activation) is not None


def dual_variance(activation: Activation, q: Float[Array, "*q"]) -> Float[Array, "*q"]:
    r"""Second moment $E[\phi(u)^2]$ of an activation of one Gaussian.

    Args:
        activation: Name of an activation, or an elementwise function of one array.
        q: Variance of $u$.

    Returns:
        The second moments, those of `dual_activation` at $u = v$.

    Raises:
        ValueError: If `activation` is an unknown name, or not elementwise.
        TypeError: If `activation` is neither a name nor callable.

    Example:
        >>> import jax.numpy as jnp
        >>> from lazyjax.infinite.duals import dual_variance
        >>> dual_variance("relu", jnp.ones(1)).item()
        0.5
    """
    if closed_form(activation) is not None:
        return dual_activation(activation, q, q, q)
    return _of_one(activation, q, power=2)


def dual_mean(activation: Activation, q: Float[Array, "*q"]) -> Float[Array, "*q"]:
    r"""Mean $E[\phi(u)]$ of an activation of one Gaussian, by quadrature.

    Args:
        activation: Name of an activation, or an elementwise function of one array.
        q: Variance of $u$.

    Returns:
        The means.

    Raises:
        ValueError: If `activation` is an unknown name, or not elementwise.
        TypeError: If `activation` is neither a name nor callable.

    Example:
        >>> import jax.numpy as jnp
        >>> from lazyjax.infinite.duals import dual_mean
        >>> round(dual_mean("relu", jnp.ones(1)).item(), 6)  # 1 / sqrt(2 pi)
        0.398942
    """
    return _of_one(activation, q, power=1)


def dual_error(
    activation: Activation,
    q11: Float[Array, "*#q"],
    q12: Float[Array, "*#q"],
    q22: Float[Array, "*#q"],
) -> Float[Array, "*q"]:
    r"""Estimate of the error of `dual_activation`.

    Two rules are compared, as `lazyjax.infinite.duals.estimate` says: a second one of many
    more nodes finds what the first did not see. It misses what happens within less than
    some 0.01 standard deviations, unless a value inside the program of the activation
    passes 0 there. For the error of `dual_derivative`, pass the derivative of the
    activation.

    Args:
        activation: Name of an activation, or an elementwise function of one array.
        q11: Variance of $u$.
        q12: Covariance; clipped to what the variances allow.
        q22: Variance of $v$.

    Returns:
        The estimates, a few times too large rather than too small, rounding included;
        0 for closed forms, infinity where moments are not finite.

    Raises:
        ValueError: As `dual_activation` does.
        TypeError: As `dual_activation` does.

    Example:
        >>> import jax.numpy as jnp
        >>> from lazyjax.infinite.duals import dual_error
        >>> bool(dual_error("tanh", jnp.ones(1), jnp.full(1, 0.9), jnp.ones(1)) < 1e-5)
        True
    """
    if closed_form(activation) is not None:
        return 0 * (q11 + q12 + q22)
    return _error(activation, q11, q12, q22)


@partial(jax.jit, static_argnums=(0, 2))
def dual_disagreement(
    activation: Activation, std: Float[Array, " q"], with_slope: bool
) -> Float[Array, ""]:
    """Relative error of the moments of a function that is none of their series' length."""
    # The largest difference of two rules of quadrature, over standard deviations and
    # correlations, relative to the moment at u = v; 0 for closed forms.
    if closed_form(activation) is not None:
        return jnp.zeros((), std.dtype)
    phis = [_piecewise(activation, std.dtype, order) for order in range(1 + with_slope)]
    errors = [
        disagreement(phi, _marks(activation, phi, std.dtype), std) for phi in phis
    ]
    return jnp.max(jnp.stack(errors))


# Compiled here: an eager scan over terms compiles at every call.
@partial(jax.jit, static_argnums=0, static_argnames="order")
def _moment(
    activation: Activation, q11: Array, q12: Array, q22: Array, *, order: int
) -> Array:
    moments = closed_form(activation)
    if moments is not None:
        return moments(q11, q12, q22)[order]
    phi = _piecewise(activation, q12.dtype, order)
    return hermite_dual(phi, *_sides(q11, q12, q22))


@partial(jax.jit, static_argnums=0)
def _error(activation: Activation, q11: Array, q12: Array, q22: Array) -> Array:
    phi = _piecewise(activation, q12.dtype)
    found = _marks(activation, phi, q12.dtype)
    return series_error(phi, found, *_sides(q11, q12, q22))


# Compiled here, so that programs are read once and not for each layer.
@partial(jax.jit, static_argnums=0, static_argnames="power")
def _of_one(activation: Activation, q: Array, *, power: int) -> Array:
    return hermite_mean(_piecewise(activation, q.dtype), safe_sqrt(q), power)


def _piecewise(activation: Activation, dtype: jnp.dtype, order: int = 0) -> Piecewise:
    """The activation, or its derivative of order 1."""
    fn = activation_fn(activation)
    if not isinstance(activation, str):  # else it was checked when it got its name
        check_elementwise(fn, dtype)
    fn = derivative(fn) if order else fn
    return piecewise(fn, dtype, named_breaks(activation))


def _marks(
    activation: Activation, phi: Piecewise, dtype: jnp.dtype
) -> tuple[float, ...]:
    """Where `phi`, the activation or its derivative, may vary fast."""
    return marks(phi.fn, dtype) if named_breaks(activation) is None else (0.0,)


def _is_continuous(activation: Activation, dtype: jnp.dtype) -> bool:
    """Whether Price's theorem, hence `dual_derivative`, gives derivatives in q12."""
    if closed_form(activation) is not None:
        spec = find(activation)
        return spec is None or spec.is_continuous
    return _piecewise(activation, dtype).is_continuous


def _sides(q11: Array, q12: Array, q22: Array) -> tuple[Array, Array, Array]:
    return safe_sqrt(q11), correlation(q11, q12, q22)[0], safe_sqrt(q22)
