r"""Dual activations: second moments of an activation of two correlated Gaussians.

For $(u, v) \sim N(0, [[q_{11}, q_{12}], [q_{12}, q_{22}]])$ the two functions here return
$E[\phi(u)\phi(v)]$ and $E[\phi'(u)\phi'(v)]$, elementwise in arrays of covariances.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lazyjax.activations import ACTIVATIONS, activation_fn
from lazyjax.infinite._hermite import hermite_dual, hermite_variance
from lazyjax.typing import Activation


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def dual_activation(
    activation: Activation,
    q11: Float[Array, "*#q"],
    q12: Float[Array, "*#q"],
    q22: Float[Array, "*#q"],
) -> Float[Array, "*q"]:
    r"""Second moment $E[\phi(u)\phi(v)]$ of an activation of two correlated Gaussians.

    "abs", "cos", "erf", "identity", "leaky_relu", "relu" and "sin" are in closed form.
    Any other function is expanded in Hermite polynomials up to degree 125, with
    coefficients by Gauss–Legendre quadrature and the variance left over put into two
    further terms; the result is positive semidefinite, and exact for $u = \pm v$ up to
    quadrature. Largest errors of this moment and of `dual_derivative`, over twelve
    correlations from -1 to 1 and equal variances $\sigma^2$, relative to the value at
    $u = v$, in float64:

    | activation | $\sigma = 1$ | $\sigma = 2$ | $\sigma = 4$ |
    |---|---|---|---|
    | "tanh" | 3e-14, 2e-14 | 1e-9, 1e-7 | 5e-6, 4e-4 |
    | "softplus" | 2e-14, 2e-14 | 3e-14, 2e-14 | 3e-12, 5e-10 |
    | "sigmoid" | 2e-14, 2e-14 | 2e-14, 2e-14 | 5e-10, 1e-7 |
    | "silu" | 3e-14, 2e-14 | 3e-14, 2e-14 | 3e-10, 4e-8 |
    | "gelu" | 3e-14, 2e-14 | 3e-14, 2e-14 | 2e-8, 2e-6 |
    | "elu" | 2e-8, 7e-6 | 1e-7, 3e-5 | 5e-7, 1e-4 |
    | ReLU as a lambda | 9e-6, 9e-3 | 9e-6, 9e-3 | 9e-6, 9e-3 |

    So a function with a kink at 0 loses digits, most of all in its derivative: prefer
    the closed forms. A kink elsewhere also costs accuracy of the quadrature.

    Entries with $q_{11} = q_{12} = q_{22}$ to the last bit are taken as $u = v$. First
    derivatives are finite everywhere: by Price's theorem, which asks for a continuous
    activation, that in $q_{12}$ is `dual_derivative`; those in variances are taken as 0
    at variance 0.

    Args:
        activation: Name of an activation, or an elementwise function of one array.
        q11: Variance of $u$.
        q12: Covariance; clipped to what the variances allow.
        q22: Variance of $v$.

    Returns:
        The second moments, one per entry of the broadcast arguments.

    Raises:
        ValueError: If `activation` is an unknown name, or not elementwise.
        TypeError: If `activation` is neither a name nor callable.

    Example:
        >>> import jax.numpy as jnp
        >>> from lazyjax.infinite.dual import dual_activation
        >>> q = jnp.ones(1)
        >>> dual_activation("relu", q, q, q).item()  # E[relu(u)**2]
        0.5

    References:
        Cho and Saul (2009) for ReLU; Williams (1997) for erf; Daniely, Frostig and
        Singer (2016), arXiv:1602.05897, for dual activations and their Hermite series
        (equation numbers not checked).
    """
    return _moment(activation, q11, q12, q22)


@dual_activation.defjvp
def _dual_activation_jvp(
    activation: Activation,
    primals: tuple[Array, Array, Array],
    tangents: tuple[Array, Array, Array],
) -> tuple[Array, Array]:
    q11, q12, q22 = primals
    dq11, dq12, dq22 = tangents
    # Through the series, the derivative in q12 would divide by zero at variance 0 and
    # lose its factor at the clipped ends; Price's theorem gives it exactly.
    value, in_variances = jax.jvp(
        lambda a, b: _moment(activation, a, q12, b), (q11, q22), (dq11, dq22)
    )
    return value, in_variances + dual_derivative(activation, q11, q12, q22) * dq12


def dual_derivative(
    activation: Activation,
    q11: Float[Array, "*#q"],
    q12: Float[Array, "*#q"],
    q22: Float[Array, "*#q"],
) -> Float[Array, "*q"]:
    r"""Second moment $E[\phi'(u)\phi'(v)]$ of the derivative of an activation.

    Computed as, and as accurate as, `dual_activation` says; $\phi'$ is what JAX
    differentiates. Gradients in $q_{12}$ of kinked activations are infinite at
    $u = v$: there, 0 is returned.

    Args:
        activation: Name of an activation, or an elementwise function of one array.
        q11: Variance of $u$.
        q12: Covariance; clipped to what the variances allow.
        q22: Variance of $v$.

    Returns:
        The second moments, one per entry of the broadcast arguments.

    Raises:
        ValueError: If `activation` is an unknown name, or not elementwise.
        TypeError: If `activation` is neither a name nor callable.

    Example:
        >>> import jax.numpy as jnp
        >>> from lazyjax.infinite.dual import dual_derivative
        >>> dual_derivative("relu", jnp.ones(1), jnp.zeros(1), jnp.ones(1)).item()
        0.25
    """
    return _slope_moment(activation, q11, q12, q22)


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
        >>> from lazyjax.infinite.dual import dual_variance
        >>> dual_variance("relu", jnp.ones(1)).item()
        0.5
    """
    if _closed_form_name(activation) is not None:
        return dual_activation(activation, q, q, q)
    return hermite_variance(_elementwise_fn(activation, q.dtype), _sqrt(q))


