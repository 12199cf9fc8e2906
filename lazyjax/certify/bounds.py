"""What the theorems need to know of a network near one point of parameter space."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from lazyjax._checks import check_choice
from lazyjax.certify import matrix_bounds
from lazyjax.certify.activation_bounds import SMOOTH_ACTIVATIONS
from lazyjax.certify.certificate import Assumption, Rigor
from lazyjax.certify.dense_layers import (
    SYMMETRIZED_SCALE,
    Layers,
    check_features,
    data_of,
    layers_of,
)
from lazyjax.certify.evaluation import (
    Evaluation,
    Kernel,
    evaluate,
    kernel,
    layer_kernel,
)
from lazyjax.certify.lipschitz import TwoLayer, lipschitz_of
from lazyjax.certify.rounding import (
    UNIT_ROUNDOFF,
    Interval,
    gamma,
    interval,
    raised,
    unit_roundoff,
)
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
    r"""The Jacobian for some of the parameters: $K \succeq J_B J_B^\top$.

    Attributes:
        name: Which parameters.
        sigma_min: Lower bound of its smallest singular value at the centre.
        lipschitz: Upper bound of its Lipschitz constant in the ball of all trained
            parameters, as a nondecreasing function of the radius.
    """

    name: str
    sigma_min: float
    lipschitz: Lipschitz


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalBounds:
    r"""Bounds at and around one point, for $L = \tfrac12 \lVert r\rVert^2$.

    Made by `local_bounds` for networks; for other models, fill the fields with bounds
    of your own.

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
    """

    residual: Interval
    jacobian_norm: float
    lipschitz: Lipschitz
    blocks: tuple[Block, ...]
    newton_norm: float
    rigor: Rigor = "proof"
    conflict: Assumption | None = None
    premises: tuple[str, ...] = ()

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

        Example:
            >>> bounds = LocalBounds.from_constants(
            ...     1.0, sigma_min=2.0, jacobian_norm=3.0, lipschitz=0.1
            ... )
            >>> round(bounds.newton_norm, 6)
            0.5
        """
        at = lipschitz if callable(lipschitz) else lambda radius: lipschitz
        if sigma_min > 0:
            newton = (interval(residual) / sigma_min).high
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
            `lazyjax.certify.activation_bounds`.
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
    check_choice("rigor", rigor, ("proof", "float"))
    copies = layers_of(network, params)
    inputs, targets = data_of(network, x, y)
    check_features(copies, inputs)
    reason = smooth(copies)
    if reason.holds is not True:
        raise ValueError(
            "`network` must have a smooth activation with known constants, "
            f"{', '.join(SMOOTH_ACTIVATIONS)}; got {copies[0].activation!r}."
        )
    unit = unit_roundoff(rigor)
    with np.errstate(all="ignore"):  # what overflows certifies nothing
        evaluations = evaluations_of(copies, inputs, unit)
        return _bounds(evaluations, inputs, targets, rigor)


def smooth(copies: tuple[Layers, ...]) -> Assumption:
    """The assumption that activations are smooth, with known constants."""
    phi, depth = copies[0].activation, copies[0].depth
    known = depth == 0 or (isinstance(phi, str) and phi in SMOOTH_ACTIVATIONS)
    return Assumption(
        name="smooth",
        statement="the activation's derivative is bounded and Lipschitz",
        # Of functions nothing is known; the names that are not listed are not smooth.
        holds=True if known else (None if callable(phi) else False),
        detail="no hidden layer" if depth == 0 else str(phi),
    )


def evaluations_of(
    copies: tuple[Layers, ...], inputs: Float[np.ndarray, "n d"], unit: float
) -> tuple[Evaluation, ...]:
    """Evaluations of all copies of a network; copies that are equal, once."""
    first = evaluate(copies[0], inputs, unit)
    return tuple(
        first if _equal(copy, copies[0]) else evaluate(copy, inputs, unit)
        for copy in copies
    )


def output_of(evaluations: tuple[Evaluation, ...]) -> tuple[np.ndarray, float]:
    """Outputs of a network, symmetrized or not, and the norm of their error."""
    unit = evaluations[0].unit
    errors = [float(np.linalg.norm(e.output.error)) for e in evaluations]
    if len(evaluations) == 1:
        value, error = evaluations[0].output.value, errors[0]
    else:
        plus, minus = evaluations
        size = [
            matrix_bounds.frobenius_upper(e.output.value, unit) for e in evaluations
        ]
        value = (plus.output.value - minus.output.value) * SYMMETRIZED_SCALE
        error = (sum(errors) + gamma(4, unit) * sum(size)) * SYMMETRIZED_SCALE
    return value, float(raised(error, value.size + 8, unit))


