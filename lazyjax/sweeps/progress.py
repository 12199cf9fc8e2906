"""Reports of how far a sweep has come."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

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


@contextmanager
def progress_reporter(progress: bool | Progress) -> Iterator[Progress]:
    """The function that a sweep reports to.

    Args:
        progress: The function itself; or whether there is a bar on standard error.

    Yields:
        The function.
    """
    if callable(progress):
        yield progress
    elif not progress:
        yield lambda share, message: None
    else:
        columns = (
            TextColumn("sweep"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Bar(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task("", total=1.0)
            yield lambda share, message: bar.update(
                task, completed=share, description=message
            )