# Compiled here because the loop over terms is: an eager scan compiles at every call.
@partial(jax.jit, static_argnums=0)
def _moment(activation: Activation, q11: Array, q12: Array, q22: Array) -> Array:
    name = _closed_form_name(activation)
    if name is not None:
        return _CLOSED_FORMS[name](q11, q12, q22)[0]
    phi = _elementwise_fn(activation, q12.dtype)
    return hermite_dual(phi, *_sides(q11, q12, q22))


@partial(jax.jit, static_argnums=0)
def _slope_moment(activation: Activation, q11: Array, q12: Array, q22: Array) -> Array:
    name = _closed_form_name(activation)
    if name is not None:
        return _CLOSED_FORMS[name](q11, q12, q22)[1]
    phi = _elementwise_fn(activation, q12.dtype)
    return hermite_dual(_derivative(phi), *_sides(q11, q12, q22))


def _closed_form_name(activation: Activation) -> str | None:
    """Name of the closed form of `activation`, which may be the named function itself."""
    if isinstance(activation, str):
        return activation if activation in _CLOSED_FORMS else None
    for name in _CLOSED_FORMS:
        if activation is ACTIVATIONS[name]:
            return name
    return None


def _elementwise_fn(activation: Activation, dtype: jnp.dtype) -> Callable:
    """Function of `activation`, checked unless it is one of ours."""
    phi = activation_fn(activation)
    if not isinstance(activation, str):
        _check_elementwise(phi, dtype)
    return phi


def _check_elementwise(phi: Callable[[Array], Array], dtype: jnp.dtype) -> None:
    """Check `phi` on four numbers, together and one by one.

    Raises:
        ValueError: If shape, dtype or values tell that it is not elementwise.
    """
    with jax.ensure_compile_time_eval():
        u = jnp.asarray([-1.5, -0.5, 0.5, 2.0], dtype)
        together = phi(u)
        if together.shape != u.shape or together.dtype != dtype:
            raise ValueError(
                "`activation` must keep shape and dtype; from "
                f"{u.shape} {u.dtype} it made {together.shape} {together.dtype}."
            )
        one_by_one = jnp.concatenate([phi(u[i : i + 1]) for i in range(u.size)])
        tolerance = float(jnp.finfo(dtype).eps) ** 0.5
        is_close = jnp.allclose(together, one_by_one, tolerance, tolerance)
    try:
        is_elementwise = bool(is_close)
    except jax.errors.ConcretizationTypeError:
        return  # the function closes over traced values
    if not is_elementwise:
        raise ValueError(
            "`activation` must be elementwise; its values at several numbers together "
            "are not those at each of them alone."
        )


