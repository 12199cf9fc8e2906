r"""Assumptions of Zou et al. (2018) on data and loss, and how far training really goes.

They classify with deep ReLU networks and labels $\pm 1$. Inputs of unit norm with
different labels must be at a distance $\phi > 0$; the loss $\frac1n\sum_i \ell(y_i f_i)$
must be made of a convex, decreasing $\ell$ with $\ell, \ell' \to 0$ and

$$-\ell'(z) \ge \min(\alpha_0, \alpha_1 \ell(z)^p),\quad p \le 1,\qquad
  |\ell'| \le \rho,\quad |\ell''| \le \lambda.$$

Gradient descent, full or stochastic, then stays in a small ball about its start. Neither
the width that they need nor the radius is known here in full, so both are left out: what
is measured is the radius that a run used.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lazyjax._checks import (
    check_at_least,
    check_batch,
    check_params,
    check_positive,
    check_targets,
)
from lazyjax.callables.static import HashableCallable
from lazyjax.certify.statements import Assumption
from lazyjax.dynamics import losses
from lazyjax.files.results import Storable
from lazyjax.trees import tree_distance
from lazyjax.typing import AnyArray, ApplyFn, Params, RandomKey

MarginLoss = Callable[[Array], Array]


LOGISTIC = losses.ZOU_ASSUMPTIONS[losses.logistic_loss]
r"""Constants of $\log(1 + e^{-z})$, for which $-\ell' = 1 - e^{-\ell}$."""


