r"""Activations in float64: values, derivatives, and bounds of both.

The bounds are suprema over the real line, rounded up in the last digit shown.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from lazyjax.activations import ACTIVATIONS, ActivationSpec, Float64Activation
from lazyjax.certify.arithmetic.rounding import UNIT_ROUNDOFF

ROUNDING = 32 * UNIT_ROUNDOFF
r"""Errors of `value` are at most this times $1 + |u|$, those of `derivative` this.

Both follow, formula by formula, from elementary functions within 4 ulp; most formulas
need less than half.
"""


class _FromRegistry(Mapping[str, Any]):
    """Activations that `make_fn` makes something of, as the registry knows them now."""

    def __init__(self, make_fn: Callable[[ActivationSpec], Any]) -> None:
        self._make_fn = make_fn

    def __getitem__(self, name: str) -> Any:
        made = self._make_fn(ACTIVATIONS[name])
        if made is None:
            raise KeyError(name)
        return made

    def __iter__(self) -> Iterator[str]:
        return (n for n, spec in ACTIVATIONS.items() if self._make_fn(spec) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _smooth(spec: ActivationSpec) -> Float64Activation | None:
    phi = spec.float64
    return phi if phi is not None and phi.is_bounded else None


SMOOTH_ACTIVATIONS: Mapping[str, Float64Activation] = _FromRegistry(_smooth)


def values_of(
    activation: Float64Activation, u: Float[np.ndarray, "*shape"]
) -> tuple[Float[np.ndarray, "*shape"], Float[np.ndarray, "*shape"]]:
    """Values and derivatives at `u`; exponentials may underflow on the way."""
    with np.errstate(under="ignore"):
        return activation.value(u), activation.derivative(u)


@dataclasses.dataclass(frozen=True)
class PiecewiseLinear:
    r"""An activation with one slope below 0 and another above.

    Attributes:
        below: Slope below 0, and at 0.
        above: Slope above 0.
    """

    below: float
    above: float

    @property
    def jump(self) -> float:
        """How much the slope changes at 0, rounded up."""
        return math.nextafter(abs(self.above - self.below), math.inf)

    @property
    def as_smooth(self) -> Float64Activation:
        """The same, with a derivative taken to be that of the computed sign."""
        return Float64Activation(
            lambda u: np.where(u > 0, self.above, self.below) * u,
            lambda u: np.where(u > 0, self.above, self.below),
            max(abs(self.below), abs(self.above)),
            0.0,
        )


PIECEWISE_ACTIVATIONS: Mapping[str, PiecewiseLinear] = _FromRegistry(
    lambda spec: None if spec.slopes is None else PiecewiseLinear(*spec.slopes)
)
