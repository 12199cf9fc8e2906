"""What the theorems need to know of a network near one point of parameter space."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import get_args

import numpy as np
from jaxtyping import Float

from lazyjax._checks import check_choice, check_nonnegative
from lazyjax.certify.arithmetic.rounding import (
    Interval,
    interval,
    unit_roundoff,
    upper_or_infinity,
)
from lazyjax.certify.bounds.branches import (
    NetworkLipschitz,
    at_rigor,
    constants_of,
    kernel_of,
    residual_of,
)
from lazyjax.certify.bounds.evaluation import Evaluation
from lazyjax.certify.bounds.lipschitz import TwoLayer
from lazyjax.certify.bounds.program.lipschitz import ProgramLipschitz
from lazyjax.certify.bounds.singular_values import (
    newton_norm_upper,
    sigma_min_lower,
    spectrum_of,
)
from lazyjax.certify.certificate import Rigor
from lazyjax.certify.statements import Assumption
from lazyjax.files.results import Storable

PREMISES = (
    "The network is that of real numbers: parameters, data and multipliers as stored, "
    "exact arithmetic.",
    "NumPy computes matrix products in float64 as sums of products, in any order.",
    "NumPy's and C's elementary functions are within 4 units in the last place.",
    "No product that matters is so small that it underflows (below 1e-290).",
)

Lipschitz = Callable[[float], float]

# Bounds that are plain floating-point values may be off by less than this.
_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class CheckedLipschitz:
    """A Lipschitz constant that is checked wherever it is asked for.

    Attributes:
        fn: The constant, as a function of the radius.
    """

    fn: Lipschitz

    def __call__(self, radius: float) -> float:
        """The constant in a ball of this radius.

        Returns:
            The constant.

        Raises:
            ValueError: If it is negative or NaN, or smaller than in a smaller ball.
        """
        values = [float(self.fn(r)) for r in (0.0, radius / 2, radius)]
        for value in values:
            check_nonnegative("lipschitz", value)
        for smaller, larger in itertools.pairwise(values):
            if smaller > larger * (1 + _ROUNDING):
                raise ValueError(
                    "`lipschitz` must not decrease with the radius, as larger balls "
                    f"contain smaller ones; got {smaller!r} and then {larger!r} up to "
                    f"radius {radius!r}."
                )
        return values[-1]


def _checked(fn: Lipschitz) -> Lipschitz:
    """The constant with its checks; those of networks need none."""
    if isinstance(fn, NetworkLipschitz | ProgramLipschitz | CheckedLipschitz):
        return fn
    checked = CheckedLipschitz(fn)
    checked(0.0)
    return checked


@dataclasses.dataclass(frozen=True, kw_only=True)
class JacobianBlock(Storable):
    r"""The Jacobian for some of the parameters: $K \succeq J_B J_B^\top$.

    Attributes:
        name: Which parameters.
        sigma_min: Lower bound of its smallest singular value at the centre.
        lipschitz: Upper bound of its Lipschitz constant in the ball of all trained
            parameters, as a nondecreasing function of the radius.

    Raises:
        ValueError: If a number is impossible: negative, NaN, or an infinite lower bound.
    """

    name: str
    sigma_min: float
    lipschitz: Lipschitz

    def __post_init__(self) -> None:
        check_nonnegative("sigma_min", self.sigma_min, infinity_allowed=False)
        object.__setattr__(self, "sigma_min", float(self.sigma_min))
        object.__setattr__(self, "lipschitz", _checked(self.lipschitz))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalBounds(Storable):
    r"""Bounds at and around one point, for $L = \tfrac12 \lVert r\rVert^2$.

    Made by `local_bounds` for networks; for other models, fill the fields with bounds
    of your own. Upper bounds may be infinite, if nothing is known.

    Attributes:
        residual: Bounds of $\lVert r \rVert$, $r = f - y$.
        jacobian_norm: Upper bound of $\lVert J \rVert$.
        lipschitz: Upper bound of the Lipschitz constant of $J$ in balls, as a
            nondecreasing function of the radius.
        blocks: Lower bounds of the smallest singular value; at least one.
        newton_norm: Upper bound of $\lVert J^+ r \rVert$, for the first block.
        rigor: "proof" if rounding is accounted for, else "float".
        conflict: Statement that two equal inputs have different targets.
        premises: What the bounds rest on.

    Raises:
        ValueError: If bounds are impossible: negative or NaN, or in contradiction to
            each other.
    """

    residual: Interval
    jacobian_norm: float
    lipschitz: Lipschitz
    blocks: tuple[JacobianBlock, ...]
    newton_norm: float
    rigor: Rigor = "proof"
    conflict: Assumption | None = None
    premises: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_choice("rigor", self.rigor, get_args(Rigor))
        object.__setattr__(self, "residual", interval(self.residual))
        check_nonnegative("residual", [self.residual.low, self.residual.high])
        for name in ("jacobian_norm", "newton_norm"):
            check_nonnegative(name, getattr(self, name))
            object.__setattr__(self, name, float(getattr(self, name)))
        object.__setattr__(self, "lipschitz", _checked(self.lipschitz))
        object.__setattr__(self, "blocks", tuple(self.blocks))
        if not self.blocks:
            raise ValueError("`blocks` must hold at least one; got none.")
        for block in self.blocks:
            if block.sigma_min > self.jacobian_norm:
                raise ValueError(
                    "`sigma_min` must be at most `jacobian_norm`, as no singular value "
                    f"is above the largest; got {block.sigma_min!r} for {block.name!r} "
                    f"and {self.jacobian_norm!r}."
                )
        least = 0.0
        if self.blocks[0].sigma_min > 0 and self.residual.low < math.inf:
            least = self.residual.low / self.jacobian_norm
        if self.newton_norm < least * (1 - _ROUNDING):
            raise ValueError(
                "`newton_norm` must be at least |r| / |J|, the length of the shortest "
                f"step to zero; got {self.newton_norm!r}, below {least!r}."
            )

    @classmethod
    def from_constants(
        cls,
        residual: float,
        *,
        sigma_min: float,
        jacobian_norm: float,
        lipschitz: float | Lipschitz,
    ) -> "LocalBounds":
        r"""Bounds of a model of which these constants are known.

        Args:
            residual: $\lVert r \rVert$.
            sigma_min: Lower bound of the smallest singular value of $J$.
            jacobian_norm: Upper bound of $\lVert J \rVert$.
            lipschitz: Upper bound of the Lipschitz constant of $J$, everywhere or as a
                nondecreasing function of the radius of a ball.

        Returns:
            The bounds, with $\lVert J^+ r \rVert \le \lVert r \rVert / \sigma_{\min}$.

        Raises:
            ValueError: If a number is negative or NaN, or `sigma_min` above
                `jacobian_norm`.

        Example:
            >>> bounds = LocalBounds.from_constants(
            ...     1.0, sigma_min=2.0, jacobian_norm=3.0, lipschitz=0.1
            ... )
            >>> round(bounds.newton_norm, 6)
            0.5
        """
        at = lipschitz if callable(lipschitz) else lambda radius: lipschitz
        check_nonnegative("residual", residual)
        if sigma_min > 0:
            newton = upper_or_infinity(interval(residual) / sigma_min)
        else:
            newton = math.inf if residual else 0.0
        return cls(
            residual=Interval(residual, residual),
            jacobian_norm=jacobian_norm,
            lipschitz=at,
            blocks=(JacobianBlock(name="all", sigma_min=sigma_min, lipschitz=at),),
            newton_norm=newton,
        )


def smooth_bounds(
    proven: tuple[Evaluation, ...],
    targets: Float[np.ndarray, "n k"],
    rigor: Rigor,
    conflict: Assumption | None,
) -> LocalBounds:
    """Bounds of a network whose activation is smooth.

    Args:
        proven: The network, with bounds of errors at any rigor.
        targets: Targets.
        rigor: "proof" to account for rounding, else "float".
        conflict: Statement that two equal inputs have different targets.

    Returns:
        The bounds.
    """
    unit, evaluations = unit_roundoff(rigor), at_rigor(proven, rigor)
    residual = residual_of(evaluations, targets)
    spectrum = spectrum_of(proven, rigor)
    jacobian_norm = spectrum.sigma_max
    constants = constants_of(evaluations)
    lipschitz = NetworkLipschitz(tuple(c.at for c in constants), len(evaluations))
    blocks = [
        JacobianBlock(name="all", sigma_min=spectrum.sigma_min, lipschitz=lipschitz)
    ]
    two_layer = [c for c in constants if isinstance(c, TwoLayer)]
    if two_layer and all(layer.is_trained for layer in proven[0].network.layers):
        alone = sigma_min_lower(kernel_of(proven, layer=0), unit)
        of_first = tuple(c.of_first_layer for c in two_layer)
        of_block = NetworkLipschitz(of_first, len(evaluations))
        blocks.append(
            JacobianBlock(name="first layer", sigma_min=alone, lipschitz=of_block)
        )
        if unit == 0:  # plain values may be an ulp on the wrong sides
            jacobian_norm = max(jacobian_norm, alone)
    return LocalBounds(
        residual=residual.norm,
        jacobian_norm=jacobian_norm,
        lipschitz=lipschitz,
        blocks=tuple(blocks),
        newton_norm=newton_norm_upper(
            spectrum.gram,
            residual.value.reshape(-1),
            residual.error,
            spectrum.sigma_min,
            unit,
        ),
        rigor=rigor,
        conflict=conflict,
        premises=premises_of(rigor),
    )


def premises_of(rigor: Rigor) -> tuple[str, ...]:
    """What bounds of this rigor rest on."""
    return PREMISES if rigor == "proof" else PREMISES[:1]
