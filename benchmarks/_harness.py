"""Clock, memory and rows: the only place in the benchmarks that reads a clock.

Standard library and NumPy only, so that the environment of every peer can import it.
"""

import dataclasses
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

T = TypeVar("T")
ROOT = Path(__file__).resolve().parent.parent


class WrongAnswerError(Exception):
    """A result that differs from the oracle's: it is not timed."""


class Reference(Protocol):
    """What a result is checked against before it is timed."""

    def relative_error(self, result: np.ndarray) -> float:
        """Relative Frobenius error of `result`."""
        ...


def check(method: str, result: np.ndarray, reference: Reference, limit: float) -> float:
    """Relative error of `result`, refused if above `limit`.

    Raises:
        WrongAnswerError: If it is, or is not a number.
    """
    error = reference.relative_error(result)
    if not error <= limit:
        raise WrongAnswerError(f"{method}: relative error {error:.2g} > {limit:.2g}")
    return error


# Time ------------------------------------------------------------------------------


def timed(call: Callable[[], T]) -> tuple[float, T]:
    """Wall-clock seconds of one `call`, which must block until done, and its result."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """How often a method is called: fewer times if one call takes long.

    Attributes:
        num_calls: Timed calls of a fast method.
        num_warmups: Untimed calls before them.
        seconds: For the timed calls; the first is made in any case.
        slow_s: Above this a call is timed once and the checked one was the warm-up.
    """

    num_calls: int = 20
    num_warmups: int = 3
    seconds: float = 30.0
    slow_s: float = 60.0

    def warm_up(self, clock: Callable[[], float], first_s: float) -> int:
        """Number of timed calls to make, after untimed ones.

        Args:
            clock: Calls the method once and returns the seconds it took.
            first_s: Seconds of the call that was checked.

        Returns:
            As many calls as fit in the budget, between 1 and `num_calls`.
        """
        fastest = first_s
        if first_s <= self.slow_s:
            fastest = clock()
            for _ in range(min(self.num_warmups, self._affordable(fastest)) - 1):
                fastest = min(fastest, clock())
        return self._affordable(fastest)

    def _affordable(self, seconds_per_call: float) -> int:
        affordable = int(self.seconds / max(seconds_per_call, 1e-9))
        return max(1, min(self.num_calls, affordable))


def round_robin(
    clocks: Mapping[str, Callable[[], float]], num_calls: Mapping[str, int]
) -> dict[str, list[float]]:
    """Seconds of every call, methods taking turns so that noise hits all alike.

    Args:
        clocks: For each method, what calls it once and returns the seconds it took.
        num_calls: How often; methods with fewer calls are spread over the rounds.

    Returns:
        For each method its samples, in order.
    """
    samples: dict[str, list[float]] = {name: [] for name in clocks}
    num_rounds = max(num_calls[name] for name in clocks)
    names = list(clocks)
    for i in range(num_rounds):
        start = i % len(names)  # nobody is always the one after the same neighbour
        for name in names[start:] + names[:start]:
            due = (i + 1) * num_calls[name] // num_rounds
            if len(samples[name]) < due:
                samples[name].append(clocks[name]())
    return samples


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """Order statistics of repeated calls, in seconds."""

    median_s: float
    iqr_s: float
    min_s: float
    num_calls: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Timing":
        """Summary of `samples`."""
        low, median, high = np.percentile(samples, [25, 50, 75])
        return cls(
            median_s=float(median),
            iqr_s=float(high - low),
            min_s=float(min(samples)),
            num_calls=len(samples),
        )


# Memory ----------------------------------------------------------------------------


def peak_bytes_of(call: Callable[[], T]) -> tuple[int, T]:
    """Growth of this process's resident memory at its highest during `call`.

    Meaningful in a fresh process only: memory freed earlier may be used again unseen.
    """
    _reset_high_water()
    before = _resident_bytes()
    result = call()
    return max(0, _high_water_bytes() - before), result


def limit_memory(num_bytes: int) -> None:
    """Limit for this process, so that a greedy method fails instead of the machine."""
    resource.setrlimit(resource.RLIMIT_DATA, (num_bytes, num_bytes))


def physical_bytes() -> int:
    """Memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _reset_high_water() -> None:
    # Linux only, and needed there: `ru_maxrss` is inherited from the parent process.
    path = Path("/proc/self/clear_refs")
    if path.exists():
        path.write_text("5")


