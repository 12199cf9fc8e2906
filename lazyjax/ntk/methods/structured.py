"""Kernels of any network from its sites, exactly and at least cost."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lazyjax.ntk.contract.accumulator import Arrangement, Contraction
from lazyjax.ntk.contract.groups import SiteGroup, group_sites
from lazyjax.ntk.contract.orders import Sizes
from lazyjax.ntk.contract.sums import KernelSums, shared_products
from lazyjax.ntk.outputs import Pairs, directions
from lazyjax.ntk.trace.replay import factors, outer_values
from lazyjax.ntk.trace.sites import Network
from lazyjax.ntk.trace.tracer import trace_network
from lazyjax.typing import AnyArray, ApplyFn, Outputs, Params

_EACH_OUTPUT = ("full", "diagonal", "trace")
_ARRANGEMENTS: dict[Pairs, Arrangement] = {
    "full": "pairs",
    "diagonal": "equal",
    "trace": "summed",
}


@dataclasses.dataclass(frozen=True, eq=False)
class KernelProblem:
    """A kernel that is asked for: the network of one example, sizes, site groups."""

    network: Network
    sizes: Sizes
    groups: Sequence[SiteGroup]
    outputs: Outputs


def build_problem(
    apply_fn: ApplyFn,
    params: Params,
    x1: AnyArray,
    x2: AnyArray | None,
    outputs: Outputs,
) -> KernelProblem:
    """The network traced for one example, with what is to be contracted; only shapes."""
    example = jax.ShapeDtypeStruct((1, *x1.shape[1:]), x1.dtype)
    network = trace_network(apply_fn, params, example)
    sizes = Sizes(
        rows=x1.shape[0],
        columns=(x1 if x2 is None else x2).shape[0],
        num_cotangents=network.result.shape[1] if outputs in _EACH_OUTPUT else 1,
        is_full=outputs == "full",
        is_symmetric=x2 is None,
        itemsize=max(4, jnp.dtype(network.result.dtype).itemsize),
    )
    return KernelProblem(network, sizes, group_sites(network, sizes), outputs)


def structured_ntk(
    apply_fn: ApplyFn,
    params: Params,
    x1: AnyArray,
    x2: AnyArray | None = None,
    *,
    outputs: Outputs = "full",
    precision: jax.lax.PrecisionLike = "highest",
) -> Array:
    """Kernel contracted site by site; arguments as in `empirical_ntk`.

    Returns:
        The kernel in the form `outputs`, exactly symmetric if `x2` is `None`.

    Example:
        >>> structured_ntk(lambda w, x: x @ w, jnp.ones((2, 1)), jnp.ones((1, 2))).item()
        2.0
    """
    problem = build_problem(apply_fn, params, x1, x2, outputs)
    return contract(problem, params, x1, x2, precision=precision)


def contract(
    problem: KernelProblem,
    params: Params,
    x1: AnyArray,
    x2: AnyArray | None,
    *,
    precision: jax.lax.PrecisionLike,
) -> Array:
    """The kernel of a problem."""
    kernel_of_leaf = [0] * len(jax.tree.leaves(params))
    (kernel,) = contract_by_leaf(
        problem, params, x1, x2, kernel_of_leaf=kernel_of_leaf, precision=precision
    )
    return kernel


def contract_by_leaf(
    problem: KernelProblem,
    params: Params,
    x1: AnyArray,
    x2: AnyArray | None,
    *,
    kernel_of_leaf: Sequence[int],
    precision: jax.lax.PrecisionLike,
) -> list[Array]:
    """Several kernels, numbered from 0: `kernel_of_leaf` says which each leaf is for."""
    network, sizes = problem.network, problem.sizes
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(params)]
    dtype = network.result.dtype
    along, pairs = directions(problem.outputs, network.result.shape[1], dtype)
    outer = outer_values(network, leaves)
    x = jnp.asarray(x1) if x2 is None else jnp.concatenate([x1, x2])
    cotangents, records = factors(network, outer, x, along[:, None, :])
    contraction = Contraction(
        arrangement=_ARRANGEMENTS[pairs],
        is_symmetric=sizes.is_symmetric,
        precision=precision,
        num_rows=sizes.rows,
        num_columns=sizes.columns,
        num_cotangents=sizes.num_cotangents,
    )
    sums = KernelSums(
        network=network,
        contraction=contraction,
        outer=outer,
        leaves=leaves,
        cotangents=cotangents,
        records=records,
        kernel_of_leaf=kernel_of_leaf,
        kernels=[contraction.zeros(dtype) for _ in range(max(kernel_of_leaf) + 1)],
        shared=shared_products(network, problem.groups),
    )
    # The last first, as cotangents are made, so that these need not be kept.
    for group in reversed(problem.groups):
        sums.accumulate(group)
    return [contraction.finalize(kernel) for kernel in sums.kernels]
