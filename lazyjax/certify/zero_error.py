r"""When gradient flow classifies all training examples right.

An example is classified right if its residual is shorter than its margin: $|y_i|$ for one
output whose sign decides, and $(y_{ic} - \max_{j \ne c} y_{ij}) / \sqrt 2$ for several of
which the largest, $c$, does; for then $f_{ic} - f_{ij} \ge y_{ic} - y_{ij} - \sqrt2
\lVert r_i\rVert > 0$. So it is enough that $\lVert r \rVert$ falls below the least margin
$m$, for which the path need not go all the way: the condition of
`lazyjax.certify.bounds.ball`, with $C = \lVert r_0\rVert - m$. Along it $\lVert r\rVert$
falls at least at the rate $\mu^2$, which bounds the time, and it never rises after.
"""

import math

import numpy as np
from jaxtyping import Float, Shaped

from lazyjax.certify.arithmetic.rounding import interval, upper_or_infinity
from lazyjax.certify.bounds.ball import ball_assumptions, ball_quantities, smallest_ball
from lazyjax.certify.bounds.start import bounds_at
from lazyjax.certify.certificate import Certificate, Rigor
from lazyjax.certify.statements import Assumption, Quantity
from lazyjax.nets import Network
from lazyjax.typing import AnyArray, ApplyFn, Params

# Residuals are to fall below the margin by this much of it.
_SLACK = 1e-6


def zero_training_error(
    network: Network | ApplyFn,
    params: Params,
    x: Shaped[AnyArray, "n *d"],
    y: Float[AnyArray, "n k"],
    *,
    rigor: Rigor = "proof",
) -> Certificate:
    r"""Whether gradient flow is certain to classify all training examples right.

    The flow is that of the square loss, as for `gradient_flow`, of which this needs
    less. For the logistic loss, `logistic_flow` down to a mean loss below
    $\log 2 / n$ says the same.

    Args:
        network: As for `gradient_flow`; smooth.
        params: The start.
        x: Training inputs.
        y: Targets: of one output, whose sign is the class; or of several, of which the
            largest is the class.
        rigor: "proof" accounts for rounding in all numbers, "float" does not.

    Returns:
        The certificate; from its quantity "time" on, no example is classified wrong.

    Raises:
        ValueError: If no bounds are known of the network, an example has no class, or
            arguments do not fit.
        TypeError: If an array is not floating point.

    Example:
        >>> import jax, jax.numpy as jnp, lazyjax
        >>> net = lazyjax.nets.mlp(width=1, depth=0)
        >>> x, y = jnp.eye(2), jnp.array([[1.0], [-1.0]])
        >>> params = net.init(jax.random.key(0), x)
        >>> found = zero_training_error(net, params, x, y)
        >>> found.verdict.name, bool(found["time"] < 10)
        ('CERTIFIED', True)
    """
    start = bounds_at(network, params, x, y, rigor=rigor)
    margin = _least_margin(start.targets)
    bounds = start.local
    target = (interval(margin) * (1 - _SLACK)).low
    needed = max((interval(bounds.residual.high) - target).high, 0.0)
    balls = [
        smallest_ball(block.sigma_min, needed, block.lipschitz)
        for block in bounds.blocks
    ]
    ball = max(balls, key=lambda ball: (ball.holds, ball.sigma_end.low))
    is_there = bounds.residual.high < target
    time = 0.0
    if not is_there:
        fall = (interval(bounds.residual.high) / target).log()
        time = upper_or_infinity(fall / (ball.sigma_end * ball.sigma_end))
    reached = Assumption(
        name="below",
        statement="the residual at the start is below the least margin",
        holds=True if is_there else None,
        detail=f"{bounds.residual.high:.6g} against {target:.6g}",
    )
    return Certificate(
        theorem="zero training error, gradient flow",
        conclusion="gradient flow classifies all training examples right",
        assumptions=(reached,) if is_there else ball_assumptions(ball, "(|r0| - m)"),
        margin=1 - bounds.residual.high / target if is_there else ball.margin,
        quantities=(
            *ball_quantities(ball, bounds),
            Quantity.lower("least_margin", margin, "residual that is short enough"),
            Quantity.upper("time", time, "time from which on no example is wrong"),
        ),
        dynamics="flow",
        radius=None if is_there else ball.length.high,
        rigor=rigor,
        premises=bounds.premises,
    )


def _least_margin(targets: Float[np.ndarray, "n k"]) -> float:
    """Lower bound of the least margin of an example.

    Returns:
        The bound.

    Raises:
        ValueError: If an example has none.
    """
    if targets.shape[1] == 1:
        margins = np.abs(targets[:, 0])
    else:
        first, second = np.sort(targets, axis=1)[:, :-3:-1].T
        margins = (first - second) / math.sqrt(2) * (1 - 2.0**-50)
    least = float(np.min(margins))
    if not least > 0:
        raise ValueError(
            "`y` must say the class of each example: by the sign of one output, or by "
            "the largest of several; got one without."
        )
    return least
