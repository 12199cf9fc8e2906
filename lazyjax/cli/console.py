"""Errors in one line, progress, and tables, on the streams they belong to."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from lazyjax.cli import interrupts


@contextmanager
def bad_usage(option: str | None = None) -> Iterator[None]:
    """What arguments cause inside, as bad usage.

    Args:
        option: The option to blame; `None` if the message names it.

    Yields:
        Nothing.

    Raises:
        BadParameter: If they do.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


@contextmanager
def one_line_errors() -> Iterator[None]:
    """What goes wrong inside, in one line on stderr, and the exit code it deserves.

    Yields:
        Nothing.

    Raises:
        Exit: If anything goes wrong.
    """
    try:
        yield
    except KeyboardInterrupt:
        message, code = interrupts.message(), interrupts.EXIT_CODE
    except (
        ImportError,
        MemoryError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as e:
        message, code = f"lazyjax: {str(e) or type(e).__name__}", 1
    else:
        return
    print(" ".join(message.split()), file=sys.stderr)
    raise typer.Exit(code)


def table_console(width: int) -> Console:
    """Console for tables on stdout.

    Args:
        width: In characters, where that of stdout is unknown, as in a file: rows are
            not to be broken there.

    Returns:
        The console.
    """
    console = Console()
    return console if console.is_terminal else Console(width=width)


@contextmanager
def progress_shown() -> Iterator[Callable[[float, str], None]]:
    """Function of the share done and what comes next, shown on stderr.

    A bar with the time left on a terminal; a line for each change elsewhere.

    Yields:
        The function.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        said: list[str] = []

        def say(share: float, words: str) -> None:
            if words not in said[-1:]:
                print(f"{share:4.0%} {words}", file=sys.stderr, flush=True)
                said.append(words)

        yield say
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("loading", total=1.0)
        yield lambda share, words: bar.update(task, completed=share, description=words)
