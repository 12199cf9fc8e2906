r"""The kernel as a linear map $v \mapsto J J^\top v$ that is never formed."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from lazyjax._checks import check_at_least
from lazyjax.callables.static import HashableCallable
from lazyjax.ntk.methods.forward import tangent_outputs
from lazyjax.ntk.row_check import check_row_independence, nan_if_interacting
from lazyjax.ntk.validate import check_arguments, check_network
from lazyjax.trees import tree_add, tree_zeros_like
from lazyjax.typing import AnyArray, ApplyFn, Params


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("params", "x1", "x2"),
    meta_fields=("apply_fn", "batch_size"),
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class NTKOperator:
    """The kernel between two batches as a linear map; call it on a vector.

    Attributes:
        apply_fn: Network `(params, x) -> f`.
        params: Point at which the network is linearized.
        x1: First batch, whose outputs the result is indexed by.
        x2: Second batch, whose outputs the argument is indexed by.
        batch_size: Examples taken at a time; `None` takes all at once.
    """

    apply_fn: ApplyFn
    params: Params
    x1: Shaped[Array, "n1 *d"]
    x2: Shaped[Array, "n2 *d"]
    batch_size: int | None

    def __call__(self, v: Float[AnyArray, "n2 k"]) -> Float[Array, "n1 k"]:
        r"""Product $\Theta v$, by one vjp over `x2` and one jvp over `x1`.

        Args:
            v: One number per example of `x2` and output.

        Returns:
            One number per example of `x1` and output.

        Raises:
            ValueError: If `v` has another shape.
        """
        f = jax.eval_shape(self.apply_fn, self.params, self.x2)
        if v.shape != f.shape:
            raise ValueError(
                f"`v` must have shape {f.shape}, one number per example and output; "
                f"got {v.shape}."
            )
        operator = dataclasses.replace(self, apply_fn=HashableCallable(self.apply_fn))
        return _compiled_product(operator, jnp.asarray(v, f.dtype))

    def _product(self, v: Array) -> Array:
        return self._jvp(self._vjp(v))

    def _vjp(self, v: Array) -> Params:
        def of_chunk(chunk: Array, v: Array) -> Params:
            _, vjp_fn = jax.vjp(lambda p: self.apply_fn(p, chunk), self.params)
            return vjp_fn(v)[0]

        size = self._chunk(self.x2)
        whole, rest = _split(self.x2, size), _split(v, size)
        gradient, _ = jax.lax.scan(
            lambda total, chunk: (tree_add(total, of_chunk(*chunk)), None),
            tree_zeros_like(self.params),
            (whole.chunks, rest.chunks),
        )
        if whole.remainder is None or rest.remainder is None:
            return gradient
        return tree_add(gradient, of_chunk(whole.remainder, rest.remainder))

    def _jvp(self, tangent: Params) -> Array:
        def of_chunk(chunk: Array) -> Array:
            return tangent_outputs(self.apply_fn, self.params, chunk, tangent)

        parts = _split(self.x1, self._chunk(self.x1))
        products = jax.lax.map(of_chunk, parts.chunks)
        products = products.reshape(-1, products.shape[-1])
        if parts.remainder is None:
            return products
        return jnp.concatenate([products, of_chunk(parts.remainder)])

    def _chunk(self, x: Array) -> int:
        return min(self.batch_size or x.shape[0], x.shape[0])


_compiled_product = jax.jit(NTKOperator._product)


@dataclasses.dataclass(frozen=True)
class _Split:
    chunks: Array
    remainder: Array | None


def _split(x: Array, size: int) -> _Split:
    """Whole chunks of `size` rows, stacked, and the rows left over."""
    num_whole = x.shape[0] // size * size
    chunks = x[:num_whole].reshape(-1, size, *x.shape[1:])
    return _Split(chunks, x[num_whole:] if num_whole < x.shape[0] else None)


def ntk_operator(
    apply_fn: ApplyFn,
    params: Params,
    x1: Shaped[AnyArray, "n1 *d"],
    x2: Shaped[AnyArray, "n2 *d"] | None = None,
    *,
    batch_size: int | None = None,
    check_rows: bool = True,
) -> NTKOperator:
    r"""Neural tangent kernel as the linear map $v \mapsto J(x_1) J(x_2)^\top v$.

    One product costs a backward pass over `x2` and a forward-mode pass over `x1`, and
    holds `p` numbers beside what `batch_size` examples need.

    Args:
        apply_fn: Network `(params, x) -> f`; rows of `x` must not interact.
        params: Point at which the network is linearized.
        x1: First batch.
        x2: Second batch; `None` means `x1`.
        batch_size: Examples taken at a time; `None` takes all at once.
        check_rows: As in `empirical_ntk`; products are NaN where a kernel would be.

    Returns:
        The operator, a pytree: it can be passed into `jax.jit`.

    Raises:
        ValueError: If a batch is empty or not finite, features differ, the output is
            not `(n, k)`, or `apply_fn` ignores `params` or its rows interact.
        TypeError: If a parameter or the output is not real floating point.

    Example:
        >>> import jax.numpy as jnp, lazyjax
        >>> linear = lambda w, x: x @ w
        >>> x = jnp.array([[3.0, 4.0], [1.0, 0.0]])
        >>> op = lazyjax.ntk_operator(linear, jnp.ones((2, 1)), x)
        >>> op(jnp.array([[1.0], [0.0]])).ravel().tolist()
        [25.0, 3.0]

    References:
        Pearlmutter (1994), "Fast exact multiplication by the Hessian"; for the kernel
        Novak, Sohl-Dickstein and Schoenholz (2022), arXiv:2206.08720 (NTK-vector
        products; section numbers not checked).
    """
    check_arguments(apply_fn, params, x1, x2)
    if batch_size is not None:
        check_at_least("batch_size", batch_size, 1)
    x1, x2 = jnp.asarray(x1), None if x2 is None else jnp.asarray(x2)
    check_network(apply_fn, params, x1, "full")
    if check_rows:
        params = nan_if_interacting(
            params, check_row_independence(apply_fn, params, x1, x2)
        )
    return NTKOperator(
        apply_fn=apply_fn,
        params=params,
        x1=x1,
        x2=x1 if x2 is None else x2,
        batch_size=batch_size,
    )
