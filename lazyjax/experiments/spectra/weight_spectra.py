r"""Spectra of weights: noise and spikes where features are learned, noise where not.

Networks of one architecture are trained on digits as $\alpha (h(w) - h(w_0))$: lazily if
$\alpha$ is large, learning features if it is small (Chizat and Bach). Their weights start
as noise, whose spectrum is Marchenko and Pastur's bulk.
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
from lazyjax.data import Dataset, digits
from lazyjax.dynamics import train
from lazyjax.experiments.judgement import Check, Judgement
from lazyjax.experiments.record import Conditions, Control, Experiment, Size
from lazyjax.infinite import infinite_ntk
from lazyjax.laziness import mean_and_sem
from lazyjax.nets import build
from lazyjax.ntk import empirical_ntk
from lazyjax.spectrum import WeightSpectrum

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ARCHITECTURE = Architecture(
    depth=2, activation="relu", w_std=2**0.5, num_outputs=10, symmetrized=False
)
LAYERS = ("layer_1/kernel", "layer_2/kernel")
QUANTITIES = ("spikes", "stable rank", "exponent", "distance")
KERNEL = ("effective rank", "entropy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightSpectraSize(Size):
    r"""How much is computed.

    Attributes:
        width: Of two hidden layers.
        num_seeds: Networks of each output scale.
        num_train: Training examples; half as many are for the kernel's spectrum.
        num_steps: Steps of descent with momentum.
        alphas: Output scales, of the lazy and of the other networks.
    """

    width: int = 256
    num_seeds: int = 3
    num_train: int = 300
    num_steps: int = 1500
    alphas: tuple[float, float] = (30.0, 0.03)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightSpectra:
    """What spectra say at the start, and after lazy and rich training.

    Attributes:
        quantities: Spikes, stable rank, and exponent of the tail with the distance of
            its fit, of each hidden layer.
        ranks: Numerical ranks of each hidden layer, as a share of the full rank.
        kernel: Effective rank and entropy of the kernel along training.
        loss: Mean squared errors after training.
        shown: Spectra of the second layer, of the first seed.
    """

    quantities: dict[str, Float[np.ndarray, "seeds layers quantities"]]
    ranks: dict[str, Float[np.ndarray, "seeds layers"]]
    kernel: dict[str, Float[np.ndarray, "seeds times quantities"]]
    loss: dict[str, Float[np.ndarray, " seeds"]]
    shown: dict[str, WeightSpectrum]

    @property
    def verdict(self) -> Judgement:
        """Whether spikes come with feature learning only, and ranks stay full."""
        spikes = {name: found[..., 0] for name, found in self.quantities.items()}
        checks = [
            _check("mean number of spikes at the start", spikes["start"], 0.5),
            _check("mean number of spikes after lazy training", spikes["lazy"], 0.5),
            Check(
                statement="least mean number of spikes in a layer after rich training",
                measured=float(np.min(np.mean(spikes["rich"], axis=0))),
                sense="at least",
                threshold=3,
            ),
            Check(
                statement="least share of the rank left after rich training",
                measured=float(np.min(self.ranks["rich"])),
                sense="at least",
                threshold=0.99,
            ),
        ]
        premises = [
            _check(f"share of the loss left after {name} training", loss, 0.05)
            for name, loss in self.loss.items()
        ]
        return Judgement.of(
            checks,
            "Exponents of tails are of matrices too small to tell their class.",
            premises=premises,
        )

    def tables(self) -> Sequence[Table]:
        """Weights by layer, and the kernel before and after."""
        rows = []
        for name, found in self.quantities.items():
            mean, sem = map(np.asarray, mean_and_sem(np.moveaxis(found, 0, -1)))
            for i, layer in enumerate(LAYERS):
                cells = [
                    report.with_error(float(m), float(s))
                    for m, s in zip(mean[i], sem[i], strict=True)
                ]
                ranks = f"{np.min(self.ranks[name][:, i]):.2f}"
                rows.append([f"{name}, {layer.partition('/')[0]}", *cells, ranks])
        weights = report.table(
            "Weights: mean over seeds, and standard error",
            ["", *QUANTITIES, "rank / full"],
            rows,
            caption="Exponent of a power law in the tail, and its distance (Kolmogorov).",
        )
        rows = []
        for name, found in self.kernel.items():
            mean, sem = map(np.asarray, mean_and_sem(found[:, -1].T))
            first = np.mean(found[:, 0], axis=0)
            for i, quantity in enumerate(KERNEL):
                after = report.with_error(float(mean[i]), float(sem[i]))
                rows.append([f"{quantity}, {name}", f"{first[i]:.3f}", after])
        kernel = report.table("Kernel, summed over outputs", ["", "start", "end"], rows)
        return [weights, kernel]

    def figure(self) -> "Figure":
        """Spectra of the second layer, and the kernel's effective rank."""
        from lazyjax import plot

        figure = plot.figure(width=10)
        panels = figure.subplots(1, 3)
        for axes, name in zip(panels, ("lazy", "rich"), strict=False):
            plot.weight_spectrum(axes, self.shown[name])
            axes.set_title(f"Layer 2 after {name} training", fontsize=9, loc="left")
        ranks = {f"{name} training": k[..., 0].T for name, k in self.kernel.items()}
        shares = np.linspace(0, 1, len(next(iter(ranks.values()))))
        plot.curves(panels[2], 100 * shares, ranks)
        plot.style_axes(
            panels[2],
            xlabel="steps of training / %",
            ylabel=r"$(\mathrm{tr}\, H)^2 / \|H\|_F^2$",
            title="Effective rank of the kernel",
        )
        return figure


