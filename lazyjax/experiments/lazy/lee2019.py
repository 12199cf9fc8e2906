r"""Wide networks beside their linear models, and ensembles beside infinite width.

The gap between a network's outputs and those of its linear model, over all of training,
falls with the width. Of many networks, outputs on test inputs have at every time the
mean and the variance that the two kernels of infinite width predict.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from rich.table import Table

from lazyjax import report
from lazyjax.architecture import Architecture
from lazyjax.data import Dataset
from lazyjax.dynamics import linear_dynamics, observers
from lazyjax.experiments.judgement import Check, Judgement
from lazyjax.experiments.lazy._digits import odd_against_even, trained, unit_rate
from lazyjax.experiments.record import Conditions, Control, Experiment, Size
from lazyjax.infinite.predict import nngp_grams, ntk_grams, trained_ensemble
from lazyjax.interop.neural_tangents import compare
from lazyjax.laziness import SlopeFit, log_log_slope
from lazyjax.sweeps import Sweep
from lazyjax.typing import Parameterization

# Of exponents, of means in standard deviations, of variances, of kernels by
# neural-tangents in single precision.
EXPONENT_ALLOWANCE, MEAN_ALLOWANCE, VARIANCE_ALLOWANCE = 0.15, 0.3, 0.3
KERNEL_ALLOWANCE = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lee2019Size(Size):
    """How much is computed.

    Attributes:
        widths: Increasing widths, for the gap.
        num_seeds: Networks of each.
        ensemble_width: Width of the ensemble.
        ensemble_size: Networks of it.
        num_train: Training examples, and test examples.
        num_steps: Steps of descent at the rate 1/λmax of infinite width.
        parameterization: "ntk", for which the claim is made, or another.
    """

    widths: tuple[int, ...] = (32, 64, 128, 256, 512)
    num_seeds: int = 6
    ensemble_width: int = 256
    ensemble_size: int = 200
    num_train: int = 16
    num_steps: int = 200
    parameterization: Parameterization = "ntk"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lee2019:
    """Gaps, and an ensemble beside its prediction.

    Attributes:
        widths: Of the networks.
        gap: Largest distance to the linear model over observed steps, over √n, on
            training and test inputs.
        distance: Of parameters from the start, over the root of the width.
        slope: Power of the width in the gap.
        distance_slope: Power of the width in the distance.
        steps: At which outputs were observed.
        mean: Of the ensemble, on test inputs.
        variance: Of the ensemble.
        predicted_mean: At infinite width.
        predicted_variance: At infinite width.
        ensemble_size: Networks of the ensemble.
        kernel_difference: Largest relative difference between kernels here and those of
            neural-tangents; NaN where that is not installed.
    """

    widths: tuple[int, ...]
    gap: Float[np.ndarray, "widths seeds"]
    distance: Float[np.ndarray, "widths seeds"]
    slope: SlopeFit
    distance_slope: SlopeFit
    steps: tuple[int, ...]
    mean: Float[np.ndarray, "steps points"]
    variance: Float[np.ndarray, "steps points"]
    predicted_mean: Float[np.ndarray, "steps points"]
    predicted_variance: Float[np.ndarray, "steps points"]
    ensemble_size: int
    kernel_difference: float


def measure(size: Lee2019Size, conditions: Conditions) -> Lee2019:
    """Gaps by width, then an ensemble of one width."""
    key = conditions.key
    data = odd_against_even(size.num_train, key, num_test=size.num_train)
    architecture = Architecture(
        depth=2,
        activation="erf",
        w_std=1.5,
        b_std=0.1,
        parameterization=size.parameterization,
    )
    rate = unit_rate(architecture, data)
    steps = (0, *np.unique(np.geomspace(1, size.num_steps, 8).round().astype(int)))
    steps = tuple(map(int, steps))
    every_input = jnp.concatenate([data.x_train, data.x_test])

    def observed(widths: tuple[int, ...], num_seeds: int, observe, part) -> Sweep:
        return trained(
            architecture,
            data,
            rate,
            widths=widths,
            num_seeds=num_seeds,
            key=key,
            num_steps=size.num_steps,
            observe={name: observers.on_inputs(o, every_input) for name, o in observe},
            observe_at=steps,
            progress=conditions.part(*part),
        ).sel(alpha=1.0)

    outputs = ("outputs", observers.outputs)
    runs = observed(
        size.widths,
        size.num_seeds,
        [
            outputs,
            ("ntk", observers.ntk),
            ("distance", observers.parameter_distance),
        ],
        (0.0, 0.5),
    )
    seen = runs.observations
    flat = lambda array: jnp.asarray(array).reshape(-1, *array.shape[2:])
    gaps = jax.jit(
        lambda pairs: jax.lax.map(
            lambda pair: _gap(*pair, data=data, steps=jnp.array(steps), rate=rate),
            pairs,
        )
    )((flat(seen["ntk"][:, :, 0]), flat(seen["outputs"])))
    gap = np.asarray(gaps).reshape(seen["outputs"].shape[:2])
    root = np.sqrt(np.asarray(size.widths, gap.dtype))[:, None]
    distance = seen["distance"][..., -1] / root
    members = observed(
        (size.ensemble_width,), size.ensemble_size, [outputs], (0.5, 1.0)
    ).observations["outputs"][0, :, :, size.num_train :, 0]
    grams = (nngp_grams, ntk_grams)
    nngp, ntk = (g(architecture, data.x_train, data.x_test) for g in grams)
    predicted = [
        trained_ensemble(nngp, ntk, data.y_train, time=rate * step) for step in steps
    ]
    widths = jnp.asarray(size.widths, gap.dtype)
    return Lee2019(
        widths=size.widths,
        gap=gap,
        distance=distance,
        slope=log_log_slope(widths, gap),
        distance_slope=log_log_slope(widths, distance),
        steps=steps,
        mean=members.mean(axis=0),
        variance=members.var(axis=0, ddof=1),
        predicted_mean=np.stack([np.asarray(p.mean[:, 0]) for p in predicted]),
        predicted_variance=np.stack([np.asarray(p.variance) for p in predicted]),
        ensemble_size=size.ensemble_size,
        kernel_difference=_difference(architecture, data),
    )


def _gap(
    ntk: Array, outputs: Array, *, data: Dataset, steps: Array, rate: float
) -> Array:
    """Largest distance between a network and its linear model, on all inputs."""
    n, kernel = len(data.x_train), ntk[..., 0, 0]
    model = linear_dynamics(kernel[:n, :n], data.y_train, outputs[0, :n])
    linear = (
        model.gradient_descent(steps, rate),
        model.gradient_descent(
            steps, rate, ntk_test_train=kernel[n:, :n], f0_test=outputs[0, n:]
        ),
    )
    differences = outputs - jnp.concatenate(linear, axis=1)
    return jnp.max(jnp.linalg.norm(differences, axis=(1, 2))) / outputs.shape[1] ** 0.5


def _difference(architecture: Architecture, data: Dataset) -> float:
    try:
        theirs = compare(architecture, data.x_train, data.x_test)
    except ImportError:
        return float("nan")
    return float(jnp.maximum(theirs.ntk_difference, theirs.nngp_difference))


def verdict(found: Lee2019) -> Judgement:
    """Both exponents; mean and variance at the end of training; both libraries' kernels."""
    errors = (found.mean[-1] - found.predicted_mean[-1]) ** 2
    ratio = found.variance[-1].sum() / found.predicted_variance[-1].sum()
    gap = Check(
        statement="exponent of the gap in the width",
        measured=float(found.slope.slope),
        sense="at most",
        threshold=-0.5 + EXPONENT_ALLOWANCE,
        uncertainty=2 * float(found.slope.slope_sem),
    )
    checks = [
        gap,
        Check.of_exponent(
            "exponent of the distance of parameters over the root of the width",
            found.distance_slope,
            -0.5,
            EXPONENT_ALLOWANCE,
        ),
        Check(
            statement="ensemble's mean off from infinite width's, in its deviations,",
            measured=float(np.sqrt(np.mean(errors / found.predicted_variance[-1]))),
            sense="at most",
            threshold=MEAN_ALLOWANCE,
            uncertainty=2 * found.ensemble_size**-0.5,
        ),
        Check(
            statement="ensemble's variance off from infinite width's, relatively,",
            measured=float(abs(ratio - 1)),
            sense="at most",
            threshold=VARIANCE_ALLOWANCE,
            # As if all test points were one: that of an estimated variance.
            uncertainty=2 * (2 / found.ensemble_size) ** 0.5,
        ),
    ]
    if np.isnan(found.kernel_difference):
        return Judgement.of(checks, "neural-tangents is not installed to compare with.")
    kernels = Check(
        statement="kernels of infinite width off from those of neural-tangents",
        measured=found.kernel_difference,
        sense="at most",
        threshold=KERNEL_ALLOWANCE,
    )
    return Judgement.of([*checks, kernels])


