"""Errors in one line, progress, and tables, on the streams they belong to."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

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
    """Context in which type and value errors become bad usage."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def numbers(kind: Callable[[str], Any], text: str, option: str) -> list[Any]:
    """Numbers of a list with commas, or bad usage of that option."""
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        message = f"must be numbers with commas between them; got {text!r}."
        raise typer.BadParameter(message, param_hint=option) from None


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Context in which errors become one line on stderr and an exit code."""
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
    """Console for tables on stdout, so wide where stdout has no width."""
    console = Console()
    return console if console.is_terminal else Console(width=width)


@contextmanager
def progress_shown() -> Iterator[Callable[[float, str], None]]:
    """Progress on stderr: a bar on a terminal, elsewhere lines of messages."""
    console = Console(stderr=True)
    if not console.is_terminal:
        last_message = ""

        def print_line(share: float, message: str) -> None:
            nonlocal last_message
            if message != last_message:
                print(f"{share:4.0%} {message}", file=sys.stderr, flush=True)
                last_message = message

        yield print_line
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
        yield lambda share, message: bar.update(
            task, completed=share, description=message
        )
