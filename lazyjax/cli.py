"""Command line: the one place that prints, exits and configures JAX."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import jax
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

import lazyjax

_OUTPUTS = ("quickstart.png", "quickstart.json")

app = typer.Typer(
    name="lazyjax",
    help="Lazy training and neural tangent kernels in JAX.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(is_asked: bool) -> bool:
    if is_asked:
        print(f"lazyjax {lazyjax.__version__}")
        raise typer.Exit
    return is_asked


@app.callback()
def _lazyjax(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the version and exit.",
        ),
    ] = False,
) -> None:
    """Lazy training and neural tangent kernels in JAX."""


@app.command()
def quickstart(
    quick: Annotated[
        bool, typer.Option("--quick", help="Smaller and much faster: a first look.")
    ] = False,
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for quickstart.png and quickstart.json; made if missing."
        ),
    ] = Path(),
    seed: Annotated[
        int,
        typer.Option(min=0, max=2**31 - 1, help="Chooses images and initializations."),
    ] = 0,
    x64: Annotated[
        bool, typer.Option("--x64", help="Compute in double precision.")
    ] = False,
) -> None:
    """How lazy two-layer networks are on real digits, over widths and seeds.

    Trains by gradient descent, compares each network to its linear model, fits how
    kernels scale with width, and measures Du et al.'s (2019) proof step by step.
    """
    _check_folder(out)
    if x64:
        jax.config.update("jax_enable_x64", True)
    with _one_line_errors(), _progress() as show:
        # These take a second to import; a missing extra is found before any work.
        from lazyjax import plot, report
        from lazyjax.experiments import EXPERIMENTS

        size = "brief" if quick else "quick"
        result = EXPERIMENTS["du2019"].run(size=size, seed=seed, progress=show)
        contents = {
            out / _OUTPUTS[0]: plot.png_bytes(result.figure()),
            out / _OUTPUTS[1]: report.json_bytes(result.to_json()),
        }
        out.mkdir(parents=True, exist_ok=True)
        report.write_files(contents)
    console = Console()
    if not console.is_terminal:
        # The width is unknown, as in a file: rows are not to be broken.
        console = Console(width=120)
    for table in result.tables():
        console.print(table)
        console.print()
    print(f"wrote {' and '.join(map(str, contents))}", file=sys.stderr)


@app.command()
def sweep(
    out: Annotated[
        Path, typer.Option(help="File to write, ending in .npz, .json or .csv.")
    ] = Path("sweep.npz"),
    widths: Annotated[str, typer.Option(help="Widths.")] = "16,64,256,1024",
    alphas: Annotated[str, typer.Option(help="Output scales.")] = "1,10,100",
    rates: Annotated[
        str, typer.Option(help="Learning rates, times the largest stable one.")
    ] = "0.5",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of each width.")] = 4,
    steps: Annotated[int, typer.Option(min=0, help="Steps of descent.")] = 500,
    num_train: Annotated[int, typer.Option(min=1, help="Training images.")] = 100,
    depth: Annotated[int, typer.Option(min=1, help="Hidden layers.")] = 1,
    activation: Annotated[str, typer.Option(help="Activation.")] = "relu",
    memory: Annotated[str, typer.Option(help="For programs, such as 4GiB.")] = "4GiB",
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder from which a sweep cut short goes on.")
    ] = None,
    x64: Annotated[
        bool, typer.Option("--x64", help="Compute in double precision.")
    ] = False,
) -> None:
    """Train networks of several widths, seeds, output scales and rates on real digits.

    Fully connected networks that start at zero output, odd digits against even. A sweep
    with a checkpoint goes on with what the folder holds.
    """
    _check_suffix(out)
    if x64:
        jax.config.update("jax_enable_x64", True)
    with _one_line_errors():
        spec = lazyjax.Architecture(
            depth=depth, activation=activation, symmetrized=True
        )
        data = lazyjax.data.digits(num_train, num_test=0, classes="parity")
        kernel = lazyjax.infinite_ntk(spec, data.x_train)
        largest = 2 / float(jax.numpy.linalg.eigvalsh(kernel)[-1])
        numbers = lambda text: [float(part) for part in text.split(",")]
        result = lazyjax.sweep(
            spec,
            data.x_train,
            data.y_train,
            widths=[int(part) for part in widths.split(",")],
            num_seeds=seeds,
            key=jax.random.key(0),
            alphas=numbers(alphas),
            learning_rates=[largest * rate for rate in numbers(rates)],
            num_steps=steps,
            memory=memory,
            checkpoint=checkpoint,
            resume=checkpoint is not None,
            progress=True,
        )
        result.save(out)
    mean = result.mean()
    print("width   alpha   learning rate   loss at the end   standard error   seeds")
    for i, width in enumerate(mean.axes["width"]):
        for j, alpha in enumerate(mean.axes["alpha"]):
            for k, rate in enumerate(mean.axes["learning_rate"]):
                loss, sem = mean.mean[i, j, k, -1], mean.standard_error[i, j, k, -1]
                print(
                    f"{width:>5}{alpha:>8g}{rate:>16.4g}{loss:>18.4g}{sem:>17.2g}"
                    f"{mean.count[i, j, k]:>8}"
                )
    for text in (mean.explain(), f"wrote {out}"):
        print(text, file=sys.stderr)


@app.command()
def experiments() -> None:
    """The experiments of the registry."""
    from lazyjax.experiments import EXPERIMENTS

    for name, experiment in EXPERIMENTS.items():
        print(f"{name}: {experiment.title}. {experiment.source}.")


def main() -> None:
    """Entry point; exits with 0 done, 1 failed, 2 bad usage, 130 interrupted."""
    app()


def _check_folder(out: Path) -> None:
    """Refuse, before any work, a folder that could not be written to after it."""
    existing = next(p for p in (out, *out.absolute().parents) if os.path.exists(p))
    problem = None
    if not existing.is_dir():
        problem = f"{existing} is not a folder."
    elif not os.access(existing, os.W_OK | os.X_OK):
        problem = f"{existing} is not writable."
    taken = [out / name for name in _OUTPUTS if (out / name).is_dir()]
    if taken and not problem:
        problem = f"{taken[0]} is a folder."
    if problem:
        raise typer.BadParameter(problem, param_hint="--out")


def _check_suffix(out: Path) -> None:
    if out.suffix not in (".npz", ".json", ".csv"):
        raise typer.BadParameter(
            f"{out} does not end in .npz, .json or .csv.", param_hint="--out"
        )


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """What goes wrong inside, in one line on stderr, and the exit code it deserves."""
    try:
        yield
    except KeyboardInterrupt:
        message, code = "interrupted, nothing written", 130
    except (
        ImportError,
        MemoryError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as e:
        message, code = str(e) or type(e).__name__, 1
    else:
        return
    print(f"lazyjax: {' '.join(message.split())}", file=sys.stderr)
    raise typer.Exit(code)


@contextmanager
def _progress() -> Iterator[Callable[[float, str], None]]:
    """Function of the share done and what comes next, shown on stderr.

    A bar with the time left on a terminal; a line for each change elsewhere.
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


if __name__ == "__main__":
    main()
