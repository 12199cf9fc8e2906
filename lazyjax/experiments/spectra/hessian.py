r"""Hessians: of a network, small where it is wide; of a loss, few large eigenvalues.

The Hessian of a network's output by its parameters says how far the network is from its
linear model. That of the loss is a Gauss-Newton matrix, with the kernel's spectrum, and
a rest that is made of residuals and Hessians of outputs.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from rich.table import Table

from lazyjax import report, spectrum
from lazyjax.architecture import Architecture
from lazyjax.data import digits
from lazyjax.dynamics import train
from lazyjax.dynamics.losses import cross_entropy_loss
from lazyjax.experiments.judgement import Check, Judgement
from lazyjax.experiments.record import Conditions, Control, Experiment, Size
from lazyjax.laziness import SlopeFit, log_log_slope, mean_and_sem
from lazyjax.nets import build
from lazyjax.spectrum import CurvatureOperator, Density

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCALING = Architecture(depth=2, activation="tanh", w_std=1.5)
CLASSIFIER = Architecture(depth=1, activation="tanh", w_std=1.5, num_outputs=10)
# Of densities, and of largest eigenvalues, which are then right to 1e-4.
NUM_STEPS_LANCZOS, NUM_STEPS_NORM = 30, 20
# Eigenvalues beyond this share of the largest are outliers.
OUTLIER = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class HessianSize(Size):
    """How much is computed.

    Attributes:
        widths: Widths of two hidden layers, of networks whose Hessians are measured.
        num_seeds: Networks of each.
        is_output_nonlinear: Whether outputs pass through an activation; the claim
            supposes that they do not.
        classifier_width: Hidden units of the network that is trained by SGD.
        num_train: Digits that it is trained on.
        num_steps: Steps of SGD.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512)
    num_seeds: int = 6
    is_output_nonlinear: bool = False
    classifier_width: int = 256
    num_train: int = 200
    num_steps: int = 8000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hessians:
    """Norms of Hessians of outputs, and spectra of Hessians of a loss along SGD.

    Attributes:
        widths: Widths.
        norms: Spectral norms of the Hessian of an output at the start.
        observed_at: Steps of SGD.
        loss: Mean cross-entropy at these steps.
        densities: Of the eigenvalues of the Hessian of the mean loss.
        gauss_newton: Largest eigenvalue of the Gauss-Newton matrix.
    """

    widths: tuple[int, ...]
    norms: Float[np.ndarray, "widths seeds"]
    observed_at: tuple[int, ...]
    loss: Float[np.ndarray, " steps"]
    densities: tuple[Density, ...]
    gauss_newton: Float[np.ndarray, " steps"]

    @property
    def slope(self) -> SlopeFit:
        """Power of the width at which norms scale."""
        return log_log_slope(np.array(self.widths, float), self.norms)

    @property
    def nodes(self) -> Float[np.ndarray, "steps samples nodes"]:
        """Ritz values of the loss's Hessian."""
        return np.array([density.nodes for density in self.densities])

    @property
    def largest(self) -> Float[np.ndarray, " steps"]:
        """Largest of them."""
        return self.nodes.max(axis=(1, 2))

    @property
    def num_outliers(self) -> Float[np.ndarray, " steps"]:
        """Eigenvalues beyond `OUTLIER` of the largest: the mean over random vectors."""
        is_beyond = np.abs(self.nodes) > OUTLIER * self.largest[:, None, None]
        return np.sum(is_beyond, axis=2).mean(axis=1)

    @property
    def verdict(self) -> Judgement:
        """Whether norms fall as the root of the width, and outliers are few."""
        fit = self.slope
        checks = [
            Check(
                statement="exponent of |Hessian| in the width, off from -1/2,",
                measured=abs(float(fit.slope) + 0.5),
                sense="at most",
                threshold=0.15,
                uncertainty=2 * float(fit.slope_sem),
            ),
            Check(
                statement="outliers of the loss after SGD, per class,",
                measured=float(self.num_outliers[-1]) / CLASSIFIER.num_outputs,
                sense="at most",
                threshold=2,
            ),
        ]
        fitted = Check(
            statement="share of the loss left by SGD",
            measured=float(self.loss[-1] / self.loss[0]),
            sense="at most",
            threshold=0.03,
        )
        return Judgement.of(checks, premises=[fitted])

    def tables(self) -> Sequence[Table]:
        """Norms by width, and the spectrum along SGD."""
        mean, sem = mean_and_sem(self.norms)
        norms = [
            [f"{width}", report.with_error(float(mean[i]), float(sem[i]))]
            for i, width in enumerate(self.widths)
        ]
        rows = [
            [
                f"{step}",
                f"{self.loss[i]:.3g}",
                f"{self.largest[i]:.3g}",
                f"{self.nodes[i].min():.2g}",
                f"{self.gauss_newton[i]:.3g}",
                f"{self.num_outliers[i]:.1f}",
            ]
            for i, step in enumerate(self.observed_at)
        ]
        columns = ["step", "loss", "largest", "smallest", "Gauss-Newton", "outliers"]
        slope = report.with_error(float(self.slope.slope), float(self.slope.slope_sem))
        return [
            report.table(
                "Norm of the Hessian of an output",
                ["width", "norm"],
                norms,
                caption=f"Exponent {slope}; mean over seeds and its standard error.",
            ),
            report.table("Hessian of the loss along SGD", columns, rows),
        ]

    def figure(self) -> "Figure":
        """Norms against width, and densities of eigenvalues before and after SGD."""
        from lazyjax import plot

        figure = plot.figure()
        left, right = figure.subplots(1, 2)
        label = "network's output"
        plot.scaling(
            left,
            np.array(self.widths),
            {label: self.norms},
            {label: self.slope},
            theory_slope=-0.5,
            theory_label=r"slope $-\frac{1}{2}$",
        )
        plot.style_axes(
            left,
            xlabel="width",
            ylabel=r"$\|\nabla_w^2 f\|$",
            title="Hessian of the network at the start",
        )
        top = float(self.nodes.max())
        span = np.linspace(float(self.nodes.min()), top, 400) * 1.05
        densities = {
            f"step {self.observed_at[i]}": np.maximum(
                self.densities[i].smoothed(span, width=0.01 * top).value, 1e-6
            )
            for i in (0, -1)
        }
        plot.curves(right, span, densities, log="y", is_marked=False)
        right.set_ylim(1e-4, None)
        plot.style_axes(
            right,
            xlabel="eigenvalue of the Hessian of the loss",
            ylabel="density (smoothed)",
            title="Along SGD on digits",
        )
        return figure


