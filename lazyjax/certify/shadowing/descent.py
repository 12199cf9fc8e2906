r"""Gradient descent, computed until bounds at a point are enough.

Descent in exact arithmetic is followed by computed iterates $\hat w_k$: if $\lVert w_k -
\hat w_k\rVert \le e_k$, then $e_{k+1} \le (\eta N + \max(1, \eta\beta^2 - 1))\, e_k +
\rho_k$, where $\beta \ge \lVert J\rVert$ and $N \ge \Lambda \lVert r\rVert$ in the ball of
radius $e_k$ around $\hat w_k$, and $\rho_k$ is what rounding did in the step. Proof:
`docs/theory/shadowing.md`.
"""

import math

from jaxtyping import Float, Shaped

from lazyjax._checks import check_at_least, check_positive
from lazyjax.certify.arithmetic.rounding import UNIT_ROUNDOFF
from lazyjax.certify.bounds.local import LocalBounds
from lazyjax.certify.bounds.program.enclosing.enclosure import UP, norm_of
from lazyjax.certify.certificate import Certificate, Rigor
from lazyjax.certify.shadowing.following import (
    Followed,
    Problem,
    follow,
    moved_to,
    problem_of,
    record_rate,
)
from lazyjax.certify.shadowing.points import joint_norm
from lazyjax.certify.shadowing.zones import Zone
from lazyjax.certify.theorems.residual import descent_theorem
from lazyjax.nets import Network
from lazyjax.typing import AnyArray, ApplyFn, Params


def shadowed_descent(
    network: Network | ApplyFn,
    params: Params,
    x: Shaped[AnyArray, "n *d"],
    y: Float[AnyArray, "n k"],
    *,
    learning_rate: float | None = None,
    num_steps: int = 1000,
    rigor: Rigor = "proof",
) -> Certificate:
    r"""Whether gradient descent from `params` is certain to reach zero loss.

    The first steps are computed in float64, with a bound of how far descent in exact
    arithmetic may be from them, until `gradient_descent` is certified for all points
    that near. Networks too narrow for bounds at the start are certified so.

    Args:
        network: As for `gradient_descent`; smooth near the iterates.
        params: The start.
        x: Training inputs.
        y: Training targets.
        learning_rate: $\eta$, of $w \leftarrow w - \eta \nabla L(w)$, $L =
            \tfrac12\lVert f - y\rVert^2$; `None` means $1 / \lVert J\rVert^2$.
        num_steps: Number of steps to compute at most.
        rigor: As for `gradient_descent`.

    Returns:
        The certificate, of the whole run. Its quantity "num_computed" is the number of
        steps that were computed, "off" how far descent in exact arithmetic may be from
        the last.

    Raises:
        ValueError: If no bounds are known of the network, or arguments do not fit.
        TypeError: If an array is not floating point.

    Cost: Of each step, one gradient, equation by equation. Bounds, as of
        `gradient_descent`, about ten times, and again where the last end.

    Example:
        >>> import jax, lazyjax
        >>> data = lazyjax.data.sphere(4, 32, key=jax.random.key(0))
        >>> net = lazyjax.nets.mlp(width=16, activation="softplus", w_std=2.0)
        >>> params = net.init(jax.random.key(1), data.x_train)
        >>> args = (net, params, data.x_train, data.y_train)
        >>> lazyjax.certify.gradient_descent(*args).verdict.name
        'INCONCLUSIVE'
        >>> shadowed_descent(*args).verdict.name
        'CERTIFIED'

    References:
        Proof: `docs/theory/shadowing.md`.
    """
    check_at_least("num_steps", num_steps, 0)
    if learning_rate is not None:
        check_positive("learning_rate", learning_rate)
    problem = problem_of(network, params, x, y, rigor)
    if learning_rate is None:
        # Of a constant output, any will do.
        learning_rate = 1 / (problem.start.local.jacobian_norm**2 or 1.0)
    return follow(problem, _Descent(problem, float(learning_rate)), num_steps)


class _Descent:
    """Steps of gradient descent."""

    name = "descent"

    def __init__(self, problem: Problem, step: float) -> None:
        self.step, self.points = step, problem.points
        self.first, self.first_residual = problem.leaves, problem.start.local.residual

    def tail(self, bounds: LocalBounds) -> Certificate:
        """The certificate of descent from a point on."""
        return descent_theorem(bounds, learning_rate=self.step)

    def advance(self, at: Followed, zone: Zone) -> float:
        """Take one step.

        Args:
            at: The run so far.
            zone: A ball; nothing is known if it does not hold the point.

        Returns:
            Upper bound of the residual before the step.
        """
        here, step = self.points.gradient(at.leaves), self.step
        beta = zone.jacobian_norm if zone.holds(at.leaves, at.off) else math.inf
        after, sizes = list(at.leaves), []
        for number, slope in zip(self.points.trained, here.leaves, strict=True):
            after[number] = at.leaves[number] - step * slope
            sizes.append(norm_of(after[number]) + 2 * step * norm_of(slope))
        rounded = UNIT_ROUNDOFF * joint_norm(sizes)
        residual = (here.residual + beta * at.off) * UP
        if at.num_steps:
            record_rate(at, residual, self.first_residual.low, at.span)
        bend = step * zone.lipschitz * residual * UP
        factor = (bend + max(1.0, step * beta * beta * UP - 1)) * UP
        off = (factor * at.off + step * here.error + rounded) * UP
        at.off = off if off < math.inf and beta < math.inf else math.inf
        at.span += 1
        moved_to(at, self.first, after)
        return residual
