"""`lazyjax.infinite_ntk` beside neural-tangents, in the same run.

    python -m benchmarks.infinite_ntk --peer nt=PYTHON

Each library has a process of its own, in its environment, and the same inputs; entries
are checked against float64 before anything is timed. Rows and rules are those of
`empirical_ntk`.
"""

import argparse
import functools
import sys
import tempfile
from pathlib import Path
from typing import get_args

import numpy as np

from benchmarks import _harness
from benchmarks.infinite_workloads import Entries, Size, infinite_works
from benchmarks.peers.worker import MethodFailedError, Worker

# Of float32 results, against float64. On the diagonal, where inputs are parallel and ReLU
# has its kink, neural-tangents is off by up to 4e-4.
TOLERANCES = {"lazyjax": 1e-5, "neural-tangents": 1e-3}


def run_case(
    case: str, size: Size, pythons: dict[str, str], seconds: float, memory_bytes: int
) -> tuple[dict[str, tuple[_harness.Timing, int, float]], list[_harness.Skipped]]:
    """Timing, memory and error of each method, and what was skipped.

    Args:
        case: Workload.
        size: Its size.
        pythons: Interpreter of each method's environment.
        seconds: Of timed calls, each method.
        memory_bytes: Limit of each process.

    Returns:
        The two.
    """
    work = infinite_works(size)[case]
    reference = Entries(work, work.draw())
    workers: dict[str, Worker] = {}
    replies, errors, skipped = {}, {}, []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for method, python in pythons.items():
                command = [python, "-m", "benchmarks.peers.infinite_runner"]
                worker = Worker([*command, "--memory-bytes", str(memory_bytes)])
                workers[method] = worker
                request = {"case": case, "size": size, "folder": folder}
                try:
                    replies[method] = worker.ask(
                        ask="prepare", method=method, **request
                    )
                    result = np.load(Path(folder) / "result.npy")
                    errors[method] = _harness.check(
                        method, result, reference, TOLERANCES[method]
                    )
                except (MethodFailedError, _harness.WrongAnswerError) as error:
                    reason = f"{type(error).__name__}: {error}"
                    skipped.append(
                        _harness.Skipped(case=case, method=method, reason=reason)
                    )
            clocks = {
                method: functools.partial(_clock, workers[method]) for method in errors
            }
            budget = _harness.Budget(seconds=seconds)
            num_calls = {
                method: budget.warm_up(clocks[method], clocks[method]())
                for method in clocks
            }
            samples = _harness.round_robin(clocks, num_calls) if clocks else {}
        finally:
            for worker in workers.values():
                worker.close()
    found = {
        method: (
            _harness.Timing.of(values),
            replies[method]["peak_bytes"],
            errors[method],
        )
        for method, values in samples.items()
    }
    return found, skipped


def _clock(worker: Worker) -> float:
    return worker.ask(ask="time")["seconds"]


def main() -> None:
    """Run and print the table.

    Raises:
        SystemExit: If lazyjax was wrong.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=get_args(Size), default="full")
    parser.add_argument("--case", nargs="*", default=list(infinite_works("full")))
    parser.add_argument("--peer", action="append", default=[], metavar="nt=PYTHON")
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    pythons = {"lazyjax": sys.executable}
    for peer in options.peer:
        pythons["neural-tangents"] = peer.removeprefix("nt=")
    memory_bytes = int(0.75 * _harness.physical_bytes())
    print(
        f"{'case':<14}{'method':<18}{'median s':>10}{'IQR s':>9}{'calls':>6}"
        f"{'peak MiB':>10}{'rel. error':>12}"
    )
    is_wrong = False
    for case in options.case:
        found, skipped = run_case(
            case, options.size, pythons, options.seconds, memory_bytes
        )
        for method, (timing, peak_bytes, error) in found.items():
            print(
                f"{case:<14}{method:<18}{timing.median_s:>10.4f}{timing.iqr_s:>9.4f}"
                f"{timing.num_calls:>6}{peak_bytes / 2**20:>10.1f}{error:>12.1e}",
                flush=True,
            )
        if len(found) == 2:
            (own, own_bytes, _), (peer, peer_bytes, _) = found.values()
            print(
                f"{case}: lazyjax is {peer.median_s / own.median_s:.2f} times as fast, in "
                f"{own_bytes / peer_bytes:.2f} times the memory"
            )
        for item in skipped:
            print(f"skipped {item.case} {item.method}: {item.reason}")
            is_wrong |= item.method == "lazyjax"
    if is_wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