def _derivative(phi: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return jax.grad(lambda u: jnp.sum(phi(u)))


def _sqrt(x: Array) -> Array:
    """Square root, 0 below 0, whose derivative at 0 is 0 and not infinite."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


def _correlation(q11: Array, q12: Array, q22: Array) -> tuple[Array, Array]:
    """Correlation in [-1, 1], 0 at variance 0, and the product of deviations."""
    product = _sqrt(q11) * _sqrt(q22)
    positive = product > 0
    rho = jnp.where(positive, q12 / jnp.where(positive, product, 1), 0)
    is_same = positive & (q12 == q11) & (q12 == q22)
    exact = jnp.where(is_same, 1, jnp.clip(rho, -1, 1))
    # Rounding is undone in the value only: derivatives at the ends are kept.
    return rho + jax.lax.stop_gradient(exact - rho), product


def _sides(q11: Array, q12: Array, q22: Array) -> tuple[Array, Array, Array]:
    return _sqrt(q11), _correlation(q11, q12, q22)[0], _sqrt(q22)


def _abrelu(
    below: float, above: float, q11: Array, q12: Array, q22: Array
) -> tuple[Array, Array]:
    r"""Both moments of $\phi(u) = $ `below` $\min(u, 0) + $ `above` $\max(u, 0)$."""
    rho, product = _correlation(q11, q12, q22)
    sine = _sqrt((1 - rho) * (1 + rho))
    share = 1 - jnp.arctan2(sine, rho) / jnp.pi  # of the plane where signs agree
    jump_sq = (above - below) ** 2 / 2
    moment = jump_sq * product * (sine / jnp.pi + share * rho) + below * above * q12
    return moment, jump_sq * share + below * above


def _identity(q11: Array, q12: Array, q22: Array) -> tuple[Array, Array]:
    q12 = q12 + 0 * (q11 + q22)
    return q12, jnp.ones_like(q12)


def _erf(q11: Array, q12: Array, q22: Array) -> tuple[Array, Array]:
    rho, product = _correlation(q11, q12, q22)
    q12 = rho * product
    # The determinant of 1 + 2 q is at least 1: no singularity anywhere.
    left = product**2 * (1 - rho) * (1 + rho)
    root = jnp.sqrt(1 + 2 * (q11 + q22) + 4 * left)
    return 2 / jnp.pi * jnp.arctan2(2 * q12, root), 4 / jnp.pi / root


def _sin(q11: Array, q12: Array, q22: Array) -> tuple[Array, Array]:
    return _sin_moment(q11, q12, q22), _cos_moment(q11, q12, q22)


def _cos(q11: Array, q12: Array, q22: Array) -> tuple[Array, Array]:
    return _cos_moment(q11, q12, q22), _sin_moment(q11, q12, q22)


def _sin_moment(q11: Array, q12: Array, q22: Array) -> Array:
    mean = (q11 + q22) / 2
    # sinh(q12) exp(-mean), without overflow and without cancellation near 0.
    is_small = jnp.abs(q12) < 1
    small = jnp.sinh(jnp.where(is_small, q12, 0)) * jnp.exp(-mean)
    large = (jnp.exp(q12 - mean) - jnp.exp(-q12 - mean)) / 2
    return jnp.where(is_small, small, large)


def _cos_moment(q11: Array, q12: Array, q22: Array) -> Array:
    mean = (q11 + q22) / 2
    return (jnp.exp(q12 - mean) + jnp.exp(-q12 - mean)) / 2


_CLOSED_FORMS: dict[str, Callable[[Array, Array, Array], tuple[Array, Array]]] = {
    "abs": partial(_abrelu, -1.0, 1.0),
    "cos": _cos,
    "erf": _erf,
    "identity": _identity,
    "leaky_relu": partial(_abrelu, 0.01, 1.0),  # the slope of jax.nn.leaky_relu
    "relu": partial(_abrelu, 0.0, 1.0),
    "sin": _sin,
}
