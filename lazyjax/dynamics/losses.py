r"""Losses, as sums over examples and outputs.

Losses of the margin $z = y f$, for labels $y = \pm 1$, belong to the family of Zou et
al. (2018) as far as they are convex, decrease to 0, and satisfy

$$-\ell'(z) \ge \min(\alpha_0, \alpha_1 \ell(z)^p), \quad p \le 1, \qquad
  |\ell'| \le \rho, \qquad \ell'' \le \lambda,$$

with the constants of `ZOU_ASSUMPTIONS` (their paper's statement was not checked).
"""

import dataclasses
import math
import types
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lazyjax._checks import check_positive
from lazyjax._renamed import deprecated_names
from lazyjax.typing import AnyArray, LossFn


def square_loss(f: Float[Array, "n k"], y: Float[Array, "n k"]) -> Float[Array, ""]:
    r"""Half the sum of squares $L = \tfrac12 \lVert f - y \rVert^2$, not a mean.

    Gradient flow on it moves the outputs by $\dot f = -\Theta (f - y)$. Another scaling
    $c L$ has the same runs at `learning_rate / c`: for the mean over examples of the
    squared error, $c = 2 / n$.

    Args:
        f: Outputs.
        y: Targets.

    Returns:
        The loss, summed over examples and outputs.

    Example:
        >>> import jax.numpy as jnp
        >>> square_loss(jnp.array([[3.0], [0.0]]), jnp.array([[1.0], [1.0]])).item()
        2.5
    """
    return jnp.sum(jnp.square(f - y)) / 2


def cross_entropy_loss(
    f: Float[Array, "n k"], y: Float[Array, "n k"] | Int[Array, "n"]
) -> Float[Array, ""]:
    r"""Cross-entropy $-\sum_{ia} y_{ia} \log \operatorname{softmax}(f_i)_a$.

    Args:
        f: Outputs, the logits of `k >= 2` classes.
        y: Probabilities of the classes, such as one-hot rows; or the classes, as
            integers from 0 to `k - 1`.

    Returns:
        The loss, summed over examples; NaN if a traced label is out of range.

    Raises:
        ValueError: If there is only one class, or a known label is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> round(cross_entropy_loss(jnp.zeros((1, 4)), jnp.eye(4)[:1]).item(), 4)
        1.3863
        >>> round(cross_entropy_loss(jnp.zeros((2, 4)), jnp.array([3, 0])).item(), 4)
        2.7726
    """
    if f.shape[-1] < 2:
        raise ValueError(
            f"`f` must hold logits of two or more classes; got shape {f.shape}. For one "
            "output and labels -1 and +1, take `logistic_loss`."
        )
    if y.ndim == 1 and jnp.issubdtype(y.dtype, jnp.integer):
        y = one_hot_rows("y", y, f.shape[1], f.dtype)
    return -jnp.sum(y * jax.nn.log_softmax(f, axis=1))


def one_hot_rows(
    name: str, labels: AnyArray, num_classes: int, dtype: jnp.dtype
) -> Float[Array, "n k"]:
    """Class labels as one-hot rows.

    Args:
        name: Of the labels, for errors.
        labels: Integers from 0.
        num_classes: Number of classes.
        dtype: Of the rows.

    Returns:
        One row per label, of NaN where a traced label is out of range.

    Raises:
        ValueError: If a known label is out of range.
    """
    try:
        known = np.asarray(labels)
    except jax.errors.TracerArrayConversionError:
        labels = jnp.asarray(labels)
        in_range = (labels >= 0) & (labels < num_classes)
        rows = jax.nn.one_hot(labels, num_classes, dtype=dtype)
        return jnp.where(in_range[:, None], rows, jnp.nan)
    if known.size and not 0 <= known.min() <= known.max() < num_classes:
        raise ValueError(
            f"`{name}` must hold class labels from 0 to {num_classes - 1}, one less "
            f"than the network's outputs; got {known.min()} to {known.max()}."
        )
    return jax.nn.one_hot(known, num_classes, dtype=dtype)


