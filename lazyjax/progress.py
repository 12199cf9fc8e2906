"""Reports of how far a computation has come, from the host or from a compiled program."""

import itertools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Real
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress as Bar,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from lazyjax._brief import brief

# Called with the share of the work that is done, from 0 to 1, and what comes next.
Progress: TypeAlias = Callable[[float, str], None]

# Whom programs that run just now report to. A program is compiled once, so it holds a
# number in place of the function.
_LISTENERS: dict[int, "_Reporter"] = {}
_NUMBERS = itertools.count()

TIME = "time"  # the unit that has no speed


class Listener(NamedTuple):
    """Whom a compiled program reports to.

    Attributes:
        number: Key of the function.
        total: Steps, or time, of the whole computation.
    """

    number: Int[Array, ""]
    total: Float[Array, ""]


@contextmanager
def progress_reporter(progress: bool | Progress, name: str) -> Iterator[Progress]:
    """The function that a computation reports to.

    Args:
        progress: The function itself; or whether there is a bar on standard error, if
            that is a terminal.
        name: Shown beside the bar.

    Yields:
        The function.
    """
    with _heard(progress, name) as report:
        yield report or (lambda share, message: None)


@contextmanager
def _heard(progress: bool | Progress, name: str) -> Iterator[Progress | None]:
    """The function, or `None` if nobody would hear of it."""
    if not (callable(progress) or isinstance(progress, bool)):
        raise TypeError(
            "`progress` must be True, False or a function of the share done and a "
            f"message; got {brief(progress)}."
        )
    console = Console(stderr=True)
    if callable(progress):
        yield progress
    elif progress and console.is_jupyter:
        # One line, written over, as notebooks show and keep it.
        def show(share: float, message: str) -> None:
            sys.stderr.write("\r" + f"{name} {share:4.0%} {message}".ljust(80))

        yield show
        sys.stderr.write("\n")
    elif not progress or not console.is_terminal:
        yield None
    else:
        columns = (
            TextColumn(name),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Bar(*columns, console=console) as bar:
            task = bar.add_task("", total=1.0)
            yield lambda share, message: bar.update(
                task, completed=share, description=message
            )


@contextmanager
def program_listener(
    progress: bool | Progress, name: str, total: int | float | Array
) -> Iterator[Listener | None]:
    """Whom a compiled program reports to while it runs; the end waits for the reports.

    Args:
        progress: As of `progress_reporter`.
        name: Shown beside the bar.
        total: Steps, or time, of the whole computation.

    Yields:
        What the program passes to `tell`, or `None` if nobody listens.
    """
    with _heard(progress, name) as report:
        if report is None:
            yield None
            return
        number = next(_NUMBERS)
        _LISTENERS[number] = reporter = _Reporter(report)
        try:
            yield Listener(jnp.asarray(number, jnp.int32), jnp.asarray(total, float))
            jax.effects_barrier()
            if reporter.error is not None:
                raise reporter.error
            report(1.0, "done")
        finally:
            del _LISTENERS[number]


class _Reporter:
    """What the host does with the reports of one program.

    Attributes:
        error: What the function raised that is reported to. It is not called again, and
            the error raised once the program is over, which cannot be stopped.
    """

    def __init__(self, report: Progress) -> None:
        self._report = report
        self._first: tuple[float, float] | None = None
        self.error: Exception | None = None

    def __call__(
        self, done: float, total: float, unit: str, metrics: dict[str, float]
    ) -> None:
        """Report what is done, with numbers by name, and the speed since the first time."""
        if self.error is not None:
            return
        now = time.perf_counter()
        first_done, first_time = self._first = self._first or (done, now)
        parts = [f"{unit} {done:.10g} of {total:.10g}"]
        parts += [f"{name} {value:.3g}" for name, value in metrics.items()]
        if done > first_done and now > first_time and unit != TIME:
            parts.append(f"{(done - first_done) / (now - first_time):.3g} {unit}s/s")
        try:
            self._report(done / total if total else 1.0, ", ".join(parts))
        except Exception as error:
            self.error = error


def tell(
    listener: Listener | None, done: Real[Array, ""], unit: str, **metrics: Array
) -> None:
    """Report from inside a compiled program; it changes no number.

    Args:
        listener: From `program_listener`.
        done: Steps, or time, that are behind.
        unit: What `done` counts, such as "step".
        **metrics: Numbers that are shown beside it, by name.
    """
    if listener is None:
        return

    def report(number: Array, done: Array, total: Array, metrics: Any) -> None:
        to = _LISTENERS.get(int(number))
        if to is not None:  # else the call that it belonged to is over
            numbers = {name: float(value) for name, value in metrics.items()}
            to(float(done), float(total), unit, numbers)

    jax.debug.callback(report, listener.number, done, listener.total, metrics)