def _resident_bytes() -> int:
    return _status_bytes("VmRSS") or _ru_maxrss_bytes()


def _high_water_bytes() -> int:
    return _status_bytes("VmHWM") or _ru_maxrss_bytes()


def _status_bytes(field: str) -> int | None:
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    for line in status.read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    return None


def _ru_maxrss_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


# Rows ------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One method on one case.

    Attributes:
        case: Workload.
        method: Who computes it, and how.
        n: Examples.
        k: Outputs.
        p: Parameters; 0 for infinitely wide networks.
        dtype: Of inputs, parameters and result.
        device: What it ran on.
        compile_s: Tracing and compiling; None for libraries that do not compile.
        median_s: Median over the timed calls.
        iqr_s: Interquartile range.
        min_s: Fastest call.
        num_calls: Number of timed calls.
        peak_bytes: Growth of memory during the first call, in a process of its own.
        baseline: Method that `ratio` refers to.
        ratio: `median_s` over that of the baseline; below 1 is faster. None if the
            baseline did not run.
        roofline: Least time this machine could take, by the hand-derived floor of the
            task's arithmetic and traffic, over `median_s`; None where none was derived.
        rel_error: Against the float64 oracle.
        git_sha: Revision measured.
        git_dirty: Whether the files differed from it.
        versions: Of the libraries at work.
    """

    case: str
    method: str
    n: int
    k: int
    p: int
    dtype: str
    device: str
    compile_s: float | None
    median_s: float
    iqr_s: float
    min_s: float
    num_calls: int
    peak_bytes: int
    baseline: str
    ratio: float | None
    roofline: float | None
    rel_error: float
    git_sha: str
    git_dirty: bool
    versions: dict[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Skipped:
    """A method that gave no row, and why."""

    case: str
    method: str
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """All of a run, as written to a results file."""

    machine: dict[str, Any]
    rows: tuple[Row, ...]
    skipped: tuple[Skipped, ...]

    def extended(self, rows: Sequence[Row], skipped: Sequence[Skipped]) -> "Report":
        """The report with these at its end."""
        return dataclasses.replace(
            self, rows=(*self.rows, *rows), skipped=(*self.skipped, *skipped)
        )

    def write(self, path: Path) -> None:
        """Write as JSON, one row per line."""
        path.parent.mkdir(parents=True, exist_ok=True)
        parts = [f' "machine": {json.dumps(self.machine)}']
        for name, items in (("rows", self.rows), ("skipped", self.skipped)):
            lines = [f"  {json.dumps(dataclasses.asdict(item))}" for item in items]
            parts.append(f' "{name}": [\n' + ",\n".join(lines) + "\n ]")
        path.write_text("{\n" + ",\n".join(parts) + "\n}\n")


def revision() -> tuple[str, bool]:
    """The commit checked out, and whether the files differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        ).stdout.strip()

    changes = git("status", "--porcelain")
    return git("rev-parse", "HEAD") or "unknown", bool(changes)


def write_found(path: Path, **found: Any) -> None:
    """Write what a benchmark found as JSON, with the machine, revision and versions.

    Args:
        path: File; its folder is made if missing.
        **found: The results, by name.
    """
    sha, is_dirty = revision()
    report = {
        "machine": machine(),
        "git_sha": sha,
        "git_dirty": is_dirty,
        "versions": {name: metadata.version(name) for name in ("jax", "lazyjax")},
        **found,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")


def machine() -> dict[str, Any]:
    """What the numbers depend on, apart from the code."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": _processor(),
        "num_cpus": os.cpu_count(),
        "memory_bytes": physical_bytes(),
        "load_average": os.getloadavg()[0],
        "system": platform.system(),
        "python": platform.python_version(),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
