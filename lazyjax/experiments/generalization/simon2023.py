"""Learning curves on digits, forecast from the kernel before anyone trains.

Errors on held-out digits are forecast from the infinite-width kernel and the labels, by
the eigenlearning equations read off a sample. They are compared with those of kernel
regression, and of wide networks trained by gradient descent until they fit.
"""

import dataclasses
import types
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float
from rich.table import Table

from lazyjax.architecture import Architecture
from lazyjax.dynamics import train
from lazyjax.experiments.judgement import Check, Judgement
from lazyjax.experiments.record import Conditions, Control, Experiment, Size
from lazyjax.forecast import LearningCurve, learning_curve, score
from lazyjax.infinite import infinite_ntk
from lazyjax.laziness import mean_and_sem
from lazyjax.nets import build

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A forecast within this of every measurement counts as reproduced.
TOLERANCE = 0.1
# A bias, so that the kernel has a constant feature.
ARCHITECTURE = Architecture(
    depth=1, activation="relu", w_std=2**0.5, b_std=0.1, symmetrized=True
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Simon2023Size(Size):
    """How much is computed.

    Attributes:
        train_sizes: Numbers of training examples.
        num_examples: Digits that the forecast is made from.
        num_draws: Training sets of each size for kernel regression.
        num_networks: Of them, how many a network is trained on.
        width: Hidden units of the networks.
        num_steps: Steps of descent, with Nesterov's momentum.
        is_shuffled: Whether labels are shuffled after the forecast is made.
    """

    train_sizes: tuple[int, ...]
    num_examples: int
    num_draws: int
    num_networks: int
    width: int
    num_steps: int
    is_shuffled: bool = False


SIZES: Mapping[str, Simon2023Size] = types.MappingProxyType(
    {
        "quick": Simon2023Size(
            train_sizes=(20, 50, 100, 200, 400),
            num_examples=1000,
            num_draws=20,
            num_networks=2,
            width=1024,
            num_steps=600,
        ),
        "full": Simon2023Size(
            train_sizes=(20, 50, 100, 200, 400, 700, 1000),
            num_examples=1740,
            num_draws=40,
            num_networks=4,
            width=4096,
            num_steps=10_000,
        ),
        "brief": Simon2023Size(
            train_sizes=(20, 100),
            num_examples=300,
            num_draws=20,
            num_networks=2,
            width=256,
            num_steps=200,
        ),
    }
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Simon2023Result:
    """Forecast and measured test errors, summed over ten classes.

    Attributes:
        curve: The forecast.
        regression: Of kernel regression, `(sizes, draws)`.
        networks: Of trained networks, `(sizes, networks)`.
        network_losses: Their mean squared errors on training examples.
        data: Which digits.
    """

    curve: LearningCurve
    regression: Float[np.ndarray, "sizes draws"]
    networks: Float[np.ndarray, "sizes networks"]
    network_losses: Float[np.ndarray, "sizes networks"]
    data: str

    @property
    def verdict(self) -> Judgement:
        """Whether the forecast is within `TOLERANCE` of kernel regression everywhere."""
        networks = score(self.curve, self.networks.mean(axis=1)).worst
        check = Check(
            statement="largest error of a forecast, relative to kernel regression,",
            measured=score(self.curve, self.regression.mean(axis=1)).worst,
            sense="at most",
            threshold=TOLERANCE,
        )
        return Judgement.of(
            [check], f"For networks it is {networks:.1%}. Of {self.data}."
        )

    def tables(self) -> Sequence[Table]:
        """Errors by size."""
        table = Table(title="Test error, summed over classes")
        for name in ("examples", "forecast", "kernel regression", "networks", "fit"):
            table.add_column(name, justify="right")
        expected = np.sum(self.curve.test_error, axis=1)
        for i, size in enumerate(self.curve.sizes):
            measured = (
                "{:.4f} ± {:.4f}".format(*map(float, mean_and_sem(errors[i])))
                for errors in (self.regression, self.networks)
            )
            fit = f"{self.network_losses[i].mean():.1e}"
            table.add_row(str(size), f"{expected[i]:.4f}", *measured, fit)
        return [table]

    def figure(self) -> "Figure":
        """The learning curve."""
        from lazyjax import plot

        figure = plot.figure(width=4.6)
        measured = {
            "kernel regression": self.regression,
            f"networks, fitted to {self.network_losses.max():.0e}": self.networks,
        }
        axes = figure.subplots()
        plot.learning_curve(axes, self.curve, measured)
        axes.set_ylabel("squared error on held-out digits")
        return figure

    def numbers(self) -> dict[str, Any]:
        """Everything measured."""
        return {
            "curve": self.curve.to_dict(),
            "regression": self.regression,
            "networks": self.networks,
            "network_losses": self.network_losses,
            "data": self.data,
        }


def measure(size: Simon2023Size, conditions: Conditions) -> Simon2023Result:
    """The forecast, and errors of kernel regression and of trained networks."""
    report, seed = conditions.progress, conditions.seed
    report(0.0, "forecasting")
    data = conditions.digits(size.num_examples, num_test=0)
    # Pixels of unit size, and targets of mean zero.
    x, y = data.x_train * data.x_train.shape[1] ** 0.5, np.asarray(data.y_train) - 0.1
    kernel = np.asarray(infinite_ntk(ARCHITECTURE, x), np.float64)
    curve = learning_curve(kernel, y, sizes=size.train_sizes)
    generator = np.random.default_rng(seed)
    if size.is_shuffled:
        y = generator.permutation(y)
    regression, networks, losses = [], [], []
    for number, num_train in enumerate(size.train_sizes):
        report(number / len(size.train_sizes), f"{num_train} examples")
        orders = [generator.permutation(len(y)) for _ in range(size.num_draws)]
        regression.append([_regression_error(kernel, y, o, num_train) for o in orders])
        found = [
            _network_errors(x, y, kernel, order, num_train, size, seed)
            for order in orders[: size.num_networks]
        ]
        networks.append([test for test, _ in found])
        losses.append([fit for _, fit in found])
    return Simon2023Result(
        curve=curve,
        regression=np.array(regression),
        networks=np.array(networks),
        network_losses=np.array(losses),
        data=data.description,
    )


def _regression_error(
    kernel: np.ndarray, y: np.ndarray, order: np.ndarray, num_train: int
) -> float:
    chosen, rest = order[:num_train], order[num_train:]
    dual = np.linalg.solve(kernel[np.ix_(chosen, chosen)], y[chosen])
    return _error(kernel[np.ix_(rest, chosen)] @ dual, y[rest])


def _network_errors(
    x: Any,
    y: np.ndarray,
    kernel: np.ndarray,
    order: np.ndarray,
    num_train: int,
    size: Simon2023Size,
    seed: int,
) -> tuple[float, float]:
    """Test and training error of a network, trained with Nesterov's momentum."""
    architecture = dataclasses.replace(ARCHITECTURE, num_outputs=y.shape[1])
    network = build(architecture, width=size.width)
    chosen, rest = order[:num_train], order[num_train:]
    largest = np.linalg.eigvalsh(kernel[np.ix_(chosen, chosen)])[-1]
    fitted = train(
        network.apply,
        network.init(jax.random.key(seed), x),
        x[chosen],
        jnp.asarray(y[chosen]),
        optimizer=optax.sgd(0.5 / largest, momentum=0.95, nesterov=True),
        num_steps=size.num_steps,
    ).params
    outputs = (np.asarray(network.apply(fitted, x[part])) for part in (rest, chosen))
    test, fit = (
        _error(f, y[part]) for f, part in zip(outputs, (rest, chosen), strict=True)
    )
    return test, fit


def _error(outputs: np.ndarray, y: np.ndarray) -> float:
    return float(np.mean(np.sum((outputs - y) ** 2, axis=1)))


EXPERIMENT = Experiment(
    name="simon2023",
    title="Learning curves on digits, forecast from the kernel",
    source="Simon, Dickens, Karkada and DeWeese (2023), arXiv:2110.03922",
    claim="The test error of kernel regression, and of wide networks, follows from the "
    "kernel's eigenvalues and the target's coefficients alone, at every size of the "
    "training set (the eigenlearning equations).",
    sizes=SIZES,
    measure=measure,
    verdict=lambda result: result.verdict,
    tables=Simon2023Result.tables,
    figure=Simon2023Result.figure,
    control=Control(
        what="labels are shuffled after the forecast is made",
        change=lambda size: dataclasses.replace(size, is_shuffled=True),
    ),
    extras=("data",),
    numbers=Simon2023Result.numbers,
)
