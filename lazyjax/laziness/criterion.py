r"""Chizat et al.'s criterion $\kappa$: how far from lazy a network starts."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from lazyjax._checks import (
    check_apply_fn,
    check_at_least,
    check_inputs,
    check_key,
    check_network_output,
    check_params,
    check_positive,
    check_targets,
)
from lazyjax.batches import as_arrays
from lazyjax.callables.static import HashableCallable
from lazyjax.files.results import Storable
from lazyjax.jaxpr.convolutions import with_quick_convolutions
from lazyjax.linalg import eigvalsh, gram_matrix
from lazyjax.ntk import empirical_ntk
from lazyjax.ntk.methods.forward import directional_derivative
from lazyjax.ntk.requests.row_check import check_row_independence, nan_if_interacting
from lazyjax.trees import tree_norm
from lazyjax.typing import AnyArray, ApplyFn, Inputs, Params, RandomKey


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Kappa(Storable):
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
    x: Inputs,
    y: Float[AnyArray, "n k"],
    *,
    key: RandomKey,
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
    check_key("key", key)
    check_apply_fn(apply_fn, params)
    check_params("params", params)
    check_inputs("x", x)
    f = jax.eval_shape(apply_fn, params, as_arrays(x))
    check_network_output(f, x)
    check_targets("y", y, *f.shape)
    x = as_arrays(x)
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
@with_quick_convolutions
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
            _normalized(optax.tree.random_like(key, params))[0]
            for key in jax.random.split(key)
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
