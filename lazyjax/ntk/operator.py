r"""The kernel as a linear map $v \mapsto J J^\top v$ that is never formed."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from lazyjax._brief import summary
from lazyjax._checks import check_at_least, check_flag
from lazyjax.batches import as_arrays, in_chunks, num_rows
from lazyjax.callables.static import HashableCallable
from lazyjax.jaxpr.convolutions import with_quick_convolutions
from lazyjax.linalg import gram_matrix
from lazyjax.ntk.empirical import empirical_ntk
from lazyjax.ntk.methods.forward import tangent_outputs
from lazyjax.ntk.requests.columns import Columns, in_real_numbers
from lazyjax.ntk.requests.placement import (
    Rows,
    in_automatic_axes,
    rows_of,
    split_by_rows,
)
from lazyjax.ntk.requests.row_check import check_row_independence, nan_if_interacting
from lazyjax.ntk.requests.validate import check_arguments, checked_output
from lazyjax.trees import tree_add
from lazyjax.typing import AnyArray, ApplyFn, Inputs, Params


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("params", "x1", "x2"),
    meta_fields=("apply_fn", "num_outputs", "dtype", "batch_size"),
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class NTKOperator:
    """The kernel between two batches as a linear map; see `ntk_operator`.

    `op(v)` takes and returns one row per example. `op.mv(v)` and `op @ v` do the same for
    flat vectors, on which the operator is the matrix `gram_matrix(empirical_ntk(...))`,
    with `outputs="flat"` where outputs are not `(n, k)` or complex: `op.mv` is what
    iterative solvers take.

    Attributes:
        apply_fn: Network `(params, x) -> f`.
        params: Point at which the network is linearized.
        x1: First batch, whose outputs the result is indexed by.
        x2: Second batch, whose outputs the argument is indexed by.
        num_outputs: Real numbers `k` that outputs for one example consist of.
        dtype: Of the network's outputs and of products.
        batch_size: Examples taken at a time; `None` takes all at once.
    """

    apply_fn: ApplyFn
    params: Params
    x1: Inputs
    x2: Inputs
    num_outputs: int
    dtype: jnp.dtype
    batch_size: int | None

    def __repr__(self) -> str:
        return summary(
            self, shape=self.shape, dtype=self.dtype.name, params=self.params
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Shape `(n1 * k, n2 * k)` of the matrix."""
        k = self.num_outputs
        return num_rows(self.x1) * k, num_rows(self.x2) * k

    @property
    def T(self) -> "NTKOperator":
        """The transpose: the kernel between the batches the other way round."""
        return dataclasses.replace(self, x1=self.x2, x2=self.x1)

    def __call__(self, v: Float[AnyArray, "n2 k"]) -> Float[Array, "n1 k"]:
        r"""Product $\Theta v$, by one vjp over `x2` and one jvp over `x1`.

        Args:
            v: One number per example of `x2` and output.

        Returns:
            One number per example of `x1` and output.

        Raises:
            ValueError: If `v` has another shape.
        """
        shape = num_rows(self.x2), self.num_outputs
        if v.shape != shape:
            raise ValueError(
                f"`v` must have shape {shape}, one number per example and output; "
                f"got {v.shape}."
            )
        operator = dataclasses.replace(self, apply_fn=HashableCallable(self.apply_fn))
        arrays = operator, jnp.asarray(v, self.dtype)
        return in_automatic_axes(_compiled_product, arrays, rows_of(self.x1))

    def mv(self, v: Float[AnyArray, " n2k"]) -> Float[Array, " n1k"]:
        """Product of the matrix with a vector.

        Args:
            v: One number per example of `x2` and output, the outputs of an example side
                by side.

        Returns:
            One number per example of `x1` and output, in the same order.

        Raises:
            ValueError: If `v` has another shape.
        """
        if v.shape != self.shape[1:]:
            raise ValueError(f"`v` must have shape {self.shape[1:]}; got {v.shape}.")
        return self(v.reshape(-1, self.num_outputs)).ravel()

    def as_matrix(self) -> Float[Array, "n1k n2k"]:
        """The matrix, formed as `gram_matrix(empirical_ntk(..., outputs="flat"))`."""
        x2 = None if self.x2 is self.x1 else self.x2
        kernel = empirical_ntk(
            self.apply_fn, self.params, self.x1, x2, outputs="flat", check_rows=False
        )
        return gram_matrix(kernel)

    def __matmul__(self, right: Float[AnyArray, "n2k *m"]) -> Float[Array, "n1k *m"]:
        """Product of the matrix with a vector, or with columns one after the other."""
        if right.ndim == 1:
            return self.mv(right)
        return jax.lax.map(self.mv, jnp.asarray(right).T).T

    def _product(self, v: Array) -> Array:
        # As a program of its own, the network is traced once for each size of batch.
        columns = Columns.of(jax.eval_shape(self.apply_fn, self.params, self.x1))
        network, params = in_real_numbers(self.apply_fn, self.params, columns)
        operator = dataclasses.replace(self, apply_fn=jax.jit(network), params=params)
        return operator._jvp(operator._vjp(v))

    def _vjp(self, v: Array) -> Params:
        def of_chunk(chunk: Inputs, v: Array) -> Params:
            _, vjp_fn = jax.vjp(lambda p: self.apply_fn(p, chunk), self.params)
            return vjp_fn(v)[0]

        chunks, rest = self._split(self.x2)
        v_chunks, v_rest = self._split(v)
        gradient, _ = jax.lax.scan(
            lambda total, chunk: (tree_add(total, of_chunk(*chunk)), None),
            optax.tree.zeros_like(self.params),
            (chunks, v_chunks),
        )
        return tree_add(gradient, of_chunk(rest, v_rest)) if v_rest.size else gradient

    def _jvp(self, tangent: Params) -> Array:
        def of_chunk(chunk: Inputs) -> Array:
            return tangent_outputs(self.apply_fn, self.params, chunk, tangent)

        chunks, rest = self._split(self.x1)
        products = jax.lax.map(of_chunk, chunks).reshape(-1, self.num_outputs)
        return (
            jnp.concatenate([products, of_chunk(rest)]) if num_rows(rest) else products
        )

    def _split(self, rows: Inputs) -> tuple[Any, Any]:
        """Whole chunks of rows, stacked, and the rows left over."""
        number = num_rows(rows)
        return in_chunks(rows, min(self.batch_size or number, number))


