"""Methods in processes of their own: found right first, then timed in turn."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks import _harness
from benchmarks.peers.worker import MethodFailedError


class Asked(Protocol):
    """A worker, in its own process or not."""

    def ask(self, **request: Any) -> dict[str, Any]:
        """Reply to one request."""
        ...

    def close(self) -> None:
        """End it."""
        ...


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A method and how to start a worker for it."""

    method: str
    start: Callable[[], Asked]


@dataclasses.dataclass(frozen=True)
class Ready:
    """A contestant that was right."""

    worker: Asked
    reply: dict[str, Any]
    rel_error: float


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of each method.

    Attributes:
        ready: Those that were right.
        samples: Seconds of their calls.
        failures: Why the others have no row.
    """

    ready: Mapping[str, Ready]
    samples: Mapping[str, Sequence[float]]
    failures: Mapping[str, str]

    def timings(self) -> dict[str, _harness.Timing]:
        """Statistics of the samples."""
        return {
            method: _harness.Timing.of(values)
            for method, values in self.samples.items()
        }

    def skipped(self, case: str) -> list[_harness.Skipped]:
        """The failures, for a report."""
        return [
            _harness.Skipped(case=case, method=method, reason=reason)
            for method, reason in self.failures.items()
        ]


def compete(
    entrants: Sequence[Contestant],
    request: Mapping[str, str],
    judge: Callable[[str], tuple[_harness.Reference, float]],
    *,
    budget: _harness.Budget,
    say: Callable[[str], None],
) -> Outcome:
    """Check all methods, and time those that are right in turn.

    Args:
        entrants: Methods.
        request: What their workers are asked to prepare.
        judge: From a method to what it is checked against, and the largest error that
            is right.
        budget: How often each is called.
        say: Told what happens.

    Returns:
        The outcome; all workers have ended.
    """
    ready: dict[str, Ready] = {}
    failures: dict[str, str] = {}
    try:
        for entrant in entrants:
            method = entrant.method
            try:
                ready[method] = _admit(entrant, request, *judge(method))
            except (MethodFailedError, _harness.WrongAnswerError) as error:
                failures[method] = f"{type(error).__name__}: {error}"
                say(f"{request['case']} {method}: {failures[method]}")
            else:
                first_s = ready[method].reply["first_s"]
                say(f"{request['case']} {method}: right; first call {first_s:.3f} s")
        samples = _time_in_turn(ready, budget, failures)
    finally:
        for entry in ready.values():
            entry.worker.close()
    return Outcome(ready, samples, failures)


def _admit(
    entrant: Contestant,
    request: Mapping[str, str],
    reference: _harness.Reference,
    tolerance: float,
) -> Ready:
    """`entrant` compiled, called once and found right."""
    worker = entrant.start()
    try:
        reply = worker.ask(ask="prepare", method=entrant.method, **request)
        result = np.load(Path(request["folder"]) / "result.npy")
        error = _harness.check(entrant.method, result, reference, tolerance)
    except BaseException:
        worker.close()
        raise
    return Ready(worker, reply, error)


def _time_in_turn(
    ready: Mapping[str, Ready], budget: _harness.Budget, failures: dict[str, str]
) -> dict[str, list[float]]:
    """Samples of all that are ready; those that fail are added to `failures`."""
    if not ready:
        return {}

    def clock(method: str) -> float:
        if method not in failures:
            try:
                return ready[method].worker.ask(ask="time")["seconds"]
            except MethodFailedError as error:
                failures[method] = f"{type(error).__name__}: {error}"
        return math.inf

    clocks = {method: functools.partial(clock, method) for method in ready}
    num_calls = {
        method: budget.warm_up(clocks[method], entry.reply["first_s"])
        for method, entry in ready.items()
    }
    samples = _harness.round_robin(clocks, num_calls)
    return {method: s for method, s in samples.items() if method not in failures}
