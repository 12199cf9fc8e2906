"""The kernel of a program in float64, with a bound of its error."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lazyjax.certify.arithmetic.matrices import frobenius_upper, gram_and_error
from lazyjax.certify.arithmetic.rounding import UNIT_ROUNDOFF, gamma, round_up
from lazyjax.certify.bounds.evaluation import Kernel
from lazyjax.certify.bounds.program.enclosing.enclosure import exact
from lazyjax.certify.bounds.program.enclosing.interpreter import enclosures
from lazyjax.certify.bounds.program.reading import ExampleProgram
from lazyjax.jaxpr.equations import aval_of

# Numbers of derivatives that are enclosed at a time.
_MOST_NUMBERS = 2**23


@dataclasses.dataclass(frozen=True)
class Jacobian:
    """The Jacobian by trained leaves, computed, and how far off it may be.

    Attributes:
        leaves: Its part for each trained leaf; a row for each example and output.
        error: Upper bound of the Frobenius norm of its error.
    """

    leaves: tuple[Float[np.ndarray, "nk _"], ...]
    error: float

    def kernel(self) -> Kernel:
        """The kernel, with a bound of the spectral norm of its error."""
        size = self.leaves[0].shape[0] if self.leaves else 0
        total, error, square = np.zeros((size, size)), 0.0, 0.0
        for part in self.leaves:
            gram, own = gram_and_error(part, UNIT_ROUNDOFF)
            total += gram
            error += own
            square += frobenius_upper(part, UNIT_ROUNDOFF) ** 2
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

    Cost: All of it is held: examples times outputs times parameters.
    """
    num_outputs = aval_of(program.result).shape[0]
    sizes = [leaves[number].size for number in program.trained]
    rows = max(1, _MOST_NUMBERS // max(1, num_outputs * sum(sizes)))
    rows = math.ceil(len(x) / math.ceil(len(x) / rows))
    parts = [np.empty((len(x), num_outputs, size)) for size in sizes]
    fn = program.fn

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
            list(leaves), x[:rows]
        )
    known, square = [exact(leaf) for leaf in leaves], 0.0
    for begin in range(0, len(x), rows):
        begin = min(begin, len(x) - rows)  # programs are of as many examples each
        found = enclosures(traced, [*known, exact(x[begin : begin + rows])])
        for part, enclosed in zip(parts, found, strict=True):
            part[begin : begin + rows] = enclosed.value.reshape(rows, num_outputs, -1)
            with np.errstate(all="ignore"):
                square += enclosed.error**2
    error = math.sqrt(square) * (1 + 2.0**-40)
    return Jacobian(
        leaves=tuple(part.reshape(len(x) * num_outputs, -1) for part in parts),
        error=error if error < math.inf else math.inf,
    )
