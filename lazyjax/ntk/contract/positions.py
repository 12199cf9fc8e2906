"""Kernels by pairs of positions, which never form a gradient: "kronecker" and "chain"."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from lazyjax.ntk.contract.accumulator import (
    Contraction,
    materialize,
    platform_limit,
    split_into_blocks,
)
from lazyjax.ntk.contract.factors import Factor

# Size of the intermediate result of a chain, for one example: it fits the cache of a
# processor core; an accelerator needs large products.
_CHAIN_BYTES = {"cpu": 4 * 2**20, "other": 256 * 2**20}
# Fewest examples in a block of columns that make efficient products, and the number of
# blocks beyond which little is saved.
_BLOCK_COLUMNS = 12
_MAX_BLOCKS = 4
# Size of the products of operands, times the number of cotangents, below which no loop is
# needed.
_SMALL = 2**22


def products_of_operands(
    contraction: Contraction, first: Factor, second: Factor
) -> Array:
    """Products of operands, `(n1, n2, g, p1, p2)`."""
    if first.shape.is_index:
        same = first.act[:, None, None, :, None] == second.act[None, :, None, None]
        return same.astype(first.delta.dtype)
    # Groups first, the rest as rows: in other orders, XLA transposes both operands.
    rows, columns = (_by_group(side.act) for side in (first, second))
    products = lax.dot_general(
        rows, columns, (((2,), (2,)), ((0,), (0,))), contraction.precision
    )
    (n, groups, p, _), (m, _, q, _) = first.act.shape, second.act.shape
    return products.reshape(groups, n, p, m, q).transpose(1, 3, 0, 2, 4)


def _by_group(act: Array) -> Array:
    # Operand (n, g, p, i) as (g, n * p, i).
    return act.swapaxes(0, 1).reshape(act.shape[1], -1, act.shape[-1])


def by_kronecker(contraction: Contraction, first: Factor, second: Factor) -> Array:
    """Products of cotangents times those of operands, summed over pairs of positions."""
    acts = products_of_operands(contraction, first, second)
    is_single = first.shape.positions == second.shape.positions == 1
    if is_single and acts.size * contraction.num_cotangents < _SMALL:
        return _by_single_position(contraction, first, second, acts)
    return _by_pairs(contraction, _deltas(first, second), acts)


# Sites of the same sizes are traced once, here and below.
@functools.partial(jax.jit, static_argnames="contraction")
def _by_pairs(contraction: Contraction, deltas: Sequence[Array], acts: Array) -> Array:
    subscripts = {
        "pairs": ("sgpo,mtgqo->gpqsmt", "gpqsmt,mgpq->smt"),
        "equal": ("sgpo,msgqo->gpqsm", "gpqsm,mgpq->sm"),
        "summed": ("sgpo,msgqo->gpqm", "gpqm,mgpq->m"),
    }[contraction.arrangement]
    product = functools.partial(jnp.einsum, precision=contraction.precision)

    def row(delta: Array, others: Array, weights: Array) -> Array:
        return product(subscripts[1], product(subscripts[0], delta, others), weights)

    return _row_by_row(contraction, row, deltas, acts)


def _deltas(first: Factor, second: Factor) -> list[Array]:
    return [first.delta] if second is first else [first.delta, second.delta]


def _by_single_position(
    contraction: Contraction, first: Factor, second: Factor, acts: Array
) -> Array:
    # As `_by_pairs`, for one position and without a loop.
    subscripts = {
        "pairs": "nsgo,nmg,mtgo->nsmt",
        "equal": "nsgo,nmg,msgo->snm",
        "summed": "nsgo,nmg,msgo->nm",
    }[contraction.arrangement]
    kernel = jnp.einsum(
        subscripts,
        first.delta[:, :, :, 0],
        acts[..., 0, 0],
        second.delta[:, :, :, 0],
        precision=contraction.precision,
    )
    if contraction.arrangement == "pairs":
        rows = contraction.num_rows * contraction.num_cotangents
        return kernel.reshape(rows, -1)
    return kernel


def by_chain(contraction: Contraction, first: Factor, second: Factor) -> Array:
    """Products of operands times cotangents of one batch, then the other; one group."""
    acts = products_of_operands(contraction, first, second)[:, :, 0]
    return _by_chain(contraction, _deltas(first, second), acts)


@functools.partial(jax.jit, static_argnames="contraction")
def _by_chain(contraction: Contraction, deltas: Sequence[Array], acts: Array) -> Array:
    # Cotangents are sliced along `o`, so that the intermediate result fits the cache.
    num_slices = _num_chain_slices(contraction, deltas[-1])
    slices = [_positions_last(delta, num_slices) for delta in deltas]

    def row(delta: Array, others: Array, weights: Array) -> Array:
        flat = others.reshape(others.shape[0], -1, others.shape[-1])
        many = jnp.einsum(
            "mxq,mpq->mxp", flat, weights, precision=contraction.precision
        )
        one = delta.reshape(contraction.num_cotangents, -1)
        return _with_row(contraction, many, one)

    def add(kernel: Array, deltas: list[Array]) -> tuple[Array, None]:
        term = _row_by_row(contraction, row, deltas, acts)
        return contraction.add(kernel, term), None

    if num_slices == 1:
        return _row_by_row(contraction, row, [delta[0] for delta in slices], acts)
    return lax.scan(add, contraction.zeros(acts.dtype), slices)[0]


def _with_row(contraction: Contraction, many: Array, delta: Array) -> Array:
    # Products of many cotangents (m, s * x) with those (s, x) of one example. The large
    # operand comes first, so that the product reads it without a transposition.
    width = delta.shape[-1]
    if contraction.arrangement == "pairs":
        products = lax.dot_general(
            many.reshape(-1, width),
            delta,
            (((1,), (1,)), ((), ())),
            precision=contraction.precision,
        )
        return products.T.reshape(
            contraction.num_cotangents, -1, contraction.num_cotangents
        )
    subscripts = "msx,sx->sm" if contraction.arrangement == "equal" else "msx,sx->m"
    rows = many.reshape(-1, contraction.num_cotangents, width)
    return jnp.einsum(subscripts, rows, delta, precision=contraction.precision)


def _row_by_row(
    contraction: Contraction,
    row: Callable[[Array, Array, Array], Array],
    sides: Sequence[Array],
    acts: Array,
) -> Array:
    # `row` gives the kernel of one example of the first batch with some of the second, as
    # arranged: (s, m, t), (s, m) or (m,). One program serves all blocks of columns, and
    # skips the rows below them.
    number = _num_column_blocks(contraction)
    blocks = split_into_blocks(sides[-1], 0, number)
    # Rows are read from the blocks if they can be: the array they are made of is another.
    rows = sides[0][None] if len(sides) > 1 else blocks
    weights = split_into_blocks(acts, 1, number).swapaxes(0, 1)
    last = np.minimum((1 + np.arange(number)) * blocks.shape[1], contraction.num_rows)
    ends = last if contraction.is_symmetric else np.full(number, contraction.num_rows)

    def column(block: tuple[Array, Array, Array]) -> Array:
        others, weights, end = block

        def one(given: tuple[Array, Array]) -> Array:
            i, weights = given
            place = (*jnp.divmod(i, rows.shape[1]), *(0,) * (rows.ndim - 2))
            delta = lax.dynamic_slice(
                rows, place, (1, 1, *rows.shape[2:]), allow_negative_indices=False
            )[0, 0]
            result = jax.eval_shape(row, delta, others, weights)
            return lax.cond(
                i < end,
                lambda: row(delta, others, weights),
                lambda: jnp.zeros(result.shape, result.dtype),
            )

        return lax.map(one, (jnp.arange(contraction.num_rows), weights))

    kernel = lax.map(column, (blocks, weights, jnp.asarray(ends)))
    placed = kernel.swapaxes(0, 1)  # (n1, block, ...)
    if contraction.arrangement == "summed":
        return placed.reshape(contraction.num_rows, -1)[:, : contraction.num_columns]
    placed = jnp.moveaxis(placed, 2, 0)  # (s, n1, block, m, ...)
    if contraction.arrangement == "equal":
        whole = placed.reshape(contraction.num_cotangents, contraction.num_rows, -1)
        return whole[..., : contraction.num_columns]
    whole = placed.swapaxes(0, 1).reshape(
        contraction.num_rows * contraction.num_cotangents, -1
    )
    return whole[:, : contraction.num_columns * contraction.num_cotangents]


def _num_column_blocks(contraction: Contraction) -> int:
    if not contraction.is_symmetric:
        return 1
    number = min(max(contraction.num_columns // _BLOCK_COLUMNS, 2), _MAX_BLOCKS)
    return min(number, contraction.num_columns)


def _num_chain_slices(contraction: Contraction, delta: Array) -> int:
    # Number of slices of the cotangents of a block of columns.
    size = delta.size * delta.dtype.itemsize // _num_column_blocks(contraction)
    number, limit = delta.shape[-1], platform_limit(_CHAIN_BYTES)
    divisors = (d for d in range(1, number + 1) if number % d == 0)
    return next((d for d in divisors if size <= d * limit), number)


def _positions_last(delta: Array, num_slices: int) -> Array:
    # Cotangents (n, s, 1, p, o) as slices (slice, n, s, o, p).
    n, num_cotangents, _, positions, outputs = delta.shape
    delta = delta.reshape(
        n, num_cotangents, positions, num_slices, outputs // num_slices
    )
    return materialize(delta.transpose(3, 0, 1, 4, 2))