def kernel_of(evaluations: tuple[Evaluation, ...], layer: int | None = None) -> Kernel:
    """Kernel of a network, symmetrized or not, or the part of one of its layers."""
    parts = [
        kernel(e) if layer is None else layer_kernel(e, layer) for e in evaluations
    ]
    if len(parts) == 1:
        return parts[0]
    total = parts[0] + parts[1]
    # Halving is exact; the errors have room for one more rounding of a sum.
    return Kernel(total.value / 2, total.error / 2)


def lipschitz_fn(evaluations: tuple[Evaluation, ...]) -> Lipschitz:
    """Lipschitz constant of the Jacobian, as a function of the radius."""
    constants = [lipschitz_of(e) for e in _distinct(evaluations)]
    return _largest([c.at for c in constants], len(evaluations))


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
    # As plain floating-point values, the two may be an ulp on the wrong sides.
    low = min(max(low, 0.0) * (1 - 4 * unit), high)
    return Residual(value, error, Interval(low, high))


def _bounds(
    evaluations: tuple[Evaluation, ...],
    inputs: np.ndarray,
    targets: np.ndarray,
    rigor: Rigor,
) -> LocalBounds:
    unit = evaluations[0].unit
    residual = residual_of(evaluations, targets)
    gram = kernel_of(evaluations)
    sigma_min = sigma_min_lower(gram, unit)
    constants = [lipschitz_of(e) for e in _distinct(evaluations)]
    lipschitz = _largest([c.at for c in constants], len(evaluations))
    blocks = [Block(name="all", sigma_min=sigma_min, lipschitz=lipschitz)]
    layers = evaluations[0].network.layers
    first = [c.of_first_layer for c in constants if isinstance(c, TwoLayer)]
    if first and all(layer.is_trained for layer in layers):
        alone = sigma_min_lower(kernel_of(evaluations, layer=0), unit)
        of_first = _largest(first, len(evaluations))
        blocks.append(Block(name="first layer", sigma_min=alone, lipschitz=of_first))
    return LocalBounds(
        residual=residual.norm,
        jacobian_norm=sigma_max_upper(gram, unit),
        lipschitz=lipschitz,
        blocks=tuple(blocks),
        newton_norm=newton_norm_upper(
            gram, residual.value.reshape(-1), residual.error, sigma_min, unit
        ),
        rigor=rigor,
        conflict=conflict_of(inputs, targets),
        premises=premises_of(rigor),
    )


def premises_of(rigor: Rigor) -> tuple[str, ...]:
    """What bounds of this rigor rest on."""
    return PREMISES if rigor == "proof" else PREMISES[:1]


def sigma_min_lower(gram: Kernel, unit: float) -> float:
    """Lower bound of the smallest singular value of the Jacobian with this kernel."""
    square = matrix_bounds.eig_min_lower(gram.value, unit) - gram.error
    if not square > 0:
        return 0.0
    return math.sqrt(square * (1 - 4 * unit)) * (1 - 4 * unit)


def sigma_max_upper(gram: Kernel, unit: float) -> float:
    """Upper bound of the largest singular value of the Jacobian with this kernel."""
    square = max(matrix_bounds.eig_max_upper(gram.value, unit), 0) + gram.error
    return math.sqrt(raised(square, 2, unit)) * (1 + 4 * unit)


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
    return float(raised(root + left / sigma_min, 6, unit))


def _largest(constants: list[Lipschitz], num_copies: int) -> Lipschitz:
    r"""Constant of $(g(w_1) - g(w_2))/\sqrt2$ from those of $g$, or that of $g$."""
    if num_copies == 1:
        return constants[0]
    return lambda radius: float(
        raised(
            max(fn(radius) for fn in constants) * SYMMETRIZED_SCALE, 4, UNIT_ROUNDOFF
        )
    )


def _distinct(evaluations: tuple[Evaluation, ...]) -> tuple[Evaluation, ...]:
    is_one = all(e is evaluations[0] for e in evaluations)
    return evaluations[:1] if is_one else evaluations


def _equal(one: Layers, other: Layers) -> bool:
    if one is other:
        return True
    return all(
        np.array_equal(a.weight, b.weight) and np.array_equal(a.bias, b.bias)
        for a, b in zip(one.layers, other.layers, strict=True)
    )


def conflict_of(inputs: np.ndarray, targets: np.ndarray) -> Assumption | None:
    """The first two equal inputs with different targets, if there are any."""
    seen: dict[bytes, int] = {}
    for i, row in enumerate(inputs + 0.0):  # -0.0 equals 0.0
        j = seen.setdefault(row.tobytes(), i)
        if not np.array_equal(targets[i], targets[j]):
            return Assumption(
                name="conflict",
                statement="two equal inputs have different targets, which no parameters "
                "fit",
                holds=True,
                detail=f"examples {j} and {i}",
            )
    return None
