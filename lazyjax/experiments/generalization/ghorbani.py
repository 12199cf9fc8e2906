r"""Random features, neural tangent and trained networks on quadratic targets.

Inputs are standard Gaussian in $d$ dimensions, and the target is $f_*(x) = x^\top B x -
\operatorname{tr} B$. A network $c + \sum_i a_i (w_i \cdot x)^2$ is another quadratic
function, $x^\top M x + c$ with $M = \sum_i a_i w_i w_i^\top$. At the best $c$ its risk,
over all inputs, is $2 \lVert M - B \rVert_F^2$. So training the map $x \mapsto M x$ on
the $d$ unit vectors, with the rows of $B$ for targets, is training the network on
infinitely many examples.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Shaped
from rich.table import Table

from lazyjax import report
from lazyjax.dynamics import train
from lazyjax.experiments.judgement import Check, Judgement
from lazyjax.experiments.record import Conditions, Control, Experiment, Size
from lazyjax.laziness import mean_and_sem
from lazyjax.typing import AnyArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REGIMES = ("random features", "neural tangent", "trained network")
# Risks should be within 3 % of the formula or, where that is near zero, within 0.003 of
# the target's variance: within 3 % of the formula plus 0.1.
TOLERANCE, OFFSET = 0.03, 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class GhorbaniSize(Size):
    """How much is computed.

    Attributes:
        num_inputs: Dimension $d$.
        widths: Numbers of neurons $N$.
        num_seeds: Draws of the first layer for each.
        num_steps: Steps of descent, with Nesterov's momentum, of the network.
        share: Of the directions, in which neurons start.
    """

    num_inputs: int = 450
    widths: tuple[int, ...] = (30, 150, 300, 450)
    num_seeds: int = 3
    num_steps: int = 200
    share: float = 1.0


def spectrum_of_target(num_inputs: int) -> Float[np.ndarray, " d"]:
    """Eigenvalues of the target, drawn from Exp(1) as the authors do; decreasing."""
    return np.sort(np.random.RandomState(100).exponential(size=num_inputs))[::-1]


def formulas(
    spectrum: Float[np.ndarray, " d"], num_neurons: Shaped[AnyArray, " N"]
) -> dict[str, Float[np.ndarray, " N"]]:
    r"""Risks as $d \to \infty$ with $N / d$ fixed, as shares of the target's variance.

    Args:
        spectrum: Eigenvalues of $B \succeq 0$, decreasing.
        num_neurons: Numbers of neurons $N$.

    Returns:
        Risk of each regime, if first layers are drawn from $N(0, 1/d)$.

    References:
        Ghorbani, Mei, Misiakiewicz and Montanari (2019), arXiv:1906.08899; derived again,
        numbers of theorems not checked.
    """
    total = np.sum(spectrum**2)
    beta = np.sum(spectrum) ** 2 / (spectrum.size * total)
    ratio = np.asarray(num_neurons, np.float64) / spectrum.size
    rest = np.maximum(1 - ratio, 0)
    beyond = total - np.concatenate([[0.0], np.cumsum(spectrum**2)])
    return {
        "random features": 1 - beta * ratio / (1 + ratio),
        "neural tangent": rest**2 * (1 - beta) + rest * beta,
        "trained network": np.interp(
            num_neurons, np.arange(beyond.size), beyond / total
        ),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Risks:
    """Risks of each regime, as shares of the target's variance.

    Attributes:
        widths: Numbers of neurons.
        spectrum: Eigenvalues of the target, decreasing.
        measured: By regime, at each width and seed.
    """

    widths: tuple[int, ...]
    spectrum: Float[np.ndarray, " d"]
    measured: dict[str, Float[np.ndarray, "widths seeds"]]

    @property
    def verdict(self) -> Judgement:
        """Whether all measured risks are those of the formulas."""
        expected = formulas(self.spectrum, np.array(self.widths))
        checks = []
        for regime, risks in self.measured.items():
            mean, sem = map(np.asarray, mean_and_sem(risks))
            scale = expected[regime] + OFFSET
            error = np.abs(mean - expected[regime]) / scale
            worst = np.argmax(error)
            check = Check(
                statement=f"error of the risk of the {regime}, relative to risk + 0.1,",
                measured=float(error[worst]),
                sense="at most",
                threshold=TOLERANCE,
                uncertainty=2 * float(sem[worst] / scale[worst]),
            )
            checks.append(check)
        return Judgement.of(checks)

    def tables(self) -> Sequence[Table]:
        """Risks measured and by the formulas."""
        expected = formulas(self.spectrum, np.array(self.widths))
        rows = []
        for i, width in enumerate(self.widths):
            row = [f"{width}"]
            for regime, risks in self.measured.items():
                mean, sem = map(np.asarray, mean_and_sem(risks))
                measured = report.with_error(float(mean[i]), float(sem[i]))
                row += [measured, f"{expected[regime][i]:.4f}"]
            rows.append(row)
        columns = [
            name for regime in REGIMES for name in (f"{regime}\nmeasured", "formula")
        ]
        title = f"Risk as share of the target's variance, d = {self.spectrum.size}"
        return [report.table(title, ["neurons", *columns], rows)]

    def figure(self) -> "Figure":
        """Risks against the number of neurons."""
        from lazyjax import plot

        figure = plot.figure(width=4.6)
        axes = figure.subplots()
        count = self.spectrum.size
        fine = np.linspace(0, max(self.widths[-1], count), 200)
        found = {name: mean_and_sem(risks) for name, risks in self.measured.items()}
        plot.estimates(axes, np.array(self.widths) / count, found)
        for number, risks in enumerate(formulas(self.spectrum, fine).values()):
            label = "formulas" if number == 0 else None
            axes.plot(
                fine / count, risks, ":", color="0.35", linewidth=1.1, label=label
            )
        axes.legend(fontsize=8, frameon=False, loc=(0.45, 0.42))
        plot.style_axes(
            axes,
            xlabel="neurons per dimension $N / d$",
            ylabel="risk / variance of the target",
            title=f"Quadratic targets in $d = {count}$ dimensions",
        )
        return figure


def measure(size: GhorbaniSize, conditions: Conditions) -> Risks:
    """Risks by least squares for the first two regimes, by training for the network."""
    spectrum = spectrum_of_target(size.num_inputs)
    found = []
    for number, width in enumerate(size.widths):
        conditions.progress(number / len(size.widths), f"{width} neurons")
        key = jax.random.fold_in(conditions.key, width)
        keys = [jax.random.fold_in(key, seed) for seed in range(size.num_seeds)]
        found.append(
            [_risks(_first_layer(size, width, k), spectrum, size) for k in keys]
        )
    measured: dict[str, np.ndarray] = {}
    measured |= zip(REGIMES, np.moveaxis(np.array(found), -1, 0), strict=True)
    return Risks(widths=size.widths, spectrum=spectrum, measured=measured)


def _first_layer(size: GhorbaniSize, width: int, key: Array) -> Array:
    weights = jax.random.normal(key, (width, size.num_inputs)) / size.num_inputs**0.5
    is_used = jnp.arange(size.num_inputs) < round(size.share * size.num_inputs)
    return jnp.where(is_used[None], weights, 0)


def _quadratic(params: tuple[Array, Array], x: Array) -> Array:
    weights, second = params
    return ((x @ weights.T) * second[None]) @ weights


def _risks(
    weights: Array, spectrum: np.ndarray, size: GhorbaniSize
) -> tuple[float, float, float]:
    w, total = np.asarray(weights, np.float64), np.sum(spectrum**2)
    # Covariances over inputs, of features with one another and with the target.
    features, products = 2 * (w @ w.T) ** 2, 2 * w**2 @ spectrum
    explained = products @ np.linalg.lstsq(features, products)[0]
    # The tangent model spans all M with no part on the complement of the first layer.
    _, values, basis = np.linalg.svd(w, full_matrices=False)
    basis = basis[values > 1e-6 * values[0]]
    complement = np.eye(spectrum.size) - basis.T @ basis
    unseen = complement @ (spectrum[:, None] * complement)
    x = jnp.eye(size.num_inputs)
    y = jnp.asarray(np.diag(spectrum), x.dtype)
    second = jnp.ones(w.shape[0], weights.dtype)
    run = train(
        _quadratic,
        (weights, second),
        x,
        y,
        optimizer=optax.sgd(0.01, momentum=0.9, nesterov=True),
        num_steps=size.num_steps,
    )
    return (
        float(1 - explained / (2 * total)),
        float(np.sum(unseen**2) / total),
        float(2 * run.loss[-1] / total),
    )


EXPERIMENT = Experiment(
    name="ghorbani",
    title="Random features, neural tangent and trained networks on quadratic targets",
    source="Ghorbani, Mei, Misiakiewicz and Montanari (2019), arXiv:1906.08899",
    claim=(
        "With fewer neurons than dimensions, there is a gap between the risks of random "
        "features, of the neural tangent model and of a trained network of quadratic "
        "activations, and with more the last two are zero (abstract); risks tend to "
        "explicit formulas as the dimension grows."
    ),
    sizes={
        "quick": GhorbaniSize(),
        "full": GhorbaniSize(
            num_inputs=1000,
            widths=(100, 250, 500, 750, 1000, 1500),
            num_seeds=5,
            num_steps=1000,
        ),
        "brief": GhorbaniSize(num_inputs=150, widths=(50, 100), num_seeds=2),
    },
    measure=measure,
    verdict=lambda risks: risks.verdict,
    tables=Risks.tables,
    figure=Risks.figure,
    control=Control(
        what="neurons start in a third of the directions",
        change=lambda size: dataclasses.replace(size, share=1 / 3),
    ),
)
