"""`lazyjax certify`: certificates for one network, and a table of widths."""

import dataclasses
import enum
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import jax
import numpy as np
import typer
import typer.core

from lazyjax.cli import interrupts
from lazyjax.cli.console import (
    bad_usage,
    one_line_errors,
    progress_shown,
    table_console,
)
from lazyjax.cli.data import Data, NumTrain, read_examples
from lazyjax.cli.kernels import FigureFile, check_figure, write_figure

if TYPE_CHECKING:
    from lazyjax.certify import TrainingCertificates
    from lazyjax.certify.descent_and_flow import CertifyFn
    from lazyjax.nets import Network
    from lazyjax.typing import Params


class _CertifyUnlessNamed(typer.core.TyperGroup):
    """A group whose first command runs where none is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Name the first command, unless the arguments begin with one."""
        if not args or args[0] not in self.commands:
            args = [next(iter(self.commands)), *args]
        return super().parse_args(ctx, args)


certify_app = typer.Typer(cls=_CertifyUnlessNamed)

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
_Width = Annotated[int, typer.Option(min=1, help="Units per hidden layer.")]
_WStd = Annotated[
    float | None,
    typer.Option(
        help="Standard deviation of weights.  [default: 3 at depth 1, else 1]"
    ),
]
_TrainedOption = Annotated[
    _Trained | None,
    typer.Option(help="Layers trained.  [default: first at depth 1, else all]"),
]


def _initialized(
    width: int,
    depth: int,
    activation: str,
    w_std: float | None,
    trained: _Trained | None,
    x: np.ndarray,
    seed: int,
) -> "tuple[Network, Params]":
    """The network of these options, and its parameters at the start."""
    from lazyjax.certify.widths import network_at

    with bad_usage():
        network = network_at(
            width,
            depth=depth,
            activation=activation,
            w_std=w_std,
            trained=None if trained is None else trained.value,
        )
    return network, network.init(jax.random.key(seed), x)


@certify_app.command(
    "network",
    epilog="See also: lazyjax certify compare, all theorems; certify bounds, widths.",
)
def certify(
    data: Data = "digits",
    num_train: NumTrain = None,
    architecture: Annotated[
        _Kind, typer.Option(help="Kind of network; fully connected ones only.")
    ] = _Kind.MLP,
    depth: _Depth = 1,
    activation: _Activation = "softplus",
    width: _Width = 16384,
    w_std: _WStd = None,
    trained: _TrainedOption = None,
    start: Annotated[
        _Start, typer.Option(help="Certify at initialization, or after training.")
    ] = _Start.INIT,
    dynamics: Annotated[
        _Dynamics, typer.Option(help="Gradient flow or gradient descent.")
    ] = _Dynamics.FLOW,
    along: Annotated[
        bool,
        typer.Option(
            "--along", help="Train by gradient descent until a certificate holds."
        ),
    ] = False,
    num_steps: Annotated[
        int, typer.Option(min=1, help="Steps of --along, at most.")
    ] = 4096,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="Of --along.  [default: half the largest stable one]"),
    ] = None,
    out: FigureFile = None,
    rigor: _RigorOption = _Rigor.PROOF,
    seed: _Seed = 0,
    as_json: _Json = False,
) -> None:
    """Whether gradient descent is certain to reach zero loss on these data.

    Exits with 0 if certified, 1 if not, 2 for bad usage. The network's output starts at
    zero; with one hidden layer, random signs are on top. With --along, certificates are
    tried while the network is trained, and --out draws their margins.
    """
    del architecture  # one kind so far
    _check_along(along, start, learning_rate, out)
    interrupts.after_interrupt()
    with jax.enable_x64(True):
        x, y = read_examples("certify", data, num_train, seed)
        with one_line_errors():
            from lazyjax import certify as certificates

            network, params = _initialized(
                width, depth, activation, w_std, trained, x, seed
            )
            certify_fn = {
                _Dynamics.FLOW: certificates.gradient_flow,
                _Dynamics.DESCENT: certificates.gradient_descent,
            }[dynamics]
            if along:
                with bad_usage():
                    run = _trained(
                        network,
                        params,
                        x,
                        y,
                        num_steps,
                        learning_rate,
                        certify_fn,
                        rigor,
                    )
                write_figure("certify", out, lambda axes: _draw(axes, run))
                print(run.to_json() if as_json else run.explain())
                sys.exit(1 if run.earliest is None else 0)
            if start is _Start.TRAINED:
                with bad_usage():
                    params = certificates.warm_start(
                        network, params, x, y, certify_fn=certify_fn
                    ).params
            found = certify_fn(network, params, x, y, rigor=rigor.value)
    print(found.to_json() if as_json else found.explain())
    sys.exit(0 if found.is_certified else 1)


