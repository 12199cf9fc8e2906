"""What certificates are made of: numbers, and assumptions with what is known of them."""

import dataclasses
import math
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Shaped

from lazyjax._checks import check_choice
from lazyjax.certify.arithmetic.rounding import Interval, upper_or_infinity
from lazyjax.files.results import Storable

Bound = Literal["lower", "upper", "exact", "estimate"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantity(Storable):
    """A number that a certificate computed.

    Attributes:
        name: Short name, unique in the certificate.
        value: The number.
        bound: Whether it is a "lower" or "upper" bound of what it is named after, its
            "exact" value, or an "estimate" that proves nothing.
        meaning: What it is, in words.

    Raises:
        ValueError: If `bound` is not one of its choices.
    """

    name: str
    value: float
    bound: Bound
    meaning: str = ""

    def __post_init__(self) -> None:
        check_choice("bound", self.bound, get_args(Bound))
        object.__setattr__(self, "value", float(self.value))

    @classmethod
    def upper(cls, name: str, value: Interval | float, meaning: str = "") -> "Quantity":
        """An upper bound: the upper end of an interval, infinity if it is unknown."""
        number = value if isinstance(value, float) else upper_or_infinity(value)
        return cls(name=name, value=number, bound="upper", meaning=meaning)

    @classmethod
    def lower(cls, name: str, value: float, meaning: str = "") -> "Quantity":
        """A lower bound."""
        return cls(name=name, value=value, bound="lower", meaning=meaning)

    @classmethod
    def exact(cls, name: str, value: float, meaning: str = "") -> "Quantity":
        """An exact value."""
        return cls(name=name, value=value, bound="exact", meaning=meaning)

    @classmethod
    def estimate(cls, name: str, value: float, meaning: str = "") -> "Quantity":
        """An estimate, which proves nothing."""
        return cls(name=name, value=value, bound="estimate", meaning=meaning)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assumption(Storable):
    """A statement that a theorem needs, or that refutes it, and what is known of it.

    Attributes:
        name: Short name, unique in the certificate.
        statement: The statement.
        holds: Whether it holds; `None` if neither was shown.
        detail: The numbers behind that, or what to do about it.

    Raises:
        TypeError: If `holds` is neither a boolean nor `None`.
    """

    name: str
    statement: str
    holds: bool | None
    detail: str = ""

    def __post_init__(self) -> None:
        if self.holds is None:
            return
        # Not what Python takes for true, such as a NaN or the text "no".
        if np.shape(self.holds) or np.asarray(self.holds).dtype != bool:
            raise TypeError(f"`holds` must be True, False or None; got {self.holds!r}.")
        # NumPy's booleans are none of True, False and None to `is` and to JSON.
        object.__setattr__(self, "holds", bool(self.holds))


def assume_less(
    name: str, statement: str, value: float, limit: float, *, detail: str = ""
) -> Assumption:
    """Assumption that `value < limit`, for an upper and a lower bound of two sides.

    Args:
        name: Short name.
        statement: The inequality in words or symbols.
        value: Upper bound of the left side.
        limit: Lower bound of the right side.
        detail: What to add to the two numbers.

    Returns:
        The assumption. It holds if the strict inequality does between two numbers that
        are not NaN, of which the left is finite; else nothing is known, as bounds the
        wrong way round refute nothing.

    Example:
        >>> assume_less("small", "x < 1", 0.25, 1.0).holds
        True
        >>> assume_less("small", "x < 1", float("nan"), 1.0).holds is None
        True
    """
    numbers = f"{value:.6g} against {limit:.6g}"
    return Assumption(
        name=name,
        statement=statement,
        holds=True if math.isfinite(value) and value < limit else None,
        detail=f"{numbers}; {detail}" if detail else numbers,
    )


def conflict_of(
    inputs: Shaped[np.ndarray, "n d"], targets: Float[np.ndarray, "n k"]
) -> Assumption | None:
    """The first two equal inputs with different targets, if there are any.

    Args:
        inputs: Inputs, a row for each.
        targets: Targets.

    Returns:
        The statement that there are, or `None`.
    """
    seen: dict[bytes, int] = {}
    for i, row in enumerate(inputs + 0):  # -0.0 equals 0.0
        j = seen.setdefault(row.tobytes(), i)
        if not np.array_equal(targets[i], targets[j]):
            return Assumption(
                name="conflict",
                statement="two equal inputs have different targets, which no "
                "parameters fit",
                holds=True,
                detail=f"examples {j} and {i}",
            )
    return None
