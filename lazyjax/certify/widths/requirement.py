"""Widths that theorems on random starts ask for, and the record of such a theorem."""

import dataclasses
from collections.abc import Callable, Sequence

from lazyjax._brief import brief
from lazyjax._checks import check_at_least, check_nonnegative
from lazyjax.certify.statements import Assumption
from lazyjax.files.results import Storable


@dataclasses.dataclass(frozen=True, kw_only=True)
class RequiredWidth(Storable):
    r"""What a theorem on random networks of large width asks for.

    It is about the probability of random starts, and so certifies nothing about one.

    Attributes:
        theorem: Name of the theorem.
        formula: The width, as a formula.
        width: Its value; `None` if the formula is not known in full.
        depth: Number of hidden layers of its network.
        is_explicit: Whether the formula has all its constants. If not, `width` is an
            order of magnitude at best: the value with constants of 1, and without
            logarithms that are not written.
        assumptions: What it asks of the data, each checked.
        source: Where the formula comes from.
        max_learning_rate: Of gradient descent on $\tfrac12\lVert f-y\rVert^2$; `None`
            if the theorem is about gradient flow, or does not say.

    Raises:
        ValueError: If a width or learning rate is negative or NaN, or `depth` too small.
        TypeError: If `depth` is not an integer.
    """

    theorem: str
    formula: str
    width: float | None
    depth: int
    is_explicit: bool
    assumptions: tuple[Assumption, ...] = ()
    source: str = ""
    max_learning_rate: float | None = None

    def __post_init__(self) -> None:
        check_at_least("depth", self.depth, 1)
        for name in ("width", "max_learning_rate"):
            if getattr(self, name) is not None:
                check_nonnegative(name, getattr(self, name))

    @property
    def applies(self) -> bool | None:
        """Whether the data satisfy all assumptions; `None` if that was not shown."""
        known = [assumption.holds for assumption in self.assumptions]
        if False in known:
            return False
        return None if None in known else True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Requirement:
    """A theorem on random starts of large width, and what it asks for on given data.

    Attributes:
        name: Short name, unique among those that are registered.
        source: Where it is published.
        widths: What it asks for. It is called as `widths(x, y, depth=..., failure=...)`
            with the training data, the number of hidden layers and the accepted
            probability of failure.
    """

    name: str
    source: str
    widths: Callable[..., Sequence[RequiredWidth]]


def check_probability(name: str, value: float) -> None:
    """Check that a number is between 0 and 1.

    Raises:
        ValueError: If it is not.
    """
    if not 0 < value < 1:
        raise ValueError(f"`{name}` must be between 0 and 1; got {brief(value)}.")


def num_parameters(
    width: float, *, depth: int, num_features: int, num_outputs: int = 1
) -> float:
    """Weights of a fully connected network, at widths too large for any array.

    Args:
        width: Units of each hidden layer, as a real number.
        depth: Number of hidden layers.
        num_features: Number of features of an input.
        num_outputs: Number of outputs.

    Returns:
        The number of weights, trained or not, as a real number.

    Raises:
        ValueError: If a number is too small.
        TypeError: If a count is not an integer.

    Example:
        >>> num_parameters(10.0, depth=2, num_features=3)  # 30 + 100 + 10
        140.0
    """
    check_at_least("depth", depth, 1)
    check_at_least("num_features", num_features, 1)
    check_at_least("num_outputs", num_outputs, 1)
    if not width >= 0:
        raise ValueError(f"`width` must be at least 0; got {brief(width)}.")
    # Squares of the largest widths overflow to infinity.
    hidden = (depth - 1) * width * width
    return float((num_features + num_outputs) * width + hidden)
