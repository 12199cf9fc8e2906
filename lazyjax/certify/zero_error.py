r"""When training is certain to classify all training examples right.

Of the square loss, an example is classified right if its residual is shorter than its
margin: $|y_i|$ for one output whose sign decides, and $(y_{ic} - \max_{j \ne c} y_{ij}) /
\sqrt 2$ for several of which the largest, $c$, does. So it is enough that $\lVert r
\rVert$ falls below the least margin $m$, for which the path need not go all the way: the
condition of `lazyjax.certify.bounds.ball`, with $C = \lVert r_0\rVert - m$. Of the
logistic loss, all examples are right once its sum is below $\log 2$. Proofs:
`docs/theory/zero_error.md`.
"""

import dataclasses
import math
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float, Shaped

from lazyjax._checks import check_choice, check_positive
from lazyjax.certify.arithmetic.rounding import interval, upper_or_infinity
from lazyjax.certify.bounds.ball import (
    ball_assumptions,
    ball_quantities,
    smallest_ball,
    start_quantities,
)
from lazyjax.certify.bounds.local import LocalBounds
from lazyjax.certify.bounds.program.start import ProgramStart
from lazyjax.certify.bounds.start import Start, bounds_at
from lazyjax.certify.certificate import Certificate, Dynamics, Rigor
from lazyjax.certify.logistic import flow_to_loss
from lazyjax.certify.statements import Assumption, Quantity, assume_less, conflict_of
from lazyjax.certify.theorems.residual import fastest_descent
from lazyjax.nets import Network
from lazyjax.typing import AnyArray, ApplyFn, Params

Loss = Literal["square", "logistic"]

# Residuals and losses are to fall below what is enough by this much of it.
_SLACK = 1e-6


