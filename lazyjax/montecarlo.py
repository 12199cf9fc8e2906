"""Kernels averaged over initializations, with standard errors."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lazyjax._checks import (
    check_at_least,
    check_batch,
    check_choice,
    check_flag,
    check_function,
    check_key,
    check_params,
    check_same_features,
)
from lazyjax.callables.static import HashableCallable
from lazyjax.files.results import Storable
from lazyjax.jaxpr.convolutions import with_quick_convolutions
from lazyjax.ntk import empirical_nngp, empirical_ntk
from lazyjax.ntk.outputs import checked_form
from lazyjax.ntk.requests.row_check import check_row_independence, nan_if_interacting
from lazyjax.progress import Listener, Progress, program_listener, tell
from lazyjax.typing import ApplyFn, InitFn, Inputs, Outputs, RandomKey


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class MonteCarloKernel(Storable):
    """Mean of a kernel over random initializations.

    Attributes:
        mean: Mean over seeds, entry by entry.
        sem: Its standard error, from the scatter over seeds; NaN for a single one.
        num_seeds: Number of seeds.
    """

    mean: Float[Array, "n1 n2 *k"]
    sem: Float[Array, "n1 n2 *k"]
    num_seeds: int = dataclasses.field(metadata={"static": True})


def monte_carlo_ntk(
    apply_fn: ApplyFn,
    init_fn: InitFn,
    x1: Inputs,
    x2: Inputs | None = None,
    *,
    key: RandomKey,
    num_seeds: int,
    outputs: Outputs = "full",
    of: str = "ntk",
    check_rows: bool = True,
    progress: bool | Progress = False,
) -> MonteCarloKernel:
    r"""Mean over initializations of the kernel of `apply_fn`, with standard errors.

    For wide networks it estimates the infinite-width kernel, whatever the architecture;
    at finite width, the mean kernel itself, which differs from the limit by
    $O(1/\text{width})$ that no number of seeds removes.

    Args:
        apply_fn: Network `(params, x) -> f`; rows of `x` must not interact.
        init_fn: Initializer `(key, x) -> params`.
        x1: First batch.
        x2: Second batch; `None` means `x1`.
        key: Source of randomness; seed `i` has the key `fold_in(key, i)`, however many
            there are.
        num_seeds: Number of initializations.
        outputs: Form of the kernel, as in `lazyjax.empirical_ntk`.
        of: "ntk", or "nngp" for products of outputs, as `lazyjax.empirical_nngp`.
        check_rows: As in `lazyjax.empirical_ntk`; rows that interact are refused at the
            first seed, and the result is NaN if they do at another.
        progress: As in `lazyjax.train`.

    Returns:
        Mean and standard error of each entry, in the form `outputs`.

    Raises:
        ValueError: If `num_seeds` is not positive, `of` unknown, or as
            `lazyjax.empirical_ntk` says.
        TypeError: If `num_seeds` is not an integer.

    Cost: the time of `num_seeds` kernels, one after the other; the memory of one.

    Example:
        >>> import jax, jax.numpy as jnp, lazyjax
        >>> net = lazyjax.nets.mlp(width=256)
        >>> x = jnp.array([[3.0, 4.0]])
        >>> found = lazyjax.monte_carlo_ntk(
        ...     net.apply, net.init, x, key=jax.random.key(0), num_seeds=20
        ... )
        >>> limit = lazyjax.infinite_ntk(net.architecture, x)
        >>> bool(jnp.abs(found.mean[0, 0, 0, 0] - limit[0, 0]) < 5 * found.sem)
        True
    """
    check_at_least("num_seeds", num_seeds, 1)
    check_choice("of", of, ("ntk", "nngp"))
    check_key("key", key)
    check_function("apply_fn", apply_fn, "(params, x) -> f")
    check_function("init_fn", init_fn, "(key, x) -> params")
    check_flag("check_rows", check_rows)
    outputs = checked_form(outputs)
    check_batch("x1", x1, wait=False)
    if x2 is not None:
        check_batch("x2", x2, wait=False)
        check_same_features("x1", x1, "x2", x2)
    x1, x2 = jnp.asarray(x1), None if x2 is None else jnp.asarray(x2)
    draw = _Draw(
        apply_fn=HashableCallable(apply_fn),
        init_fn=HashableCallable(init_fn),
        outputs=outputs,
        of=of,
        check_rows=check_rows,
    )
    # Inside the loop over seeds, values that tell whether rows interact are not known.
    interacts = None
    if check_rows:
        params = init_fn(jax.random.fold_in(key, 0), x1)
        check_params("init_fn(key, x)", params)
        interacts = check_row_independence(apply_fn, params, x1, x2)
    with program_listener(progress, "kernels", num_seeds) as listener:
        mean, sem = _mean_and_sem(draw, int(num_seeds), key, x1, x2, listener)
    mean, sem = nan_if_interacting((mean, sem), interacts)
    return MonteCarloKernel(mean=mean, sem=sem, num_seeds=num_seeds)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Draw:
    """The kernel at a random initialization."""

    apply_fn: ApplyFn
    init_fn: InitFn
    outputs: Outputs
    of: str
    check_rows: bool

    def __call__(self, key: Array, x1: Array, x2: Array | None) -> Array:
        kernel_fn = empirical_ntk if self.of == "ntk" else empirical_nngp
        return kernel_fn(
            self.apply_fn,
            self.init_fn(key, x1),
            x1,
            x2,
            outputs=self.outputs,
            check_rows=self.check_rows,
        )


@functools.partial(jax.jit, static_argnums=(0, 1))
@with_quick_convolutions
def _mean_and_sem(
    draw: _Draw,
    num_seeds: int,
    key: Array,
    x1: Array,
    x2: Array | None,
    listener: Listener | None,
) -> tuple[Array, Array]:
    """Mean and standard error, updated seed by seed (Welford)."""

    def update(
        state: tuple[Array, Array], number: Array
    ) -> tuple[tuple[Array, Array], None]:
        mean, scatter = state
        drawn = draw(jax.random.fold_in(key, number), x1, x2)
        step = drawn - mean
        mean = mean + step / (number + 1).astype(mean.dtype)
        tell(listener, number + 1, "seed")
        return (mean, scatter + step * (drawn - mean)), None

    shape = jax.eval_shape(draw, key, x1, x2)
    zero = jnp.zeros(shape.shape, shape.dtype)
    (mean, scatter), _ = jax.lax.scan(update, (zero, zero), jnp.arange(num_seeds))
    if num_seeds < 2:
        return mean, jnp.full_like(mean, jnp.nan)
    return mean, jnp.sqrt(scatter / (num_seeds - 1) / num_seeds)
