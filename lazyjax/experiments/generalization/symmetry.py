r"""Functions of the number of ones: learned from a chosen initialization, not from others.

A function on $\{0, 1\}^d$ is symmetric if it depends on the number of ones alone. One
hidden layer of $d + 1$ sigmoid units fits all of them if unit $i$ is a step at $i - 1/2$
of the number of ones. Networks that start there, with an output layer of zeros, and
networks of the same size that start from random weights are trained alike.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from rich.table import Table

from lazyjax import report
from lazyjax.dynamics import train
from lazyjax.experiments.judgement import Check, Judgement
from lazyjax.experiments.record import Conditions, Control, Experiment, Size
from lazyjax.laziness import mean_and_sem

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TARGETS = ("lowest bit", "second bit")  # of the number of ones
STARTS = ("chosen", "random")
_STEEPNESS = (
    4.0  # of the steps; of random weights, the standard deviation is 3 / sqrt(d)
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SymmetrySize(Size):
    """How much is computed.

    Attributes:
        num_bits: Dimension $d$.
        train_sizes: Increasing numbers of training examples.
        num_test: Test examples.
        num_seeds: Data sets and initializations.
        num_steps: Steps of stochastic gradient descent on the hinge loss.
        num_relevant_bits: Bits that targets depend on; `None` means all, and fewer break
            the symmetry.
    """

    num_bits: int = 30
    train_sizes: tuple[int, ...] = (125, 250, 500)
    num_test: int = 2000
    num_seeds: int = 4
    num_steps: int = 4000
    num_relevant_bits: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accuracies:
    """Accuracies in training and test, by target and by start.

    Attributes:
        train_sizes: Numbers of training examples.
        fit: On training examples, by "target, start".
        test: On others.
    """

    train_sizes: tuple[int, ...]
    fit: dict[str, Float[np.ndarray, "sizes seeds"]]
    test: dict[str, Float[np.ndarray, "sizes seeds"]]

    @property
    def verdict(self) -> Judgement:
        """Whether, at the largest size, the chosen start generalizes and no other does."""
        checks, premises = [], []
        for target in TARGETS:
            mean, sem = _last(self.test[f"{target}, chosen"])
            checks.append(
                Check(
                    statement=f"test accuracy of the chosen start, {target}",
                    measured=mean,
                    sense="at least",
                    threshold=0.9,
                    uncertainty=2 * sem,
                )
            )
        for target in TARGETS:
            mean, sem = _last(self.test[f"{target}, random"])
            checks.append(
                Check(
                    statement=f"test accuracy of the random start, {target}",
                    measured=mean,
                    sense="at most",
                    threshold=0.75,
                    uncertainty=2 * sem,
                )
            )
            premises.append(
                Check(
                    statement=f"training accuracy of the random start, {target}",
                    measured=_last(self.fit[f"{target}, random"])[0],
                    sense="at least",
                    threshold=0.99,
                )
            )
        return Judgement.of(checks, premises=premises)

    def tables(self) -> Sequence[Table]:
        """Accuracies by number of training examples."""
        rows = []
        for name, fits in self.fit.items():
            for i, size in enumerate(self.train_sizes):
                row = [name, f"{size}"]
                for values in (fits[i], self.test[name][i]):
                    mean, sem = map(float, mean_and_sem(values))
                    row.append(f"{100 * mean:.1f} ± {100 * sem:.1f}")
                rows.append(row)
        columns = ["target, start", "examples", "training / %", "test / %"]
        return [report.table("Accuracies", columns, rows)]

    def figure(self) -> "Figure":
        """Test accuracies against the number of training examples."""
        from lazyjax import plot

        figure = plot.figure()
        for axes, target in zip(
            figure.subplots(1, 2, sharey=True), TARGETS, strict=True
        ):
            shown = {
                f"{start} start": 100 * self.test[f"{target}, {start}"]
                for start in STARTS
            }
            plot.curves(axes, np.array(self.train_sizes), shown, log="x")
            axes.axhline(50, color="0.35", linestyle=":", linewidth=1.1, label="chance")
            axes.set_ylim(40, 102)
            axes.legend(fontsize=8, frameon=False, loc="center left")
            plot.style_axes(
                axes,
                xlabel="training examples",
                ylabel="test accuracy / %",
                title=f"Target: {target} of the number of ones",
            )
        return figure


def _last(values: np.ndarray) -> tuple[float, float]:
    mean, sem = mean_and_sem(values[-1])
    return float(mean), float(sem)


def measure(size: SymmetrySize, conditions: Conditions) -> Accuracies:
    """Accuracies of networks from both starts, on both kinds of targets."""
    names = [f"{target}, {start}" for target in TARGETS for start in STARTS]
    generator = np.random.default_rng(conditions.seed)
    found = []
    for number, num_train in enumerate(size.train_sizes):
        conditions.progress(number / len(size.train_sizes), f"{num_train} examples")
        shape = size.num_seeds, num_train + size.num_test, size.num_bits
        bits = generator.integers(0, 2, shape)
        num_ones = np.sum(bits[..., : size.num_relevant_bits], axis=2)
        x = jnp.asarray(bits, jnp.result_type(float))
        keys = jax.random.split(jax.random.fold_in(conditions.key, number), len(x))
        for place in range(len(TARGETS)):
            y = jnp.asarray(1 - 2 * (num_ones >> place & 1), x.dtype)[..., None]
            for start in STARTS:
                start_fn = functools.partial(_start, start, size.num_bits)
                found.append(
                    _accuracies(
                        jax.vmap(start_fn)(keys), x, y, keys, num_train, size.num_steps
                    )
                )
    table = np.array(found).reshape(
        len(size.train_sizes), len(names), 2, size.num_seeds
    )
    fit, test = (
        {name: table[:, i, part] for i, name in enumerate(names)} for part in range(2)
    )
    return Accuracies(train_sizes=size.train_sizes, fit=fit, test=test)


def _start(kind: Literal["chosen", "random"] | str, num_bits: int, key: Array) -> Any:
    num_units, dtype = num_bits + 1, jnp.result_type(float)
    first, last = jax.random.split(key)
    weights = 3 / num_bits**0.5 * jax.random.normal(first, (num_bits, num_units))
    params = {
        "weights": weights,
        "biases": jnp.zeros(num_units, dtype),
        "readout": jax.random.normal(last, (num_units, 1)) / num_units**0.5,
        "constant": jnp.zeros(1, dtype),
    }
    if kind == "random":
        return params
    return params | {
        "weights": jnp.full_like(weights, _STEEPNESS),
        "biases": -_STEEPNESS * (jnp.arange(num_units, dtype=dtype) - 0.5),
        "readout": jnp.zeros_like(params["readout"]),
    }


def _network(params: Any, x: Array) -> Array:
    hidden = jax.nn.sigmoid(x @ params["weights"] + params["biases"][None])
    return hidden @ params["readout"] + params["constant"][None]


def _hinge_loss(f: Array, y: Array) -> Array:
    return jnp.mean(jnp.maximum(1 - y * f, 0))


def _accuracies(
    params: Any, x: Array, y: Array, keys: Array, num_train: int, num_steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Of one network per seed, all trained together: in training, and in test."""

    def trained(params: Any, x: Array, y: Array, key: Array) -> Any:
        run = train(
            _network,
            params,
            x,
            y,
            optimizer=optax.sgd(0.1, momentum=0.9),
            num_steps=num_steps,
            loss_fn=_hinge_loss,
            batch_size=min(50, num_train),
            key=key,
        )
        return run.params

    params = jax.vmap(trained)(params, x[:, :num_train], y[:, :num_train], keys)
    is_right = np.asarray(jnp.sign(jax.vmap(_network)(params, x)) == y)
    return is_right[:, :num_train].mean((1, 2)), is_right[:, num_train:].mean((1, 2))


EXPERIMENT = Experiment(
    name="symmetry",
    title="Symmetric targets and a symmetric initialization",
    source="Nachum and Yehudayoff (2019), arXiv:1907.00560",
    claim=(
        "For symmetric functions, a network with one hidden layer can start such that "
        "standard SGD generalizes, and it does not from random starts (abstract). Start, "
        "size and loss are ours: those of the paper were not checked."
    ),
    sizes={
        "quick": SymmetrySize(),
        "full": SymmetrySize(
            num_bits=60,
            train_sizes=(250, 500, 1000, 2000),
            num_seeds=10,
            num_steps=20_000,
        ),
        "brief": SymmetrySize(
            num_bits=20, train_sizes=(300,), num_test=500, num_seeds=2, num_steps=3000
        ),
    },
    measure=measure,
    verdict=lambda found: found.verdict,
    tables=Accuracies.tables,
    figure=Accuracies.figure,
    control=Control(
        what="targets depend on half of the bits",
        change=lambda size: dataclasses.replace(
            size, num_relevant_bits=size.num_bits // 2
        ),
    ),
)
