"""Kernel regression on noisy digits by conjugate gradients, from a store and matrix-free.

    python -m benchmarks.gram_solve --num-examples 20000

The kernel is that of a fully connected network. A small number of examples is solved by
elimination in float64 too, of the kernel by `empirical_ntk`. True residuals of the store are
those of its numbers in float64, and matrix-free ones those of the kernel formed in float64, of
the small number of examples alone. Exits with 1 if a residual, or the difference from
elimination, is above its limit.
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

TOLERANCE = 1e-6
# Examples of which the kernel is formed in float64 too.
MOST_FORMED = 2000
# Largest true residual, with rounding of its own, and largest difference of solutions: of
# kernels rounded to float32, at the condition here.
RESIDUAL, DIFFERENCE = 1.001e-6, 1e-4


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
        double = double_kernel(*kernel, x) if n <= MOST_FORMED else None
        for name, matrix, truth in (
            ("store", store, store),
            ("matrix-free", operator, double),
        ):
            seconds, results[name] = _harness.timed(
                lambda matrix=matrix: solve(matrix, y, **options)
            )
            found[name] = {
                "s": seconds,
                "steps": results[name].num_steps,
                "status": results[name].status,
                "residual": float(results[name].residuals[-1].max()),
            }
            if truth is not None:
                solution = results[name].solution
                rest = y - truth @ solution - options["ridge"] * solution
                residual = np.linalg.norm(rest, axis=0) / np.linalg.norm(y, axis=0)
                found[name]["true_residual"] = float(residual.max())
            print(n, name, found[name], file=sys.stderr, flush=True)
        first, second = (result.solution for result in results.values())
        found["difference"] = _difference(first, second)
        if double is not None:
            exact = np.linalg.solve(double + options["ridge"] * np.eye(n), y)
            found["from_elimination"] = [_difference(a, exact) for a in (first, second)]
    cross = np.asarray(lazyjax.empirical_ntk(*kernel, x_test, x))[..., 0, 0]
    found["accuracy"] = float(np.mean((cross @ first).argmax(1) == labels))
    return found


def double_kernel(apply_fn: Any, params: Any, x: np.ndarray) -> np.ndarray:
    """The kernel of a network of one output, formed in float64."""
    with jax.enable_x64(True):
        params, x = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (params, x))
        return np.asarray(lazyjax.empirical_ntk(apply_fn, params, x))[..., 0, 0]


def _difference(one: np.ndarray, two: np.ndarray) -> float:
    return float(np.linalg.norm(one - two) / np.linalg.norm(two))


def main() -> None:
    """Solve both sizes, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-examples", type=int, default=20_000)
    parser.add_argument(
        "--small", type=int, default=2000, help="Also by elimination, up to 2000."
    )
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
        is_right &= all(way.get("true_residual", 0) <= RESIDUAL for way in ways)
        is_right &= all(e <= DIFFERENCE for e in row.get("from_elimination", []))
    print(json.dumps(vars(args) | {"found": rows, "jax": jax.__version__}))
    if not is_right:
        sys.exit(1)


if __name__ == "__main__":
    main()