def _check(statement: str, values: np.ndarray, threshold: float) -> Check:
    measured = float(np.mean(values))
    return Check(
        statement=statement, measured=measured, sense="at most", threshold=threshold
    )


def measure(size: WeightSpectraSize, conditions: Conditions) -> WeightSpectra:
    """Spectra of networks that start alike and are trained at both output scales."""
    data = digits(size.num_train, num_test=0, key=conditions.key)
    quantities: dict[str, np.ndarray] = {}
    ranks: dict[str, np.ndarray] = {}
    kernels, losses, shown = {}, {}, {}
    network = build(ARCHITECTURE, width=size.width)
    inputs = _inputs(data)
    starts = [
        network.init(jax.random.fold_in(conditions.key, seed), inputs)
        for seed in range(size.num_seeds)
    ]
    for number, (name, alpha) in enumerate(
        zip(("lazy", "rich"), size.alphas, strict=True)
    ):
        runs = []
        for seed, params in enumerate(starts):
            share = (number + seed / size.num_seeds) / 2
            conditions.progress(share, f"{name} training")
            runs.append(_trained(network.apply, params, data, alpha, size))
        found = [spectrum.weights(run.params) for run in runs]
        quantities[name], ranks[name] = _read(found)
        kernels[name] = np.array(
            [_of_kernels(run.observations["kernel"]) for run in runs]
        )
        losses[name] = np.array([float(run.loss[-1] / run.loss[0]) for run in runs])
        shown[name] = found[0][LAYERS[1]]
    quantities["start"], ranks["start"] = _read([spectrum.weights(p) for p in starts])
    return WeightSpectra(
        quantities=quantities, ranks=ranks, kernel=kernels, loss=losses, shown=shown
    )


def _inputs(data: Dataset) -> Array:
    return data.x_train * data.x_train.shape[1] ** 0.5


def _trained(apply_fn, start: Any, data: Dataset, alpha: float, size) -> Any:
    x, y = _inputs(data), data.y_train

    def network(params: Any, x: Array) -> Array:
        return alpha * (apply_fn(params, x) - apply_fn(start, x))

    def kernel(snapshot: Any) -> Array:
        few = x[: size.num_train // 2]
        return empirical_ntk(apply_fn, snapshot.params, few, outputs="trace")

    one = dataclasses.replace(ARCHITECTURE, num_outputs=1)
    largest = float(jnp.linalg.eigvalsh(infinite_ntk(one, x))[-1])
    return train(
        network,
        start,
        x,
        y,
        optimizer=optax.sgd(1 / (largest * alpha**2), momentum=0.9),
        num_steps=size.num_steps,
        observe={"kernel": kernel},
        observe_at=np.linspace(0, size.num_steps, 6).astype(int),
    )


def _read(found: list[dict[str, WeightSpectrum]]) -> tuple[np.ndarray, np.ndarray]:
    """Quantities and ranks, by seed and layer."""
    layers = [[spectra[layer] for layer in LAYERS] for spectra in found]
    quantities = [
        [[s.num_spikes, s.stable_rank, s.tail.exponent, s.tail.distance] for s in row]
        for row in layers
    ]
    ranks = [
        [np.mean(s.eigenvalues > 1e-10 * s.eigenvalues[-1]) for s in row]
        for row in layers
    ]
    return np.array(quantities, float), np.array(ranks, float)


def _of_kernels(kernels: Array) -> list[list[float]]:
    measures = (spectrum.effective_rank, spectrum.entropy)
    return [
        [float(measure(kernel).value) for measure in measures] for kernel in kernels
    ]


EXPERIMENT = Experiment(
    name="spectra",
    title="Spectra of weights and kernels, lazy and rich",
    source="Martin and Mahoney (2021), JMLR 22, 165; arXiv:1810.01075",
    claim=(
        "Training turns the spectra of weights from random bulk into bulk and spikes, or "
        "heavy tails, without a collapse of their rank (abstract and phases; that lazy "
        "networks keep their bulk is ours)."
    ),
    sizes={
        "quick": WeightSpectraSize(),
        "full": WeightSpectraSize(
            width=1024, num_seeds=5, num_train=1500, num_steps=10_000
        ),
        "brief": WeightSpectraSize(width=128, num_seeds=1, num_train=60, num_steps=800),
    },
    measure=measure,
    verdict=lambda found: found.verdict,
    tables=WeightSpectra.tables,
    figure=WeightSpectra.figure,
    control=Control(
        what="both networks are trained lazily",
        change=lambda size: dataclasses.replace(size, alphas=(size.alphas[0],) * 2),
    ),
    extras=("data",),
)
