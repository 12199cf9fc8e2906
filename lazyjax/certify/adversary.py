r"""Points near the start where the gradient is small but the loss is not.

One point of a ball with a small ratio $\lVert\nabla L\rVert^2/L$ bounds $\alpha(r)$ of
`lazyjax.certify.chatterjee2022` from above, and may refute the criterion at $r$; no number
of points can confirm it.

As $\alpha$ does not increase with $r$, a ratio found at $r_j$ refutes all radii from $r_j$
up to $(4 L_0 / \text{ratio})^{1/2}$, and the ratio at the start all up to
$2L_0/\lVert\nabla L_0\rVert$. A point with zero gradient and positive loss refutes all
radii from its distance on, as parameters of zero often do. Together they may refute the
criterion altogether.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Shaped

from lazyjax._brief import brief
from lazyjax._checks import (
    check_apply_fn,
    check_at_least,
    check_batch,
    check_key,
    check_network_output,
    check_nonnegative,
    check_params,
    check_positive,
    check_targets,
)
from lazyjax.callables.static import HashableCallable
from lazyjax.certify.certificate import Certificate
from lazyjax.certify.statements import Assumption, Quantity
from lazyjax.dynamics.losses import square_loss
from lazyjax.files.results import Storable
from lazyjax.typing import AnyArray, ApplyFn, Params, RandomKey


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attack(Storable):
    r"""Smallest ratios found in balls of several radii.

    Attributes:
        radii: The radii, increasing; the first is 0, the start itself.
        ratio: Smallest $\lVert\nabla L\rVert^2/L$ found within each.
        loss: $L_0$.

    Raises:
        ValueError: If radii do not increase from 0, or a number is negative.
    """

    radii: Float[np.ndarray, "radii"]
    ratio: Float[np.ndarray, "radii"]
    loss: float

    def __post_init__(self) -> None:
        radii, ratio = np.asarray(self.radii), np.asarray(self.ratio)
        if radii.size == 0 or radii[0] != 0 or not np.all(np.diff(radii) > 0):
            raise ValueError(f"`radii` must increase from 0; got {radii}.")
        if ratio.shape != radii.shape:
            raise ValueError(
                f"`ratio` must have one number for each radius; got shapes {ratio.shape}"
                f" and {radii.shape}."
            )
        # Of losses that overflow neither is a number: they refute nothing.
        check_nonnegative("ratio", np.nan_to_num(ratio, nan=0.0, posinf=0.0))
        check_nonnegative("loss", np.nan_to_num(self.loss, nan=0.0))

    def alpha_upper(self, radius: float) -> float:
        """Upper bound of alpha in a ball: the smallest ratio found within it.

        Args:
            radius: Radius of the ball.

        Returns:
            The ratio.

        Raises:
            ValueError: If `radius` is negative.
        """
        if not radius >= 0:
            raise ValueError(f"`radius` must be at least 0; got {brief(radius)}.")
        return float(np.min(self.ratio[self.radii <= radius]))

    @property
    def open_radii(self) -> tuple[tuple[float, float], ...]:
        """Intervals of radii at which the criterion is not refuted, from left to right.

        None at all means that it is refuted altogether.
        """
        least = np.minimum.accumulate(self.ratio)
        ends = [*self.radii[1:], math.inf]
        found = []
        for start, end, ratio in zip(self.radii, ends, least, strict=True):
            # In this range of radii, alpha is at most the ratio.
            refuted_to = math.inf if ratio == 0 else 2 * math.sqrt(self.loss / ratio)
            if refuted_to < end:
                found.append((max(float(start), refuted_to), float(end)))
        return tuple(found)


def attack(
    apply_fn: ApplyFn,
    params: Params,
    x: Shaped[AnyArray, "n *d"],
    y: Float[AnyArray, "n k"],
    radii: Float[AnyArray, "radii"] | list[float],
    *,
    key: RandomKey,
    num_steps: int = 100,
    num_starts: int = 4,
) -> Attack:
    r"""Projected descent on $\log(\lVert\nabla L\rVert^2/L)$ in balls about the start.

    Args:
        apply_fn: Network, twice differentiable.
        params: Centre of the balls.
        x: Training inputs.
        y: Training targets.
        radii: Positive radii.
        key: Source of randomness.
        num_steps: Steps of descent.
        num_starts: Descents per ball, at least 2: one begins at the point nearest to
            parameters of zero, one at the centre, others on the sphere.

    Returns:
        The smallest ratios, in the precision of the network.

    Raises:
        TypeError: If an argument is not of its kind.
        ValueError: If shapes do not fit, or a number is out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> flat = lambda w, x: x @ w**2  # L = w^4 / 2, |grad L|^2 / L = 8 w^2
        >>> found = attack(
        ...     flat, jnp.ones((1, 1)), jnp.ones((1, 1)), jnp.zeros((1, 1)), [0.5],
        ...     key=jax.random.key(0),
        ... )
        >>> found.alpha_upper(0.5)
        2.0
    """
    check_at_least("num_steps", num_steps, 1)
    check_at_least("num_starts", num_starts, 2)
    check_key("key", key)
    check_apply_fn(apply_fn, params)
    check_batch("x", x)
    check_params("params", params)
    x = jnp.asarray(x)
    shape = jax.eval_shape(apply_fn, params, x)
    check_network_output(shape, x)
    check_targets("y", y, *shape.shape)
    sizes = np.unique(np.asarray(radii, np.float64))
    if sizes.size == 0 or not (sizes[0] > 0 and math.isfinite(sizes[-1])):
        raise ValueError(f"`radii` must be positive and finite; got {brief(radii)}.")
    loss, ratio = _attack(
        params,
        x,
        jnp.asarray(y),
        jnp.asarray(sizes, shape.dtype),
        key,
        apply_fn=HashableCallable(apply_fn),
        num_steps=num_steps,
        num_starts=num_starts,
    )
    return Attack(
        radii=np.concatenate([[0.0], sizes]),
        ratio=np.asarray(ratio, np.float64),
        loss=float(loss),
    )


def refute(
    apply_fn: ApplyFn,
    params: Params,
    x: Shaped[AnyArray, "n *d"],
    y: Float[AnyArray, "n k"],
    *,
    radius: float | None = None,
    key: RandomKey,
    num_steps: int = 100,
    num_radii: int = 24,
) -> Certificate:
    r"""Attempt to refute Chatterjee's criterion, at one radius or at all.

    Args:
        apply_fn: Network, twice differentiable.
        params: Start.
        x: Training inputs.
        y: Training targets.
        radius: The radius; `None` for all.
        key: Source of randomness.
        num_steps: Steps of descent in each ball.
        num_radii: Balls, if all radii are asked for.

    Returns:
        REFUTED, or INCONCLUSIVE if the attempt failed: never CERTIFIED.

    Raises:
        TypeError: If an argument is not of its kind.
        ValueError: If shapes do not fit, or a number is out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> flat = lambda w, x: x @ w**2
        >>> refute(
        ...     flat, jnp.ones((1, 1)), jnp.ones((1, 1)), jnp.zeros((1, 1)), radius=0.5,
        ...     key=jax.random.key(0),
        ... ).verdict.name
        'REFUTED'
    """
    check_at_least("num_radii", num_radii, 2)
    if radius is not None:
        check_positive("radius", radius)
    radii = [radius] if radius is not None else _radii(params, num_radii)
    found = attack(apply_fn, params, x, y, radii, key=key, num_steps=num_steps)
    if radius is not None:
        ratio = found.alpha_upper(radius)
        is_refuted = 4 * found.loss >= radius**2 * ratio
        detail = f"{4 * found.loss:.6g} against {radius**2 * ratio:.6g} at a point"
        where = "at this radius"
    else:
        ratio = found.alpha_upper(math.inf)
        is_refuted = not found.open_radii
        left = ", ".join(f"{a:.4g} to {b:.4g}" for a, b in found.open_radii)
        detail = f"left open: {left or 'none'}"
        where = "at any radius"
    return Certificate(
        theorem="Chatterjee's criterion (2022), against an adversary",
        conclusion=f"the criterion 4 L0 < r^2 alpha(r) holds {where}",
        assumptions=(
            Assumption(
                name="criterion",
                statement=f"4 L0 < r^2 alpha(r) {where}",
                holds=None,
                detail="points can refute it only",
            ),
        ),
        margin=math.nan,
        quantities=(
            Quantity.estimate("loss", found.loss),
            Quantity.estimate(
                "alpha_upper", ratio, "smallest |grad L|^2 / L found in the ball"
            ),
        ),
        rigor="float",
        refutation=Assumption(
            name="counterexample",
            statement=f"4 L0 >= r^2 alpha(r) {where}",
            holds=True if is_refuted else None,
            detail=detail,
        ),
    )


def _radii(params: Params, num_radii: int) -> list[float]:
    """Radii up to the distance of parameters of zero, and from 1e-3 of that on."""
    flat = [np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(params)]
    size = float(np.linalg.norm(np.concatenate(flat))) if flat else 0.0
    size = size or 1.0
    # A hair farther than zero, which is to be inside despite rounding.
    return [float(r) for r in np.geomspace(1e-3, 1 + 1e-6, num_radii) * size]


@functools.partial(jax.jit, static_argnames=("apply_fn", "num_steps", "num_starts"))
def _attack(
    params: Params,
    x: Array,
    y: Array,
    radii: Array,
    key: Array,
    *,
    apply_fn: ApplyFn,
    num_steps: int,
    num_starts: int,
) -> tuple[Array, Array]:
    centre, unravel = ravel_pytree(params)

    def loss_at(w: Array) -> Array:
        return square_loss(apply_fn(unravel(w), x), y)

    def ratio_at(w: Array) -> Array:
        loss, gradient = jax.value_and_grad(loss_at)(w)
        # Where the loss is zero there is no ratio. Small squares would underflow.
        ratio = jnp.sum((gradient / jnp.sqrt(loss)) ** 2)
        return jnp.where(loss > 0, ratio, jnp.inf)

    def inside(w: Array, radius: Array) -> Array:
        move = w - centre
        length = jnp.linalg.norm(move)
        shorter = radius / jnp.where(length > radius, length, 1)
        return jnp.where(length > radius, centre + shorter * move, w)

    slope_fn = jax.grad(lambda w: jnp.log(ratio_at(w)))

    def descend(start: Array, radius: Array) -> Array:
        def step(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
            w, best = state
            slope = slope_fn(w)
            slope = jnp.where(jnp.isfinite(slope), slope, 0)
            norm = jnp.linalg.norm(slope)
            direction = slope / jnp.where(norm > 0, norm, 1)
            length = radius * (1 - i.astype(radius.dtype) / num_steps) / 2
            w = inside(w - length * direction, radius)
            return w, smaller(best, ratio_at(w))

        first = inside(start, radius)
        best = smaller(jnp.full((), jnp.inf, radius.dtype), ratio_at(first))
        return jax.lax.fori_loop(0, num_steps, step, (first, best))[1]

    def smaller(best: Array, ratio: Array) -> Array:
        return jnp.where(ratio < best, ratio, best)  # a NaN is not smaller

    def of_ball(radius: Array, key: Array) -> Array:
        random = jax.random.normal(key, (num_starts - 2, centre.size), centre.dtype)
        norms = jnp.linalg.norm(random, axis=1, keepdims=True)
        starts = jnp.concatenate(
            [
                jnp.zeros_like(centre)[None],
                centre[None],
                centre[None] + radius * random / norms,
            ]
        )
        return jnp.min(jax.vmap(lambda start: descend(start, radius))(starts))

    ratios = jax.vmap(of_ball)(radii, jax.random.split(key, radii.size))
    return loss_at(centre), jnp.concatenate([ratio_at(centre)[None], ratios])
