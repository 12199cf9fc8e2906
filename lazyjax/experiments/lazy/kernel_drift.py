r"""How much the kernel moves while a network trains, against width and depth.

Proofs bound the relative drift $\lVert H(T) - H(0)\rVert / \lVert H(0)\rVert$ by the power
$-\tfrac12$ of the width. What it is made of has random signs, that of the output
weights, so that for smooth activations it falls like the power $-1$.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from rich.table import Table

from lazyjax import report
from lazyjax.architecture import Architecture
from lazyjax.dynamics import observers
from lazyjax.experiments.judgement import Check, Judgement
from lazyjax.experiments.lazy._digits import odd_against_even, trained, unit_rate
from lazyjax.experiments.record import Conditions, Control, Experiment, Size
from lazyjax.laziness import SlopeFit, log_log_slope
from lazyjax.typing import Parameterization

CLAIMED, BOUND, ALLOWANCE = -1.0, -0.5, 0.25


@dataclasses.dataclass(frozen=True, kw_only=True)
class KernelDriftSize(Size):
    """How much is computed.

    Attributes:
        widths: Increasing widths.
        num_seeds: Networks of each.
        depths: Numbers of hidden layers.
        num_train: Training examples.
        num_steps: Steps of descent at the rate 1/λmax of infinite width.
        parameterization: "ntk", for which the claim is made, or another.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    num_seeds: int = 12
    depths: tuple[int, ...] = (1, 2, 3)
    num_train: int = 16
    num_steps: int = 200
    parameterization: Parameterization = "ntk"


@dataclasses.dataclass(frozen=True, kw_only=True)
class KernelDrift:
    """Drift of networks of all depths and widths.

    Attributes:
        depths: Numbers of hidden layers.
        widths: Their units.
        drift: Relative to the kernel at the start, in Frobenius norm.
        distance: Of all parameters from the start.
        loss: After training, over that before.
        slopes: Power of the width in the drift, of each depth.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    drift: Float[np.ndarray, "depths widths seeds"]
    distance: Float[np.ndarray, "depths widths seeds"]
    loss: Float[np.ndarray, "depths widths seeds"]
    slopes: tuple[SlopeFit, ...]


def measure(size: KernelDriftSize, conditions: Conditions) -> KernelDrift:
    """Drift after a fixed time of training, by one sweep for each depth."""
    data = odd_against_even(size.num_train, conditions.key)
    found = []
    for number, depth in enumerate(size.depths):
        architecture = Architecture(
            depth=depth,
            activation="tanh",
            w_std=1.5,
            b_std=0.1,
            parameterization=size.parameterization,
        )
        runs = trained(
            architecture,
            data,
            unit_rate(architecture, data),
            widths=size.widths,
            num_seeds=size.num_seeds,
            key=conditions.key,
            num_steps=size.num_steps,
            observe=[observers.ntk_drift, observers.parameter_distance],
            progress=conditions.part(
                number / len(size.depths), (number + 1) / len(size.depths)
            ),
        )
        found.append(runs.sel(alpha=1.0))
    last = lambda name: np.stack([runs.observations[name][..., -1] for runs in found])
    drift = last("ntk_drift")
    return KernelDrift(
        depths=size.depths,
        widths=size.widths,
        drift=drift,
        distance=last("parameter_distance"),
        loss=np.stack([runs.loss[..., -1] / runs.loss[..., 0] for runs in found]),
        slopes=tuple(
            log_log_slope(jnp.asarray(size.widths, drift.dtype), jnp.asarray(values))
            for values in drift
        ),
    )


def verdict(found: KernelDrift) -> Judgement:
    """Whether the exponent is that of random signs, at every depth, once trained."""
    trained = Check(
        statement="largest share of the loss that is left",
        measured=float(found.loss.max()),
        sense="at most",
        threshold=0.1,
    )
    exponents = [
        Check.of_exponent(f"exponent at depth {depth}", slope, CLAIMED, ALLOWANCE)
        for depth, slope in zip(found.depths, found.slopes, strict=True)
    ]
    return Judgement.of(exponents, premises=[trained])


def tables(found: KernelDrift) -> list[Table]:
    """Drift by width and depth."""
    slopes = ", ".join(
        f"{report.with_error(float(fit.slope), float(fit.slope_sem))} at depth {depth}"
        for fit, depth in zip(found.slopes, found.depths, strict=True)
    )
    return [
        report.means_table(
            "Relative drift of the kernel",
            "width",
            found.widths,
            {
                f"depth {d}": values
                for d, values in zip(found.depths, found.drift, strict=True)
            },
            caption=f"Exponents: {slopes}; claimed {CLAIMED:g}, bound {BOUND:g}.",
        )
    ]


def figure(found: KernelDrift):
    """Drift against the width, for each depth."""
    from lazyjax import plot

    figure = plot.figure(width=4.6, height=3.6)
    axes = figure.subplots()
    names = {f"depth {depth}": i for i, depth in enumerate(found.depths)}
    widths = np.asarray(found.widths, float)
    plot.scaling(
        axes,
        widths,
        {name: found.drift[i] for name, i in names.items()},
        {name: found.slopes[i] for name, i in names.items()},
        theory_slope=BOUND,
        theory_label=r"bound: slope $-\frac{1}{2}$",
    )
    plot.style_axes(
        axes,
        xlabel="width $m$",
        ylabel=r"drift $\|H(T)-H(0)\|_F\,/\,\|H(0)\|_F$",
        title="The kernel moves less than its bound says",
    )
    return figure


EXPERIMENT = Experiment(
    name="kernel-drift",
    title="How much kernels move, against width and depth",
    source="Huang and Yau (2020), arXiv:1909.08156; bound: Lee, Xiao et al. (2019), "
    "arXiv:1902.06720",
    claim="In a fixed time of training the kernel of a network with smooth activations "
    "moves like 1/width, at every depth, not like its root as in the bound (theorem "
    "numbers not checked).",
    sizes={
        "quick": KernelDriftSize(),
        "brief": KernelDriftSize(widths=(64, 256), num_seeds=20, depths=(1,)),
        "full": KernelDriftSize(
            widths=(64, 128, 256, 512, 1024, 2048, 4096),
            num_seeds=20,
            depths=(1, 2, 3, 4, 5),
            num_train=64,
            num_steps=500,
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
