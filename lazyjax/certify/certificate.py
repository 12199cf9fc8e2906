r"""What every certificate says: a verdict that follows from assumptions, and its numbers.

The verdict is not stored but computed: CERTIFIED needs every assumption to be known to
hold and every number of the guarantee to be finite, so a NaN never certifies.
"""

import dataclasses
import enum
import math
from typing import ClassVar, Literal, get_args

from lazyjax._brief import brief
from lazyjax._checks import check_choice
from lazyjax.certify.statements import Assumption, Quantity
from lazyjax.files.results import Storable

Rigor = Literal["proof", "float"]
Dynamics = Literal["flow", "descent"]


class Verdict(enum.Enum):
    """What a certificate concludes.

    CERTIFIED: the conclusion follows, for this network, these data and this start.
    INCONCLUSIVE: nothing follows; an assumption was not shown to hold, or fails.
    REFUTED: the conclusion, or the criterion that was asked about, is shown to be false.
    """

    CERTIFIED = "CERTIFIED"
    INCONCLUSIVE = "INCONCLUSIVE"
    REFUTED = "REFUTED"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Certificate(Storable):
    r"""Whether a theorem applies to one network, data set and start, and what follows.

    Losses are $\tfrac12 \lVert f - y \rVert^2$, summed, unless the theorem says else.

    Attributes:
        theorem: Name of the theorem.
        conclusion: What it concludes when its assumptions hold.
        assumptions: Its assumptions, each checked; at least one.
        margin: How far the tightest inequality is from failing, relative to its limit;
            positive if it holds, 1 at most.
        quantities: What was computed.
        dynamics: "flow" or "descent" if the conclusion is about either.
        rate: Guaranteed rate of the loss: $L(t) \le e^{-\text{rate}\, t} L(0)$ for
            "flow", $L_k \le (1 - \text{rate})^k L_0$ for "descent".
        radius: Guaranteed bound of the distance from the start.
        step_size: Learning rate that the guarantee is for.
        rigor: "proof" if numbers are bounds that take account of rounding, "float" if
            they are plain floating-point values.
        refutation: Statement that shows the conclusion, or the criterion asked about,
            to be false, if it holds.
        premises: What is taken for granted and not checked.

    Raises:
        ValueError: If there is no assumption, two things have one name, a choice is
            not valid, or everything holds and so does the refutation.
    """

    _derived: ClassVar = ("verdict",)

    theorem: str
    conclusion: str
    assumptions: tuple[Assumption, ...]
    margin: float
    quantities: tuple[Quantity, ...] = ()
    dynamics: Dynamics | None = None
    rate: float | None = None
    radius: float | None = None
    step_size: float | None = None
    rigor: Rigor = "proof"
    refutation: Assumption | None = None
    premises: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_choice("rigor", self.rigor, get_args(Rigor))
        if self.dynamics is not None:
            check_choice("dynamics", self.dynamics, get_args(Dynamics))
        for field in ("assumptions", "quantities", "premises"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        for field in ("margin", "rate", "radius", "step_size"):
            value = getattr(self, field)
            if value is not None:
                object.__setattr__(self, field, float(value))
        if not self.assumptions:
            raise ValueError("`assumptions` must hold at least one; got none.")
        for field in ("assumptions", "quantities"):
            names = [item.name for item in getattr(self, field)]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(
                    f"`{field}` must have unique names; got {twice} twice."
                )
        if self.is_certified and self._is_refuted:
            raise ValueError(
                f"`refutation` contradicts the assumptions of {self.theorem}: all hold."
            )

    @property
    def verdict(self) -> Verdict:
        """What follows from the assumptions and the refutation."""
        if self._is_refuted:
            return Verdict.REFUTED
        return Verdict.CERTIFIED if self.is_certified else Verdict.INCONCLUSIVE

    @property
    def is_certified(self) -> bool:
        """Whether all assumptions hold, with numbers that can be and a positive margin."""
        guarantee = (self.rate, self.radius, self.step_size)
        return (
            all(assumption.holds is True for assumption in self.assumptions)
            and math.isfinite(self.margin)
            and self.margin > 0
            and all(value is None or 0 <= value < math.inf for value in guarantee)
            and not any(math.isnan(quantity.value) for quantity in self.quantities)
        )

    @property
    def _is_refuted(self) -> bool:
        return self.refutation is not None and self.refutation.holds is True

    def __getitem__(self, name: str) -> float:
        """Value of the quantity called `name`.

        Args:
            name: Its name.

        Returns:
            The value; `quantities` has its meaning and the direction of the bound.

        Raises:
            KeyError: If there is none.
        """
        for quantity in self.quantities:
            if quantity.name == name:
                return quantity.value
        known = ", ".join(quantity.name for quantity in self.quantities)
        raise KeyError(f"no quantity {name!r}; there are: {known}.")

    def loss_bound(self, time: float | int) -> float:
        r"""Guaranteed bound of the loss, relative to that at the start.

        Args:
            time: Time of gradient flow, or number of steps of gradient descent.

        Returns:
            The factor, at most 1, up to its rounding; 1 if nothing is certified.

        Raises:
            ValueError: If `time` is negative, or the certificate is about no dynamics.
        """
        if not time >= 0:
            raise ValueError(f"`time` must be at least 0; got {brief(time)}.")
        if self.dynamics is None:
            raise ValueError(f"`loss_bound` has no meaning for {self.theorem}.")
        if not self.is_certified or self.rate is None:
            return 1.0
        if self.dynamics == "flow":
            return min(1.0, math.exp(-self.rate * time))
        if self.rate >= 1:
            return 0.0 if time >= 1 else 1.0
        return min(1.0, math.exp(time * math.log1p(-self.rate)))

    def explain(self) -> str:
        """The certificate in plain words, several lines of them."""
        lines = [f"{self.verdict.value}: {self.theorem}."]
        if self.verdict is Verdict.CERTIFIED:
            lines.append(f"It follows that {self.conclusion}.")
            lines.extend(self._guarantee())
        elif self.verdict is Verdict.REFUTED and self.refutation is not None:
            lines.append(f"It is false that {self.conclusion}:")
            lines.append(f"  {_line(self.refutation)}")
        else:
            lines.append(f"It was not shown that {self.conclusion}.")
        lines.append("Assumptions:")
        lines.extend(f"  {_line(assumption)}" for assumption in self.assumptions)
        if math.isfinite(self.margin):
            lines.append(f"Margin of the tightest inequality: {self.margin:.3g}.")
        if self.quantities:
            lines.append("Numbers:")
            lines.extend(f"  {_words(quantity)}" for quantity in self.quantities)
        if self.rigor == "float":
            lines.append(
                "Numbers are floating-point values, rounding not accounted for: this is "
                'no proof; rigor="proof" is.'
            )
        if self.premises:
            lines.append("Taken for granted:")
            lines.extend(f"  {premise}" for premise in self.premises)
        return "\n".join(lines)

    def _guarantee(self) -> list[str]:
        lines = []
        if self.step_size is not None:
            lines.append(f"  learning rate: {self.step_size:.6g}")
        if self.rate is not None:
            formula = "(1 - rate)^k" if self.dynamics == "descent" else "exp(-rate t)"
            lines.append(
                f"  loss at most {formula} times its start, rate {self.rate:.6g}"
            )
        if self.radius is not None:
            lines.append(f"  distance from the start at most {self.radius:.6g}")
        return lines


def _line(assumption: Assumption) -> str:
    mark = {True: "holds", False: "FAILS", None: "not shown"}[assumption.holds]
    detail = f" ({assumption.detail})" if assumption.detail else ""
    return f"[{mark}] {assumption.name}: {assumption.statement}{detail}"


def _words(quantity: Quantity) -> str:
    sign = {"lower": ">=", "upper": "<=", "exact": "=", "estimate": "~"}[quantity.bound]
    meaning = f" ({quantity.meaning})" if quantity.meaning else ""
    return f"{quantity.name} {sign} {quantity.value:.6g}{meaning}"
