"""Reports of how far a computation has come, from the host or from a compiled program."""

import itertools
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

# Called with the share of the work that is done, from 0 to 1, and what comes next.
Progress: TypeAlias = Callable[[float, str], None]

# Whom programs that run just now report to. A program is compiled once, so it holds a
# number in place of the function.
_LISTENERS: dict[int, Progress] = {}
_NUMBERS = itertools.count()


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
    console = Console(stderr=True)
    if callable(progress):
        yield progress
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
        _LISTENERS[number] = report
        try:
            yield Listener(jnp.asarray(number, jnp.int32), jnp.asarray(total, float))
            jax.effects_barrier()
            report(1.0, "done")
        finally:
            del _LISTENERS[number]


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
            share = float(done) / float(total) if total else 1.0
            shown = [f"{name} {value:.3g}" for name, value in metrics.items()]
            to(share, ", ".join([f"{unit} {done:g} of {total:g}", *shown]))

    jax.debug.callback(report, listener.number, done, listener.total, metrics)
