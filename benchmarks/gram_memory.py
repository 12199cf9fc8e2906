"""Peak resident memory of `lazyjax gram run` beside the memory it is given.

    python -m benchmarks.gram_memory --budgets 512MiB 1GiB 2GiB

Each budget is a fresh process of the command, on a CNN and images drawn here; beside it, what
a process holds that has only drawn parameters and run the network. Exits with 1 if a peak is
above its budget by more than `--excess` MiB.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np

import lazyjax
from benchmarks import _harness
from lazyjax._checks import checked_bytes

MIB = 2**20
FACTORY = "benchmarks.gram_memory:kernel"


def kernel(x: np.ndarray) -> tuple[object, object]:
    """The network and its parameters, run once."""
    net = lazyjax.nets.cnn(width=32, depth=3, num_outputs=10)
    params = net.init(jax.random.key(0), x[:2])
    jax.block_until_ready(net.apply(params, x[:2]))
    return net.apply, params


def peak_of(arguments: list[str]) -> tuple[int, float]:
    """Most resident bytes of a process of Python, and its seconds."""

    def call() -> int:
        process = subprocess.Popen(
            [sys.executable, *arguments], stdout=sys.stderr, stderr=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise RuntimeError(f"{' '.join(arguments)} ended with status {status}.")
        return usage.ru_maxrss * 1024

    seconds, peak = _harness.timed(call)
    return peak, seconds


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-examples", type=int, default=2000)
    parser.add_argument("--size", type=int, default=8, help="Pixels on a side.")
    parser.add_argument("--budgets", nargs="+", default=["512MiB", "1GiB", "2GiB"])
    parser.add_argument("--outputs", default="full")
    parser.add_argument("--excess", type=int, default=300)
    args = parser.parse_args()
    shape = (args.num_examples, args.size, args.size, 3)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "x.npz"
        np.savez(data, X=x)
        code = f"import numpy, benchmarks.gram_memory as b; b.kernel(numpy.load({str(data)!r})['X'])"
        start, _ = peak_of(["-c", code])
        rows = {}
        for budget in args.budgets:
            path = str(Path(folder) / budget)
            options = ["--data", str(data), "--path", path, "--memory", budget]
            options += ["--outputs", args.outputs]
            command = ["-m", "lazyjax.cli", "gram", "run", FACTORY]
            peak, seconds = peak_of([*command, *options])
            above = peak - checked_bytes("memory", budget)
            rows[budget] = {
                "peak_mib": round(peak / MIB),
                "above_mib": round(above / MIB),
                "seconds": round(seconds),
            }
            print(budget, rows[budget], file=sys.stderr, flush=True)
    row = vars(args) | {"start_mib": round(start / MIB), "found": rows}
    print(json.dumps(row | {"jax": jax.__version__}))
    if any(found["above_mib"] > args.excess for found in rows.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
