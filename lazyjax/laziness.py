"""How lazy training is: what moves, how much, and how that scales with width or alpha."""

import dataclasses
import functools
import math
import types
from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Shaped

from lazyjax._checks import (
    check_at_least,
    check_batch,
    check_choice,
    check_floating,
    check_network_output,
    check_params,
    check_positive,
    check_targets,
)
from lazyjax.callables.static import HashableCallable
from lazyjax.linalg import (
    eigvalsh,
    frobenius_norm,
    gram_matrix,
)
from lazyjax.ntk import empirical_ntk
from lazyjax.ntk.methods.forward import directional_derivative
from lazyjax.ntk.row_check import check_row_independence, nan_if_interacting
from lazyjax.trees import tree_distance, tree_norm
from lazyjax.typing import AnyArray, ApplyFn, Params


def relative_distance(
    ntk: Float[AnyArray, "*batch n1 n2"], reference: Float[AnyArray, "*#batch n1 n2"]
) -> Float[Array, "*batch"]:
    r"""Relative Frobenius distance $\lVert A - B\rVert_F / \lVert B\rVert_F$ of kernels.

    Args:
        ntk: The kernel $A$, or a batch of kernels.
        reference: The kernel $B$ that it is compared to.

    Returns:
        The distance; NaN if both are zero.

    Example:
        >>> import jax.numpy as jnp
        >>> float(relative_distance(1.5 * jnp.eye(3), jnp.eye(3)))
        0.5
    """
    ntk, reference = jnp.asarray(ntk), jnp.asarray(reference)
    if ntk.ndim > reference.ndim:
        reference = jnp.broadcast_to(reference, ntk.shape)
    return frobenius_norm(ntk - reference) / frobenius_norm(reference)


def relative_parameter_distance(params: Params, start: Params) -> Float[Array, ""]:
    r"""Movement $\lVert w - w_0 \rVert_2 / \lVert w_0 \rVert_2$ of all parameters.

    Args:
        params: The parameters $w$.
        start: The parameters $w_0$, in the same structure.

    Returns:
        The movement; NaN if both are zero.

    Example:
        >>> import jax.numpy as jnp
        >>> float(relative_parameter_distance({"w": jnp.ones(4)}, {"w": 2 * jnp.ones(4)}))
        0.5
    """
    return tree_distance(params, start) / tree_norm(start)


def linearization_gap(
    f: Float[AnyArray, "*times n k"], f_linear: Float[AnyArray, "*times n k"]
) -> Float[Array, ""]:
    r"""Largest distance $\max_t \lVert f(t) - f_{lin}(t) \rVert_2$ from the linear model.

    Args:
        f: Outputs of the network at some times, as seen by `observers.outputs`.
        f_linear: Outputs of its linear model at the same times.

    Returns:
        The gap, a norm over examples and outputs; NaN if an output is.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> f = jnp.array([[[0.0], [0.0]], [[3.0], [4.0]]])
        >>> float(linearization_gap(f, jnp.zeros((2, 2, 1))))
        5.0
    """
    if f.shape != f_linear.shape or f.ndim < 2:
        raise ValueError(
            "`f` and `f_linear` must have the same shape (*times, n, k); got "
            f"{f.shape} and {f_linear.shape}."
        )
    difference = jnp.asarray(f) - jnp.asarray(f_linear)
    return jnp.max(frobenius_norm(difference))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Kappa:
    r"""How far from lazy a network starts: an estimate, see `kappa`.

    Attributes:
        value: The criterion $\kappa$; the network is lazy if it is far below 1.
        residual_norm: $\lVert \alpha h(w_0) - y \rVert$.
        hessian_norm: Estimate of $\lVert D^2 h(w_0) \rVert$, from below.
        jacobian_norm: $\lVert D h(w_0) \rVert$.
        last_change: Relative growth of the estimate in the last round.
    """

    value: Float[Array, ""]
    residual_norm: Float[Array, ""]
    hessian_norm: Float[Array, ""]
    jacobian_norm: Float[Array, ""]
    last_change: Float[Array, ""]


