r"""Starts from which deep networks are certain to interpolate, after Chatterjee (2022).

A fully connected network $z^1 = W_1 x + b_1$, $h^l = \phi(z^l)$, $z^{l+1} = W_{l+1}h^l +
b_{l+1}$ with a smooth, increasing $\phi$ and one output starts from $W_1 = 0$, hidden
weights $A > 0$, output weights $B > 0$ and biases of zero, but for that of the output,
which makes $f(w_0) = 0$. In a ball of radius $r < \min(A, B)$:

- Pre-activations are bounded without regard to $B$: $|z^1_i| \le r(\lVert x_i\rVert^2 +
  1)^{1/2}$, then $|z^{l+1}| \le (A\sqrt m + r)\lVert h^l\rVert + r$. So derivatives
  are at least some $c_l > 0$.
- Hence $\partial f_i/\partial z^1$ is at least $q(B - r)$ in each of its $m$ entries, with
  $q = c_1 \cdots c_D\,(m(A - r))^{D-1}$ for $D$ hidden layers.
- By Schur's product theorem the first layer's share of the kernel is at least
  $\lambda_{\min}(XX^\top + 1 1^\top)\, m\, q^2 (B - r)^2$, the ones for its biases.

So the criterion holds if $B > r + \lVert r_0\rVert / (r q (m\lambda_{\min})^{1/2})$:
for any inputs that are linearly (or affinely) independent, at any width. That is our
version of the paper's theorem, whose constants were not checked.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lazyjax._checks import (
    check_at_least,
    check_batch,
    check_floating,
    check_positive,
    check_targets,
)
from lazyjax._renamed import deprecated_names
from lazyjax.activations import find
from lazyjax.certify.arithmetic.activations import ROUNDING, SMOOTH_ACTIVATIONS
from lazyjax.certify.arithmetic.matrices import (
    eig_min_lower,
    frobenius_upper,
    gram_and_error,
    row_norms_upper,
)
from lazyjax.certify.arithmetic.rounding import UNIT_ROUNDOFF, Interval, interval
from lazyjax.certify.bounds.lipschitz import deep
from lazyjax.certify.bounds.local import JacobianBlock, Lipschitz
from lazyjax.certify.bounds.start import Start, described_start
from lazyjax.certify.certificate import Certificate, Dynamics
from lazyjax.certify.statements import Assumption, assume_less
from lazyjax.certify.theorems import chatterjee2022
from lazyjax.files.results import Storable
from lazyjax.nets import Network, mlp
from lazyjax.typing import AnyArray, Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class PositiveStart(Storable):
    """A network and a start that is certified by construction, if the data allow it.

    Attributes:
        network: The network.
        params: The start.
        flow: Certificate of gradient flow.
        descent: Certificate of gradient descent, with its learning rate.
        output_weight: $B$.
        needed: What $B$ must exceed; infinite if no $B$ will do.
    """

    network: Network
    params: Params
    flow: Certificate
    descent: Certificate
    output_weight: float
    needed: float


def positive_init(
    x: Float[AnyArray, "n d"],
    y: Float[AnyArray, "n 1"],
    *,
    width: int,
    depth: int = 2,
    activation: str = "tanh",
    hidden_weight: float = 0.5,
    radius: float = 0.25,
    output_weight: float | None = None,
) -> PositiveStart:
    r"""Network and start that gradient flow and descent are certain to train to zero loss.

    Args:
        x: Training inputs, independent: no more than features, or one more.
        y: Training targets.
        width: Units $m$ of each hidden layer.
        depth: Number of hidden layers.
        activation: Name of a smooth, increasing activation.
        hidden_weight: $A$.
        radius: Radius $r$ of the ball, below $A$.
        output_weight: $B$; `None` for twice what is needed, or 1 if nothing will do.

    Returns:
        The start. Its certificates are INCONCLUSIVE if inputs are dependent, the
        activation is not known to be smooth and increasing, or `output_weight` is
        too small.

    Raises:
        TypeError: If an array is not floating point, or a count not an integer.
        ValueError: If a shape does not fit, or a number is out of range.

    Example:
        >>> import numpy as np
        >>> x, y = np.eye(3, 4), np.array([[1.0], [-1.0], [1.0]])
        >>> start = positive_init(x, y, width=4)
        >>> start.flow.verdict.name, start.descent.verdict.name
        ('CERTIFIED', 'CERTIFIED')

    References:
        Chatterjee (2022), arXiv:2203.16462 (abstract: zero first layer, positive hidden
        weights, large output weights; constants are ours).
    """
    check_floating("x", x)
    check_batch("x", x)
    if x.ndim != 2:
        raise ValueError(f"`x` must have shape (n, d); got {x.shape}.")
    check_targets("y", y, x.shape[0], 1)
    check_at_least("width", width, 1)
    check_at_least("depth", depth, 1)
    check_positive("hidden_weight", hidden_weight)
    check_positive("radius", radius)
    if output_weight is not None:
        check_positive("output_weight", output_weight)
    network = mlp(
        width=width,
        depth=depth,
        activation=activation,
        parameterization="standard",
        b_std=1.0,
    )
    dtype = x.dtype.type
    hidden_weight = float(dtype(hidden_weight))
    inputs = np.asarray(x, np.float64)
    reach = _Reach(inputs, width, depth, activation, hidden_weight, radius)
    target_norm = frobenius_upper(np.asarray(y, np.float64), UNIT_ROUNDOFF)
    needed = reach.needed(target_norm)
    if output_weight is None:
        output_weight = 2 * needed if needed < math.inf else 1.0
    output_weight = float(dtype(output_weight))
    params = _params(network, inputs, x.dtype, hidden_weight, output_weight)
    flow, descent = _certificates(network, params, x, y, reach, output_weight)
    return PositiveStart(
        network=network,
        params=params,
        flow=flow,
        descent=descent,
        output_weight=output_weight,
        needed=needed,
    )


class _Reach:
    """What is certain in the ball, whatever the output weights are."""

    def __init__(
        self,
        x: np.ndarray,
        width: int,
        depth: int,
        activation: str,
        hidden_weight: float,
        radius: float,
    ) -> None:
        self.activation, self.radius, self.hidden = activation, radius, hidden_weight
        self.width = width
        self.eig_min = augmented_eig_min(x)
        self.share = Interval(math.nan, math.nan)
        is_known = activation in SMOOTH_ACTIVATIONS and _increasing(activation).holds
        if is_known and radius < hidden_weight:
            norm = float(np.max(row_norms_upper(_augmented(x), UNIT_ROUNDOFF)))
            self.share = self._share(norm, depth)

    def _share(self, input_norm: float, depth: int) -> Interval:
        r"""The factor $q$; only its lower end is a bound."""
        root = interval(float(self.width)).sqrt()
        radius = interval(self.radius)
        z = radius * input_norm
        share = interval(1.0)
        for layer in range(1, depth + 1):
            if layer > 1:
                h = root * _largest_value(self.activation, z.high)
                z = (self.hidden * root + radius) * h + radius
                share = share * float(self.width) * (self.hidden - radius)
            share = share * _least_slope(self.activation, z.high)
        return share

    def sigma_min(self, output_weight: float) -> float:
        """Lower bound of singular values in the ball."""
        root = (interval(float(self.width)) * self.eig_min).sqrt()
        sigma = root * self.share * (interval(output_weight) - self.radius)
        return sigma.low if sigma.low > 0 else 0.0

    def needed(self, residual: float) -> float:
        """What output weights must exceed."""
        root = (interval(float(self.width)) * self.eig_min).sqrt()
        unit = root * self.share * self.radius
        if not unit.low > 0:
            return math.inf
        return (self.radius + interval(residual) / unit).high


def _augmented(x: np.ndarray) -> np.ndarray:
    """Inputs with the constant that biases read."""
    return np.concatenate([x, np.ones((len(x), 1))], axis=1)


def augmented_eig_min(x: Float[np.ndarray, "n d"]) -> float:
    """Lower bound of the smallest eigenvalue of $XX^T + 1 1^T$; 0 if none is known."""
    gram, error = gram_and_error(_augmented(x), UNIT_ROUNDOFF)
    eig_min = (interval(eig_min_lower(gram, UNIT_ROUNDOFF)) - error).low
    return eig_min if eig_min > 0 else 0.0


def _largest_value(activation: str, reach: float) -> float:
    """Upper bound of |phi| up to |u| = reach, for an increasing phi."""
    ends = np.array([-reach, reach])
    value = float(np.max(np.abs(SMOOTH_ACTIVATIONS[activation].value(ends))))
    return math.nextafter(value + ROUNDING * (1 + reach), math.inf)


def _least_slope(activation: str, reach: float) -> float:
    """Lower bound of phi' up to |u| = reach."""
    ends = np.array([-reach, reach])
    with np.errstate(under="ignore", over="ignore"):
        slope = float(np.min(SMOOTH_ACTIVATIONS[activation].derivative(ends)))
    return max(slope - 2 * ROUNDING, 0.0)


