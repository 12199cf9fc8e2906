r"""Deep ReLU classifiers fit near their start, by full and by stochastic descent.

Zou, Cao, Zhou and Gu (2018): if inputs of different classes are apart, gradient descent
and its stochastic version bring wide deep ReLU networks to zero training error, for
losses of a family of which the logistic is one, and all iterates stay in a ball about the
start that is small.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from rich.table import Table

from lazyjax import report
from lazyjax.architecture import Architecture
from lazyjax.certify.measured import zou2018
from lazyjax.data import digits
from lazyjax.dynamics import losses
from lazyjax.experiments.judgement import Check, Judgement
from lazyjax.experiments.record import (
    CONTRADICTION,
    Conditions,
    Experiment,
    Size,
    contradicted,
)
from lazyjax.laziness import SlopeFit, log_log_slope, mean_and_sem
from lazyjax.nets import build

ALLOWANCE = 0.15


def smooth_exponential(z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Exponential for margins above zero, and a line of slope -1 below.

    Args:
        z: Margins.

    Returns:
        The losses.
    """
    return jnp.where(z > 0, jnp.exp(-jnp.maximum(z, 0)), 1 - z)


# Exponential-like, with bounded derivatives: -l' = min(1, l).
SMOOTH_EXPONENTIAL = losses.LossFamily(
    alpha0=1.0, alpha1=1.0, power=1.0, lipschitz=1.0, smoothness=1.0
)
LOSSES: dict[str, tuple[Callable, losses.LossFamily]] = {
    "logistic": (zou2018.logistic_loss, zou2018.LOGISTIC),
    "exponential, line below 0": (smooth_exponential, SMOOTH_EXPONENTIAL),
}
METHODS = ("GD", "SGD")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Zou2018Size(Size):
    """How much is computed.

    Attributes:
        widths: Of all hidden layers, at least two.
        num_seeds: Networks of each width, at least two.
        num_train: Training examples.
        depth: Hidden layers.
        num_steps: Of either method.
        batch_size: Of the stochastic one.
        is_contradicted: Whether one input comes twice, with opposite labels.
    """

    widths: tuple[int, ...] = (32, 128, 512)
    num_seeds: int = 3
    num_train: int = 40
    depth: int = 3
    num_steps: int = 300
    batch_size: int = 10
    is_contradicted: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Zou2018:
    """Runs of every loss, method, width and seed.

    Attributes:
        widths: Of the networks.
        loss: Mean loss at every step.
        error: Share of examples on the wrong side after the last step.
        radius: Largest distance of all weights from the start, relative to the norm of
            the start.
        slopes: Power of the width in the radius, for each loss and method.
        class_gap: Smallest distance between inputs of different classes, the φ.
        membership: Whether a grid found nothing against each loss's being of the family.
    """

    widths: tuple[int, ...]
    loss: Float[np.ndarray, "losses methods widths seeds num_losses"]
    error: Float[np.ndarray, "losses methods widths seeds"]
    radius: Float[np.ndarray, "losses methods widths seeds"]
    slopes: tuple[SlopeFit, ...]
    class_gap: float
    membership: tuple[bool, ...]


def measure(size: Zou2018Size, conditions: Conditions) -> Zou2018:
    """Runs of gradient descent, full and stochastic."""
    data = digits(size.num_train, num_test=0, classes="parity", key=conditions.key)
    x, y = data.x_train, data.y_train
    if size.is_contradicted:
        x, y = contradicted(x, y)
    gaps = jnp.linalg.norm(x[:, None] - x[None], axis=-1)
    gaps = jnp.where(y != y.T, gaps, jnp.inf)
    # The last layer is of signs, and is not trained.
    spec = Architecture(
        depth=size.depth,
        w_std=2**0.5,
        readout="sign",
        trained=tuple(range(1, size.depth + 1)),
        input_scaling="none",
    )
    runs = []
    for number, (name, (loss_fn, _)) in enumerate(LOSSES.items()):
        for method in METHODS:
            batch = size.batch_size if method == "SGD" else None
            for width in size.widths:
                words = f"{name}, {method}, width {width}"
                conditions.progress(number / len(LOSSES), words)
                network = build(spec, width=width)
                for seed in range(size.num_seeds):
                    key = jax.random.fold_in(conditions.key, seed)
                    params = network.init(jax.random.fold_in(key, width), x)
                    run = zou2018.measure_radius(
                        network.apply,
                        params,
                        x,
                        y,
                        learning_rate=0.5,
                        num_steps=size.num_steps,
                        batch_size=batch,
                        key=key if batch else None,
                        loss_fn=loss_fn,
                    )
                    trained = [params[f"layer_{i + 1}"] for i in range(size.depth)]
                    norm = jnp.sqrt(
                        sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(trained))
                    )
                    runs.append((run.loss, 1 - run.accuracy, run.radius / norm))
    shape = (len(LOSSES), len(METHODS), len(size.widths), size.num_seeds)
    loss, error, radius = (
        np.stack([np.asarray(run[i]) for run in runs]).reshape(*shape, *part)
        for i, part in enumerate(((-1,), (), ()))
    )
    widths = np.asarray(size.widths, float)
    return Zou2018(
        widths=size.widths,
        loss=loss,
        error=error,
        radius=radius,
        slopes=tuple(
            log_log_slope(widths, values) for values in radius.reshape(-1, *shape[2:])
        ),
        class_gap=float(jnp.min(gaps)),
        membership=tuple(
            zou2018.check_loss(loss_fn, family).passes
            for loss_fn, family in LOSSES.values()
        ),
    )


