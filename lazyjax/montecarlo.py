"""Kernels averaged over initializations, with standard errors."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lazyjax._checks import (
    check_at_least,
    check_choice,
    check_flag,
    check_function,
    check_inputs,
    check_key,
    check_params,
    check_same_inputs,
)
from lazyjax.batches import as_arrays
from lazyjax.callables.static import HashableCallable
from lazyjax.files.results import Storable
from lazyjax.jaxpr.convolutions import with_quick_convolutions
from lazyjax.ntk import empirical_nngp, empirical_ntk
from lazyjax.ntk.outputs import checked_form
from lazyjax.ntk.requests.columns import Columns, in_real_numbers
from lazyjax.ntk.requests.row_check import check_row_independence, nan_if_interacting
from lazyjax.progress import Listener, Progress, program_listener, tell
from lazyjax.typing import ApplyFn, InitFn, Inputs, Kernel, Outputs, RandomKey


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class MonteCarloKernel(Storable):
    """Mean of a kernel over random initializations.

    Attributes:
        mean: Mean over seeds, entry by entry.
        sem: Its standard error, from the scatter over seeds, of a complex one that of its
            modulus; NaN for a single one.
        num_seeds: Number of seeds.
    """

    mean: Kernel
    sem: Kernel
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
    check_inputs("x1", x1, wait=False)
    if x2 is not None:
        check_inputs("x2", x2, wait=False)
        check_same_inputs("x1", x1, "x2", x2)
    x1, x2 = as_arrays(x1), as_arrays(x2)
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
        check_params("init_fn(key, x)", params, allow_complex=True)
        columns = Columns.of(jax.eval_shape(apply_fn, params, x1))
        real = in_real_numbers(apply_fn, params, columns)
        interacts = check_row_independence(*real, x1, x2)
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

    def __call__(self, key: Array, x1: Inputs, x2: Inputs | None) -> Kernel:
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
    x1: Inputs,
    x2: Inputs | None,
    listener: Listener | None,
) -> tuple[Kernel, Kernel]:
    """Mean and standard error, updated seed by seed (Welford)."""

    def update(
        state: tuple[Kernel, Kernel], number: Array
    ) -> tuple[tuple[Kernel, Kernel], None]:
        mean, scatter = state
        drawn = draw(jax.random.fold_in(key, number), x1, x2)
        step = jax.tree.map(jnp.subtract, drawn, mean)
        mean = jax.tree.map(
            lambda old, s: old + s / (number + 1).astype(old.dtype), mean, step
        )
        tell(listener, number + 1, "seed")
        scatter = jax.tree.map(
            lambda old, s, d, m: old + (s * jnp.conj(d - m)).real,
            *(scatter, step, drawn, mean),
        )
        return (mean, scatter), None

    shapes = jax.eval_shape(draw, key, x1, x2)
    mean = jax.tree.map(lambda of: jnp.zeros(of.shape, of.dtype), shapes)
    scatter = jax.tree.map(jnp.real, mean)
    (mean, scatter), _ = jax.lax.scan(update, (mean, scatter), jnp.arange(num_seeds))
    if num_seeds < 2:
        return mean, jax.tree.map(lambda s: jnp.full_like(s, jnp.nan), scatter)
    pairs = num_seeds * (num_seeds - 1)
    return mean, jax.tree.map(lambda s: jnp.sqrt(s / pairs), scatter)