def takes_labels(loss_fn: LossFn) -> bool:
    """Whether a loss is of classes, so that targets may be their integer labels."""
    if isinstance(loss_fn, _Scaled):
        return takes_labels(loss_fn.loss_fn)
    return loss_fn is cross_entropy_loss


def logistic_loss(f: Float[Array, "n k"], y: Float[Array, "n k"]) -> Float[Array, ""]:
    r"""Logistic loss $\sum \log(1 + e^{-y f})$ of labels $y = \pm 1$.

    All assumptions of Zou et al. hold. For one output it is `cross_entropy_loss` of two
    classes with logits 0 and `f`. No finite parameters attain its infimum 0.

    Args:
        f: Outputs.
        y: Labels, -1 or +1.

    Returns:
        The loss, summed over examples and outputs.

    Example:
        >>> import jax.numpy as jnp
        >>> round(logistic_loss(jnp.zeros((1, 1)), jnp.ones((1, 1))).item(), 4)
        0.6931
    """
    return jnp.sum(jax.nn.softplus(-y * f))


def exponential_loss(
    f: Float[Array, "n k"], y: Float[Array, "n k"]
) -> Float[Array, ""]:
    r"""Exponential loss $\sum e^{-y f}$ of labels $y = \pm 1$.

    Of the assumptions of Zou et al., neither $\ell'$ nor $\ell''$ is bounded.

    Args:
        f: Outputs.
        y: Labels, -1 or +1.

    Returns:
        The loss, summed over examples and outputs.

    Example:
        >>> import jax.numpy as jnp
        >>> exponential_loss(jnp.zeros((3, 1)), jnp.ones((3, 1))).item()
        3.0
    """
    return jnp.sum(jnp.exp(-y * f))


def smoothed_hinge_loss(
    f: Float[Array, "n k"], y: Float[Array, "n k"]
) -> Float[Array, ""]:
    r"""Hinge loss of labels $y = \pm 1$, its kink smoothed over a unit of the margin.

    $\ell(z)$ is 0 for $z \ge 1$, $(1 - z)^2 / 2$ for $0 \le z \le 1$ and
    $\tfrac12 - z$ for $z \le 0$. The assumptions of Zou et al. hold, but for one: beyond
    margin 1 it does not decrease, being 0 already.

    Args:
        f: Outputs.
        y: Labels, -1 or +1.

    Returns:
        The loss, summed over examples and outputs.

    Example:
        >>> import jax.numpy as jnp
        >>> f = jnp.array([[2.0], [0.5], [-1.0]])
        >>> smoothed_hinge_loss(f, jnp.ones((3, 1))).item()
        1.625
    """
    short = jnp.maximum(1 - y * f, 0)
    return jnp.sum(jnp.where(short < 1, short**2 / 2, short - 0.5))