def verdict(found: Zou2018) -> Judgement:
    """Zero error of the widest by every loss and method, in balls that shrink."""
    steepest = max(found.slopes, key=lambda slope: float(slope.slope))
    return Judgement.of(
        [
            Check(
                statement=f"largest training error at width {found.widths[-1]}",
                measured=float(found.error[:, :, -1].max()),
                sense="at most",
                threshold=0.0,
            ),
            Check(
                statement="largest power of the width in the relative radius",
                measured=float(steepest.slope),
                sense="at most",
                threshold=-0.5 + ALLOWANCE,
            ),
            Check(
                statement="share of losses that look like members of the family",
                measured=float(np.mean(found.membership)),
                sense="at least",
                threshold=1.0,
            ),
        ]
    )


def tables(found: Zou2018) -> list[Table]:
    """Errors and radii by loss, method and width."""
    rows = []
    for i, name in enumerate(LOSSES):
        for j, method in enumerate(METHODS):
            mean, sem = mean_and_sem(found.radius[i, j])
            slope = found.slopes[i * len(METHODS) + j]
            rows.append(
                [
                    f"{name}, {method}",
                    *(f"{error:.1%}" for error in found.error[i, j].mean(axis=-1)),
                    *(map(report.with_error, map(float, mean), map(float, sem))),
                    report.with_error(float(slope.slope), float(slope.slope_sem)),
                ]
            )
    columns = [
        "loss and method",
        *(f"error,\nm = {width}" for width in found.widths),
        *(f"radius,\nm = {width}" for width in found.widths),
        "power",
    ]
    caption = (
        f"Classes are {found.class_gap:.3g} apart. Radii are distances of all weights "
        "from the start, relative to its norm; means over seeds with standard errors."
    )
    return [report.table("Deep ReLU classifiers", columns, rows, caption=caption)]


def figure(found: Zou2018):
    """Losses of the widest networks; radii against the width."""
    from lazyjax import plot

    figure = plot.figure()
    left, right = figure.subplots(1, 2)
    pairs = {
        f"{name}, {method}": (i, j)
        for i, name in enumerate(LOSSES)
        for j, method in enumerate(METHODS)
    }
    steps = np.arange(found.loss.shape[-1])
    curves = {name: found.loss[i, j, -1].T for name, (i, j) in pairs.items()}
    plot.curves(left, steps, curves, log="y", is_marked=False)
    widths = np.asarray(found.widths, float)
    radii = {name: found.radius[pair] for name, pair in pairs.items()}
    lowest = 0.7 * min(values[0].min() for values in radii.values())
    guide = {r"slope $-\frac{1}{2}$": lowest * (widths / widths[0]) ** -0.5}
    plot.curves(right, widths, radii, log="xy", guides=guide)
    title = f"Width {found.widths[-1]}: mean and standard error"
    plot.style_axes(left, xlabel="step", ylabel="mean loss", title=title)
    plot.style_axes(
        right,
        xlabel="width $m$",
        ylabel=r"$\max_t\|W(t) - W(0)\| / \|W(0)\|$",
        title="Radius, mean ± standard error",
    )
    return figure


EXPERIMENT = Experiment(
    name="zou2018",
    title="Deep ReLU classifiers fit in a small ball about their start",
    source="Zou, Cao, Zhou and Gu (2018), arXiv:1811.08888",
    claim="If inputs of different classes are at a distance φ > 0, gradient descent and "
    "its stochastic version bring wide deep ReLU networks to zero training error, for "
    "losses that are convex, decreasing and smooth with gradients no smaller than a "
    "power of the loss; iterates stay in a small ball about the start (abstract).",
    sizes={
        "quick": Zou2018Size(),
        "brief": Zou2018Size(
            widths=(32, 256), num_seeds=2, num_train=16, num_steps=100
        ),
        "full": Zou2018Size(
            widths=(32, 128, 512, 2048), num_seeds=10, num_train=500, num_steps=10_000
        ),
    },
    measure=measure,
    verdict=verdict,
    tables=tables,
    figure=figure,
    control=CONTRADICTION,
    extras=("data",),
)
