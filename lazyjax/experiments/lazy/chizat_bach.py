r"""Two-layer networks that learn from a teacher: lazy ones generalize worse.

Students $\sum_j a_j \sigma(w_j \cdot x)$ of ReLU learn what a teacher of three units says of
inputs on the sphere. They are made lazy in two ways: by a large scale $\tau$ of all
weights at a start with zero outputs, and by width, if outputs are divided by $\sqrt m$,
not by $m$.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from rich.table import Table

from lazyjax import report
from lazyjax.data import sphere
from lazyjax.dynamics import train
from lazyjax.experiments.judgement import Check, Judgement
from lazyjax.experiments.record import Conditions, Control, Experiment, Size
from lazyjax.laziness import mean_and_sem
from lazyjax.typing import Params

THRESHOLD = 2.0  # by which a lazy network's test loss is to be larger
SCALINGS = {"1/sqrt(m)": 0.5, "1/m": 1.0}
_TEACHER_UNITS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChizatBachSize(Size):
    r"""How much is computed.

    Attributes:
        widths: Increasing widths $m$, for the comparison of scalings.
        num_seeds: Teachers, with inputs and a student of each.
        taus: Increasing scales of weights, for students of `width` doubled units.
        width: See `taus`.
        num_features: Dimension of the inputs.
        num_train: Training examples, and test examples.
        num_steps: Steps of descent.
        is_noise: Whether targets are noise of the same size, not of a teacher.
    """

    widths: tuple[int, ...] = (8, 32, 128, 256)
    num_seeds: int = 4
    taus: tuple[float, ...] = tuple(2.0**k for k in range(-4, 3))
    width: int = 50
    num_features: int = 20
    num_train: int = 200
    num_steps: int = 4000
    is_noise: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChizatBach:
    """Losses, half the mean of squares, over that of a student that is always 0.

    Attributes:
        taus: Scales of weights.
        widths: Widths of the comparison of scalings.
        test_by_tau: On test examples.
        left_by_tau: On training examples.
        test_by_width: On test examples, for each of `SCALINGS`.
        left_by_width: On training examples.
    """

    taus: tuple[float, ...]
    widths: tuple[int, ...]
    test_by_tau: Float[np.ndarray, "taus seeds"]
    left_by_tau: Float[np.ndarray, "taus seeds"]
    test_by_width: Float[np.ndarray, "scalings widths seeds"]
    left_by_width: Float[np.ndarray, "scalings widths seeds"]


def measure(size: ChizatBachSize, conditions: Conditions) -> ChizatBach:
    """Losses of students by scale of weights, and by width and scaling of outputs."""
    keys = jax.random.split(conditions.key, size.num_seeds)
    over_seeds = jax.vmap(functools.partial(_losses, size=size), (0, None, None))
    conditions.progress(0.0, "scales of weights")
    doubled = functools.partial(_student, width=size.width, is_doubled=True)
    by_tau = jax.jit(jax.vmap(over_seeds, (None, 0, None)), static_argnums=2)(
        keys, jnp.array(size.taus), doubled
    )
    by_width: list[list[tuple[Array, Array]]] = []
    for number, power in enumerate(SCALINGS.values()):
        by_width.append([])
        for width in size.widths:
            conditions.progress((1 + number) / 3, f"width {width}")
            student = functools.partial(_student, width=width, power=power)
            train_all = jax.jit(over_seeds, static_argnums=2)
            by_width[-1].append(train_all(keys, jnp.ones(()), student))
    together = np.array(by_width)  # scalings, widths, two losses, seeds
    return ChizatBach(
        taus=size.taus,
        widths=size.widths,
        test_by_tau=np.asarray(by_tau[0]),
        left_by_tau=np.asarray(by_tau[1]),
        test_by_width=together[:, :, 0],
        left_by_width=together[:, :, 1],
    )


def _student(
    key: Array,
    tau: Array,
    *,
    width: int,
    num_features: int,
    is_doubled=False,
    power=0.0,
) -> tuple[Params, float, Array]:
    """Weights at the start, the factor of outputs, and a rate that suits both."""
    key_w, key_a = jax.random.split(key)
    w = tau * jax.random.normal(key_w, (num_features, width))
    a = tau * jax.random.normal(key_a, (width, 1))
    if is_doubled:
        params = {"w": jnp.concatenate([w, w], axis=1), "a": jnp.concatenate([a, -a])}
        return params, 1.0, jnp.minimum(10.0, 0.1 / tau**2)
    return {"w": w, "a": a}, width**-power, width ** (2 * power - 1) * tau


def _losses(
    key: Array, tau: Array, student, *, size: ChizatBachSize
) -> tuple[Array, Array]:
    """Test and training loss of one student."""
    keys = jax.random.split(key, 5)
    data = sphere(
        size.num_train, size.num_features, num_test=size.num_train, key=keys[0]
    )
    weights = jax.random.normal(keys[1], (size.num_features, _TEACHER_UNITS))
    weights = weights / jnp.linalg.norm(weights, axis=0, keepdims=True)
    signs = jax.random.rademacher(keys[2], (_TEACHER_UNITS, 1), weights.dtype)
    y, y_test = (jax.nn.relu(x @ weights) @ signs for x in (data.x_train, data.x_test))
    if size.is_noise:
        noise = jax.random.normal(keys[4], (2, *y.shape)) * jnp.sqrt(jnp.mean(y**2))
        y, y_test = noise
    params, factor, rate = student(keys[3], tau, num_features=size.num_features)
    model = lambda params, x: factor * (jax.nn.relu(x @ params["w"]) @ params["a"])
    loss = lambda f, y: jnp.mean((f - y) ** 2) / 2
    run = train(
        model,
        params,
        data.x_train,
        y,
        optimizer=optax.sgd(rate),
        num_steps=size.num_steps,
        loss_fn=loss,
    )
    test = loss(model(run.params, data.x_test), y_test)
    return test / loss(0 * y_test, y_test), run.loss[-1] / loss(0 * y, y)


def _ratio(
    lazy: Float[np.ndarray, "seeds"], rich: Float[np.ndarray, "seeds"]
) -> tuple[float, float]:
    """Geometric mean of ratios, and twice its standard error."""
    mean, sem = mean_and_sem(np.log(lazy / rich))
    return float(np.exp(mean)), float(2 * sem * np.exp(mean))


def verdict(found: ChizatBach) -> Judgement:
    """Whether both ways into the lazy regime cost a factor of the test loss."""
    sqrt, inverse = found.test_by_width
    pairs = {
        "test loss at the largest scale over the smallest": found.test_by_tau[[-1, 0]],
        f"test loss at width {found.widths[-1]}, 1/sqrt(m) over 1/m": np.stack(
            [sqrt[-1], inverse[-1]]
        ),
    }
    checks = []
    for statement, (lazy, rich) in pairs.items():
        ratio, uncertainty = _ratio(lazy, rich)
        checks.append(
            Check(
                statement=statement,
                measured=ratio,
                sense="at least",
                threshold=THRESHOLD,
                uncertainty=uncertainty,
            )
        )
    compared = [found.left_by_tau[[0, -1]], found.left_by_width[:, -1]]
    fitted = Check(
        statement="largest share of the training loss left",
        measured=float(max(part.max() for part in compared)),
        sense="at most",
        threshold=0.05,
    )
    return Judgement.of(checks, premises=[fitted])


def tables(found: ChizatBach) -> list[Table]:
    """Test losses by scale, and by width."""
    by_width = zip(SCALINGS, found.test_by_width, strict=True)
    return [
        report.means_table(
            "By scale of weights",
            "scale",
            found.taus,
            {"test loss": found.test_by_tau, "training loss": found.left_by_tau},
        ),
        report.means_table(
            "By width",
            "width",
            found.widths,
            {f"test loss, {name}": values for name, values in by_width},
            caption="Losses are relative to those of a student that is always 0.",
        ),
    ]


def figure(found: ChizatBach):
    """Test losses against the scale of weights, and against the width."""
    from lazyjax import plot

    figure = plot.figure()
    left, right = figure.subplots(1, 2)
    plot.curves(left, np.asarray(found.taus), {"test": found.test_by_tau}, log="xy")
    plot.style_axes(
        left,
        xlabel=r"scale $\tau$ of weights at the start",
        ylabel="test loss, relative to that of zero",
        title="Small weights learn features",
    )
    plot.curves(
        right,
        np.asarray(found.widths, float),
        {
            f"outputs times {name}": values
            for name, values in zip(SCALINGS, found.test_by_width, strict=True)
        },
        log="xy",
    )
    plot.style_axes(
        right,
        xlabel="width $m$",
        ylabel="test loss, relative to that of zero",
        title="Wide networks are lazy, or not",
    )
    return figure


EXPERIMENT = Experiment(
    name="chizat-bach",
    title="Two-layer students of a teacher, lazy and not",
    source="Chizat, Oyallon and Bach (2019), arXiv:1812.07956",
    claim="Two-layer networks that learn from a teacher generalize worse if they are "
    "lazy: by a large scale of the weights, or by width with outputs divided by its "
    "root (figures of the synthetic experiments).",
    sizes={
        "quick": ChizatBachSize(),
        "brief": ChizatBachSize(widths=(8, 256), num_seeds=4, taus=(2.0**-4, 2.0)),
        "full": ChizatBachSize(
            widths=(2, 4, 8, 16, 32, 64, 128, 256, 512),
            num_seeds=10,
            taus=tuple(10 ** (k / 5) for k in range(-11, 6)),
            num_features=100,
            num_train=1000,
            num_steps=25_000,
        ),
    },
    measure=measure,
    verdict=verdict,
    tables=tables,
    figure=figure,
    control=Control(
        what="targets are noise, of which there is nothing to learn",
        change=lambda size: dataclasses.replace(size, is_noise=True),
    ),
)
