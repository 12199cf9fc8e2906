"""`lazyjax sweep`: training over widths, seeds, output scales and learning rates."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import jax
import typer

import lazyjax
from lazyjax.cli import interrupts
from lazyjax.cli.console import bad_usage, numbers, one_line_errors
from lazyjax.cli.extras import require
from lazyjax.files.writing import check_file
from lazyjax.sweeps.checkpoint import check_checkpoint, kept_files


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
    _check_output(out, checkpoint)
    width_list = numbers(int, widths, "--widths")
    alpha_list = numbers(float, alphas, "--alphas")
    rate_list = numbers(float, rates, "--rates")
    if x64:
        jax.config.update("jax_enable_x64", True)
    interrupts.after_interrupt(out, otherwise=_kept_message(out, checkpoint))
    with one_line_errors():
        require("sweep", "data")
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
            widths=width_list,
            num_seeds=seeds,
            key=jax.random.key(0),
            alphas=alpha_list,
            learning_rates=[largest * rate for rate in rate_list],
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


def _kept_message(out: Path, checkpoint: Path | None) -> Callable[[], str]:
    """Makes the message of an interrupted sweep, from what is on disk then."""
    if checkpoint is None:
        return lambda: "nothing written; with --checkpoint what is done would be kept"
    before = set(kept_files(checkpoint))

    def message() -> str:
        count = len(set(kept_files(checkpoint)) - before)
        if not count and before:
            return f"nothing new written; what {checkpoint} held is kept"
        if not count:
            return "nothing written"
        files = "file" if count == 1 else "files"
        return (
            f"{out} not written; {count} {files} of results kept in {checkpoint}, from "
            "which the same command goes on"
        )

    return message


def _check_output(out: Path, checkpoint: Path | None) -> None:
    """Refuse, before any work, what cannot be written after it."""
    if out.suffix not in (".npz", ".json", ".csv"):
        raise typer.BadParameter(
            f"{out} does not end in .npz, .json or .csv.", param_hint="--out"
        )
    with bad_usage("--out"):
        check_file("--out", out)
    if checkpoint is None:
        return
    folder = checkpoint.resolve()
    if out.resolve() in (folder, *folder.parents):
        raise typer.BadParameter(
            f"{checkpoint} cannot be a folder, for --out {out} is a file.",
            param_hint="--checkpoint",
        )
    with bad_usage("--checkpoint"):
        check_checkpoint(checkpoint, resume=True)