def kappa(
    apply_fn: ApplyFn,
    params: Params,
    x: Shaped[AnyArray, "n *d"],
    y: Float[AnyArray, "n k"],
    *,
    key: Key[Array, ""],
    alpha: float | Float[AnyArray, ""] = 1.0,
    num_rounds: int = 20,
    num_starts: int = 4,
    check_rows: bool = True,
) -> Kappa:
    r"""Estimate of Chizat et al.'s criterion, of how far from lazy a network starts.

    $$\kappa_{\alpha h}(w_0) = \frac{\lVert \alpha h(w_0) - y \rVert \,
    \lVert D^2 h(w_0) \rVert}{\alpha \lVert D h(w_0) \rVert^2},$$

    with Euclidean norms over all examples and outputs, and operator norms. That of
    $D^2 h$ is the largest $\langle c, D^2 h(u, v) \rangle$ of unit vectors. It is sought
    by power iteration on Hessian-vector products, $c$, $u$ and $v$ in turn, from several
    random starts: every round grows it, so what is found is a lower bound that is
    attained, and nothing says that it is the maximum. The norm of $D h$ is exact.

    Args:
        apply_fn: Network $h$, `(params, x) -> f`.
        params: The point $w_0$.
        x: Training inputs.
        y: Training targets.
        key: Source of the random starts.
        alpha: Output scale $\alpha$.
        num_rounds: Rounds of the iteration, two Hessian-vector products each.
        num_starts: Random starts, of which the best counts.
        check_rows: As in `lazyjax.empirical_ntk`, by which the norm of $D h$ is found.

    Returns:
        The estimate and its parts.

    Raises:
        ValueError: If an argument is empty, of the wrong shape, not finite or out of
            range, or rows of `apply_fn` interact.
        TypeError: If an argument is not of its kind.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> h = lambda w, x: x * w**2 / 2  # D h = w = 2 and D^2 h = 1 at w = 2
        >>> one = jnp.ones((1, 1))
        >>> it = kappa(h, 2 * one, one, jnp.zeros((1, 1)), key=jax.random.key(0))
        >>> float(it.hessian_norm), float(it.value)
        (1.0, 0.5)

    References:
        Chizat, Oyallon and Bach (2019), arXiv:1812.07956 (equation not checked).
    """
    check_at_least("num_rounds", num_rounds, 1)
    check_at_least("num_starts", num_starts, 1)
    check_positive("alpha", alpha)
    check_params("params", params)
    check_batch("x", x)
    f = jax.eval_shape(apply_fn, params, jnp.asarray(x))
    check_network_output(f, num_examples=x.shape[0])
    check_targets("y", y, *f.shape)
    x = jnp.asarray(x)
    interacts = check_row_independence(apply_fn, params, x) if check_rows else None
    found = _kappa(
        params,
        x,
        jnp.asarray(y),
        key,
        jnp.asarray(alpha, f.dtype),
        apply_fn=HashableCallable(apply_fn),
        num_rounds=num_rounds,
        num_starts=num_starts,
    )
    return nan_if_interacting(found, interacts)


@functools.partial(jax.jit, static_argnames=("apply_fn", "num_rounds", "num_starts"))
def _kappa(
    params: Params,
    x: Array,
    y: Array,
    key: Array,
    alpha: Array,
    *,
    apply_fn: ApplyFn,
    num_rounds: int,
    num_starts: int,
) -> Kappa:
    h = lambda p: apply_fn(p, x)

    def second_derivative(u: Params, v: Params) -> Array:
        along_u = lambda p: directional_derivative(h, p, u)
        return directional_derivative(along_u, params, v)

    def hessian_product(c: Array, v: Params) -> Params:
        return jax.jvp(lambda p: jax.vjp(h, p)[1](c)[0], (params,), (v,))[1]

    def one_round(_: int | Array, state: tuple) -> tuple:
        u, v, _ = state
        c, _ = _normalized(second_derivative(u, v))
        u, _ = _normalized(hessian_product(c, v))
        return u, *_normalized(hessian_product(c, u))

    def estimate(key: Array) -> tuple[Array, Array]:
        u, v = (
            _normalized(_normal_like(of, params))[0] for of in jax.random.split(key)
        )
        start = (u, v, jnp.zeros_like(tree_norm(u)))
        before = jax.lax.fori_loop(0, num_rounds - 1, one_round, start)
        return before[-1], one_round(num_rounds, before)[-1]

    before, norms = jax.lax.map(estimate, jax.random.split(key, num_starts))
    best = jnp.argmax(norms)
    hessian_norm = norms[best]
    nonzero = jnp.where(hessian_norm > 0, hessian_norm, 1)
    gram = gram_matrix(empirical_ntk(apply_fn, params, x, check_rows=False))
    jacobian_norm = jnp.sqrt(jnp.maximum(eigvalsh(gram)[-1], 0))
    residual_norm = jnp.linalg.norm(alpha * h(params) - y)
    return Kappa(
        value=residual_norm * hessian_norm / (alpha * jacobian_norm**2),
        residual_norm=residual_norm,
        hessian_norm=hessian_norm,
        jacobian_norm=jacobian_norm,
        last_change=(hessian_norm - before[best]) / nonzero,
    )


def _normalized(tree: Params) -> tuple[Params, Array]:
    """`tree` divided by its norm, and that norm; zero stays zero."""
    norm = tree_norm(tree)
    divisor = jnp.where(norm > 0, norm, 1)
    return jax.tree.map(lambda leaf: leaf / divisor.astype(leaf.dtype), tree), norm


