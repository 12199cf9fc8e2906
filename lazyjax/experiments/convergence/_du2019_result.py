"""What the experiment on Du et al. (2019) returns, and how it is shown."""

import dataclasses
import types
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from rich.table import Table

from lazyjax import report
from lazyjax.certify.measured.du2019 import MeasuredArgument
from lazyjax.certify.widths.du2019 import RequiredWidths
from lazyjax.data import Dataset
from lazyjax.files.results import Storable
from lazyjax.laziness import SlopeFit, log_log_slope, mean_and_sem

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Theory's exponents are those of infinite width, which finite widths only approach.
ALLOWANCE = 0.15

_STEP_FIELDS = ("statement", "sense", "measured", "bound", "holds")


class _Quantity(NamedTuple):
    """What scales with the width, and its exponent in theory."""

    name: str
    formula: str
    theory: float
    kind: Literal["equal", "at most"]


# The Monte-Carlo error of the kernel at the start is of order -1/2; the others are
# upper bounds for a fixed time of training as the width goes to infinity.
_QUANTITIES: Mapping[str, _Quantity] = types.MappingProxyType(
    {
        "start_distance": _Quantity(
            "kernel error at start",
            r"$\|H(0) - H^\infty\| / \|H^\infty\|$",
            -0.5,
            "equal",
        ),
        "drift": _Quantity(
            "kernel drift", r"$\|H(T) - H(0)\| / \|H(0)\|$", -0.5, "at most"
        ),
        "gap": _Quantity(
            "gap to linear model",
            r"${\max}_t \|f - f_{\rm lin}\| / \sqrt{n}$",
            -0.5,
            "at most",
        ),
        "parameter_distance": _Quantity(
            "parameter distance", r"$\|W(T) - W(0)\|$", 0.0, "at most"
        ),
    }
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Slope(Storable):
    """A power of the width, fitted, beside what theory says about it.

    Attributes:
        fit: Power law fitted to all widths.
        last: Exponent between the last two widths, of means over seeds: theory's
            exponents are those of the limit.
        quantity: What scales, as an attribute of the result.
        theory: Exponent in theory.
        kind: Whether theory gives the exponent itself ("equal") or bounds it from
            above ("at most").
    """

    fit: SlopeFit
    last: Float[Array, ""]
    quantity: str = dataclasses.field(metadata={"static": True})
    theory: float = dataclasses.field(metadata={"static": True})
    kind: Literal["equal", "at most"] = dataclasses.field(metadata={"static": True})

    @property
    def agrees(self) -> bool:
        """Whether the fit is within `ALLOWANCE` of what theory allows; not if NaN."""
        excess = float(self.fit.slope) - self.theory
        return excess <= ALLOWANCE and (self.kind == "at most" or excess >= -ALLOWANCE)


def fitted_slope(
    quantity: str, widths: Float[Array, "widths"], values: Float[Array, "widths seeds"]
) -> Slope:
    """Power of the width at which a quantity, an attribute of the result, scales."""
    means = jnp.log(jnp.mean(values[-2:], axis=1))
    steps = jnp.log(widths[-2:])
    return Slope(
        fit=log_log_slope(widths, values),
        last=(means[1] - means[0]) / (steps[1] - steps[0]),
        quantity=quantity,
        theory=_QUANTITIES[quantity].theory,
        kind=_QUANTITIES[quantity].kind,
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Du2019Result(Storable):
    r"""Outcome of the experiment, over widths and seeds.

    Attributes:
        data: The examples.
        learning_rate: $\eta = 1/\lambda_{\max}(H^\infty)$, for the loss
            $\tfrac12 \lVert f - y\rVert^2$ summed over examples.
        minimum_angle: Smallest angle between two training inputs, in radians.
        eig_min: $\lambda_{\min}(H(0))$.
        start_distance: $\lVert H(0) - H^\infty\rVert_F / \lVert H^\infty\rVert_F$.
        drift: $\lVert H(T) - H(0)\rVert_F / \lVert H(0)\rVert_F$ after the last step.
        parameter_distance: $\lVert W(T) - W(0)\rVert_F$.
        loss: Loss at every step.
        loss_linear: Loss of the linear model at every step.
        gap: $\max_k \lVert f_k - f_k^{\mathrm{lin}}\rVert_2/\sqrt n$ over observed
            steps.
        slopes: Fitted powers of the width.
        measurement: Du et al.'s argument, measured.
        required: Widths that theory asks for.
        widths: Widths $m$.
        observed_at: Steps at which kernels were evaluated.
    """

    data: Dataset
    learning_rate: Float[Array, ""]
    minimum_angle: Float[Array, ""]
    eig_min: Float[Array, "widths seeds"]
    start_distance: Float[Array, "widths seeds"]
    drift: Float[Array, "widths seeds"]
    parameter_distance: Float[Array, "widths seeds"]
    loss: Float[Array, "widths seeds num_losses"]
    loss_linear: Float[Array, "widths seeds num_losses"]
    gap: Float[Array, "widths seeds"]
    slopes: tuple[Slope, ...]
    measurement: MeasuredArgument
    required: RequiredWidths
    widths: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    observed_at: tuple[int, ...] = dataclasses.field(metadata={"static": True})

    def tables(self) -> Sequence[Table]:
        """Quantities by width, fitted slopes, and the steps of the argument."""
        return (self._widths_table(), self._slopes_table(), self._steps_table())

    def figure(self) -> "Figure":
        """Loss against its linear model and bound; scaling with the width."""
        from lazyjax import plot

        ends = (0, len(self.widths) - 1)
        label = {i: f"width {self.widths[i]}" for i in ends}
        # Step 0, where all curves are 1, is left out of the logarithmic axis.
        time = float(self.learning_rate) * np.arange(1, self.loss.shape[-1])
        start = np.asarray(self.loss)[..., :1]
        shown = [slope for slope in self.slopes if slope.theory < 0]
        figure = plot.figure()
        left, right = figure.subplots(1, 2)
        plot.loss_curves(
            left,
            time,
            exact={label[i]: (self.loss / start)[i, :, 1:] for i in ends},
            linear={label[i]: (self.loss_linear / start)[i, :, 1:] for i in ends},
            bound=np.exp(-float(self.measurement.eig_min) * time),
            bound_label=r"bound $e^{-\lambda_0 t}$",
        )
        plot.style_axes(
            left,
            xlabel=r"time $t = \eta \times$ step",
            ylabel=r"relative loss $L(t) / L(0)$",
            title=f"Training: mean and range of {self.loss.shape[1]} seeds",
        )
        plot.scaling(
            right,
            np.asarray(self.widths),
            {
                _QUANTITIES[slope.quantity].formula: getattr(self, slope.quantity)
                for slope in shown
            },
            {_QUANTITIES[slope.quantity].formula: slope.fit for slope in shown},
            theory_slope=-0.5,
            theory_label=r"slope $-\frac{1}{2}$",
        )
        plot.style_axes(
            right,
            xlabel="width $m$",
            ylabel="mean over seeds ± standard error",
            title="Scaling with width, fitted slopes",
        )
        return figure

    def numbers(self) -> dict[str, Any]:
        """Everything measured, but for the examples themselves."""
        skipped = {"data", "slopes", "measurement", "loss", "loss_linear"}
        fields = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in skipped
        }
        every = self._json_steps()
        return {
            "data": self.data.description,
            "num_train": self.data.x_train.shape[0],
            **fields,
            "loss_at": every,
            "loss": self.loss[..., np.asarray(every)],
            "loss_linear": self.loss_linear[..., np.asarray(every)],
            "slopes": [
                {**dataclasses.asdict(slope), "agrees": slope.agrees}
                for slope in self.slopes
            ],
            "eig_min_infinite": self.measurement.eig_min,
            "steps": {
                step.label: {name: getattr(step, name) for name in _STEP_FIELDS}
                for step in self.measurement.steps
            },
        }

    def _json_steps(self) -> list[int]:
        """About a hundred steps, ends and observed ones included."""
        num_steps = self.loss.shape[-1] - 1
        spaced = np.linspace(0, num_steps, 101).round().astype(int)
        return sorted({*spaced.tolist(), *self.observed_at})

    def _widths_table(self) -> Table:
        columns = {
            "λmin\nH(0)": self.eig_min,
            "|H(0)-H∞|\n/|H∞|": self.start_distance,
            "|H(T)-H(0)|\n/|H(0)|": self.drift,
            "|W(T)-W(0)|\n": self.parameter_distance,
            "loss\nat T": self.loss[..., -1],
            "loss at T,\nlinearized": self.loss_linear[..., -1],
            "gap to\nlinearized": self.gap,
        }
        statistics = [mean_and_sem(values) for values in columns.values()]
        rows = [
            [
                str(width),
                *(report.with_error(float(m[i]), float(s[i])) for m, s in statistics),
            ]
            for i, width in enumerate(self.widths)
        ]
        num_steps = self.loss.shape[-1] - 1
        return report.table(
            f"Two-layer ReLU, {self.data.description}: n = {self.data.x_train.shape[0]}, "
            f"{self.loss.shape[1]} seeds, {num_steps} steps",
            ["width\nm", *columns],
            rows,
            caption=(
                "0.123(45) is a mean over seeds and its standard error in the last "
                "digits. |H| are Frobenius norms. Loss is ½|f-y|², the gap the largest "
                f"|f-f_lin|/√n seen. λmin(H∞) = {float(self.measurement.eig_min):.4g}, "
                f"η = 1/λmax(H∞) = {float(self.learning_rate):.4g}."
            ),
        )

    def _slopes_table(self) -> Table:
        rows = []
        for slope in self.slopes:
            fit = slope.fit
            sign = "" if slope.kind == "equal" else "≤ "
            rows.append(
                [
                    _QUANTITIES[slope.quantity].name,
                    report.with_error(float(fit.slope), float(fit.slope_sem)),
                    f"{float(fit.low):.2f} … {float(fit.high):.2f}",
                    f"{float(slope.last):.2f}",
                    f"{sign}{slope.theory:g}",
                    "yes" if slope.agrees else "no",
                ]
            )
        return report.table(
            "Powers of the width",
            [
                "quantity",
                "slope",
                "95 % interval",
                "last two widths",
                "theory",
                "agrees",
            ],
            rows,
            caption=(
                "≤ is an upper bound for a fixed time as the width goes to infinity; for "
                "the gap, proofs need the kernel to move by less than λmin(H∞): see (C). "
                f"Agreement is to {ALLOWANCE}, for the sake of finite widths."
            ),
        )

    def _steps_table(self) -> Table:
        rows = []
        shape = self.eig_min.shape
        for step in self.measurement.steps:
            held = np.broadcast_to(np.asarray(step.holds), shape)
            measured = np.broadcast_to(np.asarray(step.measured), shape)[-1]
            worst = measured.max() if step.sense == "at most" else measured.min()
            sign = "≤" if step.sense == "at most" else "≥"
            rows.append(
                [
                    f"({step.label}) {step.statement}",
                    *(f"{seeds.sum()}/{seeds.size}" for seeds in held),
                    f"{worst:.2g}",
                    f"{sign} {np.asarray(step.bound).reshape(-1)[0]:.2g}",
                ]
            )
        return report.table(
            "Du et al.'s argument on these runs: seeds in which each step held",
            [
                "step of the argument",
                *(f"m =\n{width}" for width in self.widths),
                f"worst at\n{self.widths[-1]}",
                "needed",
            ],
            rows,
            caption=(
                "Measured, not certified; (C) and (C') at the steps observed, (D) and (D')"
                " at every step, as the largest ratio of the two sides. |H| are spectral "
                "norms. To hold with probability "
                f"{1 - self.required.failure:g}, theory asks for a width of the order of "
                f"{float(self.required.literal):.0e}, and of "
                f"{float(self.required.start_eig_min):.0e} for (B') alone."
            ),
        )
