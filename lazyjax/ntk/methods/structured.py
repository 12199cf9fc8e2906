"""Kernels of any network from its sites, exactly and at least cost."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lazyjax.batches import as_arrays, joined, num_rows, rows_like
from lazyjax.ntk.contract.accumulator import Arrangement, Contraction
from lazyjax.ntk.contract.evaluated import EvaluatedNetwork
from lazyjax.ntk.contract.factors import working_dtype
from lazyjax.ntk.contract.groups import SiteGroup, group_sites
from lazyjax.ntk.contract.orders import Sizes
from lazyjax.ntk.contract.sums import KernelSums, shared_products
from lazyjax.ntk.outputs import Pairs, for_each
from lazyjax.ntk.requests.request import KernelRequest
from lazyjax.ntk.trace.replay import factors, param_values
from lazyjax.ntk.trace.sites import TracedNetwork
from lazyjax.ntk.trace.tracer import trace_network

_ARRANGEMENTS: dict[Pairs, Arrangement] = {
    "full": "pairs",
    "diagonal": "equal",
    "trace": "summed",
}


@dataclasses.dataclass(frozen=True, eq=False)
class KernelProblem:
    """A kernel that is asked for, its network traced for one example and taken apart."""

    request: KernelRequest
    network: TracedNetwork
    sizes: Sizes
    groups: Sequence[SiteGroup]


def build_problem(request: KernelRequest) -> KernelProblem:
    """The problem of a request, of whose arrays only the shapes are used."""
    x1 = request.x1
    network = trace_network(request.apply_fn, request.params, rows_like(x1, 1))
    sizes = Sizes(
        rows=num_rows(x1),
        columns=num_rows(request.columns),
        num_cotangents=request.num_directions,
        is_full=request.pairs == "full",
        is_symmetric=request.x2 is None,
        itemsize=max(4, jnp.dtype(network.result.dtype).itemsize),
    )
    return KernelProblem(request, network, sizes, group_sites(network, sizes))


def structured_ntk(request: KernelRequest) -> Array:
    """Kernel contracted site by site."""
    return contract(build_problem(request))


def contract(problem: KernelProblem) -> Array:
    """The kernel of a problem."""
    num_leaves = len(jax.tree.leaves(problem.request.params))
    (kernel,) = contract_by_leaf(problem, [0] * num_leaves)
    return kernel


def contract_by_leaf(
    problem: KernelProblem, kernel_of_leaf: Sequence[int]
) -> list[Array]:
    """Several kernels, numbered from 0: `kernel_of_leaf` says which each leaf is for."""
    return kernels_of_leaves(problem, evaluate(problem), kernel_of_leaf)


def evaluate(problem: KernelProblem) -> EvaluatedNetwork:
    """The network of a problem, for the examples of both batches."""
    request, network = problem.request, problem.network
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(request.params)]
    values = param_values(network, leaves)
    x, (along, others) = as_arrays(request.x1), request.cotangents
    dtype = network.result.dtype
    if request.x2 is not None:
        if others is not along:
            sizes = problem.sizes
            sides = zip((along, others), (sizes.rows, sizes.columns), strict=True)
            along = jnp.concatenate([for_each(side, n) for side, n in sides])
        x = joined(x, request.x2)
    cotangents, records = factors(network, values, x, along.astype(dtype))
    return EvaluatedNetwork(
        network, contraction_of(problem), leaves, values, cotangents, records
    )


def contraction_of(problem: KernelProblem) -> Contraction:
    """How the kernel of a problem is accumulated."""
    request, sizes = problem.request, problem.sizes
    return Contraction(
        arrangement=_ARRANGEMENTS[request.pairs],
        is_symmetric=sizes.is_symmetric and not request.is_spread,
        precision=request.precision,
        num_rows=sizes.rows,
        num_columns=sizes.columns,
        num_cotangents=sizes.num_cotangents,
    )


def kernels_of_leaves(
    problem: KernelProblem, evaluated: EvaluatedNetwork, kernel_of_leaf: Sequence[int]
) -> list[Array]:
    """As `contract_by_leaf`, of a network that has been evaluated."""
    contraction, dtype = evaluated.contraction, problem.network.result.dtype
    sums = KernelSums(
        evaluated=evaluated,
        is_one_batch=problem.sizes.is_symmetric,
        kernel_of_leaf=kernel_of_leaf,
        kernels=[contraction.zeros(working_dtype(dtype))] * (max(kernel_of_leaf) + 1),
        shared=shared_products(problem.network, problem.groups),
    )
    # The last first, as cotangents are made, so that these need not be kept.
    for group in reversed(problem.groups):
        sums.accumulate(group)
    kernels = [contraction.finalize(kernel, dtype) for kernel in sums.kernels]
    if not problem.request.is_spread:  # exactly symmetric by now
        return kernels
    return [problem.request.symmetrized(kernel) for kernel in kernels]
