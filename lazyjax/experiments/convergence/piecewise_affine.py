r"""Shallow networks of activations made of straight pieces reach zero loss exponentially.

Jentzen and Riekert prove linear convergence of gradient descent for wide networks with
one hidden layer, any piecewise affine activation that is not affine, and inputs that are
distinct. ReLU, leaky ReLU, the absolute value and the hat function are tried here.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from rich.table import Table

from lazyjax import report
from lazyjax.architecture import Architecture
from lazyjax.dynamics import largest_stable_rate, train
from lazyjax.experiments.judgement import Check, Judgement
from lazyjax.experiments.record import Conditions, Control, Experiment, Size
from lazyjax.laziness import mean_and_sem
from lazyjax.nets import build


def leaky_relu(z: Array) -> Array:
    """ReLU with a slope of a tenth below zero."""
    return jnp.maximum(z, 0.1 * z)


def hat(z: Array) -> Array:
    """One at zero, falling on both sides to zero at distance one."""
    return jnp.maximum(1 - jnp.abs(z), 0)


def affine(z: Array) -> Array:
    """What the theorem excludes."""
    return 0.5 * z + 1


ACTIVATIONS = {
    "ReLU": jax.nn.relu,
    "leaky ReLU": leaky_relu,
    "|z|": jnp.abs,
    "hat": hat,
}
# Of the loss at the start, that counts as zero loss.
ZERO = 1e-5
# The rate in the last quarter of training, relative to that in the quarter before, is 1
# for linear convergence, and log(4/3) / log(3/2) = 0.71 for a power of the time.
STEADY = 0.8


@dataclasses.dataclass(frozen=True, kw_only=True)
class PiecewiseAffineSize(Size):
    """How much is computed.

    Attributes:
        widths: Hidden units.
        num_seeds: Networks of each width.
        num_train: Examples, distinct with probability one.
        num_features: Dimension of inputs.
        num_steps: Of gradient descent.
        is_affine: Whether the activation is affine instead.
    """

    widths: tuple[int, ...] = (32, 256)
    num_seeds: int = 4
    num_train: int = 8
    num_features: int = 3
    num_steps: int = 6000
    is_affine: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class PiecewiseAffine:
    """Losses of networks, relative to their start.

    Attributes:
        widths: Hidden units.
        activations: Names.
        loss: At a hundred or so steps.
        steps: The steps.
        rate: Fall of the logarithm of the loss per step, over the last quarter of those
            before the loss is `ZERO`.
        steadiness: That rate, relative to the one in the quarter before: 1 if
            convergence is linear, less if it slows down.
    """

    widths: tuple[int, ...]
    activations: tuple[str, ...]
    loss: Float[np.ndarray, "activations widths seeds points"]
    steps: tuple[int, ...]
    rate: Float[np.ndarray, "activations widths seeds"]
    steadiness: Float[np.ndarray, "activations widths seeds"]


def measure(size: PiecewiseAffineSize, conditions: Conditions) -> PiecewiseAffine:
    """Gradient descent of every activation, width and seed."""
    key_x, key_y, key = jax.random.split(conditions.key, 3)
    x = jax.random.normal(key_x, (size.num_train, size.num_features))
    y = jnp.sign(jax.random.normal(key_y, (size.num_train, 1)))
    chosen = {"affine": affine} if size.is_affine else ACTIVATIONS
    losses = []
    for number, (name, activation) in enumerate(chosen.items()):
        conditions.progress(number / len(chosen), f"training with {name}")
        spec = Architecture(activation=activation, b_std=1.0)
        for width in size.widths:
            network = build(spec, width=width)

            def run(key: Array, network=network) -> Array:
                params = network.init(key, x)
                rate = 0.5 * largest_stable_rate(network.apply, params, x, y)
                return train(
                    network.apply,
                    params,
                    x,
                    y,
                    optimizer=optax.sgd(rate),
                    num_steps=size.num_steps,
                ).loss

            keys = jax.random.split(jax.random.fold_in(key, width), size.num_seeds)
            losses.append(np.stack([np.asarray(run(key)) for key in keys]))
    shape = (len(chosen), len(size.widths), size.num_seeds, -1)
    loss = np.stack(losses).reshape(shape)
    loss = loss / loss[..., :1]
    found = [_rates(curve) for curve in loss.reshape(-1, loss.shape[-1])]
    rate, steadiness = np.array(found).T.reshape(2, *loss.shape[:-1])
    steps = np.unique(np.geomspace(1, size.num_steps, 100).round().astype(int))
    return PiecewiseAffine(
        widths=size.widths,
        activations=tuple(chosen),
        loss=loss[..., steps],
        steps=tuple(steps.tolist()),
        rate=rate,
        steadiness=steadiness,
    )


def _rates(loss: Float[np.ndarray, "num_losses"]) -> tuple[float, float]:
    """Late rate, and its ratio to the rate before, up to where the loss is `ZERO`."""
    end = int(np.argmax(loss <= ZERO)) if np.any(loss <= ZERO) else len(loss) - 1
    half, late = end // 2, 3 * end // 4
    fall = -np.log(np.maximum(loss, 1e-30))
    last = (fall[end] - fall[late]) / (end - late)
    before = (fall[late] - fall[half]) / (late - half)
    return float(last), float(last / before) if before > 0 else 0.0


def verdict(found: PiecewiseAffine) -> Judgement:
    """Zero loss in all seeds of the widest, at a rate that does not fall."""
    return Judgement.of(
        [
            Check(
                statement=f"largest relative loss at width {found.widths[-1]}",
                measured=float(found.loss[:, -1, :, -1].max()),
                sense="at most",
                threshold=ZERO,
            ),
            Check(
                statement="least median over seeds of the last quarter's rate relative "
                "to the one before",
                measured=float(np.median(found.steadiness[:, -1], axis=-1).min()),
                sense="at least",
                threshold=STEADY,
            ),
        ]
    )


def tables(found: PiecewiseAffine) -> list[Table]:
    """Seeds that reached zero loss, and rates, by activation and width."""
    rows = []
    rate, rate_sem = map(np.asarray, mean_and_sem(found.rate))
    for i, activation in enumerate(found.activations):
        for j, width in enumerate(found.widths):
            last = found.loss[i, j, :, -1]
            rows.append(
                [
                    activation,
                    str(width),
                    f"{np.sum(last <= ZERO)}/{len(last)}",
                    f"{np.median(last):.1e}",
                    report.with_error(rate[i, j], rate_sem[i, j]),
                    f"{np.median(found.steadiness[i, j]):.2f}",
                ]
            )
    names = ["activation", "width", "zero loss", "last loss", "rate", "steadiness"]
    caption = (
        f"Zero loss: at most {ZERO:g} of the start. Rates are those of log L per step, in "
        "the last quarter of the steps until then; steadiness is their ratio to the "
        "quarter before, 1 for linear convergence."
    )
    return [report.table("Shallow networks", names, rows, caption=caption)]


def figure(found: PiecewiseAffine):
    """Losses of the widest networks; share of seeds with zero loss against the width."""
    from lazyjax import plot

    figure = plot.figure()
    left, right = figure.subplots(1, 2)
    series = {
        name: np.maximum(found.loss[i, -1].T, 1e-12)
        for i, name in enumerate(found.activations)
    }
    plot.curves(left, np.asarray(found.steps), series, log="y", is_marked=False)
    left.set_ylim(ZERO / 100, 2)
    rates = {
        name: np.maximum(found.rate[i], 1e-7)
        for i, name in enumerate(found.activations)
    }
    plot.curves(right, np.asarray(found.widths, float), rates, log="xy")
    title = f"Width {found.widths[-1]}: mean and standard error"
    plot.style_axes(left, xlabel="step", ylabel="relative loss", title=title)
    plot.style_axes(
        right,
        xlabel="width $m$",
        ylabel="rate of $\\log L$ per step, mean ± standard error",
        title="Rates of convergence",
    )
    return figure


EXPERIMENT = Experiment(
    name="piecewise-affine",
    title="Linear convergence with activations made of straight pieces",
    source="Jentzen and Riekert (2021), arXiv:2112.09684",
    claim="Gradient descent on wide networks with one hidden layer, a piecewise affine "
    "activation that is not affine, and distinct inputs converges to zero loss at a "
    "linear rate, with high probability over the start (main theorem; not checked "
    "against the paper).",
    sizes={
        "quick": PiecewiseAffineSize(),
        "brief": PiecewiseAffineSize(
            widths=(256,), num_seeds=3, num_train=6, num_steps=2000
        ),
        "full": PiecewiseAffineSize(
            widths=(16, 64, 256, 1024, 4096, 16384),
            num_seeds=20,
            num_train=50,
            num_steps=100_000,
        ),
    },
    measure=measure,
    verdict=verdict,
    tables=tables,
    figure=figure,
    control=Control(
        what="the activation is affine",
        change=lambda size: dataclasses.replace(size, is_affine=True),
    ),
)
