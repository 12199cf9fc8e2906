"""`lazyjax.empirical_ntk` of whole batches, beside its peers in the same run.

    python -m benchmarks.empirical_ntk --size toy --case mlp --out FILE.json

Every method runs in a process of its own, on the same arrays: its memory is that
process's, and what it does to the machine cannot follow it into another's time. Once
all have compiled and been checked, they are called in turn.
"""

import argparse
import dataclasses
import functools
import importlib.util
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import get_args

import jax

from benchmarks import _harness, oracle, roofline
from benchmarks._contest import Contestant, Outcome, compete
from benchmarks.peers.worker import Problem, Worker, save_problem
from benchmarks.workloads import WORKLOADS, Size, Workload

TOLERANCE = 1e-5  # of float32 results, against float64
BASELINE = "jacrev"
_RUNNERS = {
    "nt": "benchmarks.peers.nt_runner",
    "torch": "benchmarks.peers.torch_runner",
}


def contestants(
    pythons: Mapping[str, str], memory_bytes: int, only: Sequence[str] = ()
) -> list[Contestant]:
    """Our methods, and those of the peers that are here or whose Python is given.

    Args:
        pythons: Interpreter of each peer's environment, by the peer's short name.
        memory_bytes: Limit of each process.
        only: Methods whose names start with one of these; all if empty.

    Returns:
        One contestant a method, ours first.
    """
    found = []
    runners = [(sys.executable, "benchmarks.peers.lazyjax_runner")]
    if importlib.util.find_spec("neural_tangents"):
        runners.append((sys.executable, "benchmarks.peers.nt_bridge_runner"))
    runners += [(python, _RUNNERS[name]) for name, python in pythons.items()]
    for python, module in runners:
        command = [python, "-m", module]
        for method in _methods(command):
            if not only or method.startswith(tuple(only)):
                limited = [*command, "--memory-bytes", str(memory_bytes)]
                found.append(Contestant(method, functools.partial(Worker, limited)))
    return found


def _methods(command: Sequence[str]) -> list[str]:
    done = subprocess.run(
        [*command, "--methods"],
        cwd=_harness.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} does not start:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def run_case(
    case: str,
    size: Size,
    entrants: Sequence[Contestant],
    *,
    peak: roofline.Cost,
    budget: _harness.Budget,
    say: Callable[[str], None],
) -> tuple[list[_harness.Row], list[_harness.Skipped]]:
    """Rows of one workload; methods that fail or are wrong are not timed but named.

    Args:
        case: Workload.
        size: Its size.
        entrants: Methods.
        peak: Rates of this machine.
        budget: How often each is called.
        say: Told what happens.

    Returns:
        The rows, and what was skipped.
    """
    work = WORKLOADS[case](size)
    params, x, y = work.draw()
    kernel, gradient = oracle.oracles(work, params, x, y)
    with tempfile.TemporaryDirectory() as folder:
        save_problem(Problem(work, params, x, y), Path(folder))
        outcome = compete(
            entrants,
            {"case": case, "size": size, "folder": folder},
            lambda method: (gradient if _is_gradient(method) else kernel, TOLERANCE),
            budget=budget,
            say=say,
        )
    return _rows(work, size, outcome, peak), outcome.skipped(f"{case}/{size}")


def _rows(
    work: Workload,
    size: Size,
    outcome: Outcome,
    peak: roofline.Cost,
) -> list[_harness.Row]:
    timings = outcome.timings()
    baseline = timings.get(BASELINE)
    sha, is_dirty = _harness.revision()
    rows = []
    for method, timing in timings.items():
        reply = outcome.ready[method].reply
        cost = _cost(work, method)
        rows.append(
            _harness.Row(
                case=f"{work.case}/{size}",
                method=method,
                n=work.n,
                k=work.k,
                p=work.num_params,
                dtype="float32",
                device=reply["device"],
                compile_s=reply["compile_s"],
                **dataclasses.asdict(timing),
                peak_bytes=reply["peak_bytes"],
                baseline=BASELINE,
                ratio=timing.median_s / baseline.median_s if baseline else None,
                roofline=cost.seconds(peak) / timing.median_s,
                rel_error=outcome.ready[method].rel_error,
                git_sha=sha,
                git_dirty=is_dirty,
                versions=reply["versions"],
            )
        )
    return rows


def _cost(work: Workload, method: str) -> roofline.Cost:
    if _is_gradient(method):
        return roofline.gradient_cost(work)
    return roofline.kernel_cost(work)


def _is_gradient(method: str) -> bool:
    return method == "value_and_grad"


def table(rows: Sequence[_harness.Row]) -> str:
    """The rows for people to read."""
    lines = [
        f"{'case':<20}{'method':<42}{'median s':>10}{'IQR s':>9}{'calls':>6}"
        f"{'compile s':>11}{'peak MiB':>10}{'ratio':>11}{'roofline':>10}"
        f"{'rel. error':>12}"
    ]
    for row in rows:
        compile_s = "-" if row.compile_s is None else f"{row.compile_s:.2f}"
        ratio = "-" if row.ratio is None else f"{row.ratio:.3f}"
        floor = "-" if row.roofline is None else f"{row.roofline:.2f}"
        lines.append(
            f"{row.case:<20}{row.method:<42}{row.median_s:>10.4f}{row.iqr_s:>9.4f}"
            f"{row.num_calls:>6}{compile_s:>11}{row.peak_bytes / 2**20:>10.1f}"
            f"{ratio:>11}{floor:>10}{row.rel_error:>12.1e}"
        )
    return "\n".join([*lines, "", *_against_best_peer(rows)])