def zero_training_error(
    network: Network | ApplyFn,
    params: Params,
    x: Shaped[AnyArray, "n *d"],
    y: Float[AnyArray, "n k"],
    *,
    dynamics: Dynamics = "flow",
    loss: Loss = "square",
    learning_rate: float | None = None,
    rigor: Rigor = "proof",
) -> Certificate:
    r"""Whether training is certain to classify all training examples right.

    It needs less than zero loss, for which `gradient_flow` and `gradient_descent` are
    certificates; the quantity "h_of_zero_loss" is the number that these need below 1/2
    where this one needs "h" to be.

    Args:
        network: As for `gradient_flow`; smooth.
        params: The start.
        x: Training inputs.
        y: Targets: of one output, whose sign is the class; or of several, of which the
            largest is the class. For the logistic loss, one column of -1 and 1.
        dynamics: "flow", or "descent" on the whole batch.
        loss: "square", $\tfrac12\lVert f - y\rVert^2$ summed; or "logistic", the mean of
            $\log(1 + e^{-y f})$, for flow only.
        learning_rate: Of descent; `None` to find the one with the best guaranteed rate.
        rigor: "proof" accounts for rounding in all numbers, "float" does not where
            bounds are those of an `Architecture`.

    Returns:
        The certificate. Of flow, no example is wrong from some moment on, which is at
        "time" at the latest, for as long as "lasts", which is all but forever if the
        network is smooth everywhere. Of descent, none is wrong at some step, of number
        "num_steps" at the latest: the first at which the residual is below
        "least_margin".

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
    check_choice("dynamics", dynamics, get_args(Dynamics))
    check_choice("loss", loss, get_args(Loss))
    if dynamics == "descent" and loss == "logistic":
        raise ValueError("`dynamics` must be 'flow' for the logistic loss.")
    if dynamics == "flow" and learning_rate is not None:
        raise ValueError(
            f"`learning_rate` is of dynamics='descent' alone; got {learning_rate!r}."
        )
    if learning_rate is not None:
        check_positive("learning_rate", learning_rate)
    start = bounds_at(network, params, x, y, rigor=rigor)
    theorem = f"zero training error, gradient {dynamics} on the {loss} loss"
    conclusion = f"gradient {dynamics} classifies all training examples right"
    if loss == "logistic":
        enough = math.log(2) * (1 - _SLACK) / len(start.targets)
        found = flow_to_loss(start, enough)
        lasts = _lasting(start.local, found.radius or 0.0, enough)
        return dataclasses.replace(
            found,
            theorem=theorem,
            conclusion=conclusion,
            quantities=(*found.quantities, lasts),
            refutation=_conflict(start),
        )
    bounds, margin = start.local, _least_margin(start.targets)
    target = (interval(margin) * (1 - _SLACK)).low
    if bounds.residual.high < target:
        path = _no_path(bounds, target)
    elif dynamics == "flow":
        path = _flow(bounds, target)
    else:
        path = _descent(bounds, target, learning_rate)
    bound = Quantity.upper("time", path.time, "time by which no example is wrong")
    lasts = (_lasting(bounds, path.radius or 0.0, target**2 / 2),)
    if dynamics == "descent":
        meaning = "steps within which there is one at which no example is wrong"
        bound, lasts = Quantity.upper("num_steps", path.time, meaning), ()
    least = Quantity.lower("least_margin", margin, "residual that is short enough")
    return Certificate(
        theorem=theorem,
        conclusion=conclusion,
        assumptions=(
            *path.assumptions,
            assume_less("in time", f"{bound.name} is finite", path.time, math.inf),
        ),
        margin=path.margin,
        quantities=(*path.quantities, least, bound, *lasts),
        dynamics=dynamics,
        radius=path.radius,
        step_size=path.step_size,
        rigor=rigor,
        refutation=_conflict(start),
        premises=bounds.premises,
    )


class _Path(NamedTuple):
    """What is certain of a path until the residual is short enough."""

    time: float  # or number of steps
    assumptions: tuple[Assumption, ...]
    margin: float
    quantities: tuple[Quantity, ...]
    radius: float | None = None
    step_size: float | None = None


def _no_path(bounds: LocalBounds, target: float) -> _Path:
    """Where the residual is short enough at the start."""
    residual, sigma_min = bounds.residual, bounds.blocks[0].sigma_min
    statement = "the residual at the start is below the least margin"
    return _Path(
        time=0.0,
        assumptions=(assume_less("below", statement, residual.high, target),),
        margin=1 - residual.high / target,
        quantities=start_quantities(residual, sigma_min, bounds.jacobian_norm),
    )


def _flow(bounds: LocalBounds, target: float) -> _Path:
    residual = interval(bounds.residual.high)
    needed = max((residual - target).high, 0.0)
    balls = [
        smallest_ball(block.sigma_min, needed, block.lipschitz)
        for block in bounds.blocks
    ]
    ball = max(balls, key=lambda ball: (ball.holds, ball.sigma_end.low))
    time = (residual / target).log() / (ball.sigma_end * ball.sigma_end)
    return _Path(
        time=upper_or_infinity(time),
        assumptions=ball_assumptions(ball, "(|r0| - m)"),
        margin=ball.margin,
        quantities=(
            *ball_quantities(ball, bounds),
            _of_zero_loss(bounds, residual.high),
        ),
        radius=ball.length.high,
    )


def _descent(bounds: LocalBounds, target: float, learning_rate: float | None) -> _Path:
    best = fastest_descent(bounds, learning_rate=learning_rate, target=target)
    residual = interval(bounds.residual.high)
    steps = upper_or_infinity(2 * (residual / target).log() / best.rate)
    demand = residual / (1 - interval(best.epsilon))
    return _Path(
        time=float(math.ceil(steps)) if math.isfinite(steps) else math.inf,
        assumptions=(
            *ball_assumptions(best.ball, "(|r0| - m) / (1 - epsilon)"),
            best.step_assumption,
        ),
        margin=min(best.ball.margin, best.step_margin),
        quantities=(
            *ball_quantities(best.ball, bounds),
            *best.quantities,
            _of_zero_loss(bounds, demand.high),
        ),
        radius=best.reach,
        step_size=best.step,
    )


def _of_zero_loss(bounds: LocalBounds, demand: float) -> Quantity:
    """The condition number of the whole path, to compare."""
    conditions = [
        smallest_ball(block.sigma_min, demand, block.lipschitz).condition
        for block in bounds.blocks
    ]
    least = min(map(upper_or_infinity, conditions))
    return Quantity.upper("h_of_zero_loss", least, "what h is for zero loss")


def _lasting(bounds: LocalBounds, path: float, loss: float) -> Quantity:
    r"""How long no example gets wrong again, from when the loss is at most `loss` on."""
    # Within time t the flow gets no farther than (t L)^(1/2), and while it is in a ball
    # in which the network is smooth, the loss does not rise.
    lasts, radii = 0.0, np.geomspace(1e12, 1e-12, 25)
    norm = bounds.jacobian_norm
    scale = math.sqrt(2 * loss) / norm if 0 < norm < math.inf else 1.0
    if math.isfinite(path + scale):
        with np.errstate(all="ignore"):  # what overflows is not known to be smooth
            for room in map(interval, (scale * radii).tolist()):
                if math.isfinite(bounds.lipschitz((room + path).high)):
                    lasts = (room * room / (interval(loss) * (1 + _SLACK))).low
                    break
    return Quantity.lower("lasts", lasts, "how long it stays so, at least")


def _conflict(start: Start | ProgramStart) -> Assumption | None:
    """The first two equal inputs with different classes, if there are any."""
    targets = start.targets
    is_one = targets.shape[1] == 1
    classes = np.sign(targets) if is_one else np.argmax(targets, axis=1)[:, None]
    inputs = np.asarray(start.x).reshape(len(targets), -1)
    found = conflict_of(inputs, classes.astype(np.float64))
    if found is None:
        return None
    statement = "two equal inputs have different classes, of which one is always wrong"
    return dataclasses.replace(found, statement=statement)


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
