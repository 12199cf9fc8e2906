"""Trace, Frobenius norm, effective rank and extremes of kernels that are never formed.

    python -m benchmarks.spectrum

A fully connected network of 10 outputs on Gaussian inputs. Prints one JSON row for each
number, with its error in standard errors where the kernel is small enough to be formed,
and exits with 1 if the process peaks above half of what the kernel would take.
"""

import argparse
import json
import sys
from typing import Any

import jax

import lazyjax
from benchmarks import _harness
from lazyjax import spectrum

_ESTIMATES = {
    "trace": spectrum.trace,
    "frobenius": spectrum.frobenius,
    "effective_rank": spectrum.effective_rank,
}
_EXACT_ROWS = 4096


def measure(num_examples: int, width: int) -> list[dict[str, Any]]:
    """Rows of one size.

    Args:
        num_examples: Examples; the kernel has ten times as many rows.
        width: Hidden units.

    Returns:
        Values, standard errors, seconds, and errors in standard errors.
    """
    x = jax.random.normal(jax.random.key(0), (num_examples, 64))
    network = lazyjax.nets.mlp(width=width, depth=2, num_outputs=10)
    params = network.init(jax.random.key(1), x)
    operator = lazyjax.ntk_operator(network.apply, params, x)
    num_rows = 10 * num_examples
    exact = operator.as_matrix() if num_rows <= _EXACT_ROWS else None
    rows: list[dict[str, Any]] = []
    for name, estimate in _ESTIMATES.items():
        key = jax.random.key(2)
        seconds, found = _harness.timed(
            lambda estimate=estimate, key=key: estimate(operator, key=key, max_dense=1)
        )
        row = {"rows": num_rows, "name": name, "seconds": seconds}
        row |= {"value": float(found.value), "error": float(found.standard_error)}
        if exact is not None:
            gap = float(found.value - estimate(exact).value)
            row["standard errors off"] = gap / float(found.standard_error)
        rows.append(row)
    seconds, ends = _harness.timed(
        lambda: spectrum.extremes(operator, key=jax.random.key(3), max_dense=1)
    )
    largest = [float(ends.largest.lower), float(ends.largest.upper)]
    return [
        *rows,
        {"rows": num_rows, "name": "extremes", "seconds": seconds, "largest": largest},
    ]


def main() -> int:
    """Print one JSON row for each number, and the peak of memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-examples", nargs="*", type=int, default=[2000, 200])
    parser.add_argument("--width", type=int, default=256)
    options = parser.parse_args()
    peak = 0
    for num_examples in options.num_examples:
        found_peak, rows = _harness.peak_bytes_of(
            lambda num_examples=num_examples: measure(num_examples, options.width)
        )
        peak = max(peak, found_peak)
        for row in rows:
            print(json.dumps(row), flush=True)
    kernel_bytes = 4 * (10 * max(options.num_examples)) ** 2
    print(json.dumps({"peak bytes": peak, "bytes of the kernel": kernel_bytes}))
    return int(peak > kernel_bytes / 2)


if __name__ == "__main__":
    sys.exit(main())
