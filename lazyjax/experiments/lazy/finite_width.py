r"""The mean kernel of finite networks: exact on the diagonal, biased beside it.

For activations that commute with positive factors, such as ReLU, the kernel of an input
with itself has the same mean over initializations at every width. That of two inputs
approaches its limit as one over the width only.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from rich.table import Table

from lazyjax import report
from lazyjax.architecture import Architecture
from lazyjax.experiments.judgement import Check, Judgement
from lazyjax.experiments.record import Conditions, Control, Experiment, Size
from lazyjax.infinite import infinite_ntk
from lazyjax.laziness import log_log_slope
from lazyjax.montecarlo import monte_carlo_ntk
from lazyjax.nets import build
from lazyjax.typing import Normalization

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INPUTS = ((-0.98952293, -0.59924918), (-0.17877479, 2.25368185))
ENTRIES = {
    "first input with itself": (0, 0),
    "second input with itself": (1, 1),
    "both inputs": (0, 1),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FiniteWidthSize(Size):
    """How much is computed.

    Attributes:
        widths: Widths of three hidden layers.
        num_seeds: Initializations of each.
        normalization: Of pre-activations; "layer" breaks what the claim supposes.
    """

    widths: tuple[int, ...] = (10, 20, 40, 80)
    num_seeds: int = 20_000
    normalization: Normalization = "none"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FiniteWidth:
    """Mean kernels of two inputs, entry by entry as in `ENTRIES`.

    Attributes:
        widths: Widths.
        limit: At infinite width.
        bias: Mean over initializations, relative to the limit, minus 1.
        sem: Its standard error.
    """

    widths: tuple[int, ...]
    limit: Float[np.ndarray, " entries"]
    bias: Float[np.ndarray, "entries widths"]
    sem: Float[np.ndarray, "entries widths"]

    @property
    def coefficients(self) -> tuple[Float[np.ndarray, " e"], Float[np.ndarray, " e"]]:
        """Least-squares $c$ of a bias $c / m$ at width $m$, and its standard error."""
        shape = 1 / np.array(self.widths, float)
        weight = self.sem**-2.0
        spread = np.sum(shape**2 * weight, axis=1)
        return np.sum(shape * self.bias * weight, axis=1) / spread, spread**-0.5

    @property
    def verdict(self) -> Judgement:
        """Whether only the entry of two different inputs is biased, as one over width."""
        coefficients, sem = self.coefficients
        worst = np.argmax(np.abs(coefficients[:2]))
        fit = log_log_slope(np.array(self.widths, float), np.abs(self.bias[2]))
        checks = [
            Check(
                statement="|c| of a bias c/width on the diagonal",
                measured=float(np.abs(coefficients[worst])),
                sense="at most",
                threshold=0.3,
                uncertainty=2 * float(sem[worst]),
            ),
            Check(
                statement="|c| beside it",
                measured=float(np.abs(coefficients[2])),
                sense="at least",
                threshold=0.6,
                uncertainty=2 * float(sem[2]),
            ),
            Check(
                statement="exponent of the bias beside it, off from -1,",
                measured=abs(float(fit.slope) + 1),
                sense="at most",
                threshold=0.35,
            ),
        ]
        return Judgement.of(checks)

    def tables(self) -> Sequence[Table]:
        """Biases in percent."""
        rows = [
            [
                name,
                f"{limit:.6f}",
                *(
                    f"{100 * bias:.2f} ± {100 * sem:.2f}"
                    for bias, sem in zip(biases, sems, strict=True)
                ),
            ]
            for name, limit, biases, sems in zip(
                ENTRIES, self.limit, self.bias, self.sem, strict=True
            )
        ]
        columns = ["entry", "limit", *(f"width {width}" for width in self.widths)]
        caption = "Percent of the limit, ± standard error over initializations."
        title = "Bias of the mean kernel"
        return [report.table(title, columns, rows, caption=caption)]

    def figure(self) -> "Figure":
        """Biases against the width."""
        from lazyjax import plot

        figure = plot.figure(width=4.6)
        axes = figure.subplots()
        fine = np.geomspace(self.widths[0], self.widths[-1], 100)
        coefficient = self.coefficients[0][2]
        axes.axhline(0, color="0.35", linewidth=0.8)
        plot.estimates(
            axes,
            np.array(self.widths),
            {
                name: (100 * self.bias[i], 100 * self.sem[i])
                for i, name in enumerate(ENTRIES)
            },
            spread=1.04,
        )
        label = f"${coefficient:.2f}$ / width"
        axes.plot(fine, 100 * coefficient / fine, ":", color="0.35", label=label)
        axes.legend(fontsize=8, frameon=False, loc="lower right")
        axes.set_xscale("log")
        axes.set_xticks(self.widths, [f"{width}" for width in self.widths])
        axes.xaxis.minorticks_off()
        plot.style_axes(
            axes,
            xlabel="width of three hidden layers",
            ylabel="bias of the mean kernel / %",
            title="Mean over initializations ± standard error",
        )
        return figure


def measure(size: FiniteWidthSize, conditions: Conditions) -> FiniteWidth:
    """Means over initializations beside the infinite-width kernel."""
    architecture = Architecture(
        depth=3, activation="relu", w_std=2**0.5, normalization=size.normalization
    )
    x = jnp.array(INPUTS)
    chosen = tuple(np.array(list(ENTRIES.values())).T)
    limit = np.asarray(infinite_ntk(architecture, x), np.float64)[chosen]
    biases, sems = [], []
    for number, width in enumerate(size.widths):
        share = number / len(size.widths)
        conditions.progress(share, f"width {width}")
        network = build(architecture, width=width)
        found = monte_carlo_ntk(
            network.apply,
            network.init,
            x,
            key=jax.random.fold_in(conditions.key, width),
            num_seeds=size.num_seeds,
            outputs="trace",
        )
        biases.append(np.asarray(found.mean, np.float64)[chosen] / limit - 1)
        sems.append(np.asarray(found.sem, np.float64)[chosen] / limit)
    return FiniteWidth(
        widths=size.widths,
        limit=limit,
        bias=np.array(biases).T,
        sem=np.array(sems).T,
    )


EXPERIMENT = Experiment(
    name="finite-width",
    title="The mean kernel of finite ReLU networks",
    source="Guillen, Misof and Gerken (2025), arXiv:2508.11522",
    claim=(
        "For scale-invariant activations such as ReLU, the diagonal of the mean kernel "
        "has no finite-width corrections (abstract); other entries are biased, and "
        "follow the corrections of first order from widths of about 20 on."
    ),
    sizes={
        "quick": FiniteWidthSize(),
        "full": FiniteWidthSize(widths=(5, 10, 20, 40, 80, 160), num_seeds=200_000),
        "brief": FiniteWidthSize(widths=(10, 20, 40), num_seeds=12_000),
    },
    measure=measure,
    verdict=lambda found: found.verdict,
    tables=FiniteWidth.tables,
    figure=FiniteWidth.figure,
    control=Control(
        what="pre-activations are normalized over units",
        change=lambda size: dataclasses.replace(size, normalization="layer"),
    ),
)
