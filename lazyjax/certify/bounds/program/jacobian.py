"""The kernel of a program in float64, with a bound of its error."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lazyjax.certify.arithmetic.matrices import gram_and_error, row_norms_upper
from lazyjax.certify.arithmetic.rounding import UNIT_ROUNDOFF, gamma, round_up
from lazyjax.certify.bounds.evaluation import Kernel
from lazyjax.certify.bounds.program.enclosing.enclosure import exact
from lazyjax.certify.bounds.program.enclosing.interpreter import enclosures
from lazyjax.certify.bounds.program.enclosing.outer_products import (
    OuterProduct,
    OuterRows,
    outer_product_of,
)
from lazyjax.certify.bounds.program.reading import ExampleProgram
from lazyjax.jaxpr.equations import aval_of, opened

# Numbers of derivatives that are enclosed at a time.
_MOST_NUMBERS = 2**23


@dataclasses.dataclass(frozen=True, eq=False)
class DenseRows:
    """Rows as they are.

    Attributes:
        entries: Of the rows.
    """

    entries: Float[np.ndarray, "rows _"]

    @property
    def norms(self) -> Float[np.ndarray, " rows"]:
        """Upper bounds of the Euclidean norms of rows."""
        return row_norms_upper(self.entries, UNIT_ROUNDOFF)

    def gram(self) -> tuple[Float[np.ndarray, "rows rows"], float]:
        """Products of all rows with each other, and the norm of their error."""
        return gram_and_error(self.entries, UNIT_ROUNDOFF)

    def weighted(self, weights: Float[np.ndarray, " rows"]) -> Float[np.ndarray, " _"]:
        """A weighted sum of rows."""
        return weights @ self.entries


@dataclasses.dataclass(frozen=True)
class Jacobian:
    """The Jacobian by trained leaves, computed, and how far off it may be.

    Attributes:
        leaves: Its part for each trained leaf; a row for each example and output.
        error: Upper bound of the Frobenius norm of its error.
    """

    leaves: tuple[DenseRows | OuterRows, ...]
    error: float

    def kernel(self) -> Kernel:
        """The kernel, with a bound of the spectral norm of its error."""
        size = len(self.leaves[0].norms) if self.leaves else 0
        total, error, square = np.zeros((size, size)), 0.0, 0.0
        for part in self.leaves:
            gram, own = part.gram()
            total += gram
            error += own
            norms = part.norms
            square += float(round_up(norms @ norms, size + 2, UNIT_ROUNDOFF))
        added = gamma(len(self.leaves) + 1, UNIT_ROUNDOFF) * square
        moved = self.error * (2 * math.sqrt(square) + self.error)
        return Kernel(
            total,
            float(round_up(error + added + moved, 8 + len(self.leaves), UNIT_ROUNDOFF)),
        )


def jacobian_of(
    program: ExampleProgram, leaves: Sequence[np.ndarray], x: np.ndarray
) -> Jacobian:
    """The Jacobian of a program's outputs on all examples, by trained leaves.

    Args:
        program: The program of one example.
        leaves: Leaves of the parameters.
        x: All examples.

    Returns:
        The Jacobian.

    Cost: Of a leaf whose gradients are outer products, as in a dense layer, the vectors
        are held; of others examples times outputs times entries.
    """
    num_outputs = aval_of(program.result).shape[0]
    traced, products = _traced(program, leaves, x)
    rows = _rows_at_a_time(program, products)
    rows = math.ceil(len(x) / math.ceil(len(x) / rows))
    if rows < len(x):
        traced, products = _traced(program, leaves, x[:rows])
    results = opened(traced)[0].outvars
    wanted = []
    for result, product in zip(results, products, strict=True):
        wanted += [result] if product is None else product.eqn.invars
    known, square = [exact(leaf) for leaf in leaves], 0.0
    parts: list[tuple[np.ndarray, ...]] = []
    for begin in range(0, len(x), rows):
        begin = min(begin, len(x) - rows)  # programs are of as many examples each
        found = iter(
            enclosures(traced, [*known, exact(x[begin : begin + rows])], wanted)
        )
        pieces = []
        for product in products:
            if product is None:
                whole = next(found)
                pieces.append([whole.value.reshape(rows, num_outputs, -1)])
                error = whole.error
            else:
                pair = next(found), next(found)
                pieces.append([product.vectors(i, v.value) for i, v in enumerate(pair)])
                error = product.error(*pair)
            with np.errstate(all="ignore"):
                square += error**2
        if not parts:
            parts = [
                tuple(np.empty((len(x), *v.shape[1:])) for v in piece)
                for piece in pieces
            ]
        for part, piece in zip(parts, pieces, strict=True):
            for array, values in zip(part, piece, strict=True):
                array[begin : begin + rows] = values
    error = math.sqrt(square) * (1 + 2.0**-40)
    return Jacobian(
        leaves=tuple(
            _rows(part, product) for part, product in zip(parts, products, strict=True)
        ),
        error=error if error < math.inf else math.inf,
    )


def _rows(
    part: tuple[np.ndarray, ...], product: OuterProduct | None
) -> DenseRows | OuterRows:
    flat = [array.reshape(-1, array.shape[2]) for array in part]
    if product is None:
        return DenseRows(flat[0])
    return OuterRows(flat[0], flat[1], *product.of_row())


def _rows_at_a_time(
    program: ExampleProgram, products: Sequence[OuterProduct | None]
) -> int:
    """Number of examples whose derivatives are enclosed at a time."""
    jaxpr, _ = opened(program.closed)
    own = (v for eqn in jaxpr.eqns for v in eqn.outvars if v in program.of_example)
    size = max((aval_of(v).size for v in own), default=1) + sum(
        aval_of(jaxpr.invars[number]).size
        for number, product in zip(program.trained, products, strict=True)
        if product is None
    )
    num_outputs = aval_of(program.result).shape[0]
    return max(1, _MOST_NUMBERS // max(1, num_outputs * size))


def _traced(
    program: ExampleProgram, leaves: Sequence[np.ndarray], x: np.ndarray
) -> tuple[jex.ClosedJaxpr, list[OuterProduct | None]]:
    """The program of derivatives, and which of its results are outer products."""
    fn, num_outputs = program.fn, aval_of(program.result).shape[0]

    def of_example(leaves: Sequence[jax.Array], row: jax.Array) -> list[jax.Array]:
        def of_trained(chosen: list[jax.Array]) -> jax.Array:
            replaced = list(leaves)
            for number, leaf in zip(program.trained, chosen, strict=True):
                replaced[number] = leaf
            return fn(*replaced, row)

        chosen = [leaves[number] for number in program.trained]
        _, pull = jax.vjp(of_trained, chosen)
        return jax.vmap(pull)(jnp.eye(num_outputs))[0]

    with jax.enable_x64(True):
        traced = jax.make_jaxpr(jax.vmap(of_example, in_axes=(None, 0)))(
            list(leaves), x
        )
    jaxpr, _ = opened(traced)
    made_by = {var: eqn for eqn in jaxpr.eqns for var in eqn.outvars}
    return traced, [outer_product_of(result, made_by) for result in jaxpr.outvars]
