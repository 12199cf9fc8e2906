r"""Minibatch noise of the linear model: mean and covariance of its outputs."""

import dataclasses
import functools
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lazyjax._checks import check_at_least, check_choice
from lazyjax.dynamics.linear.checks import check_kernel_problem, check_test_points
from lazyjax.dynamics.schedules import (
    LearningRate,
    at_steps,
    checked_learning_rates,
    checked_steps,
)
from lazyjax.files.results import Storable
from lazyjax.linalg import gram_matrix
from lazyjax.typing import AnyArray

IndependentSampling: TypeAlias = Literal["replacement", "subset"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearizedSGD(Storable):
    """Outputs of the linear model under SGD, over all draws of minibatches.

    Attributes:
        step: Numbers of updates that were asked for.
        mean: Mean outputs on the training points.
        covariance: Their covariance, between examples and outputs.
        mean_test: Mean outputs on the test points, if there are any; else `None`.
        covariance_test: Their covariance.
        loss: Mean of the training loss, on all examples.
    """

    step: Int[Array, "*steps"]
    mean: Float[Array, "*steps n k"]
    covariance: Float[Array, "*steps n n k k"]
    mean_test: Float[Array, "*steps n_test k"] | None
    covariance_test: Float[Array, "*steps n_test n_test k k"] | None
    loss: Float[Array, "*steps"]

    @property
    def variance(self) -> Float[Array, "*steps n k"]:
        """Variance of every output on the training points."""
        return _variances(self.covariance)

    @property
    def variance_test(self) -> Float[Array, "*steps n_test k"] | None:
        """Variance of every output on the test points."""
        return (
            None if self.covariance_test is None else _variances(self.covariance_test)
        )


class _Moments(NamedTuple):
    """Of residuals on training points, then of changes of outputs on test points.

    A kernel that outputs share acts on each of them by itself: they are columns. Of any
    other kernel the rows are examples and outputs, and there is one column.
    """

    mean: Float[Array, "c rows"]
    covariance: Float[Array, "c c rows rows"]


class _Draws(NamedTuple):
    """Moments of the number of times that a minibatch holds an example."""

    mean: Float[Array, ""]
    pair: Float[Array, ""]  # mean product of the numbers of two examples
    excess: Float[Array, ""]  # mean square of one, minus that


def linearized_sgd(
    ntk: Float[AnyArray, "n n *kk"],
    y: Float[AnyArray, "n k"],
    f0: Float[AnyArray, "n k"],
    step: int | Int[AnyArray, "*steps"],
    *,
    learning_rate: LearningRate,
    batch_size: int,
    sampling: IndependentSampling,
    ntk_test_train: Float[AnyArray, "n_test n *kk"] | None = None,
    f0_test: Float[AnyArray, "n_test k"] | None = None,
) -> LinearizedSGD:
    r"""Exact mean and covariance of the linear model's outputs under SGD.

    It is what `train(linearize(apply_fn, params), ..., batch_size=..., sampling=...)` with
    `optax.sgd` and the square loss, summed over each minibatch, does on average over `key`.

    One step moves the residual $r = f - y$ by $-\eta H P r$, where the diagonal $P$ counts
    how often the minibatch holds each example. As $P$ does not depend on $r$, with
    $\mathbb{E} P_i = c$ and $\mathbb{E} P_i P_j = a + b\, \mathbb{1}[i = j]$ the mean
    $\bar r$ and the covariance $R$ obey

    $$\bar r \leftarrow \bar r - \eta c H \bar r, \quad
      R \leftarrow R - \eta c (H R + R H) +
      \eta^2 H \bigl((a - c^2)\, \bar r \bar r^\top + a R +
      b\, \mathrm{diag}(\bar r \bar r^\top + R)\bigr) H,$$

    where diag keeps what belongs to one example, with all of its outputs. For $B$ of $n$
    examples, $c = B / n$. With replacement $a = B (B - 1) / n^2$ and $b = B / n$; for random
    subsets $a = B (B - 1) / (n (n - 1))$ and $b = c - a$. The mean is gradient descent at
    the rate $\eta c$, whatever the noise.

    Args:
        ntk: Kernel on the training points, unnormalized, in a form of `linear_dynamics`.
        y: Training targets.
        f0: Outputs on the training points at step 0.
        step: One or more numbers of updates.
        learning_rate: Step size $\eta$; or a schedule, as in
            `Linearized.gradient_descent`.
        batch_size: Number $B$ of examples of a minibatch.
        sampling: "replacement" or "subset", as in `train`. Its "shuffle" draws minibatches
            that depend on each other within an epoch, for which there is no such recursion.
        ntk_test_train: Kernel of test against training points, in the same form.
        f0_test: Outputs on the test points at step 0.

    Returns:
        Means and covariances. Where SGD diverges, they at last overflow and are not finite.

    Raises:
        TypeError: If an argument is not of its kind, or dtypes differ.
        ValueError: If shapes do not fit, or a number is out of range.

    Cost: Every update takes products of $N \times N$ matrices, two for a kernel in full, of
    $N = (n + n_{test}) k$ rows, and $2 k^2$ for one that outputs share, of
    $n + n_{test}$; covariances take $N^2$ numbers, or $k^2 N^2$, for every step asked for.

    Example:
        >>> import jax.numpy as jnp
        >>> one = jnp.eye(2)  # two examples that do not interact, one in each minibatch
        >>> y, f0 = jnp.ones((2, 1)), jnp.zeros((2, 1))
        >>> options = dict(learning_rate=0.5, batch_size=1, sampling="subset")
        >>> sgd = linearized_sgd(one, y, f0, 1, **options)  # outputs 0 or 1/2
        >>> sgd.mean[:, 0].tolist(), sgd.covariance[:, :, 0, 0].tolist()
        ([0.25, 0.25], [[0.0625, -0.0625], [-0.0625, 0.0625]])
    """
    check_kernel_problem(ntk, y, f0)
    n = y.shape[0]
    check_at_least("batch_size", batch_size, 1, n)
    check_choice("sampling", sampling, ("replacement", "subset"))
    size = y.size if ntk.ndim == 4 else n
    test_points = check_test_points(ntk_test_train, f0_test, f0, gram_size=size)
    ntk, y, f0 = map(jnp.asarray, (ntk, y, f0))
    steps = checked_steps(step)
    return _compiled(
        ntk,
        y,
        f0,
        test_points,
        steps,
        checked_learning_rates(learning_rate, steps, f0.dtype),
        _draws(n, int(batch_size), sampling, f0.dtype),
    )


def _draws(
    n: int, batch_size: int, sampling: IndependentSampling, dtype: jnp.dtype
) -> _Draws:
    mean = batch_size / n
    others = n if sampling == "replacement" else max(n - 1, 1)
    pair = mean * (batch_size - 1) / others
    # The number of times is 0 or 1 in a subset.
    square = mean + pair if sampling == "replacement" else mean
    values = _Draws(mean, pair, square - pair)  # pyright: ignore
    return jax.tree.map(lambda value: jnp.asarray(value, dtype), values)


@jax.jit
def _compiled(
    ntk: Array,
    y: Array,
    f0: Array,
    test_points: tuple[Array, Array] | None,
    steps: Array,
    learning_rate: Array,
    draws: _Draws,
) -> LinearizedSGD:
    n, k = y.shape
    gram = gram_matrix(ntk)
    size = gram.shape[0]
    residual = (f0 - y).reshape(size, -1).T
    if test_points is not None:
        kernel, f0_test = test_points
        gram = jnp.concatenate([gram, gram_matrix(kernel)])
        unmoved = jnp.zeros_like(f0_test).reshape(-1, residual.shape[0]).T
        residual = jnp.concatenate([residual, unmoved], axis=1)
    columns, rows = residual.shape
    example = jnp.arange(size) // (size // n)
    is_same = example[:, None] == example[None]
    weights = draws.pair + jnp.where(is_same, draws.excess, 0)
    product = functools.partial(jnp.matmul, precision="highest")

    def update(step: Array, moments: _Moments) -> _Moments:
        mean, covariance = moments
        rate = at_steps(learning_rate, step) if learning_rate.ndim else learning_rate
        on_train = mean[:, :size]
        outer = on_train[:, None, :, None] * on_train[None, :, None, :]
        noise = weights[None, None] * (outer + covariance[:, :, :size, :size])
        noise = noise - draws.mean**2 * outer
        # Half of what is added to the covariance, which is this and its transpose.
        half = product(rate**2 / 2 * noise, gram.T)
        half = product(gram, half - rate * draws.mean * covariance[:, :, :size])
        return _Moments(
            mean - rate * draws.mean * product(on_train, gram.T),
            covariance + half + half.transpose(1, 0, 3, 2),
        )

    def interval(moments: _Moments, ends: tuple[Array, Array]) -> tuple:
        moments = mean, covariance = jax.lax.fori_loop(*ends, update, moments)
        residual = _outputs(mean[:, :size], k)
        of_train = _kernel_form(covariance[:, :, :size, :size], k)
        loss = jnp.sum(jnp.square(residual) + _variances(of_train)) / 2
        mean_test = of_test = None
        if test_points is not None:
            mean_test = test_points[1] + _outputs(mean[:, size:], k)
            of_test = _kernel_form(covariance[:, :, size:, size:], k)
        return moments, (y + residual, of_train, mean_test, of_test, loss)

    flat = steps.reshape(-1)
    order = jnp.argsort(flat)
    stops = flat[order]
    starts = jnp.concatenate([jnp.zeros_like(stops[:1]), stops[:-1]])
    zeros = jnp.zeros((columns, columns, rows, rows), f0.dtype)
    _, found = jax.lax.scan(interval, _Moments(residual, zeros), (starts, stops))
    back = jnp.argsort(order)
    mean, covariance, mean_test, covariance_test, loss = jax.tree.map(
        lambda leaf: leaf[back].reshape(*steps.shape, *leaf.shape[1:]), found
    )
    return LinearizedSGD(
        step=steps,
        mean=mean,
        covariance=covariance,
        mean_test=mean_test,
        covariance_test=covariance_test,
        loss=loss,
    )


def _outputs(rows: Float[Array, "c rows"], k: int) -> Float[Array, "n k"]:
    """One row per example, one column per output."""
    return rows.T.reshape(-1, k)


def _kernel_form(
    covariance: Float[Array, "c c rows rows"], k: int
) -> Float[Array, "n n k k"]:
    """Axes of examples, then of outputs."""
    columns, _, rows, _ = covariance.shape
    inside = k // columns  # outputs of one example that are rows
    n = rows // inside
    split = covariance.reshape(columns, columns, n, inside, n, inside)
    return split.transpose(2, 4, 0, 3, 1, 5).reshape(n, n, k, k)


def _variances(covariance: Float[Array, "*steps n n k k"]) -> Float[Array, "..."]:
    of_examples = jnp.diagonal(covariance, axis1=-4, axis2=-3)
    return jnp.diagonal(of_examples, axis1=-3, axis2=-2)
