"""Command line: the one place that prints, exits and configures JAX."""

import enum
import os
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import typer
import typer.core
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


class _CertifyUnlessNamed(typer.core.TyperGroup):
    """A group whose first command runs where none is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Name the first command, unless the arguments begin with one."""
        if not args or args[0] not in self.commands:
            args = [next(iter(self.commands)), *args]
        return super().parse_args(ctx, args)


certify_app = typer.Typer(cls=_CertifyUnlessNamed)
app.add_typer(
    certify_app,
    name="certify",
    help="Whether gradient descent is certain to reach zero loss.",
)

_Data = Annotated[
    str,
    typer.Option(
        help="digits (odd against even), or an .npz file with arrays X and y."
    ),
]
_NumTrain = Annotated[
    int | None,
    typer.Option(
        min=1, help="First examples to use.  [default: 20 digits, or all of a file]"
    ),
]
_Depth = Annotated[int, typer.Option(min=1, help="Number of hidden layers.")]
_Activation = Annotated[str, typer.Option(help="Name of the activation.")]
_Seed = Annotated[
    int, typer.Option(min=0, max=2**31 - 1, help="Chooses digits and start.")
]
_Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]


class _Kind(enum.StrEnum):
    MLP = "mlp"


class _Trained(enum.StrEnum):
    FIRST = "first"
    ALL = "all"


class _Start(enum.StrEnum):
    INIT = "init"
    TRAINED = "trained"


class _Dynamics(enum.StrEnum):
    FLOW = "flow"
    DESCENT = "descent"


class _Rigor(enum.StrEnum):
    PROOF = "proof"
    FLOAT = "float"


_RigorOption = Annotated[
    _Rigor, typer.Option(help="Whether rounding is accounted for.")
]


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
    of_widths = _numbers(int, widths, "--widths")
    of_alphas = _numbers(float, alphas, "--alphas")
    of_rates = _numbers(float, rates, "--rates")
    if x64:
        jax.config.update("jax_enable_x64", True)
    with _one_line_errors():
        spec = lazyjax.Architecture(
            depth=depth, activation=activation, symmetrized=True
        )
        data = lazyjax.data.digits(num_train, num_test=0, classes="parity")
        kernel = lazyjax.infinite_ntk(spec, data.x_train)
        largest = 2 / float(jax.numpy.linalg.eigvalsh(kernel)[-1])
        result = lazyjax.sweep(
            spec,
            data.x_train,
            data.y_train,
            widths=of_widths,
            num_seeds=seeds,
            key=jax.random.key(0),
            alphas=of_alphas,
            learning_rates=[largest * rate for rate in of_rates],
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


@certify_app.command(
    "network", epilog="See also: lazyjax certify bounds, a table of widths."
)
def certify(
    data: _Data = "digits",
    num_train: _NumTrain = None,
    architecture: Annotated[
        _Kind, typer.Option(help="Kind of network; fully connected ones only.")
    ] = _Kind.MLP,
    depth: _Depth = 1,
    activation: _Activation = "softplus",
    width: Annotated[int, typer.Option(min=1, help="Units per hidden layer.")] = 16384,
    w_std: Annotated[
        float | None,
        typer.Option(
            help="Standard deviation of weights.  [default: 3 at depth 1, else 1]"
        ),
    ] = None,
    trained: Annotated[
        _Trained | None,
        typer.Option(help="Layers trained.  [default: first at depth 1, else all]"),
    ] = None,
    start: Annotated[
        _Start, typer.Option(help="Certify at initialization, or after training.")
    ] = _Start.INIT,
    dynamics: Annotated[
        _Dynamics, typer.Option(help="Gradient flow or gradient descent.")
    ] = _Dynamics.FLOW,
    rigor: _RigorOption = _Rigor.PROOF,
    seed: _Seed = 0,
    as_json: _Json = False,
) -> None:
    """Whether gradient descent is certain to reach zero loss on these data.

    Exits with 0 if certified, 1 if not, 2 for bad usage. The network's output starts at
    zero; with one hidden layer, random signs are on top.
    """
    del architecture  # one kind so far
    with jax.enable_x64(True):
        x, y = _examples(data, num_train, seed)
        with _one_line_errors():
            from lazyjax import certify as certificates
            from lazyjax.certify.widths import network_at

            with _bad_usage():
                network = network_at(
                    width,
                    depth=depth,
                    activation=activation,
                    w_std=w_std,
                    trained=None if trained is None else trained.value,
                )
            params = network.init(jax.random.key(seed), x)
            if start is _Start.TRAINED:
                with _bad_usage():
                    params = certificates.warm_start(network, params, x, y).params
            certify_fn = {
                _Dynamics.FLOW: certificates.gradient_flow,
                _Dynamics.DESCENT: certificates.gradient_descent,
            }[dynamics]
            found = certify_fn(network, params, x, y, rigor=rigor.value)
    print(found.to_json() if as_json else found.explain())
    sys.exit(0 if found.is_certified else 1)


@certify_app.command()
def bounds(
    data: _Data = "digits",
    num_train: _NumTrain = None,
    depth: _Depth = 1,
    activation: _Activation = "softplus",
    max_width: Annotated[
        int, typer.Option(min=1, help="Largest width to try.")
    ] = 16384,
    num_steps: Annotated[
        int, typer.Option(min=1, help="Steps of gradient descent to see convergence.")
    ] = 2000,
    failure: Annotated[
        float, typer.Option(help="Accepted probability of failure, in theorems.")
    ] = 0.1,
    rigor: _RigorOption = _Rigor.PROOF,
    seed: _Seed = 0,
    as_json: _Json = False,
) -> None:
    """Widths that theorems ask for, beside the smallest certified and seen to converge."""
    with jax.enable_x64(True):
        x, y = _examples(data, num_train, seed)
        with _one_line_errors(), _progress() as show:
            from lazyjax import report
            from lazyjax.certify.widths import BYTES_PER_PARAMETER, width_table

            with _bad_usage():
                found = width_table(
                    x,
                    y,
                    key=jax.random.key(seed),
                    depth=depth,
                    activation=activation,
                    failure=failure,
                    max_width=max_width,
                    num_steps=num_steps,
                    rigor=rigor.value,
                    progress=show,
                )
    if as_json:
        print(report.json_bytes(found.to_json()).decode(), end="")
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=150)
    console.print(
        report.table(
            f"Width of {found.num_examples} examples with {found.num_features} features",
            ["", "width", "parameters", "memory", "assumptions"],
            found.rows(),
            caption=(
                "~ orders of magnitude: constants are not specified. Memory is "
                f"{BYTES_PER_PARAMETER} bytes per parameter. Theorems are on random "
                f"starts that fail with probability {failure:g} at most; below are "
                f"{found.activation} networks of depth {found.depth}."
            ),
        )
    )