def _check_along(
    along: bool, start: _Start, learning_rate: float | None, out: Path | None
) -> None:
    """Options that belong to `--along`, and those that do not.

    Raises:
        BadParameter: If they do not go together, or the figure cannot be written.
    """
    if not along and (out is not None or learning_rate is not None):
        raise typer.BadParameter("--out and --learning-rate are for --along alone.")
    if along and start is _Start.TRAINED:
        raise typer.BadParameter(
            "--along trains from the start; leave it out.", param_hint="--start"
        )
    check_figure(out)


def _trained(
    network: "Network",
    params: "Params",
    x: np.ndarray,
    y: np.ndarray,
    num_steps: int,
    learning_rate: float | None,
    certify_fn: "CertifyFn",
    rigor: _Rigor,
) -> "TrainingCertificates":
    """Certificates along gradient descent, without the parameters."""
    import optax

    from lazyjax._checks import check_positive
    from lazyjax.certify import along
    from lazyjax.dynamics import largest_stable_rate

    if learning_rate is None:
        learning_rate = float(largest_stable_rate(network.apply, params, x, y)) / 2
    check_positive("learning_rate", learning_rate)
    found = along(
        network,
        params,
        x,
        y,
        optimizer=optax.sgd(learning_rate),
        num_steps=num_steps,
        certify_fn=certify_fn,
        rigor=rigor.value,
    )
    return dataclasses.replace(found, params=None)


def _draw(axes: Any, found: "TrainingCertificates") -> None:
    from lazyjax import plot

    plot.certificates(axes, {"this run": found})


@certify_app.command()
def compare(
    data: Data = "digits",
    num_train: NumTrain = None,
    depth: _Depth = 1,
    activation: _Activation = "softplus",
    width: _Width = 16384,
    w_std: _WStd = None,
    trained: _TrainedOption = None,
    rigor: _RigorOption = _Rigor.PROOF,
    seed: _Seed = 0,
    as_json: _Json = False,
) -> None:
    """Verdicts of all theorems that are about a network, at its initialization."""
    interrupts.after_interrupt()
    with jax.enable_x64(True):
        x, y = read_examples("certify compare", data, num_train, seed)
        with one_line_errors():
            from lazyjax import certify as certificates

            network, params = _initialized(
                width, depth, activation, w_std, trained, x, seed
            )
            with bad_usage():
                found = certificates.compare(network, params, x, y, rigor=rigor.value)
    print(found.to_json() if as_json else found.explain())


@certify_app.command()
def bounds(
    data: Data = "digits",
    num_train: NumTrain = None,
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
    interrupts.after_interrupt()
    with jax.enable_x64(True):
        x, y = read_examples("certify bounds", data, num_train, seed)
        with one_line_errors(), progress_shown() as show:
            from lazyjax import report
            from lazyjax.certify.widths import BYTES_PER_PARAMETER, width_table

            with bad_usage():
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
        print(report.json_bytes(found.summary()).decode(), end="")
        return
    table_console(150).print(
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
