r"""What Allen-Zhu et al. (2019) prove of deep ReLU networks, measured along a run.

With $F = \tfrac12\lVert f - y\rVert^2$ and inputs of unit norm at distances of at least
$\delta$, two things hold near a random start of large width, so that gradient descent
converges: the gradient is not small unless the loss is,
$\lVert\nabla F\rVert^2 \ge c\,F$, and the loss is nearly smooth, although ReLU is not,

$$F(W + W') \le F(W) + \langle\nabla F(W), W'\rangle
  + c_1 \sqrt{F(W)}\, \lVert W'\rVert_2 + c_2 \lVert W'\rVert_2^2.$$

Here $\lVert W'\rVert_2$ is the largest spectral norm of a layer. The ratio and the
constants are measured at some points of one run: diagnostics, which prove nothing.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Shaped

from lazyjax._checks import check_at_least, check_positive
from lazyjax.dynamics import train
from lazyjax.dynamics.losses import square_loss
from lazyjax.dynamics.observers import Snapshot
from lazyjax.files.results import Storable
from lazyjax.trees import tree_add, tree_norm
from lazyjax.typing import AnyArray, ApplyFn, Params

# Several lengths of step tell the two terms of the remainder apart.
_LENGTHS = (0.25, 1.0, 4.0, 16.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasuredSmoothness(Storable):
    r"""Gradient bounds and semi-smoothness at the observed steps of a run.

    Attributes:
        observed_at: The steps.
        loss: $F$.
        gradient_ratio: $\lVert\nabla F\rVert^2 / F$; NaN where the loss is 0.
        step_norm: $\lVert W'\rVert_2$ of steps along the negative gradient, of several
            lengths.
        remainder: $F(W + W') - F(W) - \langle\nabla F(W), W'\rangle$ of those steps.
    """

    observed_at: np.ndarray
    loss: Float[np.ndarray, "observed"]
    gradient_ratio: Float[np.ndarray, "observed"]
    step_norm: Float[np.ndarray, "observed lengths"]
    remainder: Float[np.ndarray, "observed lengths"]

    @property
    def gradient_ratio_range(self) -> tuple[float, float]:
        r"""Smallest and largest ratio, the constants of both gradient bounds here."""
        known = self.gradient_ratio[np.isfinite(self.gradient_ratio)]
        if not known.size:
            return math.nan, math.nan
        return float(known.min()), float(known.max())

    @property
    def semi_smoothness(self) -> tuple[float, float]:
        r"""Constants $c_1, c_2 \ge 0$, fitted to the remainders by least squares."""
        first = (np.sqrt(self.loss)[:, None] * self.step_norm).ravel()
        terms = np.stack([first, self.step_norm.ravel() ** 2], axis=1)
        remainder = self.remainder.ravel()
        known = np.isfinite(terms).all(axis=1) & np.isfinite(remainder)
        return _non_negative_fit(terms[known], remainder[known])

    def explain(self) -> str:
        """The outcome in words."""
        low, high = self.gradient_ratio_range
        first, second = self.semi_smoothness
        return (
            f"Allen-Zhu et al. (2019), measured at {self.loss.size} steps of a run (not "
            f"a certificate): |grad F|^2 / F between {low:.4g} and {high:.4g}; the "
            "remainder of the first-order expansion fits "
            f"{first:.3g} sqrt(F) |W'| + {second:.3g} |W'|^2."
        )


def measure(
    apply_fn: ApplyFn,
    params: Params,
    x: Shaped[AnyArray, "n *d"],
    y: Float[AnyArray, "n k"],
    *,
    learning_rate: float,
    num_steps: int,
    observe_at: Sequence[int] | None = None,
) -> MeasuredSmoothness:
    r"""Gradient bounds and semi-smoothness along a run of gradient descent.

    Args:
        apply_fn: Network; of any kind, though the theorem is about
            `lazyjax.certify.allen_zhu2019.network`.
        params: Start.
        x: Training inputs.
        y: Training targets.
        learning_rate: Of gradient descent on $F$, summed over examples.
        num_steps: Number of updates.
        observe_at: Steps at which to measure; `None` means eight, evenly spaced.

    Returns:
        The measurement.

    Raises:
        TypeError: If an argument is not of its kind.
        ValueError: If shapes do not fit, or a number is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> linear = lambda w, x: x @ w
        >>> x, y = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([[1.0], [2.0]])
        >>> run = measure(linear, jnp.zeros((2, 1)), x, y, learning_rate=0.1, num_steps=8)
        >>> run.gradient_ratio_range  # 2 lambda_min(H), 2 lambda_max(H)
        (2.0, 2.0)

    References:
        Allen-Zhu, Li and Song (2019), arXiv:1811.03962, Theorems 3 and 4 (not checked
        against the paper).
    """
    check_positive("learning_rate", learning_rate)
    check_at_least("num_steps", num_steps, 1)
    if observe_at is None:
        spaced = np.linspace(0, num_steps, 8).round().astype(int)
        observe_at = np.unique(spaced).tolist()
    run = train(
        apply_fn,
        params,
        x,
        y,
        optimizer=optax.sgd(learning_rate),
        num_steps=num_steps,
        observe={"expansion": _Expansion(learning_rate)},
        observe_at=observe_at,
    )
    seen = {
        name: np.asarray(values, np.float64)
        for name, values in run.observations["expansion"].items()
    }
    loss = seen["loss"]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(loss > 0, seen["gradient_norm"] ** 2 / loss, np.nan)
    return MeasuredSmoothness(
        observed_at=np.asarray(run.observed_at),
        loss=loss,
        gradient_ratio=ratio,
        step_norm=seen["step_norm"],
        remainder=seen["remainder"],
    )


@dataclasses.dataclass(frozen=True)
class _Expansion:
    """Observer of the loss and its expansion along the negative gradient."""

    learning_rate: float

    def __call__(self, snapshot: Snapshot) -> dict[str, Array]:
        def loss_at(params: Params) -> Array:
            f = snapshot.apply_fn(params, jnp.asarray(snapshot.x))
            return square_loss(f, jnp.asarray(snapshot.y))

        loss, gradient = jax.value_and_grad(loss_at)(snapshot.params)
        gradient_norm = tree_norm(gradient)
        spectral = _largest_layer_norm(gradient)
        lengths = [self.learning_rate * length for length in _LENGTHS]
        remainder = []
        for length in lengths:
            step = jax.tree.map(lambda g, t=length: -t * g, gradient)
            moved = loss_at(tree_add(snapshot.params, step))
            remainder.append(moved - loss + length * gradient_norm**2)
        return {
            "loss": loss,
            "gradient_norm": gradient_norm,
            "step_norm": spectral * jnp.asarray(lengths, spectral.dtype),
            "remainder": jnp.stack(remainder),
        }


def _largest_layer_norm(tree: Params) -> Array:
    def norm(leaf: Array) -> Array:
        matrix = (
            leaf
            if leaf.ndim == 2
            else leaf.reshape(-1, max(leaf.shape[-1:], default=1))
        )
        return jnp.linalg.norm(matrix, ord=2)

    return jnp.max(jnp.stack([norm(leaf) for leaf in jax.tree.leaves(tree)]))


def _non_negative_fit(terms: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Least squares with two coefficients, none of them negative."""
    if not len(values):
        return math.nan, math.nan
    scale = np.linalg.norm(terms, axis=0)
    scale[scale == 0] = 1
    both = np.linalg.lstsq(terms / scale, values, rcond=None)[0] / scale
    if (both >= 0).all():
        return float(both[0]), float(both[1])
    alone = np.maximum(terms.T @ values, 0) / scale**2
    errors = [np.linalg.norm(terms[:, i] * alone[i] - values) for i in range(2)]
    best = int(np.argmin(errors))
    return (float(alone[0]), 0.0) if best == 0 else (0.0, float(alone[1]))
