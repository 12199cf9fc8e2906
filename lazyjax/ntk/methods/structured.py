"""Kernels of any network from its sites, exactly and at least cost."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from lazyjax.ntk.contract.accumulator import (
    Arrangement,
    Contraction,
    Precision,
)
from lazyjax.ntk.contract.groups import Part, parts_of
from lazyjax.ntk.contract.orders import Sizes
from lazyjax.ntk.contract.sums import PartSums, shared_products
from lazyjax.ntk.outputs import directions
from lazyjax.ntk.plan import Plan, plan_of
from lazyjax.ntk.trace.replay import factors, param_values
from lazyjax.ntk.trace.sites import TracedNetwork
from lazyjax.ntk.trace.tracer import trace_network
from lazyjax.ntk.validate import check_arguments, check_network
from lazyjax.typing import AnyArray, ApplyFn, Outputs, Params

_EACH_OUTPUT = ("full", "diagonal", "trace")


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """A kernel that is asked for: the network of one example, sizes, contractions."""

    network: TracedNetwork
    sizes: Sizes
    parts: Sequence[Part]


def task_of(
    apply_fn: ApplyFn,
    params: Params,
    x1: AnyArray,
    x2: AnyArray | None,
    outputs: Outputs,
) -> Task:
    """The network taken apart, and what makes up the kernel asked for."""
    example = jax.ShapeDtypeStruct((1, *x1.shape[1:]), x1.dtype)
    network = trace_network(apply_fn, params, example)
    sizes = Sizes(
        rows=x1.shape[0],
        columns=(x1 if x2 is None else x2).shape[0],
        seeds=network.result.shape[1] if outputs in _EACH_OUTPUT else 1,
        is_full=outputs == "full",
        is_symmetric=x2 is None,
        itemsize=max(4, jnp.dtype(network.result.dtype).itemsize),
    )
    return Task(network, sizes, parts_of(network, sizes))


def structured_ntk(
    apply_fn: ApplyFn,
    params: Params,
    x1: Shaped[AnyArray, "n1 *d"],
    x2: Shaped[AnyArray, "n2 *d"] | None = None,
    *,
    outputs: Outputs = "full",
    precision: Precision = "highest",
) -> Float[Array, "n1 n2 *k"]:
    r"""Neural tangent kernel of `apply_fn`, contracted site by site.

    Args:
        apply_fn: Network `(params, x) -> f`; rows of `x` must not interact.
        params: Point at which the network is linearized.
        x1: First batch.
        x2: Second batch; `None` means `x1`, and an exactly symmetric result.
        outputs: "full" for all pairs of outputs, "diagonal" for equal ones, "trace" for
            the sum over equal ones, "pseudo" for the sum over all pairs divided by
            $k$, or the number of one output.
        precision: Precision of all contractions.

    Returns:
        The kernel: `(n1, n2, k, k)` for "full", `(n1, n2, k)` for "diagonal", else
        `(n1, n2)`.

    Example:
        >>> structured_ntk(lambda w, x: x @ w, jnp.ones((2, 1)), jnp.ones((1, 2))).item()
        2.0
    """
    task = task_of(apply_fn, params, x1, x2, outputs)
    return contracted(task, params, x1, x2, outputs=outputs, precision=precision)


def contracted(
    task: Task,
    params: Params,
    x1: AnyArray,
    x2: AnyArray | None,
    *,
    outputs: Outputs,
    precision: Precision,
) -> Array:
    """The kernel of a network that is taken apart already, by `task_of`."""
    together = [0] * len(jax.tree.leaves(params))
    (kernel,) = contracted_in_groups(
        task,
        params,
        x1,
        x2,
        groups=together,
        outputs=outputs,
        precision=precision,
    )
    return kernel


def contracted_in_groups(
    task: Task,
    params: Params,
    x1: AnyArray,
    x2: AnyArray | None,
    *,
    groups: Sequence[int],
    outputs: Outputs,
    precision: Precision,
) -> list[Array]:
    """Kernels of groups of leaves: `groups` has a number, from 0 on, for each leaf."""
    network, sizes = task.network, task.sizes
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(params)]
    num_outputs = network.result.shape[1]
    chosen = directions(outputs, num_outputs, network.result.dtype)
    seeds = chosen.cotangents[:, None, :]
    n1, n2 = sizes.rows, sizes.columns
    outer = param_values(network, leaves)
    x = jnp.asarray(x1) if x2 is None else jnp.concatenate([x1, x2])
    cotangents, records = factors(network, outer, x, seeds)
    arrangement: Arrangement = (
        "pairs" if outputs == "full" else "equal" if outputs == "diagonal" else "summed"
    )
    contraction = Contraction(
        arrangement=arrangement,
        is_symmetric=x2 is None,
        precision=precision,
        num_rows=n1,
        num_columns=n2,
        seeds=seeds.shape[0],
    )
    dtype = network.result.dtype
    sums = PartSums(
        network=network,
        contraction=contraction,
        outer=outer,
        leaves=leaves,
        cotangents=cotangents,
        records=records,
        groups=groups,
        kernels=[contraction.zeros(dtype) for _ in range(max(groups) + 1)],
        shared=shared_products(network, task.parts),
    )
    # The last first, as cotangents are made, so that these need not be kept.
    for part in reversed(task.parts):
        sums.add(part)
    return [contraction.finished(kernel) for kernel in sums.kernels]


def ntk_plan(
    apply_fn: ApplyFn,
    params: Params,
    x1: Shaped[AnyArray, "n1 *d"],
    x2: Shaped[AnyArray, "n2 *d"] | None = None,
    *,
    outputs: Outputs = "full",
) -> Plan:
    """Plan of a kernel: site, order and cost of each parameter leaf.

    Operations of the structured method are counted site by site, and modelled times of
    all methods compared: `plan.method` is what `method="auto"` will be. Nothing is
    computed; only shapes and dtypes of `params` and the batches are used.

    Args:
        apply_fn: Network `(params, x) -> f`; rows of `x` must not interact.
        params: Point at which the network is linearized.
        x1: First batch.
        x2: Second batch; `None` means `x1`.
        outputs: As in `empirical_ntk`.

    Returns:
        The plan, which prints as a table.

    Raises:
        ValueError: If `outputs` is unknown, a batch is empty or not finite, features
            differ, the output is not `(n, k)`, or `apply_fn` ignores `params`.
        TypeError: If a parameter or the output is not real floating point.

    Example:
        >>> import jax.numpy as jnp
        >>> from lazyjax.ntk import ntk_plan
        >>> w, x = jnp.ones((784, 10)), jnp.ones((50, 784))
        >>> print(ntk_plan(lambda w, x: x @ w, w, x))
        parameter               shape   sites        order       GFLOP   MB
                                784x10  dot_general  kronecker   0.005  1.9
        outputs and cotangents                                   0.009
        total                                        structured  0.014  1.9
        floor                                                    0.014
    """
    check_arguments(apply_fn, params, x1, x2)
    check_network(apply_fn, params, jnp.asarray(x1)[:1], outputs)
    task = task_of(apply_fn, params, x1, x2, outputs)
    return plan_of(task.parts, task.sizes, params)
