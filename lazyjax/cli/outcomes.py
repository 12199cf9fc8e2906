"""Experiments are run one by one, and each is in its folder as soon as it is finished."""

import json
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

import lazyjax
from lazyjax.cli import interrupts
from lazyjax.cli.console import (
    bad_usage,
    one_line_errors,
    progress_shown,
    table_console,
)
from lazyjax.cli.extras import require
from lazyjax.files.archive import FileError
from lazyjax.files.writing import check_file, write_file, write_files

if TYPE_CHECKING:
    from lazyjax.experiments import PlannedRun, Result
    from lazyjax.report import ExperimentSection


def run_one(
    command: str, plan: "PlannedRun", *, out: Path, stem: str | None = None
) -> None:
    """Run an experiment; print its tables, and write its figure and its numbers."""
    picture, numbers = _checked_files(stem or plan.experiment.name, out)
    interrupts.after_interrupt(picture, numbers)
    with one_line_errors():
        require(command, *plan.experiment.extras, "plot")
        try:
            result = _run_and_write(plan, picture, numbers)
        except (FileError, FileNotFoundError) as error:  # data that were asked for
            raise typer.BadParameter(str(error)) from error
    _show(result)
    print(f"wrote {picture} and {numbers}", file=sys.stderr)


def run_all(plans: "Sequence[PlannedRun]", *, out: Path) -> int:
    """Run what is not finished yet, go on when one fails, and count those that did."""
    files = [_checked_files(plan.experiment.name, out) for plan in plans]
    rows: list[list[str]] = []
    failed = 0
    interrupts.after_interrupt(
        otherwise=lambda: (
            f"{len(rows) - failed} of {len(plans)} experiments are finished and kept in "
            f"{out}, from which the same command goes on"
        )
    )
    for plan, (picture, numbers) in zip(plans, files, strict=True):
        name, start = plan.experiment.name, time.perf_counter()
        found = _finished(picture, numbers, plan.settings())
        if found is not None:
            rows.append([name, found.summary["verdict"]["line"], "kept"])
            continue
        print(f"{name} ({len(rows) + 1} of {len(plans)})", file=sys.stderr, flush=True)
        try:
            require(f"reproduce {name}", *plan.experiment.extras, "plot")
            line = _run_and_write(plan, picture, numbers).verdict.line
        except Exception as error:  # the others are to run whatever is wrong with one
            failed += 1
            line = "failed: " + " ".join(f"{type(error).__name__}: {error}".split())
            print(f"lazyjax: {name} {line}", file=sys.stderr, flush=True)
        rows.append([name, line, f"{time.perf_counter() - start:.0f} s"])
    from lazyjax import report

    table_console(160).print(
        report.table("Verdicts", ["experiment", "verdict", "time"], rows)
    )
    return failed


def write_page(plans: "Sequence[PlannedRun]", out: Path) -> None:
    """Write all that is finished as one page, report.html."""
    from lazyjax.report import page_bytes

    files = [_files(plan.experiment.name, out) for plan in plans]
    found = [
        _finished(*paths, plan.settings())
        for plan, paths in zip(plans, files, strict=True)
    ]
    page = page_bytes(
        [section for section in found if section is not None],
        command=shlex.join(["lazyjax", *sys.argv[1:]]),
        environment=_environment(),
    )
    write_file(page_of(out), page)
    print(f"wrote {page_of(out)}", file=sys.stderr)


def page_of(out: Path) -> Path:
    """The page of a folder."""
    return out / "report.html"


def _files(stem: str, out: Path) -> tuple[Path, Path]:
    return out / f"{stem}.png", out / f"{stem}.json"


def _checked_files(stem: str, out: Path) -> tuple[Path, Path]:
    """The figure and the numbers of an experiment, which can be written."""
    files = _files(stem, out)
    for file in files:
        with bad_usage("--out"):
            check_file("--out", file)
    return files


def _run_and_write(plan: "PlannedRun", picture: Path, numbers: Path) -> "Result":
    # These take a second to import.
    from lazyjax import plot, report

    with progress_shown() as show:
        result = plan.run(show)
        contents = {
            picture: plot.png_bytes(result.figure()),
            numbers: report.json_bytes(result.summary()),
        }
    picture.parent.mkdir(parents=True, exist_ok=True)
    write_files(contents)
    return result


def _show(result: "Result") -> None:
    console = table_console(120)
    for table in result.tables():
        console.print(table)
        console.print()
    console.print(f"Claim: {result.experiment.claim}", highlight=False, markup=False)
    control = result.settings["control"]
    if control is not None:
        console.print(f"Negative control: {control}", highlight=False, markup=False)
    console.print(result.verdict.line, highlight=False, markup=False, style="bold")


def _finished(
    picture: Path, numbers: Path, settings: dict[str, Any]
) -> "ExperimentSection | None":
    """What was written, if it is of these settings, and whole."""
    from lazyjax.report import ExperimentSection

    try:
        summary = json.loads(numbers.read_text())
        if summary["settings"] != settings:
            return None
        return ExperimentSection(summary, picture.read_bytes())
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _environment() -> dict[str, str]:
    """Versions and machine."""
    import jax
    import numpy as np

    return {
        "lazyjax": lazyjax.__version__,
        "jax": jax.__version__,
        "NumPy": np.__version__,
        "Python": platform.python_version(),
        "system": platform.platform(),
        "device": f"{jax.devices()[0].device_kind}, {jax.device_count()} of them",
    }