@functools.partial(jax.jit, static_argnums=0)
def _compiled_product(rows: Rows, operator: NTKOperator, v: Array) -> Array:
    product = lambda operator, v: operator._product(v)
    return split_by_rows(with_quick_convolutions(product)(operator, v), rows)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Checked:
    columns: Columns = dataclasses.field(metadata={"static": True})
    interacts: Bool[Array, ""] | None = None  # whether rows do


def ntk_operator(
    apply_fn: ApplyFn,
    params: Params,
    x1: Inputs,
    x2: Inputs | None = None,
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
        The operator, a pytree: it can be passed into `jax.jit`. Solvers take `op.mv` with
        `op.shape` and `op.dtype`, such as `lineax.FunctionLinearOperator(op.mv,
        jax.ShapeDtypeStruct(op.shape[1:], op.dtype))`; matfree's functions take `op.mv`.

    Raises:
        ValueError: If `batch_size` is not positive, or as `empirical_ntk` says.
        TypeError: If `batch_size` is no integer, or as `empirical_ntk` says.

    Example:
        >>> import jax.numpy as jnp, lazyjax
        >>> linear = lambda w, x: x @ w
        >>> x = jnp.array([[3.0, 4.0], [1.0, 0.0]])
        >>> op = lazyjax.ntk_operator(linear, jnp.ones((2, 1)), x)
        >>> op.shape, (op @ jnp.array([1.0, 0.0])).tolist()
        ((2, 2), [25.0, 3.0])

    References:
        Pearlmutter (1994), "Fast exact multiplication by the Hessian"; for the kernel
        Novak, Sohl-Dickstein and Schoenholz (2022), arXiv:2206.08720 (NTK-vector
        products; section numbers not checked).
    """
    check_flag("check_rows", check_rows)
    if batch_size is not None:
        check_at_least("batch_size", batch_size, 1)

    def checked(_rows: Rows, params: Params, x1: Inputs, x2: Inputs | None) -> _Checked:
        check_arguments(apply_fn, params, x1, x2)
        x1, x2 = as_arrays(x1), as_arrays(x2)
        columns = checked_output(apply_fn, params, x1, "flat").columns
        if not check_rows:
            return _Checked(columns)
        real = in_real_numbers(apply_fn, params, columns)
        return _Checked(columns, check_row_independence(*real, x1, x2))

    found = in_automatic_axes(checked, (params, x1, x2))
    x1 = as_arrays(x1)
    params, columns = nan_if_interacting(params, found.interacts), found.columns
    return NTKOperator(
        apply_fn=apply_fn,
        params=params,
        x1=x1,
        x2=x1 if x2 is None else as_arrays(x2),
        num_outputs=columns.number,
        dtype=columns.dtype,
        batch_size=batch_size,
    )
