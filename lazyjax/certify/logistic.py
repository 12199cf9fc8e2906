r"""Gradient flow on the logistic loss, until it is as small as one asks for.

With $L = \tfrac1n \sum_i \ell_i$, $\ell_i = \log(1 + e^{-y_i f_i})$, zero loss is never
attained. The gradient in $f$ has entries $(1 - e^{-\ell_i})/n$ up to sign, of which the
sum is at least $(1 - e^{-nL})/n$. So the loss falls by at least $\sigma_{\min}(J)
n^{-3/2} (1 - e^{-nL})$ per length of path, and it reaches $\epsilon$ once

$$\int_0^s \sigma_{\min}(J) \ge C = \sqrt n\, \log\frac{e^{n L_0} - 1}{e^{n\epsilon} - 1}.$$

This is the condition of `lazyjax.certify.bounds.ball` with $C$ in place of the residual.
"""

import math

import numpy as np
from jaxtyping import Float, Shaped

from lazyjax._checks import check_positive
from lazyjax.certify.arithmetic.activations import ROUNDING
from lazyjax.certify.arithmetic.rounding import (
    Interval,
    interval,
    round_up,
    unit_roundoff,
    upper_or_infinity,
)
from lazyjax.certify.bounds.ball import ball_assumptions, ball_quantities, smallest_ball
from lazyjax.certify.bounds.program.start import ProgramStart
from lazyjax.certify.bounds.start import Start, bounds_at
from lazyjax.certify.certificate import Certificate, Rigor
from lazyjax.certify.statements import Quantity, assume_less
from lazyjax.nets import Network
from lazyjax.typing import AnyArray, ApplyFn, Params


def logistic_flow(
    network: Network | ApplyFn,
    params: Params,
    x: Shaped[AnyArray, "n *d"],
    y: Float[AnyArray, "n k"],
    *,
    target_loss: float,
    rigor: Rigor = "proof",
) -> Certificate:
    r"""Whether gradient flow on the mean logistic loss is certain to reach a loss.

    Args:
        network: Network with one output, or a function `apply_fn(params, x)`; smooth.
        params: The start.
        x: Training inputs.
        y: Labels, $-1$ or $1$.
        target_loss: The mean loss $\epsilon > 0$ to reach.
        rigor: "proof" accounts for rounding in all numbers, "float" does not where
            bounds are those of an `Architecture`.

    Returns:
        The certificate; its quantity "time" bounds the time that it takes. Radii are
        about $n$ times worse than for the square loss.

    Raises:
        ValueError: If the network is of another kind, a label is not $\pm 1$, or an
            argument is out of range.
        TypeError: If an array is not floating point.

    Example:
        >>> import jax, jax.numpy as jnp, lazyjax
        >>> net = lazyjax.nets.mlp(width=1, depth=0)
        >>> x, y = jnp.eye(2), jnp.array([[1.0], [-1.0]])
        >>> params = net.init(jax.random.key(0), x)
        >>> logistic_flow(net, params, x, y, target_loss=0.01).verdict.name
        'CERTIFIED'
    """
    check_positive("target_loss", target_loss)
    return flow_to_loss(bounds_at(network, params, x, y, rigor=rigor), target_loss)


def flow_to_loss(start: Start | ProgramStart, target_loss: float) -> Certificate:
    """Whether gradient flow from a start is certain to reach a mean logistic loss.

    Args:
        start: The start.
        target_loss: The loss.

    Returns:
        The certificate.

    Raises:
        ValueError: If targets are no labels.
    """
    labels = start.targets
    if labels.shape[1] != 1 or not np.all(np.abs(labels) == 1):
        raise ValueError("`y` must have one column of -1 and 1.")
    bounds, unit = start.local, unit_roundoff(start.rigor)
    output, error = start.outputs
    with np.errstate(all="ignore"):  # what overflows certifies nothing
        total = total_loss_upper(output, labels, error, unit)
    target = (interval(target_loss) * len(labels)).low
    demand = demand_of(total, target, len(labels))
    balls = [
        smallest_ball(block.sigma_min, demand, block.lipschitz)
        for block in bounds.blocks
    ]
    ball = max(balls, key=lambda ball: (ball.holds, ball.sigma_end.low))
    is_there = total < target  # the flow never raises the loss
    time = 0.0
    if not is_there:
        fall = _antiderivative(total) - _antiderivative(target)
        n_sq, mu = interval(len(labels)) * len(labels), ball.sigma_end
        time = upper_or_infinity(n_sq * fall / (mu * mu))
    in_time = assume_less("in time", "time is finite", max(time, 0.0), math.inf)
    below = assume_less("below", "the sum of losses is below the target", total, target)
    return Certificate(
        theorem="gradient flow on the logistic loss",
        conclusion=f"gradient flow reaches a mean logistic loss of {target_loss:g}",
        assumptions=(below,)
        if is_there
        else (*ball_assumptions(ball, "sqrt(n) log(...)"), in_time),
        margin=1 - total / target if is_there else ball.margin,
        quantities=(
            *(q for q in ball_quantities(ball, bounds) if q.name != "residual"),
            Quantity.upper("total_loss", total, "sum of losses at the start"),
            Quantity.upper(
                "demand", demand, "sqrt(n) log((exp(n L0) - 1) / (exp(n target) - 1))"
            ),
            Quantity.upper("time", max(time, 0.0), "time until the loss is reached"),
        ),
        dynamics="flow",
        radius=None if is_there else ball.length.high,
        rigor=start.rigor,
        premises=bounds.premises,
    )


def total_loss_upper(
    output: Float[np.ndarray, "n 1"],
    labels: Float[np.ndarray, "n 1"],
    error: float,
    unit: float,
) -> float:
    """Upper bound of the sum of losses, for outputs within `error` of those given."""
    losses = np.logaddexp(0, -labels * output)
    own = ROUNDING * float(np.sum(1 + np.abs(output))) if unit else 0.0
    # Each loss is 1-Lipschitz in its output.
    total = float(np.sum(losses)) + own + math.sqrt(len(output)) * error
    return float(round_up(total, len(output) + 8, unit))


def demand_of(start: float, target: float, num_examples: int) -> float:
    """Upper bound of $C$, for sums of losses at the start and in the end."""
    fall = _log_expm1(interval(start)) - _log_expm1(interval(target))
    return max(upper_or_infinity(interval(num_examples).sqrt() * fall), 0.0)


def _log_expm1(value: Interval) -> Interval:
    """log(exp(a) - 1), without overflow."""
    return value + (-(-value).expm1()).log()


def _antiderivative(value: float) -> Interval:
    """Of 1/(1 - exp(-a))^2."""
    a = interval(value)
    small = -(-a).expm1()  # 1 - exp(-a)
    return _log_expm1(a) - (1 - small) / small
