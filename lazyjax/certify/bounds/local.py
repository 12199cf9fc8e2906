"""What the theorems need to know of a network near one point of parameter space."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import get_args

import numpy as np
from jaxtyping import Float

from lazyjax._checks import check_choice, check_nonnegative
from lazyjax.certify.arithmetic import matrices as matrix_bounds
from lazyjax.certify.arithmetic.activations import SMOOTH_ACTIVATIONS
from lazyjax.certify.arithmetic.rounding import (
    UNIT_ROUNDOFF,
    Interval,
    gamma,
    interval,
    raised,
    unit_roundoff,
)
from lazyjax.certify.bounds.branches import (
    NetworkLipschitz,
    constants_of,
    kernel_of,
    lipschitz_fn,
    output_of,
)
from lazyjax.certify.bounds.evaluation import (
    Evaluation,
    Kernel,
    plain,
)
from lazyjax.certify.bounds.lipschitz import TwoLayer
from lazyjax.certify.certificate import Assumption, Rigor
from lazyjax.certify.problem import Problem, problem_of
from lazyjax.nets import Network
from lazyjax.typing import AnyArray, Params

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
        """The constant in a ball.

        Args:
            radius: Radius of the ball.

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
    if isinstance(fn, NetworkLipschitz | CheckedLipschitz):
        return fn
    checked = CheckedLipschitz(fn)
    checked(0.0)
    return checked


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
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
class LocalBounds:
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
    blocks: tuple[Block, ...]
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
            newton = _known((interval(residual) / sigma_min).high)
        else:
            newton = math.inf if residual else 0.0
        return cls(
            residual=Interval(residual, residual),
            jacobian_norm=jacobian_norm,
            lipschitz=at,
            blocks=(Block(name="all", sigma_min=sigma_min, lipschitz=at),),
            newton_norm=newton,
        )


def local_bounds(
    network: Network,
    params: Params,
    x: Float[AnyArray, "n *d"],
    y: Float[AnyArray, "n k"],
    *,
    rigor: Rigor = "proof",
) -> LocalBounds:
    r"""Bounds for a fully connected network with a smooth activation.

    Args:
        network: From `lazyjax.nets.mlp`, with an activation of
            `lazyjax.certify.arithmetic.activations`.
        params: Its parameters.
        x: Training inputs.
        y: Training targets.
        rigor: "proof" to account for rounding, "float" to save time.

    Returns:
        The bounds.

    Raises:
        ValueError: If the network is of another kind, or arguments do not fit.
        TypeError: If an array is not floating point.

    Cost: The kernel is formed layer by layer, never the Jacobian: of order
        $(nk)^2 m + n m^2$ per layer and $(nk)^3$ once, and $nkm$ numbers of memory.

    Example:
        >>> import jax, jax.numpy as jnp, lazyjax
        >>> net = lazyjax.nets.mlp(width=8, depth=0)
        >>> x = 2 * jnp.eye(2)
        >>> params = jax.tree.map(jnp.zeros_like, net.init(jax.random.key(0), x))
        >>> bounds = local_bounds(net, params, x, jnp.array([[3.0], [4.0]]))
        >>> round(bounds.residual.high, 6), round(bounds.blocks[0].sigma_min, 6)
        (5.0, 1.414214)
    """
    check_choice("rigor", rigor, get_args(Rigor))
    return bounds_of(problem_of(network, params, x, y), rigor)


def bounds_of(problem: Problem, rigor: Rigor) -> LocalBounds:
    """Bounds of a problem whose activation is smooth.

    Args:
        problem: The network with its data.
        rigor: "proof" to account for rounding, else "float".

    Returns:
        The bounds.

    Raises:
        ValueError: If it is not.
    """
    if problem.smooth.holds is not True:
        raise ValueError(
            "`network` must have a smooth activation with known constants, "
            f"{', '.join(SMOOTH_ACTIVATIONS)}; got {problem.copies[0].activation!r}."
        )
    with np.errstate(all="ignore"):  # what overflows certifies nothing
        return _bounds(problem, rigor)


def at_rigor(
    evaluations: tuple[Evaluation, ...], rigor: Rigor
) -> tuple[Evaluation, ...]:
    """Evaluations with the bounds of their errors, or as if they were exact."""
    return evaluations if rigor == "proof" else tuple(map(plain, evaluations))


@dataclasses.dataclass(frozen=True)
class Residual:
    r"""Computed residual $f - y$ and what it tells of the exact one.

    Attributes:
        value: The computed residual.
        error: Upper bound of the norm of its error.
        norm: Bounds of the norm of the exact one.
    """

    value: Float[np.ndarray, "n k"]
    error: float
    norm: Interval


def residual_of(
    evaluations: tuple[Evaluation, ...], targets: Float[np.ndarray, "n k"]
) -> Residual:
    """Residual of a network, symmetrized or not."""
    unit = evaluations[0].unit
    output, error = output_of(evaluations)
    value = output - targets
    rounded = gamma(1, unit) * float(np.linalg.norm(value))
    error = float(raised(error + rounded, value.size + 4, unit))
    low = matrix_bounds.frobenius_lower(value, unit) - error
    high = matrix_bounds.frobenius_upper(value, unit) + error
    high = float(raised(high, 2, unit))
    if math.isnan(low) or math.isnan(high):
        return Residual(value, math.inf, Interval(0.0, math.inf))
    # As plain floating-point values, the two may be an ulp on the wrong sides.
    low = min(max(low, 0.0) * (1 - 4 * unit), high)
    return Residual(value, error, Interval(low, high))


