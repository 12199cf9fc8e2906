"""The kernel of each example with itself, without the rest of the kernel."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lazyjax._checks import check_at_least
from lazyjax.batches import batch_of, num_rows, rows_at
from lazyjax.jaxpr.held import held_bytes
from lazyjax.ntk.methods.jacobian import jacobian_ntk
from lazyjax.ntk.methods.sizes import (
    Tile,
    fitting,
    outputs_at_a_time,
    rough_bytes,
    smaller_tiles,
)
from lazyjax.ntk.methods.tiles import Examples, in_chunks
from lazyjax.ntk.requests.compiled import KernelProgram, run_program
from lazyjax.ntk.requests.memory import (
    Budget,
    check_result_fits,
    refuse_work,
    result_bytes,
)
from lazyjax.ntk.requests.request import KernelRequest
from lazyjax.typing import ApplyFn, Inputs, Kernel, Outputs, Params


def ntk_diagonal(
    apply_fn: ApplyFn,
    params: Params,
    x: Inputs,
    *,
    outputs: Outputs = "full",
    batch_size: int | None = None,
    precision: jax.lax.PrecisionLike = "highest",
    memory: int | str | None = None,
    check_rows: bool = True,
) -> Kernel:
    r"""Kernel blocks $\Theta(x_i, x_i)$, for the work of one Jacobian.

    Args:
        apply_fn: Network `(params, x) -> f`, as in `empirical_ntk`.
        params: Point at which the network is linearized.
        x: Batch.
        outputs: As in `empirical_ntk`: "full" and "flat" give `(n, k, k)`, "diagonal"
            `(n, k)`, the others `(n,)`.
        batch_size: Examples whose Jacobians are held at a time; `None` means all.
        precision: Of matrix products, the network's own included where it sets none.
        memory: As in `empirical_ntk`.
        check_rows: As in `empirical_ntk`.

    Returns:
        One block per example.

    Raises:
        ValueError: If `batch_size` is not positive, or as `empirical_ntk` says.
        TypeError: If `batch_size` is no integer, or as `empirical_ntk` says.

    Example:
        >>> import jax.numpy as jnp, lazyjax
        >>> linear = lambda w, x: x @ w
        >>> x = jnp.array([[3.0, 4.0], [1.0, 0.0]])
        >>> lazyjax.ntk_diagonal(linear, jnp.ones((2, 1)), x, outputs="trace").tolist()
        [25.0, 1.0]
    """
    if batch_size is not None:
        check_at_least("batch_size", batch_size, 1)
    program = _Diagonal(
        outputs=outputs, precision=precision, memory=memory, batch_size=batch_size
    )
    return run_program(program, apply_fn, params, x, check_rows=check_rows)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Diagonal(KernelProgram):
    """Kernels of batches of one."""

    batch_size: int | None

    def compute(self, request: KernelRequest, budget: Budget) -> Array:
        # As large as the kernel with one other example.
        of_one = dataclasses.replace(request, x2=rows_at(request.x1, slice(0, 1)))
        check_result_fits(of_one, budget)
        pairs, number = request.pairs, request.num_directions
        num_examples = num_rows(request.x1)
        most = Tile(
            min(self.batch_size or num_examples, num_examples),
            outputs_at_a_time(request, "jacobian"),
        )
        side = Examples(request.x1, request.directions[0])

        def blocks(tile: Tile, x: Inputs) -> Array:
            padded = side.padded(tile.directions) if pairs == "trace" else side
            along = padded.along

            def of_chunk(first: Any) -> Array:
                some = along.some(first, tile.directions)

                def block(i: Array) -> Array:
                    row, own = batch_of(rows_at(x, i)), some.of_examples(i, 1)
                    of_one = dataclasses.replace(
                        request, x1=row, x2=None, outputs=pairs, along=(own, own)
                    )
                    return jacobian_ntk(of_one)[0, 0]

                numbers = jnp.arange(num_examples)
                return jax.lax.map(block, numbers, batch_size=tile.examples)

            return in_chunks(of_chunk, along.number, tile.directions, pairs)

        tiles = smaller_tiles(most, pairs)
        if pairs == "full":
            tiles = [tile for tile in tiles if tile.directions == number]
        if self.batch_size is not None:
            tiles = [tile for tile in tiles if tile.examples == most.examples]
        result = result_bytes(of_one)
        tile = fitting(
            tiles,
            # Jacobians are copied to be multiplied, example by example.
            lambda tile: (
                2 * held_bytes(jax.make_jaxpr(lambda x: blocks(tile, x))(request.x1))
            ),
            lambda tile: rough_bytes(request, "jacobian", tile) + 3 * result,
            budget,
        )
        if tile is None:
            refuse_work(of_one, "jacobian", budget)
        return blocks(tile, request.x1)