def logistic_loss(z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    r"""Logistic loss $\log(1 + e^{-z})$ of margins.

    Args:
        z: Margins $y f$.

    Returns:
        The losses.

    Example:
        >>> import jax.numpy as jnp
        >>> round(logistic_loss(jnp.zeros(())).item(), 4)
        0.6931
    """
    return jax.nn.softplus(-z)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossCheck(Storable):
    r"""A loss held against the constants of a family, on a grid of margins.

    A grid can show that a loss is no member; that it is one, it can only suggest.

    Attributes:
        ratio: Smallest $-\ell' / \min(\alpha_0, \alpha_1\ell^p)$; at least 1 in the
            family.
        ratio_at: Margin where it was found.
        lipschitz: Largest $|\ell'|$.
        smoothness: Largest $|\ell''|$.
        assumptions: Conditions of the family; one holds where the grid found nothing
            against it.
    """

    ratio: float
    ratio_at: float
    lipschitz: float
    smoothness: float
    assumptions: tuple[Assumption, ...]

    @property
    def passes(self) -> bool:
        """Whether the grid found nothing against any condition."""
        return all(assumption.holds for assumption in self.assumptions)


def check_loss(
    loss_fn: MarginLoss,
    family: losses.LossFamily = LOGISTIC,
    *,
    low: float = -50.0,
    high: float = 50.0,
    num_points: int = 4001,
) -> LossCheck:
    r"""Whether a loss looks like a member of a family.

    Args:
        loss_fn: Function $\ell$ of margins, elementwise.
        family: Constants.
        low: Smallest margin of the grid.
        high: Largest margin of the grid, where $\ell$ and $-\ell'$ must be below 1% of
            what they are at 0.
        num_points: Number of margins, evenly spaced.

    Returns:
        What was found, in double precision.

    Raises:
        ValueError: If the grid is empty.
        TypeError: If `num_points` is not an integer.

    Example:
        >>> import math
        >>> found = check_loss(logistic_loss)
        >>> found.passes, round(found.ratio, 3), round(2 * (1 - math.exp(-1)), 3)
        (True, 1.264, 1.264)

    References:
        Zou, Cao, Zhou and Gu (2018), arXiv:1811.08888 (conditions not checked against
        the paper).
    """
    check_at_least("num_points", num_points, 3)
    if not -math.inf < low < high < math.inf:
        raise ValueError(
            f"`low` must be below `high`, both finite; got {low} and {high}."
        )
    z = np.linspace(low, high, num_points)
    value, slope, curvature = _derivatives(loss_fn, z)
    at = _least_ratio(family, value, slope)[0]
    # Once more about the least: it may be at a kink between two points of the grid.
    fine = np.linspace(z[max(at - 1, 0)], z[min(at + 1, num_points - 1)], num_points)
    fine_at, ratio = _least_ratio(family, *_derivatives(loss_fn, fine)[:2])
    lipschitz, smoothness = np.max(np.abs(slope)), np.max(np.abs(curvature))
    centre = int(np.argmin(np.abs(z)))
    vanishes = 0 <= value[-1] <= value[centre] / 100
    vanishes &= abs(slope[-1]) <= abs(slope[centre]) / 100
    rounding = 1 + 1e-9
    bound_1, bound_2 = family.lipschitz, family.smoothness
    conditions = (
        ("convex", "l'' >= 0", np.all(curvature >= 0), curvature.min()),
        ("decreasing", "l' < 0", np.all(slope < 0), slope.max()),
        ("vanishes", "l and l' go to 0", vanishes, value[-1]),
        ("gradient", "-l' >= min(alpha0, alpha1 l^p)", ratio * rounding >= 1, ratio),
        (
            "Lipschitz",
            f"|l'| <= {bound_1:g}",
            lipschitz <= bound_1 * rounding,
            lipschitz,
        ),
        (
            "smooth",
            f"|l''| <= {bound_2:g}",
            smoothness <= bound_2 * rounding,
            smoothness,
        ),
    )
    return LossCheck(
        ratio=ratio,
        ratio_at=float(fine[fine_at]),
        lipschitz=float(lipschitz),
        smoothness=float(smoothness),
        assumptions=tuple(
            Assumption(
                name=name, statement=text, holds=bool(holds), detail=f"{number:.4g}"
            )
            for name, text, holds, number in conditions
        ),
    )


def _derivatives(
    loss_fn: MarginLoss, z: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values and two derivatives of an elementwise loss, in double precision."""
    slope_fn = jax.grad(lambda z: jnp.sum(loss_fn(z)))
    curvature_fn = jax.grad(lambda z: jnp.sum(slope_fn(z)))
    with jax.enable_x64(True):
        found = jax.jit(lambda z: (loss_fn(z), slope_fn(z), curvature_fn(z)))(z)
    value, slope, curvature = (np.asarray(array) for array in found)
    return value, slope, curvature


def _least_ratio(
    family: losses.LossFamily, value: np.ndarray, slope: np.ndarray
) -> tuple[int, float]:
    """Where the condition on the gradient is nearest to failing, and its ratio."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        size = np.maximum(value, 0.0) ** family.power
        needed = np.minimum(family.alpha0, family.alpha1 * size)
        ratios = np.where(needed > 0, -slope / needed, np.inf)
    at = int(np.argmin(np.where(np.isnan(ratios), -np.inf, ratios)))
    return at, float(ratios[at])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Radius(Storable):
    r"""How far a run went from its start.

    Attributes:
        loss: Mean loss over all examples at the start and after every step.
        distance: $\lVert w - w(0)\rVert_2$ over all parameters, at the same steps.
        spectral: $\max_l \lVert W_l - W_l(0)\rVert_2$, spectral norms, after the last
            step.
        accuracy: Share of examples with $y f > 0$ after the last step.
    """

    loss: Float[Array, "*batch num_losses"]
    distance: Float[Array, "*batch num_losses"]
    spectral: Float[Array, "*batch"]
    accuracy: Float[Array, "*batch"]

    @property
    def radius(self) -> Float[Array, "*batch"]:
        """Radius of the ball that the run stayed in: the largest distance."""
        return jnp.max(self.distance, axis=-1)


def measure_radius(
    apply_fn: ApplyFn,
    params: Params,
    x: Float[AnyArray, "n *d"],
    y: Float[AnyArray, "n 1"],
    *,
    learning_rate: float,
    num_steps: int,
    batch_size: int | None = None,
    key: RandomKey | None = None,
    loss_fn: MarginLoss = logistic_loss,
) -> Radius:
    r"""Distance that a run of gradient descent, full or stochastic, puts behind it.

    The loss is the mean of $\ell(y_i f_i)$ over examples, or over the batch.

    Args:
        apply_fn: Network with one output.
        params: Start.
        x: Training inputs.
        y: Labels $\pm 1$.
        learning_rate: Step size.
        num_steps: Number of updates.
        batch_size: Examples of each step, drawn without replacement and anew at every
            step; `None` means all.
        key: Source of randomness, if there is a batch size.
        loss_fn: Function $\ell$ of margins, elementwise.

    Returns:
        Losses and distances.

    Raises:
        TypeError: If an argument is not of its kind.
        ValueError: If shapes do not fit, labels are not signs, a number is out of
            range, or `key` is missing or needless.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> run = measure_radius(
        ...     lambda w, x: x @ w,
        ...     jnp.zeros((2, 1)),
        ...     jnp.eye(2),
        ...     jnp.array([[1.0], [-1.0]]),
        ...     learning_rate=4.0,
        ...     num_steps=1,
        ... )
        >>> run.radius.item(), run.accuracy.item()  # each weight moves by 4 / (2 * 2)
        (1.414, 1.0)

    References:
        Zou, Cao, Zhou and Gu (2018), arXiv:1811.08888.
    """
    check_batch("x", x)
    check_params("params", params)
    n = x.shape[0]
    check_targets("y", y, n, 1)
    if not np.all(np.abs(np.asarray(y)) == 1):
        raise ValueError("`y` must hold labels of -1 and +1 only.")
    check_positive("learning_rate", learning_rate)
    check_at_least("num_steps", num_steps, 1)
    if batch_size is not None:
        check_at_least("batch_size", batch_size, 1)
        if batch_size > n:
            raise ValueError(f"`batch_size` must be at most {n}; got {batch_size}.")
    if (batch_size is None) != (key is None):
        raise ValueError("`key` must be given with `batch_size`, and not without.")
    x, y = jnp.asarray(x), jnp.asarray(y)
    return _run(
        params,
        x,
        y.astype(x.dtype),
        jnp.asarray(learning_rate, x.dtype),
        jax.random.key(0) if key is None else key,
        apply_fn=HashableCallable(apply_fn),
        loss_fn=HashableCallable(loss_fn),
        num_steps=num_steps,
        batch_size=batch_size,
    )


@functools.partial(
    jax.jit, static_argnames=("apply_fn", "loss_fn", "num_steps", "batch_size")
)
def _run(
    params: Params,
    x: Array,
    y: Array,
    learning_rate: Array,
    key: Array,
    *,
    apply_fn: ApplyFn,
    loss_fn: MarginLoss,
    num_steps: int,
    batch_size: int | None,
) -> Radius:
    def loss_at(params: Params, x: Array, y: Array) -> Array:
        return jnp.mean(loss_fn(y * apply_fn(params, x)))

    def step(now: Params, key: Array) -> tuple[Params, tuple[Array, Array]]:
        rows, labels = x, y
        if batch_size is not None:
            chosen = jax.random.choice(key, x.shape[0], (batch_size,), replace=False)
            rows, labels = x[chosen], y[chosen]
        gradient = jax.grad(loss_at)(now, rows, labels)
        seen = (loss_at(now, x, y), tree_distance(now, params))
        return jax.tree.map(lambda w, g: w - learning_rate * g, now, gradient), seen

    last, (loss, distance) = jax.lax.scan(
        step, params, jax.random.split(key, num_steps)
    )
    moves = jax.tree.leaves(jax.tree.map(jnp.subtract, last, params))
    spectral = [
        jnp.linalg.norm(move.reshape(-1, move.shape[-1] if move.ndim else 1), ord=2)
        for move in moves
    ]
    return Radius(
        loss=jnp.append(loss, loss_at(last, x, y)),
        distance=jnp.append(distance, tree_distance(last, params)),
        spectral=jnp.max(jnp.stack(spectral)),
        accuracy=jnp.mean((y * apply_fn(last, x) > 0).astype(x.dtype)),
    )