def _ritz(
    operator: CurvatureOperator,
    key: Array,
    num_samples: int = 2,
    num_steps: int = NUM_STEPS_LANCZOS,
) -> Density:
    return spectrum.density(
        operator,
        key=key,
        num_samples=num_samples,
        num_steps=num_steps,
        max_dense=0,
        semidefinite=False,
    )


def measure(size: HessianSize, conditions: Conditions) -> Hessians:
    """Norms over widths, then spectra along one run of SGD."""
    data = digits(size.num_train, num_test=0, key=conditions.key)
    x = data.x_train * data.x_train.shape[1] ** 0.5
    norms = np.zeros((len(size.widths), size.num_seeds))
    for i, width in enumerate(size.widths):
        conditions.progress(i / len(size.widths) / 2, f"width {width}")
        for seed in range(size.num_seeds):
            norms[i, seed] = _norm(size, width, x[:1], conditions.key, seed)
    steps = (0, size.num_steps // 10, size.num_steps)
    network = build(CLASSIFIER, width=size.classifier_width)
    run = train(
        network.apply,
        network.init(conditions.key, x),
        x,
        data.y_train,
        optimizer=optax.sgd(0.01),
        num_steps=size.num_steps,
        loss_fn=cross_entropy_loss,
        batch_size=min(20, size.num_train),
        key=conditions.key,
        observe={"params": lambda snapshot: snapshot.params},
        observe_at=steps,
    )

    def mean_loss(f: Array, y: Array) -> Array:
        return cross_entropy_loss(f, y) / size.num_train

    def of_params(params: Any) -> Array:
        return mean_loss(network.apply(params, x), data.y_train)

    densities, gauss_newton, losses = [], [], []
    for i in range(len(steps)):
        conditions.progress(0.6 + 0.4 * i / len(steps), f"step {steps[i]}")
        params = jax.tree.map(lambda leaf, i=i: leaf[i], run.observations["params"])

        hessian = spectrum.hessian_operator(of_params, params)
        matrix = spectrum.gauss_newton_operator(
            network.apply, params, x, data.y_train, mean_loss
        )
        densities.append(_ritz(hessian, conditions.key, num_samples=4))
        gauss_newton.append(float(jnp.max(_ritz(matrix, conditions.key).nodes)))
        losses.append(float(of_params(params)))
    return Hessians(
        widths=size.widths,
        norms=norms,
        observed_at=steps,
        loss=np.array(losses),
        densities=tuple(densities),
        gauss_newton=np.array(gauss_newton),
    )


def _norm(size: HessianSize, width: int, x: Array, key: Array, seed: int) -> float:
    network = build(SCALING, width=width)
    params = network.init(jax.random.fold_in(jax.random.fold_in(key, width), seed), x)

    def output(params: Any) -> Array:
        f = network.apply(params, x)[0, 0]
        return f**2 / 2 if size.is_output_nonlinear else f

    operator = spectrum.hessian_operator(output, params)
    found = _ritz(operator, key, num_steps=NUM_STEPS_NORM)
    return float(jnp.max(jnp.abs(found.nodes)))


EXPERIMENT = Experiment(
    name="hessian",
    title="Hessians of wide networks, and of losses along SGD",
    source="Liu, Zhu and Belkin (2020), arXiv:2010.01092; Sagun et al. (2017), "
    "arXiv:1706.04454",
    claim=(
        "The norm of the Hessian of a network falls as the root of its width, unless its "
        "output is nonlinear (2010.01092, abstract). The Hessian of a loss has a bulk "
        "near zero and a few outliers, as many as there are classes, which are those of "
        "the Gauss-Newton matrix (1706.04454, abstract and Section 1)."
    ),
    sizes={
        "quick": HessianSize(),
        "full": HessianSize(
            widths=(64, 128, 256, 512, 1024, 2048),
            num_seeds=8,
            classifier_width=512,
            num_train=1500,
            num_steps=20_000,
        ),
        "brief": HessianSize(
            widths=(32, 128, 512),
            classifier_width=128,
            num_train=40,
            num_steps=3000,
        ),
    },
    measure=measure,
    verdict=lambda found: found.verdict,
    tables=Hessians.tables,
    figure=Hessians.figure,
    control=Control(
        what="outputs are squared",
        change=lambda size: dataclasses.replace(size, is_output_nonlinear=True),
    ),
    extras=("data",),
)
