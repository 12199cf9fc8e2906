"""A bar with the time that a sweep will still take."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# Called with the cost of members that are done, and their number.
Advance = Callable[[float, int], None]


@contextmanager
def progress_bar(
    is_shown: bool, total_cost: float, num_members: int
) -> Iterator[Advance]:
    """A bar on standard error, which advances by cost and counts members.

    Args:
        is_shown: Whether there is one at all.
        total_cost: Of all members.
        num_members: Their number.

    Yields:
        What is to be called when members are done.
    """
    if not is_shown:
        yield lambda cost, count: None
        return
    columns = (
        TextColumn("sweep"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[members]} members"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    done = 0
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=total_cost, members=f"0/{num_members}")

        def advance(cost: float, count: int) -> None:
            nonlocal done
            done += count
            progress.update(task, advance=cost, members=f"{done}/{num_members}")

        yield advance