def _params(
    network: Network,
    x: np.ndarray,
    dtype: Any,
    hidden_weight: float,
    output_weight: float,
) -> Params:
    depth, width = network.architecture.depth, network.width
    shapes = [(x.shape[1], width)] + [(width, width)] * (depth - 1) + [(width, 1)]
    values = [0.0] + [hidden_weight] * (depth - 1) + [output_weight]
    params = {
        f"layer_{i}": {
            "kernel": np.full(shape, value, dtype),
            "bias": np.zeros(shape[1], dtype),
        }
        for i, (shape, value) in enumerate(zip(shapes, values, strict=True), start=1)
    }
    # All inputs have one output: the first layer does not tell them apart.
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
        output = network.apply(exact, jnp.zeros((1, x.shape[1])))[0]
    params[f"layer_{depth + 1}"]["bias"] = -np.asarray(output).astype(dtype)
    return params


def _with_zero_inputs(start: Start) -> Lipschitz:
    """Lipschitz constant of the Jacobian of a deep network whose hidden units are zero."""
    (evaluation,) = start.evaluations
    constants = deep(evaluation)
    # Spectral norms of such inputs of a layer are bounded by those of their rows.
    root = interval(float(len(start.inputs))).sqrt()
    layers = tuple(
        dataclasses.replace(
            layer, inputs=min(layer.inputs, (root * layer.one_input).high)
        )
        for layer in constants.layers
    )
    return dataclasses.replace(constants, layers=layers).at