def _normal_like(key: Array, tree: Params) -> Params:
    leaves, treedef = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    pairs = zip(keys, leaves, strict=True)
    return treedef.unflatten(
        [jax.random.normal(key, leaf.shape, leaf.dtype) for key, leaf in pairs]
    )


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
class SlopeFit:
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
        raise ValueError(f"`confidence` must be between 0 and 1; got {confidence!r}.")
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
    half_width = _student_quantile(confidence, degrees, y.dtype) * slope_sem
    return SlopeFit(
        slope=slope,
        intercept=intercept,
        slope_sem=slope_sem,
        low=slope - half_width,
        high=slope + half_width,
        confidence=confidence,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """What theory says about the power at which a quantity scales.

    Attributes:
        exponent: The exponent.
        kind: Whether theory gives the exponent itself ("equal") or bounds it from above
            ("at most").
    """

    exponent: float
    kind: Literal["equal", "at most"]


_AT_MOST_ROOT = Prediction(exponent=-0.5, kind="at most")
_AT_MOST_INVERSE = Prediction(exponent=-1.0, kind="at most")
_INVERSE = Prediction(exponent=-1.0, kind="equal")

# By width: "ntk" parameterization, fixed time, outputs of order 1 (Lee, Xiao et al. 2019,
# arXiv:1902.06720; drifts measured there and elsewhere fall like 1 / width). By alpha:
# h(w0) = 0, loss R(alpha h) / alpha^2, outputs alpha h (Chizat et al. 2019, Theorem
# 2.2). Theorem numbers were not checked. Gap and drift of symmetrized networks fall like
# 1 / alpha^2: their copies move oppositely, so that terms of even order cancel.
PREDICTIONS: Mapping[str, Mapping[str, Prediction]] = types.MappingProxyType(
    {
        "width": types.MappingProxyType(
            {
                "relative_parameter_distance": _AT_MOST_ROOT,
                "ntk_drift": _AT_MOST_ROOT,
                "linearization_gap": _AT_MOST_ROOT,
                "kappa": _AT_MOST_ROOT,
            }
        ),
        "alpha": types.MappingProxyType(
            {
                "relative_parameter_distance": _INVERSE,
                "ntk_drift": _AT_MOST_INVERSE,
                "linearization_gap": _AT_MOST_INVERSE,
                "kappa": _INVERSE,
            }
        ),
    }
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Scaling:
    """Power law of one quantity, measured and predicted.

    Attributes:
        fit: The measured law.
        quantity: What scales.
        against: What it scales with, "width" or "alpha".
        predicted: What theory says.
    """

    fit: SlopeFit
    quantity: str = dataclasses.field(metadata={"static": True})
    against: str = dataclasses.field(metadata={"static": True})
    predicted: Prediction = dataclasses.field(metadata={"static": True})

    def agrees(self, allowance: float = 0.15) -> bool:
        """Whether the measured exponent is as predicted; not if it is NaN.

        Args:
            allowance: By how much it may be off.

        Returns:
            The verdict.
        """
        excess = float(self.fit.slope) - self.predicted.exponent
        is_low_enough = excess <= allowance
        return is_low_enough and (
            self.predicted.kind == "at most" or excess >= -allowance
        )

    def explain(self) -> str:
        """Both exponents, in one sentence.

        Returns:
            The sentence, with the confidence interval.
        """
        fit, predicted = self.fit, self.predicted
        return (
            f"{self.quantity} scales like {self.against}^{fit.slope:.2f} "
            f"({fit.confidence:.0%} interval {fit.low:.2f} to {fit.high:.2f}); "
            f"predicted: {predicted.kind} {predicted.exponent:g}."
        )


def scaling(
    quantity: str,
    x: Float[AnyArray, "num_x"],
    y: Float[AnyArray, "num_x *seeds"],
    *,
    against: Literal["width", "alpha"],
    confidence: float = 0.95,
) -> Scaling:
    """Power law of a measure of laziness, beside the one that theory predicts.

    Args:
        quantity: One of `PREDICTIONS[against]`, such as "ntk_drift".
        x: Widths or output scales.
        y: The quantity at each, with a trailing axis over seeds if there are any.
        against: What `x` holds.
        confidence: Of the interval of the exponent.

    Returns:
        Both laws.

    Raises:
        ValueError: If a name is not one of the choices, or as for `log_log_slope`.
        TypeError: If `x` or `y` is not floating point.

    Example:
        >>> import jax.numpy as jnp
        >>> alpha = jnp.array([1.0, 10.0, 100.0])
        >>> it = scaling("linearization_gap", alpha, 3 / alpha, against="alpha")
        >>> it.agrees()
        True
    """
    check_choice("against", against, PREDICTIONS)
    check_choice("quantity", quantity, PREDICTIONS[against])
    return Scaling(
        fit=log_log_slope(x, y, confidence=confidence),
        quantity=quantity,
        against=against,
        predicted=PREDICTIONS[against][quantity],
    )


def _student_quantile(confidence: float, degrees: int, dtype: jnp.dtype) -> Array:
    """The `t` with P(|T| <= t) = `confidence` for Student's T, by bisection in log t."""

    def halve(_: Array, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = (low + high) / 2
        ratio = 1 / (1 + jnp.exp(2 * middle) / degrees)
        beyond = jax.scipy.special.betainc(
            jnp.asarray(degrees / 2, dtype), jnp.asarray(0.5, dtype), ratio
        )
        is_low = beyond > 1 - confidence
        return jnp.where(is_low, middle, low), jnp.where(is_low, high, middle)

    bracket = jnp.asarray(-10.0, dtype), jnp.asarray(20.0, dtype)
    low, high = jax.lax.fori_loop(0, jnp.finfo(dtype).nmant + 6, halve, bracket)
    return jnp.exp((low + high) / 2)
