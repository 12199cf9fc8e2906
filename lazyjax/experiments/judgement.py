"""Whether a claim is reproduced: numbers beside thresholds that were fixed beforehand."""

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar, Literal

from lazyjax.files.results import Storable
from lazyjax.laziness import SlopeFit

REPRODUCED = "reproduced"
NOT_REPRODUCED = "not reproduced"
INCONCLUSIVE = "inconclusive at this size"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check(Storable):
    """One number beside its threshold.

    Attributes:
        statement: What the number is, such as "exponent of the gap, off from -1/2".
        measured: The number.
        sense: Whether it should be "at most" or "at least" the threshold.
        threshold: Fixed before the number is known.
        uncertainty: Twice the standard error of the number, or zero: within it of the
            threshold, nothing is decided.
    """

    _derived: ClassVar[tuple[str, ...]] = ("word",)

    statement: str
    measured: float
    sense: Literal["at most", "at least"]
    threshold: float
    uncertainty: float = 0.0

    @classmethod
    def of_exponent(
        cls, statement: str, fit: SlopeFit, exponent: float, allowance: float
    ) -> "Check":
        """That a fitted exponent is within `allowance` of what theory says it is.

        Args:
            statement: What scales, such as "exponent of the drift in the width".
            fit: Of values of every seed.
            exponent: In theory.
            allowance: Fixed before the fit is known.

        Returns:
            The check, undecided within two standard errors of the fit.
        """
        return cls(
            statement=f"{statement} ({float(fit.slope):.2f}), off from {exponent:.3g},",
            measured=abs(float(fit.slope) - exponent),
            sense="at most",
            threshold=allowance,
            uncertainty=2 * float(fit.slope_sem),
        )

    @property
    def excess(self) -> float:
        """How far the number is on the wrong side; negative if it is on the right one."""
        excess = self.measured - self.threshold
        return excess if self.sense == "at most" else -excess

    @property
    def word(self) -> str:
        """Outcome of this number alone; a NaN never reproduces anything."""
        if math.isnan(self.measured):
            return NOT_REPRODUCED
        if not math.isfinite(self.uncertainty) or abs(self.excess) < self.uncertainty:
            return INCONCLUSIVE
        return REPRODUCED if self.excess <= 0 else NOT_REPRODUCED

    @property
    def text(self) -> str:
        """The number and its threshold in words."""
        error = f" ± {self.uncertainty:.2g}" if self.uncertainty else ""
        return (
            f"{self.statement} is {self.measured:.3g}{error} "
            f"({self.sense} {self.threshold:.3g})"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judgement(Storable):
    """The verdict on a claim.

    Attributes:
        word: "reproduced", "not reproduced" or "inconclusive at this size".
        decisive: The check that decided: the first that failed or was not decided, or
            else the first of all.
        checks: All of them.
        sentence: What else must be said: data that stood in for others, say.
    """

    _derived: ClassVar[tuple[str, ...]] = ("rule", "line")

    word: str
    decisive: Check
    checks: tuple[Check, ...]
    sentence: str

    @classmethod
    def of(
        cls,
        checks: Sequence[Check],
        sentence: str = "",
        *,
        premises: Sequence[Check] = (),
    ) -> "Judgement":
        """The verdict that follows from checks.

        Args:
            checks: What the claim says. All must hold for "reproduced"; one that fails
                makes "not reproduced".
            sentence: What else must be said.
            premises: What the claim supposes, such as that training has converged. If
                one fails, the outcome is inconclusive.

        Returns:
            The verdict.

        Raises:
            ValueError: If there are no checks.
        """
        if not checks:
            raise ValueError("`checks` must hold one check at least; got none.")
        everything = (*premises, *checks)
        unmet = [check for check in premises if check.word != REPRODUCED]
        if unmet:
            return cls(
                word=INCONCLUSIVE,
                decisive=unmet[0],
                checks=everything,
                sentence=sentence,
            )
        for word in (NOT_REPRODUCED, INCONCLUSIVE):
            for check in checks:
                if check.word == word:
                    return cls(
                        word=word, decisive=check, checks=everything, sentence=sentence
                    )
        return cls(
            word=REPRODUCED, decisive=checks[0], checks=everything, sentence=sentence
        )

    @property
    def rule(self) -> str:
        """All thresholds in words, as they were fixed beforehand."""
        return "; ".join(
            f"{check.statement} {check.sense} {check.threshold:.3g}"
            for check in self.checks
        )

    @property
    def line(self) -> str:
        """The verdict in one line."""
        shown = self.checks if self.word == REPRODUCED else (self.decisive,)
        numbers = "; ".join(check.text for check in shown)
        return f"{self.word}: {numbers}.{' ' * bool(self.sentence)}{self.sentence}"