def _against_best_peer(rows: Sequence[_harness.Row]) -> list[str]:
    """For each case, our fastest method over the fastest of all others."""
    lines, ratios = [], []
    for case in dict.fromkeys(row.case for row in rows):
        kernels = [r for r in rows if r.case == case and not _is_gradient(r.method)]
        ours = [row for row in kernels if row.method.startswith("lazyjax:")]
        others = [row for row in kernels if row not in ours]
        if ours and others:
            own, peer = (min(g, key=lambda r: r.median_s) for g in (ours, others))
            ratios.append(peer.median_s / own.median_s)
            memory = own.peak_bytes / max(peer.peak_bytes, 1)
            lines.append(
                f"{case}: {own.method} is {ratios[-1]:.2f} times as fast as "
                f"{peer.method}, in {memory:.2f} times its memory"
            )
    if ratios:
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        lines.append(f"geometric mean of {len(ratios)}: {mean:.2f} times as fast")
    return lines


def parser(cases: Iterable[str] = WORKLOADS) -> argparse.ArgumentParser:
    """Command line to choose among `cases`."""
    cases = tuple(cases)
    it = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    it.add_argument("--size", choices=get_args(Size), default="full")
    it.add_argument("--case", choices=cases, nargs="*", default=list(cases))
    it.add_argument(
        "--method",
        nargs="*",
        default=[],
        help="only methods starting with one of these",
    )
    it.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME=PYTHON",
        help=f"a peer ({', '.join(_RUNNERS)}) and the Python of its environment",
    )
    it.add_argument(
        "--seconds",
        type=float,
        default=30.0,
        help="of timed calls, each method and case",
    )
    it.add_argument(
        "--memory-gib",
        type=float,
        default=0.75 * _harness.physical_bytes() / 2**30,
        help="limit of each process",
    )
    it.add_argument("--out", type=Path, help="results file")
    return it


def peers(options: argparse.Namespace) -> dict[str, str]:
    """Interpreter of each peer that was named and is there.

    Raises:
        SystemExit: If a peer is unknown.
    """
    pythons = dict(peer.split("=", 1) for peer in options.peer)
    for name in list(pythons):
        if name not in _RUNNERS:
            raise SystemExit(f"--peer {name}: must be one of {', '.join(_RUNNERS)}")
        if not Path(pythons[name]).exists():
            print(
                f"peer {name} left out: {pythons[name]} is not there", file=sys.stderr
            )
            del pythons[name]
    return pythons


def run(
    options: argparse.Namespace, save: Callable[[_harness.Report], None]
) -> _harness.Report:
    """Report of the cases and methods asked for.

    Args:
        options: Parsed command line.
        save: Given the report so far after each case, lest a long run be lost.

    Returns:
        The report.

    Raises:
        SystemExit: If a peer is unknown or does not start, or no method is left.
    """
    memory_bytes = int(options.memory_gib * 2**30)
    entrants = contestants(peers(options), memory_bytes, options.method)
    if not entrants:
        raise SystemExit("no method left: see --method and --peer")
    peak = _measure_peak(options.size)
    rates = {"flops_per_s": peak.flops, "bytes_per_s": peak.num_bytes}
    report = _harness.Report(machine=_harness.machine() | rates, rows=(), skipped=())
    for case in options.case:
        rows, skipped = run_case(
            case,
            options.size,
            entrants,
            peak=peak,
            budget=_harness.Budget(seconds=options.seconds),
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
        report = report.extended(rows, skipped)
        save(report)
    return report


def _measure_peak(size: Size) -> roofline.Cost:
    command = [sys.executable, "-m", "benchmarks.peers.lazyjax_runner", "--peak", size]
    done = subprocess.run(
        command, cwd=_harness.ROOT, capture_output=True, text=True, check=True
    )
    return roofline.Cost(*json.loads(done.stdout.splitlines()[-1]))


def conclude(report: _harness.Report) -> None:
    """Print the table and what was skipped.

    Raises:
        SystemExit: If a method of lazyjax was wrong.
    """
    print(table(report.rows))
    for item in report.skipped:
        print(f"skipped {item.case} {item.method}: {item.reason}")
    wrong = [s for s in report.skipped if s.reason.startswith("WrongAnswer")]
    if any(item.method.startswith("lazyjax:") for item in wrong):
        raise SystemExit(1)


def main() -> None:
    """Run, write the report if asked to, print the table."""
    options = parser().parse_args()
    jax.config.update("jax_platforms", "cpu")  # the oracle; workers use what there is
    conclude(run(options, lambda it: it.write(options.out) if options.out else None))


if __name__ == "__main__":
    main()