def _bounds(problem: Problem, rigor: Rigor) -> LocalBounds:
    unit = unit_roundoff(rigor)
    evaluations = at_rigor(problem.evaluations, rigor)
    residual = residual_of(evaluations, problem.targets)
    # The error of the kernel decides whether it is singular, at any rigor.
    gram = kernel_of(problem.evaluations)
    sigma_min = sigma_min_lower(gram, unit)
    blocks = [
        Block(name="all", sigma_min=sigma_min, lipschitz=lipschitz_fn(evaluations))
    ]
    layers = evaluations[0].network.layers
    constants = [c for c in constants_of(evaluations) if isinstance(c, TwoLayer)]
    if constants and all(layer.is_trained for layer in layers):
        alone = sigma_min_lower(kernel_of(problem.evaluations, layer=0), unit)
        of_first = tuple(c.of_first_layer for c in constants)
        of_block = NetworkLipschitz(of_first, len(evaluations))
        blocks.append(Block(name="first layer", sigma_min=alone, lipschitz=of_block))
    if unit == 0:
        gram = Kernel(gram.value, 0.0)
    jacobian_norm = sigma_max_upper(gram, unit)
    if unit == 0:  # plain values may be an ulp on the wrong sides
        jacobian_norm = max(jacobian_norm, *(block.sigma_min for block in blocks))
    return LocalBounds(
        residual=residual.norm,
        jacobian_norm=jacobian_norm,
        lipschitz=blocks[0].lipschitz,
        blocks=tuple(blocks),
        newton_norm=newton_norm_upper(
            gram, residual.value.reshape(-1), residual.error, sigma_min, unit
        ),
        rigor=rigor,
        conflict=problem.conflict,
        premises=premises_of(rigor),
    )


def premises_of(rigor: Rigor) -> tuple[str, ...]:
    """What bounds of this rigor rest on."""
    return PREMISES if rigor == "proof" else PREMISES[:1]


def sigma_min_lower(gram: Kernel, unit: float) -> float:
    """Lower bound of the smallest singular value of the Jacobian with this kernel.

    Args:
        gram: The kernel and its error.
        unit: Unit roundoff to account for; 0 for the computed value, unless that is
            within its error of 0.

    Returns:
        The bound; 0 if none was found.
    """
    square = matrix_bounds.eig_min_lower(gram.value, unit)
    if unit == 0:
        # Solvers are off by a few roundings of the largest eigenvalue.
        size = matrix_bounds.symmetric_norm_upper(gram.value, UNIT_ROUNDOFF)
        own = gamma(len(gram.value), UNIT_ROUNDOFF) * size
        return math.sqrt(square) if square > gram.error + own else 0.0
    square = square - gram.error
    if not square > 0:
        return 0.0
    return math.sqrt(square * (1 - 4 * unit)) * (1 - 4 * unit)


def sigma_max_upper(gram: Kernel, unit: float) -> float:
    """Upper bound of the largest singular value of the Jacobian with this kernel."""
    square = max(matrix_bounds.eig_max_upper(gram.value, unit), 0) + gram.error
    return _known(math.sqrt(raised(square, 2, unit)) * (1 + 4 * unit))


def newton_norm_upper(
    gram: Kernel,
    residual: Float[np.ndarray, "nk"],
    error: float,
    sigma_min: float,
    unit: float,
) -> float:
    r"""Upper bound of $\lVert J^+ r\rVert$ for $r$ within `error` of `residual`.

    For any $q$ it is at most $(q^\top K q)^{1/2} + \lVert r - K q\rVert / \sigma_{\min}$,
    and $q$ is taken to be $K^{-1} r$ in floating point.

    Args:
        gram: Kernel.
        residual: Computed residual.
        error: Bound of its error.
        sigma_min: Lower bound of the smallest singular value.
        unit: Unit roundoff.

    Returns:
        The bound; infinity if the kernel is not known to be invertible.
    """
    if not sigma_min > 0:
        return math.inf
    try:
        q = np.linalg.solve(gram.value, residual)
    except np.linalg.LinAlgError:
        return math.inf
    count = len(q) + 4
    q_norm = matrix_bounds.frobenius_upper(q, unit)
    size = matrix_bounds.frobenius_upper(gram.value, unit) * q_norm
    image = gram.value @ q
    off = matrix_bounds.frobenius_upper(residual - image, unit)
    r_norm = matrix_bounds.frobenius_upper(residual, unit)
    rounded = gamma(count, unit) * (size + r_norm)
    left = raised(off + rounded + error + gram.error * q_norm, 12, unit)
    square = (
        abs(float(q @ image))
        + (gamma(2 * count, unit) * size + gram.error * q_norm) * q_norm
    )
    root = math.sqrt(raised(square, count + 12, unit))
    return _known(float(raised(root + left / sigma_min, 6, unit)))


def _known(upper: float) -> float:
    """An upper bound; infinity if there is none."""
    return math.inf if math.isnan(upper) else upper
