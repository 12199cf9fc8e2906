r"""Conditions for convergence side by side, on one network, data set and start.

For $L = \tfrac12\lVert r\rVert^2$: Polyak and Lojasiewicz' inequality for all parameters,
PL* in the ball of Liu et al., the theorem of Oymak and Soltanolkotabi, Chatterjee's
criterion, and the certificate of gradient flow. Either of PL* and Oymak and
Soltanolkotabi's theorem implies Chatterjee's criterion, which implies the certificate of
flow; none of these implications can be turned round. The inequality for all parameters
fails for nearly all networks, since some parameters have zero gradient and positive loss,
and that tells nothing of this start. Lojasiewicz' own inequality holds for all analytic
losses and says less than any: not that the loss goes to zero.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import get_args

import jax
import numpy as np
from jaxtyping import Float

from lazyjax._checks import check_choice
from lazyjax.certify.bounds.branches import kernel_of
from lazyjax.certify.bounds.local import (
    LocalBounds,
    bounds_of,
    residual_of,
)
from lazyjax.certify.bounds.vanishing import gradient_vanishes
from lazyjax.certify.certificate import Assumption, Certificate, Quantity, Rigor, below
from lazyjax.certify.problem import Problem, problem_of
from lazyjax.certify.theorems import (
    chatterjee2022,
    liu2022,
    oymak2019,
    residual as theorems,
)
from lazyjax.nets import Network
from lazyjax.typing import AnyArray, Params

_ANALYTIC = ("cos", "erf", "gaussian", "gelu", "identity", "sigmoid", "silu", "sin")
_ANALYTIC = (*_ANALYTIC, "softplus", "tanh")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Certificates of several theorems for one start.

    Attributes:
        polyak: Polyak and Lojasiewicz' inequality for all parameters.
        liu: PL* in a ball, gradient descent.
        oymak: Oymak and Soltanolkotabi's theorem, gradient descent.
        chatterjee: Chatterjee's criterion, gradient flow.
        flow: Gradient flow from bounds at the start.
        lojasiewicz: Lojasiewicz' inequality.
    """

    polyak: Certificate
    liu: Certificate
    oymak: Certificate
    chatterjee: Certificate
    flow: Certificate
    lojasiewicz: Certificate

    def __iter__(self) -> Iterator[Certificate]:
        return (getattr(self, field.name) for field in dataclasses.fields(self))

    def explain(self) -> str:
        """One line for each theorem."""
        return "\n".join(f"{found.verdict.value:<12} {found.theorem}" for found in self)


def compare(
    network: Network,
    params: Params,
    x: Float[AnyArray, "n *d"],
    y: Float[AnyArray, "n k"],
    *,
    rigor: Rigor = "proof",
) -> Comparison:
    r"""Verdicts of several theorems on one start.

    Args:
        network: Fully connected, with a smooth activation.
        params: The start.
        x: Training inputs.
        y: Training targets.
        rigor: "proof" to account for rounding, "float" to save time.

    Returns:
        The certificates. That of Polyak and Lojasiewicz' inequality is REFUTED where
        parameters of zero, of trained layers, have zero gradient and positive loss.

    Raises:
        ValueError: If the network is of another kind, or arguments do not fit.
        TypeError: If an array is not floating point.

    Example:
        >>> import jax, lazyjax
        >>> data = lazyjax.data.sphere(4, 32, key=jax.random.key(0))
        >>> net = lazyjax.nets.mlp(
        ...     width=4096,
        ...     activation="tanh",
        ...     w_std=12.0,
        ...     input_scaling="none",
        ...     symmetrized=True,
        ... )
        >>> params = net.init(jax.random.key(1), data.x_train)
        >>> print(compare(net, params, data.x_train, data.y_train).explain())
        REFUTED      Polyak-Lojasiewicz inequality for all parameters
        INCONCLUSIVE PL* condition of Liu, Zhu and Belkin (2022)
        INCONCLUSIVE gradient descent by Oymak and Soltanolkotabi (2019)
        CERTIFIED    Chatterjee's criterion (2022), gradient flow
        CERTIFIED    gradient flow from bounds at the start
        INCONCLUSIVE Lojasiewicz inequality

    References:
        Polyak (1963) and Lojasiewicz (1963), for their inequalities; those of the
        theorems stand with them.
    """
    check_choice("rigor", rigor, get_args(Rigor))
    bounds = bounds_of(problem_of(network, params, x, y), rigor)
    return Comparison(
        polyak=_polyak(network, params, x, y, bounds),
        liu=liu2022.descent_theorem(bounds),
        oymak=oymak2019.descent_theorem(bounds),
        chatterjee=chatterjee2022.flow_theorem(bounds),
        flow=theorems.flow_theorem(bounds),
        lojasiewicz=_lojasiewicz(network, bounds),
    )