def _certificates(
    network: Network,
    params: Params,
    x: AnyArray,
    y: AnyArray,
    reach: _Reach,
    output_weight: float,
) -> tuple[Certificate, Certificate]:
    checks = (
        independent(x, reach.eig_min),
        _increasing(reach.activation),
        assume_less(
            "positive",
            "the radius is below all hidden and output weights",
            reach.radius,
            min(reach.hidden, output_weight),
        ),
    )
    sigma = reach.sigma_min(output_weight)
    if checks[1].holds is not True:
        return _failed(checks, "flow"), _failed(checks, "descent")
    start = described_start(network, params, x, y)
    block = JacobianBlock(
        name="first layer of a positive start",
        sigma_min=sigma,
        lipschitz=lambda radius: 0.0 if radius <= reach.radius else math.inf,
    )
    bounds = dataclasses.replace(start.local, blocks=(block,))
    if network.architecture.depth > 1:
        bounds = dataclasses.replace(bounds, lipschitz=_with_zero_inputs(start))
    flow = chatterjee2022.flow_theorem(bounds, radius=reach.radius)
    descent = chatterjee2022.descent_theorem(bounds, radius=reach.radius)

    def from_start(found: Certificate) -> Certificate:
        return dataclasses.replace(
            found,
            theorem=f"{found.theorem}, from a positive start",
            assumptions=(*checks, *found.assumptions),
        )

    return from_start(flow), from_start(descent)


def independent(x: Float[AnyArray, "n d"], eig_min: float) -> Assumption:
    """The assumption that inputs are linearly independent, with a constant added."""
    return assume_less(
        "independent",
        "inputs, with a constant added, are linearly independent",
        0.0,
        eig_min,
        detail=f"{x.shape[0]} inputs of {x.shape[1]} features",
    )


def _increasing(activation: str) -> Assumption:
    spec = find(activation)
    return Assumption(
        name="smooth and increasing",
        statement="the activation is twice differentiable with a positive derivative",
        holds=None if spec is None else spec.is_increasing,
        detail=activation,
    )


def _failed(checks: tuple[Assumption, ...], dynamics: Dynamics) -> Certificate:
    return Certificate(
        theorem="Chatterjee's criterion (2022), from a positive start",
        conclusion="the criterion holds by construction",
        assumptions=checks,
        margin=-math.inf,
        dynamics=dynamics,
    )


__getattr__ = deprecated_names(
    __name__, {"requirements": "lazyjax.certify.widths.chatterjee2022.requirements"}
)
