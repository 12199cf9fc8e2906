"""`lazyjax.infinite_ntk` beside neural-tangents, in the same run.

    python -m benchmarks.infinite_ntk --peer nt=PYTHON

neural-tangents takes part through `lazyjax.interop`, on the JAX of the project, and on
its own JAX if the Python of that environment is given. Each method has a process of its
own and the same float32 inputs; entries are checked against float64 before anything is
timed. Rows and rules are those of `empirical_ntk`.
"""

import argparse
import dataclasses
import functools
import importlib.util
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence

from benchmarks import _harness, empirical_ntk
from benchmarks._contest import Contestant, compete
from benchmarks.infinite_workloads import Entries, Size, infinite_works
from benchmarks.peers.worker import Worker

OWN = "lazyjax:infinite_ntk"
BRIDGE = "neural-tangents (bridge):stax"
BASELINE = "neural-tangents:stax"

# Of float32 results, against float64. On the diagonal, where inputs are parallel and ReLU
# has its kink, neural-tangents is off by up to 4e-4.
TOLERANCES = {OWN: 1e-5, BRIDGE: 1e-3, BASELINE: 1e-3}


def contestants(
    pythons: Mapping[str, str], memory_bytes: int, only: Sequence[str] = ()
) -> list[Contestant]:
    """Our method, and neural-tangents where it is here or its Python is given.

    Args:
        pythons: Interpreter of each peer's environment, by the peer's short name.
        memory_bytes: Limit of each process.
        only: Methods whose names start with one of these; all if empty.

    Returns:
        One contestant a method, ours first.
    """
    found = {OWN: sys.executable}
    if importlib.util.find_spec("neural_tangents"):
        found[BRIDGE] = sys.executable
    if "nt" in pythons:
        found[BASELINE] = pythons["nt"]
    module = "benchmarks.peers.infinite_runner"
    options = ["--memory-bytes", str(memory_bytes)]
    return [
        Contestant(method, functools.partial(Worker, [python, "-m", module, *options]))
        for method, python in found.items()
        if not only or method.startswith(tuple(only))
    ]


def run_case(
    case: str,
    size: Size,
    entrants: Sequence[Contestant],
    *,
    budget: _harness.Budget,
    say: Callable[[str], None],
) -> tuple[list[_harness.Row], list[_harness.Skipped]]:
    """Rows of one workload; methods that fail or are wrong are not timed but named.

    Args:
        case: Workload.
        size: Its size.
        entrants: Methods.
        budget: How often each is called.
        say: Told what happens.

    Returns:
        The rows, and what was skipped.
    """
    work = infinite_works(size)[case]
    reference = Entries(work, work.draw())
    with tempfile.TemporaryDirectory() as folder:
        outcome = compete(
            entrants,
            {"case": case, "size": size, "folder": folder},
            lambda method: (reference, TOLERANCES[method]),
            budget=budget,
            say=say,
        )
    timings = outcome.timings()
    baseline = timings.get(BASELINE)
    sha, is_dirty = _harness.revision()
    rows = []
    for method, timing in timings.items():
        reply = outcome.ready[method].reply
        rows.append(
            _harness.Row(
                case=f"{case}/{size}",
                method=method,
                n=work.n,
                k=1,
                p=0,
                dtype="float32",
                device=reply["device"],
                compile_s=reply["compile_s"],
                **dataclasses.asdict(timing),
                peak_bytes=reply["peak_bytes"],
                baseline=BASELINE,
                ratio=timing.median_s / baseline.median_s if baseline else None,
                roofline=None,
                rel_error=outcome.ready[method].rel_error,
                git_sha=sha,
                git_dirty=is_dirty,
                versions=reply["versions"],
            )
        )
    return rows, outcome.skipped(f"{case}/{size}")


def run(
    options: argparse.Namespace,
    report: _harness.Report,
    save: Callable[[_harness.Report], None],
) -> _harness.Report:
    """`report` with the cases of infinite width that were asked for.

    Args:
        options: Command line of `empirical_ntk.parser`, parsed.
        report: What comes before.
        save: Given the report so far after each case, lest a long run be lost.

    Returns:
        The longer report.
    """
    entrants = contestants(
        empirical_ntk.peers(options), int(options.memory_gib * 2**30), options.method
    )
    for case in options.case:
        if case in infinite_works(options.size) and entrants:
            rows, skipped = run_case(
                case,
                options.size,
                entrants,
                budget=_harness.Budget(seconds=options.seconds),
                say=lambda line: print(line, file=sys.stderr, flush=True),
            )
            report = report.extended(rows, skipped)
            save(report)
    return report


def main() -> None:
    """Run, write the report if asked to, print the table."""
    options = empirical_ntk.parser(infinite_works("full")).parse_args()
    start = _harness.Report(machine=_harness.machine(), rows=(), skipped=())
    write = lambda it: it.write(options.out) if options.out else None
    empirical_ntk.conclude(run(options, start, write))


if __name__ == "__main__":
    main()