def squared_hinge_loss(
    f: Float[Array, "n k"], y: Float[Array, "n k"]
) -> Float[Array, ""]:
    r"""Squared hinge loss $\tfrac12 \sum \max(0, 1 - y f)^2$ of labels $y = \pm 1$.

    Of the assumptions of Zou et al., $\ell'$ is not bounded, and beyond margin 1 it does
    not decrease, being 0 already.

    Args:
        f: Outputs.
        y: Labels, -1 or +1.

    Returns:
        The loss, summed over examples and outputs.

    Example:
        >>> import jax.numpy as jnp
        >>> f = jnp.array([[2.0], [0.5], [-1.0]])
        >>> squared_hinge_loss(f, jnp.ones((3, 1))).item()
        2.125
    """
    return jnp.sum(jnp.maximum(1 - y * f, 0) ** 2) / 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossFamily:
    r"""Constants of a margin loss in the assumptions of Zou et al.; see the module.

    Attributes:
        alpha0: The $\alpha_0$.
        alpha1: The $\alpha_1$.
        power: The $p$, at most 1.
        lipschitz: The least $\rho$, infinite if there is none.
        smoothness: The least $\lambda$, infinite if there is none.
        is_strictly_decreasing: Whether the loss falls everywhere, so that it is nowhere
            0.

    Raises:
        ValueError: If a constant is not positive, or `power` above 1.
    """

    alpha0: float
    alpha1: float
    power: float
    lipschitz: float
    smoothness: float
    is_strictly_decreasing: bool = True

    def __post_init__(self) -> None:
        for name in ("alpha0", "alpha1", "power"):
            check_positive(name, getattr(self, name))
        for name in ("lipschitz", "smoothness"):
            if not getattr(self, name) > 0:
                raise ValueError(
                    f"`{name}` must be positive; got {getattr(self, name)!r}."
                )
        if self.power > 1:
            raise ValueError(f"`power` must be at most 1; got {self.power!r}.")


# Logistic: -l' = 1 - exp(-l) >= (1 - 1/e) min(1, l). Hinges: -l' = sqrt(2 l) where
# quadratic. Each is checked by a test on a grid.
ZOU_ASSUMPTIONS: Mapping[LossFn, LossFamily] = types.MappingProxyType(
    {
        logistic_loss: LossFamily(
            alpha0=0.5,
            alpha1=0.5,
            power=1.0,
            lipschitz=1.0,
            smoothness=0.25,
        ),
        exponential_loss: LossFamily(
            alpha0=1.0,
            alpha1=1.0,
            power=1.0,
            lipschitz=math.inf,
            smoothness=math.inf,
        ),
        smoothed_hinge_loss: LossFamily(
            alpha0=1.0,
            alpha1=2**0.5,
            power=0.5,
            lipschitz=1.0,
            smoothness=1.0,
            is_strictly_decreasing=False,
        ),
        squared_hinge_loss: LossFamily(
            alpha0=1.0,
            alpha1=2**0.5,
            power=0.5,
            lipschitz=math.inf,
            smoothness=1.0,
            is_strictly_decreasing=False,
        ),
    }
)


@dataclasses.dataclass(frozen=True)
class _Scaled:
    loss_fn: LossFn
    alpha: float | Float[Array, ""]

    def __call__(self, f: Float[Array, "n k"], y: Float[Array, "n k"], /) -> Array:
        return self.loss_fn(self.alpha * f, y) / self.alpha**2


def scaled(loss_fn: LossFn, alpha: int | float | Float[Array, ""]) -> LossFn:
    r"""The loss $R(\alpha h) / \alpha^2$ of a network $h$ whose outputs are scaled.

    Trained on it, $\alpha h$ moves at the speed of $h$ on $R$, whatever $\alpha$, and is
    lazier the larger $\alpha$ is if $h$ starts near 0. The factor $\alpha$ is in the
    loss only: outputs that observers see are those of $h$.

    Args:
        loss_fn: The loss $R$.
        alpha: Output scale. For a number, equal arguments give equal losses, so that a
            compiled program is used again; under `jax.vmap` it may be traced.

    Returns:
        The scaled loss.

    Raises:
        ValueError: If `alpha` is known and not positive and finite.

    Example:
        >>> import jax.numpy as jnp
        >>> scaled(square_loss, 10.0)(jnp.ones((1, 1)), jnp.zeros((1, 1))).item()
        0.5

    References:
        Chizat, Oyallon and Bach (2019), arXiv:1812.07956 (equation number not checked).
    """
    check_positive("alpha", alpha)
    # Numbers of NumPy would promote outputs of lower precision.
    return _Scaled(loss_fn, float(alpha) if isinstance(alpha, float | int) else alpha)


__getattr__ = deprecated_names(
    __name__, {"MarginAssumptions": "lazyjax.dynamics.losses.LossFamily"}
)
