r"""The argument of Du et al. (2019) for two-layer ReLU networks, step by step, on a run.

Gradient descent with learning rate $\eta$ on $L = \tfrac12 \lVert f - y\rVert^2$ trains
the first layer of $f(x) = m^{-1/2} \sum_r a_r \max(0, w_r \cdot x)$ from
$w_r \sim N(0, I)$, with signs $a_r$ fixed and $\lVert x_i \rVert = 1$. With $H(k)$ the
kernel after $k$ steps, $t = \eta k$, $H^\infty$ its limit of infinite width and
$\lambda_0 = \lambda_{\min}(H^\infty)$, the argument is:

- (A) $\lambda_0 > 0$, as no two inputs are parallel;
- (B) the start is close to the limit, $\lVert H(0) - H^\infty \rVert_2 \le \lambda_0/4$,
  so that (B') $\lambda_{\min}(H(0)) \ge \tfrac34 \lambda_0$;
- (C) the kernel stays close to its start, $\lVert H(k) - H(0) \rVert_2 \le \lambda_0/4$,
  so that (C') $\lambda_{\min}(H(k)) \ge \tfrac12 \lambda_0$;
- (D) hence the loss falls at least as fast as $e^{-\lambda_0 t}$ (their theorem for
  gradient flow), so that (D') at least as fast as $(1 - \eta\lambda_0/2)^k$ (their
  theorem for gradient descent, which asks for $\eta = O(\lambda_0/n^2)$; implied by (D)
  while $\eta\lambda_0 \le 3/2$).

Here each inequality is measured on one run. That a step holds says that it held there,
in floating point, at the steps observed: it is not a proof that it must. That it fails
says that the argument does not apply as written; the loss may fall all the same.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from lazyjax._checks import check_floating, check_nonnegative, check_positive
from lazyjax.files.results import Storable
from lazyjax.linalg import eigh, eigvalsh
from lazyjax.typing import AnyArray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Step(Storable):
    """One inequality of the argument, measured.

    Attributes:
        measured: Measured quantity.
        bound: What it is compared to.
        label: Which step of the argument, such as "B".
        statement: The inequality in words.
        sense: Whether `measured` should be "at most" or "at least" `bound`.
    """

    measured: Float[Array, "*batch"]
    bound: Float[Array, "*batch"]
    label: str = dataclasses.field(metadata={"static": True})
    statement: str = dataclasses.field(metadata={"static": True})
    sense: Literal["at most", "at least"] = dataclasses.field(metadata={"static": True})

    @property
    def holds(self) -> Bool[Array, "*batch"]:
        """Whether the inequality held; never by a NaN or an infinity."""
        known = jnp.isfinite(self.measured) & jnp.isfinite(self.bound)
        if self.sense == "at most":
            return known & (self.measured <= self.bound)
        return known & (self.measured >= self.bound)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasuredArgument(Storable):
    r"""All steps of the argument, measured on one run or, with leading axes, on several.

    Attributes:
        eig_min: $\lambda_0$, the smallest eigenvalue of the infinite-width kernel.
        positive: (A) $\lambda_0$ above its rounding error.
        start: (B) spectral distance of the kernel at the start from its limit.
        start_eig_min: (B') smallest eigenvalue at the start.
        drift: (C) largest spectral distance from the start, over observed steps.
        drift_eig_min: (C') smallest eigenvalue, over observed steps.
        loss_flow: (D) largest ratio of the loss to $e^{-\lambda_0 t} L(0)$, over all
            steps after the first.
        loss_descent: (D') the same with $(1 - \eta \lambda_0/2)^k L(0)$.
    """

    eig_min: Float[Array, "*batch"]
    positive: Step
    start: Step
    start_eig_min: Step
    drift: Step
    drift_eig_min: Step
    loss_flow: Step
    loss_descent: Step

    @property
    def steps(self) -> Iterator[Step]:
        """The steps in the order of the argument."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Step):
                yield value

    def explain(self) -> str:
        """The outcome in words, one line per step, over all runs measured."""
        num_runs = max(step.holds.size for step in self.steps)
        lines = [
            f"Du et al. (2019), measured on {num_runs} run{'s' * (num_runs != 1)} "
            f"(not a certificate); lambda_0 = {float(self.eig_min):.4g}."
        ]
        for step in self.steps:
            holds = np.asarray(step.holds).reshape(-1)
            measured = np.asarray(step.measured).reshape(-1)
            worst = measured.max() if step.sense == "at most" else measured.min()
            lines.append(
                f"({step.label}) {step.statement}: held in {holds.sum()} of "
                f"{holds.size}; worst {worst:.3g}, needed {step.sense} "
                f"{np.asarray(step.bound).reshape(-1)[0]:.3g}."
            )
        return "\n".join(lines)


def measure(
    ntk_infinite: Float[AnyArray, "n n"],
    *,
    ntk_start: Float[AnyArray, "*batch n n"],
    drift_norm: Float[AnyArray, "*batch num_observed"],
    eig_min: Float[AnyArray, "*batch num_observed"],
    loss: Float[AnyArray, "*batch num_losses"],
    learning_rate: float | Float[AnyArray, ""],
) -> MeasuredArgument:
    r"""The steps of the argument, measured on runs of gradient descent.

    Args:
        ntk_infinite: $H^\infty$ on the training inputs, from `lazyjax.infinite_ntk`.
        ntk_start: $H(0)$, of one run or of several along leading axes.
        drift_norm: $\lVert H(k) - H(0)\rVert_2$ at the observed steps; the observer
            `ntk_drift_norm`.
        eig_min: $\lambda_{\min}(H(k))$ at the observed steps; `ntk_eig_min`.
        loss: $\tfrac12\lVert f - y\rVert^2$ (summed, not averaged) at every step from
            the start on.
        learning_rate: Of gradient descent on that loss.

    Returns:
        The measurement, with the leading axes of the runs.

    Raises:
        TypeError: If an array is not floating point.
        ValueError: If there is no loss after the first step, an array is empty, a norm
            or loss is negative, or `learning_rate` not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> measured = measure(
        ...     jnp.eye(2),
        ...     ntk_start=0.9 * jnp.eye(2),
        ...     drift_norm=jnp.array([0.0, 0.3]),
        ...     eig_min=jnp.array([0.9, 0.6]),
        ...     loss=jnp.array([1.0, 0.7]),
        ...     learning_rate=0.5,
        ... )
        >>> [step.label for step in measured.steps if not step.holds]
        ['C', 'D']

    References:
        Du, Zhai, Poczos and Singh (2019), arXiv:1810.02054, Lemmas 3.1 to 3.3 and
        Theorems 3.1 and 4.1 (numbers not checked).
    """
    arrays = {
        "ntk_infinite": ntk_infinite,
        "ntk_start": ntk_start,
        "drift_norm": drift_norm,
        "eig_min": eig_min,
        "loss": loss,
    }
    for name, array in arrays.items():
        check_floating(name, array)
        if array.size == 0:
            raise ValueError(f"`{name}` must not be empty; got shape {array.shape}.")
    if loss.shape[-1] < 2:
        raise ValueError(
            "`loss` must hold the loss at the start and after at least one step; got "
            f"shape {loss.shape}."
        )
    for name in ("drift_norm", "loss"):
        # A NaN is no number of a run that went wrong: no inequality holds by it.
        check_nonnegative(name, jnp.nan_to_num(arrays[name], nan=0.0))
    check_positive("learning_rate", learning_rate)
    ntk_infinite, ntk_start = jnp.asarray(ntk_infinite), jnp.asarray(ntk_start)
    loss, eig_min = jnp.asarray(loss), jnp.asarray(eig_min)
    eigenvalues, _, rounding = eigh(ntk_infinite)
    # Without (A) there is nothing to compare with, and no later step holds.
    eig_min_0 = jnp.where(eigenvalues[0] >= rounding, eigenvalues[0], jnp.nan)
    start_change = ntk_start - jnp.broadcast_to(ntk_infinite, ntk_start.shape)
    start_error = jnp.max(jnp.abs(eigvalsh(start_change)), axis=-1)
    ratio_flow, ratio_descent = _loss_ratios(
        loss, eig_min_0, jnp.asarray(learning_rate, loss.dtype)
    )
    one = jnp.ones((), loss.dtype)
    numbers = {
        "positive": (eigenvalues[0], rounding),
        "start": (start_error, eig_min_0 / 4),
        "start_eig_min": (eigvalsh(ntk_start)[..., 0], 3 * eig_min_0 / 4),
        "drift": (jnp.max(jnp.asarray(drift_norm), axis=-1), eig_min_0 / 4),
        "drift_eig_min": (jnp.min(eig_min, axis=-1), eig_min_0 / 2),
        "loss_flow": (ratio_flow, one),
        "loss_descent": (ratio_descent, one),
    }
    steps = {
        name: Step(
            measured=found,
            bound=jnp.broadcast_to(bound, found.shape),
            label=label,
            statement=statement,
            sense=sense,
        )
        for name, (label, statement, sense) in _STATEMENTS.items()
        for found, bound in (numbers[name],)
    }
    return MeasuredArgument(eig_min=eigenvalues[0], **steps)


# Label, statement and sense of each step, by field of `MeasuredArgument`.
_STATEMENTS: Mapping[str, tuple[str, str, Literal["at most", "at least"]]] = {
    "positive": ("A", "lambda_0 = lambda_min(H^inf) > 0", "at least"),
    "start": ("B", "|H(0) - H^inf| <= lambda_0/4", "at most"),
    "start_eig_min": ("B'", "lambda_min(H(0)) >= 3/4 lambda_0", "at least"),
    "drift": ("C", "|H(t) - H(0)| <= lambda_0/4", "at most"),
    "drift_eig_min": ("C'", "lambda_min(H(t)) >= lambda_0/2", "at least"),
    "loss_flow": ("D", "loss <= exp(-lambda_0 t) loss(0)", "at most"),
    "loss_descent": ("D'", "loss <= (1 - eta lambda_0/2)^k loss(0)", "at most"),
}


def _loss_ratios(
    loss: Array, eig_min: Array, learning_rate: Array
) -> tuple[Array, Array]:
    """Largest ratios of the loss to the two bounds, from the first update on."""
    # Logarithms, since the bounds may underflow; a loss of exactly zero passes.
    step = jnp.arange(1, loss.shape[-1], dtype=loss.dtype)
    relative = jnp.log(loss[..., 1:]) - jnp.log(loss[..., :1])

    def largest(log_rate: Array) -> Array:
        log_bound = (step * log_rate).reshape((1,) * (loss.ndim - 1) + (-1,))
        return jnp.exp(jnp.max(relative - log_bound, axis=-1))

    return (
        largest(-learning_rate * eig_min),
        largest(jnp.log1p(-learning_rate * eig_min / 2)),
    )
