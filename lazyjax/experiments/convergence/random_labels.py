r"""Shuffled labels are fitted too, only later; the kernel says when, beforehand.

Networks reach zero training error on labels that have nothing to do with the inputs
(Zhang et al. 2017). How fast the residual falls is told by the projections of the labels
on eigenvectors of the infinite-width kernel, and $\sqrt{2 y^\top H^{-1} y / n}$ tells
labels that can be learnt from labels that cannot (Arora et al. 2019).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float
from rich.table import Table

from lazyjax import report
from lazyjax.architecture import Architecture
from lazyjax.certify.widths import arora2019
from lazyjax.dynamics import linear_dynamics, train
from lazyjax.experiments.judgement import Check, Judgement
from lazyjax.experiments.record import Conditions, Control, Experiment, Size
from lazyjax.infinite import infinite_ntk
from lazyjax.nets import build
from lazyjax.typing import AnyArray

MOMENTUM = 0.9
# The ε of Arora et al., relative to |y|: their forecast is of the norm plus or minus it.
EPSILON = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomLabelsSize(Size):
    """How much is computed.

    Attributes:
        num_train: Training examples.
        num_trained: Shuffles of the labels that networks are trained on.
        num_shuffles: Shuffles of which the complexity is evaluated.
        width: Hidden units.
        output_scale: Of networks, which makes training lazy.
        num_steps: Of gradient descent with momentum.
        is_shuffled: Whether the labels that are called true are shuffled as well.
    """

    num_train: int = 100
    num_trained: int = 4
    num_shuffles: int = 200
    width: int = 2048
    output_scale: float = 100.0
    num_steps: int = 600
    is_shuffled: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomLabels:
    """The first of all label sets is the true one, the others are shuffled.

    Attributes:
        residual: |f - y| at every step, relative to |y|.
        forecast: The same of the linear model with the infinite-width kernel.
        training_error: Share of examples on the wrong side after the last step.
        complexity: Of Arora et al., of the true labels.
        complexity_shuffled: Of shuffled ones.
        eigenvalues: Of the kernel, descending.
        projections: Squared, on its eigenvectors, as shares that add to 1.
        data: Which digits.
    """

    residual: Float[np.ndarray, "labels num_losses"]
    forecast: Float[np.ndarray, "labels num_losses"]
    training_error: Float[np.ndarray, "labels"]
    complexity: float
    complexity_shuffled: Float[np.ndarray, "shuffles"]
    eigenvalues: Float[np.ndarray, "n"]
    projections: Float[np.ndarray, "labels n"]
    data: str

    @property
    def forecast_error(self) -> Float[np.ndarray, "labels"]:
        """Largest error of the forecast over all steps, relative to |y|."""
        return np.max(np.abs(self.residual - self.forecast), axis=1)

    @property
    def tenth_at(self) -> Float[np.ndarray, "labels"]:
        """First step at which a tenth of the residual is left."""
        return np.argmax(self.residual < 0.1, axis=1).astype(float)


def measure(size: RandomLabelsSize, conditions: Conditions) -> RandomLabels:
    """Runs on true and shuffled labels, with their forecasts."""
    data = conditions.digits(size.num_train, num_test=0, classes="parity")
    x, y = data.x_train, np.asarray(data.y_train)
    generator = np.random.default_rng(conditions.seed)
    if size.is_shuffled:
        y = generator.permutation(y)
    shuffles = [generator.permutation(y) for _ in range(size.num_shuffles)]
    labels = [y, *shuffles[: size.num_trained]]
    spec = Architecture(symmetrized=True, output_scale=size.output_scale)
    kernel = infinite_ntk(spec, x)
    network = build(spec, width=size.width)
    rate = float(1 / jnp.linalg.eigvalsh(kernel)[-1])
    residual, forecast, wrong = [], [], []
    for number, y_set in enumerate(labels):
        name = "shuffled" if number else "true"
        conditions.progress(number / len(labels), f"training on {name} labels")
        key = jax.random.fold_in(conditions.key, number)
        run = train(
            network.apply,
            network.init(key, x),
            x,
            jnp.asarray(y_set),
            optimizer=optax.sgd(rate, momentum=MOMENTUM),
            num_steps=size.num_steps,
        )
        linear = linear_dynamics(kernel, jnp.asarray(y_set), jnp.zeros_like(y_set))
        steps = jnp.arange(size.num_steps + 1)
        predicted = linear.heavy_ball_loss(steps, rate, MOMENTUM)
        residual.append(_relative(run.loss, y_set))
        forecast.append(_relative(predicted, y_set))
        outputs = np.asarray(network.apply(run.params, x))
        wrong.append(np.mean(outputs * y_set <= 0))
    eigenvalues, vectors = np.linalg.eigh(np.asarray(kernel, np.float64))
    projections = np.stack([(vectors.T @ y_set[:, 0]) ** 2 for y_set in labels])
    complexity = arora2019.complexity(
        x,
        np.concatenate([y, *shuffles], axis=1),
        architecture=dataclasses.replace(spec, output_scale=1.0),
    ).value
    return RandomLabels(
        residual=np.stack(residual),
        forecast=np.stack(forecast),
        training_error=np.array(wrong),
        complexity=float(complexity[0]),
        complexity_shuffled=complexity[1:],
        eigenvalues=eigenvalues[::-1],
        projections=projections[:, ::-1] / size.num_train,
        data=data.description,
    )


def _relative(loss: AnyArray, y: np.ndarray) -> np.ndarray:
    return np.sqrt(2 * np.asarray(loss)) / np.linalg.norm(y)


def verdict(found: RandomLabels) -> Judgement:
    """Fitted, forecast, and told apart."""
    more = float(np.mean(found.complexity_shuffled > found.complexity))
    return Judgement.of(
        [
            Check(
                statement="largest training error on shuffled labels",
                measured=float(found.training_error[1:].max()),
                sense="at most",
                threshold=0.0,
            ),
            Check(
                statement="largest error of a forecast of |f-y|/|y|",
                measured=float(found.forecast_error.max()),
                sense="at most",
                threshold=EPSILON,
            ),
            Check(
                statement="share of shuffles of larger complexity than the true labels",
                measured=more,
                sense="at least",
                threshold=0.99,
            ),
        ],
        f"Of {found.data}.",
    )


def tables(found: RandomLabels) -> list[Table]:
    """What training took of each set of labels."""
    complexities = [found.complexity, *found.complexity_shuffled]
    rows = [
        [
            f"shuffled, {number}" if number else "true",
            f"{found.training_error[number]:.0%}",
            f"{found.residual[number, -1]:.2g}",
            f"{found.tenth_at[number]:.0f}",
            f"{found.forecast_error[number]:.3f}",
            f"{complexities[number]:.3f}",
        ]
        for number in range(len(found.training_error))
    ]
    low, high = np.quantile(found.complexity_shuffled, [0.005, 0.995])
    columns = [
        "labels",
        "training\nerror",
        "residual\nat the end",
        "steps until a\ntenth is left",
        "error of\nforecast",
        "√(2yᵀH⁻¹y/n)",
    ]
    caption = (
        f"Of {len(found.complexity_shuffled)} shuffles, 99 % have a complexity from "
        f"{low:.3f} to {high:.3f}. Forecasts are those of the infinite-width kernel."
    )
    return [report.table("Digits, odd against even", columns, rows, caption=caption)]


def figure(found: RandomLabels):
    """Residuals with forecasts; complexities; projections."""
    from lazyjax import plot

    figure = plot.figure(width=9.6)
    left, middle, right = figure.subplots(1, 3)
    steps = np.arange(1, found.residual.shape[1])
    plot.curves(
        left,
        steps,
        {"true labels": found.residual[0, 1:], "shuffled": found.residual[1:, 1:].T},
        log="xy",
        guides={
            "forecast, true": found.forecast[0, 1:],
            "forecast, shuffled": found.forecast[1:, 1:].mean(axis=0),
        },
        is_marked=False,
    )
    middle.axvline(found.complexity, color="#D55E00", label="true labels")
    shuffled = found.complexity_shuffled
    middle.hist(shuffled, bins=20, color="#0072B2", alpha=0.5, label="shuffled")
    middle.legend(fontsize=8, frameon=False)
    ranks = np.arange(1, len(found.eigenvalues) + 1)
    plot.curves(
        right,
        ranks,
        {
            "true labels": np.cumsum(found.projections[0]),
            "shuffled": np.cumsum(found.projections[1:], axis=1).T,
        },
        log="x",
        is_marked=False,
    )
    for axes, xlabel, ylabel, title in (
        (left, "step", r"residual $\|f - y\| / \|y\|$", "Both are fitted, as forecast"),
        (middle, r"complexity $\sqrt{2 y^T H^{-1} y / n}$", "shuffles", "Told apart"),
        (right, "rank of eigenvectors", "share of $|y|^2$ up to it", "Projections"),
    ):
        plot.style_axes(axes, xlabel=xlabel, ylabel=ylabel, title=title)
    return figure


EXPERIMENT = Experiment(
    name="random-labels",
    title="Shuffled labels are fitted, only later, as the kernel tells",
    source="Zhang, Bengio, Hardt, Recht and Vinyals (2017), arXiv:1611.03530; Arora, Du, "
    "Hu, Li and Wang (2019), arXiv:1901.08584",
    claim="Networks fit labels that are shuffled to zero training error (Zhang et al.). "
    "The residual falls as the projections of y on eigenvectors of the kernel say, and "
    "√(2yᵀH⁻¹y/n) is smaller for true labels than for random ones (Arora et al., "
    "Theorems 4.1 and 5.1).",
    sizes={
        "quick": RandomLabelsSize(),
        "brief": RandomLabelsSize(
            num_train=40, num_trained=2, num_shuffles=100, width=1024, num_steps=200
        ),
        "full": RandomLabelsSize(
            num_train=1000, num_trained=10, width=65536, num_steps=20_000
        ),
    },
    measure=measure,
    verdict=verdict,
    tables=tables,
    figure=figure,
    control=Control(
        what="the labels that are called true are shuffled as well",
        change=lambda size: dataclasses.replace(size, is_shuffled=True),
    ),
    extras=("data",),
)
