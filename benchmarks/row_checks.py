"""What it takes to check that rows do not interact, beside the kernel itself.

    python -m benchmarks.row_checks

For each workload of `empirical_ntk`: proving it, and measuring it as if there were no
proof. A kernel whose rows are proven apart runs the same program with and without.
"""

import argparse
import json
from collections.abc import Callable
from typing import Any, get_args

import jax
import numpy as np

import lazyjax
from benchmarks import _harness
from benchmarks.networks import apply_fn
from benchmarks.workloads import WORKLOADS, Size
from lazyjax.ntk.requests import row_check


def measure(case: str, size: Size, num_calls: int) -> dict[str, Any]:
    """Seconds of the kernel, of the proof and of the measurement.

    Args:
        case: Workload.
        size: Its size.
        num_calls: Number of timed calls, and of compilations.

    Returns:
        One row. `*_ratio` are times over those of the kernel alone.

    Raises:
        WrongAnswerError: If the network is not proven.
        ValueError: If its rows are found to interact.
    """
    work = WORKLOADS[case](size)
    params, x, _ = jax.device_put(work.draw())
    fn = apply_fn(work)

    def kernel(params: Any, x: jax.Array, checked: bool) -> jax.Array:
        # A function of its own, so that nothing that was traced before is used again.
        network = lambda p, x: fn(p, x)
        return lazyjax.empirical_ntk(network, params, x, check_rows=checked)

    def prove() -> None:
        network = jax.jit(lambda p, x: fn(p, x))
        if not row_check.rows_are_proven(network, params, x):
            raise _harness.WrongAnswerError(f"{case}: not proven")

    def excess(params: Any, x: jax.Array) -> jax.Array:
        return row_check.measured_excess(fn, params, x, None, row_check._QUICK)

    programs: dict[str, Callable[..., jax.Array]] = {
        "kernel": lambda params, x: kernel(params, x, False),
        "checked": lambda params, x: kernel(params, x, True),
        "measurement": excess,
    }
    compile_s, run_s = {}, {}
    for name, program in programs.items():

        def compiled(program: Callable[..., jax.Array] = program) -> Any:
            return jax.jit(lambda p, x: program(p, x)).lower(params, x).compile()

        timed = [_harness.timed(compiled) for _ in range(num_calls)]
        compile_s[name] = float(np.median([seconds for seconds, _ in timed]))
        call = timed[-1][1]
        result = jax.block_until_ready(call(params, x))
        if name == "measurement":
            row_check.refuse_interaction(result, fn, params, x, None)
        seconds = [
            _harness.timed(lambda call=call: jax.block_until_ready(call(params, x)))[0]
            for _ in range(num_calls)
        ]
        run_s[name] = float(np.median(seconds))
    proof_s = float(np.median([_harness.timed(prove)[0] for _ in range(num_calls)]))
    return {
        "case": case,
        "compile_s": compile_s,
        "run_s": run_s,
        "proof_s": proof_s,
        "proof_compile_ratio": proof_s / compile_s["kernel"],
        "measurement_compile_ratio": compile_s["measurement"] / compile_s["kernel"],
        "measurement_run_ratio": run_s["measurement"] / run_s["kernel"],
    }


def main() -> None:
    """Print one JSON row for each case."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=get_args(Size), default="full")
    parser.add_argument("--case", nargs="*", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--calls", type=int, default=5)
    options = parser.parse_args()
    for case in options.case:
        row = measure(case, options.size, options.calls)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
