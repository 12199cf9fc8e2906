"""Exponents of laziness: how measures scale with width or alpha, and should in theory."""

import dataclasses
import types
from collections.abc import Mapping
from typing import Literal

import jax
from jaxtyping import Float

from lazyjax._checks import check_choice
from lazyjax.files.results import Storable
from lazyjax.laziness.power_laws import SlopeFit, log_log_slope
from lazyjax.typing import AnyArray


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictedExponent(Storable):
    """What theory says about the power at which a quantity scales.

    Attributes:
        exponent: The exponent.
        kind: Whether theory gives the exponent itself ("equal") or bounds it from above
            ("at most").
    """

    exponent: float
    kind: Literal["equal", "at most"]


_AT_MOST_ROOT = PredictedExponent(exponent=-0.5, kind="at most")
_AT_MOST_INVERSE = PredictedExponent(exponent=-1.0, kind="at most")
_INVERSE = PredictedExponent(exponent=-1.0, kind="equal")

# By width: "ntk" parameterization, fixed time, outputs of order 1 (Lee, Xiao et al. 2019,
# arXiv:1902.06720; drifts measured there and elsewhere fall like 1 / width). By alpha:
# h(w0) = 0, loss R(alpha h) / alpha^2, outputs alpha h (Chizat et al. 2019, Theorem
# 2.2). Theorem numbers were not checked. Gap and drift of symmetrized networks fall like
# 1 / alpha^2: their copies move oppositely, so that terms of even order cancel.
PREDICTIONS: Mapping[str, Mapping[str, PredictedExponent]] = types.MappingProxyType(
    {
        "width": types.MappingProxyType(
            {
                "relative_parameter_distance": _AT_MOST_ROOT,
                "ntk_drift": _AT_MOST_ROOT,
                "linearization_gap": _AT_MOST_ROOT,
                "kappa": _AT_MOST_ROOT,
            }
        ),
        "alpha": types.MappingProxyType(
            {
                "relative_parameter_distance": _INVERSE,
                "ntk_drift": _AT_MOST_INVERSE,
                "linearization_gap": _AT_MOST_INVERSE,
                "kappa": _INVERSE,
            }
        ),
    }
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Scaling(Storable):
    """Power law of one quantity, measured and predicted.

    Attributes:
        fit: The measured law.
        quantity: What scales.
        against: What it scales with, "width" or "alpha".
        predicted: What theory says.
    """

    fit: SlopeFit
    quantity: str = dataclasses.field(metadata={"static": True})
    against: str = dataclasses.field(metadata={"static": True})
    predicted: PredictedExponent = dataclasses.field(metadata={"static": True})

    def agrees(self, allowance: float = 0.15) -> bool:
        """Whether the measured exponent is as predicted; not if it is NaN.

        Args:
            allowance: By how much it may be off.

        Returns:
            The verdict.
        """
        excess = float(self.fit.slope) - self.predicted.exponent
        is_low_enough = excess <= allowance
        return is_low_enough and (
            self.predicted.kind == "at most" or excess >= -allowance
        )

    def explain(self) -> str:
        """Both exponents, in one sentence.

        Returns:
            The sentence, with the confidence interval.
        """
        fit, predicted = self.fit, self.predicted
        return (
            f"{self.quantity} scales like {self.against}^{fit.slope:.2f} "
            f"({fit.confidence:.0%} interval {fit.low:.2f} to {fit.high:.2f}); "
            f"predicted: {predicted.kind} {predicted.exponent:g}."
        )


def scaling(
    quantity: str,
    x: Float[AnyArray, "num_x"],
    y: Float[AnyArray, "num_x *seeds"],
    *,
    against: Literal["width", "alpha"],
    confidence: float = 0.95,
) -> Scaling:
    """Power law of a measure of laziness, beside the one that theory predicts.

    Args:
        quantity: One of `PREDICTIONS[against]`, such as "ntk_drift".
        x: Widths or output scales.
        y: The quantity at each, with a trailing axis over seeds if there are any.
        against: What `x` holds.
        confidence: Of the interval of the exponent.

    Returns:
        Both laws.

    Raises:
        ValueError: If a name is not one of the choices, or as for `log_log_slope`.
        TypeError: If `x` or `y` is not floating point.

    Example:
        >>> import jax.numpy as jnp
        >>> alpha = jnp.array([1.0, 10.0, 100.0])
        >>> it = scaling("linearization_gap", alpha, 3 / alpha, against="alpha")
        >>> it.agrees()
        True
    """
    check_choice("against", against, PREDICTIONS)
    check_choice("quantity", quantity, PREDICTIONS[against])
    return Scaling(
        fit=log_log_slope(x, y, confidence=confidence),
        quantity=quantity,
        against=against,
        predicted=PREDICTIONS[against][quantity],
    )