def main() -> None:
    """Entry point; exits with 0 done, 1 failed, 2 bad usage, 130 interrupted.

    For `certify`, 0 is certified and 1 is not certified.
    """
    app()


def _examples(
    data: str, num_train: int | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets in float64."""
    if data == "digits":
        with _one_line_errors():
            from lazyjax.data import digits

            with _bad_usage("--num-train"):
                found = digits(
                    20 if num_train is None else num_train,
                    num_test=0,
                    classes="parity",
                    key=jax.random.key(seed),
                )
        return np.asarray(found.x_train), np.asarray(found.y_train)
    with _bad_usage("--data"):
        return _read_npz(Path(data), num_train)


def _read_npz(path: Path, num_train: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Arrays of a file.

    Args:
        path: The file.
        num_train: How many rows to keep; `None` for all.

    Returns:
        X, flattened, and y.

    Raises:
        ValueError: If the file cannot be read, or is not what is expected.
    """
    arrays = _arrays(path)
    missing = [name for name in ("X", "y") if name not in arrays]
    if missing:
        raise ValueError(
            f"{path} must hold arrays X and y; it lacks {' and '.join(missing)} and has "
            f"{', '.join(arrays) or 'none'}."
        )
    arrays = {name: arrays[name] for name in ("X", "y")}
    for name, array in arrays.items():
        if not (
            np.issubdtype(array.dtype, np.floating)
            or np.issubdtype(array.dtype, np.integer)
            or array.dtype == bool
        ):
            raise ValueError(f"{name} must hold real numbers; got dtype {array.dtype}.")
        if not np.all(np.isfinite(array)):
            raise ValueError(f"{name} must be finite; it has NaN or infinite values.")
    x, y = (arrays[name].astype(np.float64) for name in ("X", "y"))
    if x.ndim < 2 or x.size == 0:
        raise ValueError(
            f"X must have shape (n, d), a row for each example; got {x.shape}."
        )
    if y.ndim == 1:
        y = y[:, None]
    if y.ndim != 2 or len(y) != len(x) or y.size == 0:
        raise ValueError(
            f"y must have shape ({len(x)},) or ({len(x)}, 1), a row for each of X; got "
            f"{arrays['y'].shape}."
        )
    if y.shape[1] != 1:
        raise ValueError(f"y must have one column; got shape {arrays['y'].shape}.")
    if num_train is not None and num_train > len(x):
        raise ValueError(f"--num-train must be at most {len(x)}; got {num_train}.")
    return x[:num_train].reshape(len(x[:num_train]), -1), y[:num_train]


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz file; never unpickled.

    Args:
        path: The file.

    Returns:
        The arrays by name.

    Raises:
        ValueError: If it cannot be read, or is no such file.
    """
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise ValueError("it must be an .npz file, and holds one array only")
        with file:
            return {name: file[name] for name in file.files}
    except (EOFError, OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


@contextmanager
def _bad_usage(option: str | None = None) -> Iterator[None]:
    """What arguments cause inside, as bad usage."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


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


def _numbers(kind: Callable[[str], Any], text: str, option: str) -> list[Any]:
    """Numbers of a list with commas, or bad usage of that option."""
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        message = f"must be numbers with commas between them; got {text!r}."
        raise typer.BadParameter(message, param_hint=option) from None


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