def _polyak(
    network: Network, params: Params, x: AnyArray, y: AnyArray, bounds: LocalBounds
) -> Certificate:
    is_linear = network.architecture.depth == 0
    sigma = max(block.sigma_min for block in bounds.blocks)
    zero = _at_zero(network, params, x, y)
    residual = residual_of(zero.evaluations, zero.targets)
    vector = residual.value.reshape(-1)
    square = float(vector @ kernel_of(zero.evaluations).value @ vector)
    gradient, loss = math.sqrt(max(square, 0.0)), float(vector @ vector) / 2
    is_critical = residual.norm.low > 0 and all(
        gradient_vanishes(copy, zero.inputs) for copy in zero.copies
    )
    return Certificate(
        theorem="Polyak-Lojasiewicz inequality for all parameters",
        conclusion="|grad L|^2 / 2 >= mu L for all parameters, with a mu > 0",
        assumptions=(
            Assumption(
                name="linear",
                statement="the Jacobian is the same everywhere",
                holds=True if is_linear else None,
            ),
            below("surjective", "0 < sigma_min(J)", 0.0, sigma),
        ),
        margin=1.0 if is_linear and sigma > 0 else -math.inf,
        quantities=(
            Quantity(name="mu", value=sigma**2 if is_linear else 0.0, bound="lower"),
            Quantity(
                name="gradient_at_zero",
                value=gradient,
                bound="estimate",
                meaning="|grad L| where trained parameters are zero",
            ),
            Quantity(
                name="loss_at_zero",
                value=loss,
                bound="estimate",
                meaning="L where trained parameters are zero",
            ),
        ),
        rigor=bounds.rigor,
        refutation=Assumption(
            name="critical point",
            statement="parameters of zero have zero gradient and positive loss",
            holds=True if is_critical else None,
            detail=f"|grad L| = {gradient:.3g}, L = {loss:.3g}, as computed",
        ),
        premises=bounds.premises,
    )


def _at_zero(network: Network, params: Params, x: AnyArray, y: AnyArray) -> Problem:
    """The problem where all trained parameters are zero."""
    spec = network.architecture
    trained = {
        f"layer_{i + 1}" for i in range(spec.num_layers) if spec.is_trained(i + 1)
    }

    def zeroed(path: tuple, leaf: AnyArray) -> np.ndarray:
        keys = {getattr(part, "key", None) for part in path}
        value = np.asarray(leaf, np.float64)
        return np.zeros_like(value) if keys & trained else value

    zero = jax.tree_util.tree_map_with_path(zeroed, params)
    return problem_of(network, zero, x, y)


def _lojasiewicz(network: Network, bounds: LocalBounds) -> Certificate:
    phi = network.architecture.activation
    is_linear = network.architecture.depth == 0
    analytic = is_linear or (isinstance(phi, str) and phi in _ANALYTIC)
    return Certificate(
        theorem="Lojasiewicz inequality",
        conclusion="gradient flow converges to parameters of zero loss",
        assumptions=(
            Assumption(
                name="analytic",
                statement="the loss is analytic, so that near each point of zero "
                "gradient |grad L| >= c |L - L*|^theta with some theta < 1",
                holds=True if analytic else None,
                detail=str(phi),
            ),
            Assumption(
                name="bounded",
                statement="gradient flow stays bounded, and so converges to some point "
                "of zero gradient",
                holds=None,
                detail="the inequality does not tell",
            ),
            Assumption(
                name="no other limit",
                statement="that point has zero loss",
                holds=None,
                detail="the inequality does not tell",
            ),
        ),
        margin=math.nan,
        rigor=bounds.rigor,
        refutation=bounds.conflict,
        premises=bounds.premises,
    )
