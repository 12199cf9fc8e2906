"""`lazyjax.gram` beside tiled loops of `empirical_ntk` and of neural-tangents.

    python -m benchmarks.gram --num-examples 512 --tile 128 --outputs trace

All compute the upper triangle of one Gram matrix by tiles of one size, in turn, in one
process; programs are compiled before, and results compared.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import lazyjax
from benchmarks import _harness
from lazyjax.grams.tile_files import tile_places
from lazyjax.interop.neural_tangents import load_neural_tangents

TOLERANCE = 1e-5


def loop_of(kernel: Callable[..., Any], x: np.ndarray, tile: int) -> np.ndarray:
    """The matrix by a loop over pairs of blocks that computes each pair on its own."""
    n = len(x)
    found: np.ndarray | None = None
    for i, j in tile_places((n, n), (tile, tile), True):
        rows, columns = (slice(k * tile, (k + 1) * tile) for k in (i, j))
        block = np.asarray(kernel(x[rows], None if i == j else x[columns]))
        if found is None:
            found = np.zeros((n, n, *block.shape[2:]), block.dtype)
        found[rows, columns] = block
        axes = (1, 0, 3, 2)[: block.ndim]
        found[columns, rows] = block.transpose(axes)
    assert found is not None
    return found


def methods(
    net: lazyjax.Network, params: Any, outputs: str, memory: str, tile: int
) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """The matrix of a batch by each method that is here."""

    def on_disk(x: np.ndarray) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            store = lazyjax.gram(
                (net.apply, params),
                x,
                path=folder,
                outputs=outputs,  # pyright: ignore[reportArgumentType]
                memory=memory,
                tile=tile,
                progress=False,
            )
            return store.to_array()

    def tile_of(x: np.ndarray, y: np.ndarray | None) -> Any:
        return lazyjax.empirical_ntk(net.apply, params, x, y, outputs=outputs)  # pyright: ignore[reportArgumentType]

    found = {"gram": on_disk, "loop": lambda x: loop_of(tile_of, x, tile)}
    nt = load_neural_tangents()
    by_nt = jax.jit(
        nt.empirical_ntk_fn(
            lambda p, x: net.apply(p, x),
            trace_axes=() if outputs == "full" else (-1,),
            vmap_axes=0,
            implementation=nt.NtkImplementation.STRUCTURED_DERIVATIVES,
        )
    )
    # Its trace is divided by the number of outputs.
    scale = 1 if outputs == "full" else net.architecture.num_outputs
    of_pair = lambda x, y: scale * np.asarray(by_nt(x, y, params))
    return found | {"neural-tangents": lambda x: loop_of(of_pair, x, tile)}


def main() -> None:
    """Time the methods, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-examples", type=int, default=128)
    parser.add_argument("--tile", type=int, default=64)
    parser.add_argument("--outputs", default="trace")
    parser.add_argument("--memory", default="4GiB")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--size", type=int, default=16, help="Pixels on a side.")
    parser.add_argument("--only", default="", help="Methods, with commas between them.")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    net = lazyjax.nets.cnn(width=args.width, depth=args.depth, num_outputs=10)
    shape = (args.num_examples, args.size, args.size, 3)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    params = net.init(jax.random.key(0), x[:2])
    found = methods(net, params, args.outputs, args.memory, args.tile)
    chosen = args.only.split(",") if args.only else list(found)
    seconds, results = {}, {}
    for name in chosen:
        # Compiles; of ours, which chooses by the whole batch, all of it.
        found[name](x if name == "gram" else x[: args.tile * 3 // 2])
        seconds[name], results[name] = _harness.timed(lambda name=name: found[name](x))
    first, *others = (results[name] for name in chosen)
    errors = [float(np.abs(one - first).max() / np.abs(first).max()) for one in others]
    assert max(errors, default=0.0) <= TOLERANCE, errors
    row = vars(args) | {"seconds": seconds, "errors": errors, "jax": jax.__version__}
    text = json.dumps(row, default=str)
    print(text, flush=True)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
