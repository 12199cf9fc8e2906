"""Kernel regression on noisy digits by conjugate gradients, from a store and matrix-free.

    python -m benchmarks.gram_solve --num-examples 20000

The kernel is that of a fully connected network. A first, small number of examples is solved by
elimination in float64 too, of the kernel by `empirical_ntk`. True residuals are those of the
stored matrix in float64. Exits with 1 if a residual, or the difference from elimination, is
above its limit.
"""

import argparse
import json
import sys
import tempfile
from typing import Any

import jax
import numpy as np
from sklearn.datasets import load_digits

import lazyjax
from benchmarks import _harness
from lazyjax.grams import solve
from lazyjax.grams.solving.preconditioners import product_with

TOLERANCE = 1e-6
# What float32 leaves of a residual, or of a solution at the condition here.
RESIDUAL, DIFFERENCE = 3e-5, 1e-4


def digits(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """So many noisy copies of 1,500 digits, their targets, and others without noise."""
    bundled: Any = load_digits(return_X_y=True)
    x, labels = bundled
    rng = np.random.default_rng(0)
    order = rng.permutation(len(x))
    x, labels = (x[order] / 16).astype(np.float32), labels[order]
    chosen = rng.integers(1500, size=n)
    noise = rng.normal(size=(n, x.shape[1])).astype(np.float32)
    targets = np.eye(10)[labels[chosen]] - 0.1
    return x[chosen] + 0.2 * noise, targets, x[1500:], labels[1500:]


def solved(kernel: tuple[Any, Any], n: int, memory: str) -> dict[str, Any]:
    """One number of examples both ways."""
    x, y, x_test, labels = digits(n)
    scale = float(np.mean(lazyjax.ntk_diagonal(*kernel, x[:256])))
    # In proportion to examples, as are the largest eigenvalues.
    options = {"ridge": 5e-6 * n * scale, "tolerance": TOLERANCE, "rank": 256}
    operator = lazyjax.ntk_operator(*kernel, x)
    with tempfile.TemporaryDirectory() as folder:
        wall, store = _harness.timed(
            lambda: lazyjax.gram(kernel, x, path=folder, memory=memory, progress=False)
        )
        found = {"gram_s": wall, "tiles": len(store.files.places)}
        results = {}
        for name, matrix in (("store", store), ("matrix-free", operator)):
            seconds, results[name] = _harness.timed(
                lambda matrix=matrix: solve(matrix, y, **options)
            )
            solution = results[name].solution
            rest = y - product_with(store)(solution) - options["ridge"] * solution
            residual = np.linalg.norm(rest, axis=0) / np.linalg.norm(y, axis=0)
            found[name] = {
                "s": seconds,
                "steps": results[name].num_steps,
                "residual": float(results[name].residuals[-1].max()),
                "true_residual": float(residual.max()),
            }
            print(n, name, found[name], file=sys.stderr, flush=True)
        first, second = (result.solution for result in results.values())
        found["difference"] = float(
            np.linalg.norm(first - second) / np.linalg.norm(second)
        )
        if n <= 2000:
            dense = np.asarray(lazyjax.empirical_ntk(*kernel, x))[..., 0, 0]
            matrix = dense.astype(np.float64) + options["ridge"] * np.eye(n)
            exact = np.linalg.solve(matrix, y)
            errors = [
                np.linalg.norm(a - exact) / np.linalg.norm(exact)
                for a in (first, second)
            ]
            found["from_elimination"] = [float(error) for error in errors]
    cross = np.asarray(lazyjax.empirical_ntk(*kernel, x_test, x))[..., 0, 0]
    found["accuracy"] = float(np.mean((cross @ first).argmax(1) == labels))
    return found


def main() -> None:
    """Solve both sizes, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-examples", type=int, default=20_000)
    parser.add_argument("--small", type=int, default=2000, help="Also by elimination.")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--memory", default="1GiB")
    args = parser.parse_args()
    net = lazyjax.nets.mlp(width=args.width, depth=2)
    params = net.init(jax.random.key(0), np.zeros((1, 64), np.float32))
    rows, is_right = {}, True
    for n in (args.small, args.num_examples):
        peak, row = _harness.peak_bytes_of(
            lambda n=n: solved((net.apply, params), n, args.memory)
        )
        rows[n] = row | {"peak_mib": round(peak / 2**20)}
        print(n, json.dumps(rows[n]), file=sys.stderr, flush=True)
        ways = [row["store"], row["matrix-free"]]
        is_right &= all(way["residual"] <= TOLERANCE for way in ways)
        is_right &= all(way["true_residual"] <= RESIDUAL for way in ways)
        is_right &= all(e <= DIFFERENCE for e in row.get("from_elimination", []))
    print(json.dumps(vars(args) | {"found": rows, "jax": jax.__version__}))
    if not is_right:
        sys.exit(1)


if __name__ == "__main__":
    main()