def tables(found: Lee2019) -> list[Table]:
    """Gap and distance by width; the ensemble by step."""
    of_points = zip(
        found.steps,
        found.mean.mean(axis=1),
        found.predicted_mean.mean(axis=1),
        found.variance.mean(axis=1),
        found.predicted_variance.mean(axis=1),
        strict=True,
    )
    return [
        report.means_table(
            "Networks beside their linear models",
            "width",
            found.widths,
            {
                "largest gap": found.gap,
                "distance of parameters / √width": found.distance,
            },
            caption=f"Exponents: {found.slope.slope:.2f} ± {found.slope.slope_sem:.2f}, "
            f"{found.distance_slope.slope:.2f} ± {found.distance_slope.slope_sem:.2f}.",
        ),
        report.table(
            "Ensemble beside infinite width, averages over test inputs",
            ["step", "mean", "predicted", "variance", "predicted"],
            [[str(step), *(f"{v:.3f}" for v in values)] for step, *values in of_points],
        ),
    ]


def figure(found: Lee2019):
    """Gap against the width, and outputs on two test inputs along training."""
    from lazyjax import plot

    figure = plot.figure(height=3.6)
    left, right = figure.subplots(1, 2)
    plot.scaling(
        left,
        np.asarray(found.widths, float),
        {"gap": found.gap, "parameters": found.distance},
        {"gap": found.slope, "parameters": found.distance_slope},
        theory_slope=-0.5,
        theory_label=r"slope $-\frac{1}{2}$",
    )
    plot.style_axes(
        left,
        xlabel="width $m$",
        ylabel=r"gap; distance of parameters $/ \sqrt{m}$",
        title="Distance from the linear model",
    )
    last = found.predicted_mean[-1]
    points = {"#D55E00": int(np.argmax(last)), "#0072B2": int(np.argmin(last))}
    steps = np.asarray(found.steps)
    for (color, point), name in zip(points.items(), ("odd", "even"), strict=True):
        mean, spread = (
            found.predicted_mean[:, point],
            found.predicted_variance[:, point] ** 0.5,
        )
        right.fill_between(
            steps, mean - spread, mean + spread, color=color, alpha=0.2, linewidth=0
        )
        right.plot(
            steps, mean, color=color, label=f"a digit taken for {name}: predicted"
        )
        right.errorbar(
            steps,
            found.mean[:, point],
            found.variance[:, point] ** 0.5,
            color=color,
            fmt="o",
            markersize=4,
            capsize=2,
            label=f"{found.ensemble_size} networks",
        )
    right.set_xscale("symlog", linthresh=1)
    low, high = right.get_ylim()
    right.set_ylim(low - 0.6 * (high - low), high)  # room for the legend
    right.legend(fontsize=8, frameon=False, loc="lower left")
    plot.style_axes(
        right,
        xlabel="step",
        ylabel="output: mean ± standard deviation",
        title="Ensemble and infinite width",
    )
    return figure


EXPERIMENT = Experiment(
    name="lee2019",
    title="Wide networks evolve as linear models",
    source="Lee, Xiao, Schoenholz, Bahri, Novak, Sohl-Dickstein and Pennington (2019), "
    "arXiv:1902.06720",
    claim="The gap between a network and its linear model, and the distance of its "
    "parameters from the start over width^(1/2), are of order width^(-1/2) over all of training "
    "(theorem 2.1), and ensembles have the mean and variance of infinite width "
    "(section 2.4; numbers not checked).",
    sizes={
        "quick": Lee2019Size(),
        "brief": Lee2019Size(
            widths=(32, 512), num_seeds=12, ensemble_size=300, num_train=8, num_steps=50
        ),
        "full": Lee2019Size(
            widths=(64, 128, 256, 512, 1024, 2048, 4096),
            num_seeds=20,
            ensemble_width=2048,
            ensemble_size=500,
            num_train=128,
            num_steps=2000,
        ),
    },
    measure=measure,
    verdict=verdict,
    tables=tables,
    figure=figure,
    control=Control(
        what="maximal update parameterization, in which features are learnt at every "
        "width",
        change=lambda size: dataclasses.replace(size, parameterization="mup"),
    ),
    extras=("data",),
)
