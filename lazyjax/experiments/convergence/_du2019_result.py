"""What the experiment on Du et al. (2019) returns, and how it is shown."""

import dataclasses
import types
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float
from rich.table import Table

from lazyjax import report
from lazyjax.certify.measured.du2019 import MeasuredArgument
from lazyjax.certify.widths.du2019 import RequiredWidths
from lazyjax.data import Dataset
from lazyjax.files.results import Storable
from lazyjax.laziness import (
    PredictedExponent,
    Scaling,
    log_log_slope,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Theory's exponents are those of infinite width, which finite widths only approach.
ALLOWANCE = 0.15

# Steps of the argument that are drawn.
_MEANING = {
    "B'": r"$\lambda_{\min}(H(0)) \geq \frac{3}{4}\lambda_0$",
    "C'": r"$\lambda_{\min}(H(t)) \geq \frac{1}{2}\lambda_0$",
    "D'": r"loss below $(1 - \eta\lambda_0/2)^k L(0)$",
}

_STEP_FIELDS = ("statement", "sense", "measured", "bound", "holds")


_AT_MOST_ROOT = PredictedExponent(exponent=-0.5, kind="at most")


class _Quantity(NamedTuple):
    """What scales with the width, and its exponent in theory."""

    name: str
    formula: str
    theory: PredictedExponent


# The Monte-Carlo error of the kernel at the start is of order -1/2; the others are
# upper bounds for a fixed time of training as the width goes to infinity.
_QUANTITIES: Mapping[str, _Quantity] = types.MappingProxyType(
    {
        "start_distance": _Quantity(
            "kernel error at start",
            r"$\|H(0) - H^\infty\| / \|H^\infty\|$",
            PredictedExponent(exponent=-0.5, kind="equal"),
        ),
        "drift": _Quantity(
            "kernel drift", r"$\|H(T) - H(0)\| / \|H(0)\|$", _AT_MOST_ROOT
        ),
        "gap": _Quantity(
            "gap to linear model",
            r"${\max}_t \|f - f_{\rm lin}\| / \sqrt{n}$",
            _AT_MOST_ROOT,
        ),
        "parameter_distance": _Quantity(
            "parameter distance",
            r"$\|W(T) - W(0)\|$",
            PredictedExponent(exponent=0.0, kind="at most"),
        ),
    }
)


def power_of_width(
    quantity: str, widths: Float[Array, "widths"], values: Float[Array, "widths seeds"]
) -> Scaling:
    """Power of the width at which a quantity, an attribute of the result, scales."""
    return Scaling(
        fit=log_log_slope(widths, values),
        quantity=quantity,
        against="width",
        predicted=_QUANTITIES[quantity].theory,
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
        flips: Share of gates, neuron by example, whose sign changed by the last step.
        rate: Of the loss, $-\mathrm d \log L/\mathrm dt$ over the second half of steps.
        rate_linear: The same of the linear model.
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
    flips: Float[Array, "widths seeds"]
    rate: Float[Array, "widths seeds"]
    rate_linear: Float[Array, "widths seeds"]
    slopes: tuple[Scaling, ...]
    measurement: MeasuredArgument
    required: RequiredWidths
    widths: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    observed_at: tuple[int, ...] = dataclasses.field(metadata={"static": True})

    def tables(self) -> Sequence[Table]:
        """Quantities by width, fitted slopes, steps of the argument, and rates."""
        return (
            self._widths_table(),
            self._slopes_table(),
            self._steps_table(),
            self._rates_table(),
        )

    def figure(self) -> "Figure":
        """Loss against its linear model and bound; scaling with the width."""
        from lazyjax import plot

        ends = (0, len(self.widths) - 1)
        label = {i: f"width {self.widths[i]}" for i in ends}
        # Step 0, where all curves are 1, is left out of the logarithmic axis.
        time = float(self.learning_rate) * np.arange(1, self.loss.shape[-1])
        start = np.asarray(self.loss)[..., :1]
        shown = [slope for slope in self.slopes if slope.predicted.exponent < 0]
        figure = plot.figure(height=6.4)
        (left, right), (below, rates) = figure.subplots(2, 2)
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
        widths = np.asarray(self.widths)
        plot.scaling(
            right,
            widths,
            {
                _QUANTITIES[slope.quantity].formula: getattr(self, slope.quantity)
                for slope in shown
            },
            {_QUANTITIES[slope.quantity].formula: slope.fit for slope in shown},
            theory_slope=-0.5,
            theory_label=r"slope $-\frac{1}{2}$",
        )
        plot.curves(
            below,
            widths,
            {
                f"({step.label}) {_MEANING[step.label]}": np.broadcast_to(
                    np.asarray(step.holds, float), self.eig_min.shape
                )
                for step in self.measurement.steps
                if step.label in _MEANING
            },
            log="x",
        )
        below.set_ylim(-0.05, 1.4)
        below.set_yticks(np.linspace(0, 1, 6))
        eig_min = float(self.measurement.eig_min)
        plot.curves(
            rates,
            widths,
            {"network": self.rate, "its linear model": self.rate_linear},
            log="xy",
            guides={
                r"theorem on flow: $\lambda_0$": np.full(len(widths), eig_min),
                r"on descent: $\lambda_0/2$": np.full(len(widths), eig_min / 2),
            },
        )
        rates.set_ylim(eig_min / 5)
        for axes, ylabel, title in (
            (right, "mean over seeds ± standard error", "Powers of the width, fitted"),
            (below, "share of seeds ± standard error", "How often each step held"),
            (rates, r"rate $-d\,\log L/dt$", "Rates late in training"),
        ):
            plot.style_axes(axes, xlabel="width $m$", ylabel=ylabel, title=title)
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
                {**dataclasses.asdict(slope), "agrees": slope.agrees(ALLOWANCE)}
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
        num_steps = self.loss.shape[-1] - 1
        return report.means_table(
            f"Two-layer ReLU, {self.data.description}: n = {self.data.x_train.shape[0]}, "
            f"{self.loss.shape[1]} seeds, {num_steps} steps",
            "width\nm",
            self.widths,
            columns,
            caption=(
                "|H| are Frobenius norms. Loss is ½|f-y|², the gap the largest "
                f"|f-f_lin|/√n seen. λmin(H∞) = {float(self.measurement.eig_min):.4g}, "
                f"η = 1/λmax(H∞) = {float(self.learning_rate):.4g}."
            ),
        )

    def _rates_table(self) -> Table:
        eig_min = float(self.measurement.eig_min)
        return report.means_table(
            "Rates: what is proved and what is seen",
            "width\nm",
            self.widths,
            {
                "P[(D')]": np.asarray(self.measurement.loss_descent.holds, float),
                "rate": self.rate,
                "rate,\nlinearized": self.rate_linear,
                "gates\nflipped": self.flips,
            },
            caption=(
                "Rates are those of the logarithm of the loss over the second half of "
                f"training. Proved: λ₀ = {eig_min:.3g} for gradient flow, λ₀/2 for "
                f"descent, for δ = {self.required.failure:g} at widths of "
                f"n⁶/(λ₀⁴δ³) = {float(self.required.literal):.0e}."
            ),
        )

    def _slopes_table(self) -> Table:
        rows = []
        for slope in self.slopes:
            fit = slope.fit
            theory = slope.predicted
            sign = "" if theory.kind == "equal" else "≤ "
            rows.append(
                [
                    _QUANTITIES[slope.quantity].name,
                    report.with_error(float(fit.slope), float(fit.slope_sem)),
                    f"{float(fit.low):.2f} … {float(fit.high):.2f}",
                    f"{sign}{theory.exponent:g}",
                    "yes" if slope.agrees(ALLOWANCE) else "no",
                ]
            )
        return report.table(
            "Powers of the width",
            [
                "quantity",
                "slope",
                "95 % interval",
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
