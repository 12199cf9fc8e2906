"""Kernels within and between several functions of the same parameters."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
from jax import lax
from jaxtyping import Array

from lazyjax._brief import brief
from lazyjax.batches import as_arrays
from lazyjax.callables.static import HashableCallable
from lazyjax.jaxpr.convolutions import has_convolutions, with_quick_convolutions
from lazyjax.jaxpr.held import held_bytes
from lazyjax.ntk.contract.cross import Side, cross_kernel
from lazyjax.ntk.contract.factors import common_dtype
from lazyjax.ntk.methods.jacobian import contracted, jacobian
from lazyjax.ntk.methods.sizes import Tile, rough_bytes
from lazyjax.ntk.methods.structured import (
    KernelProblem,
    build_problem,
    evaluate,
    kernels_of_leaves,
)
from lazyjax.ntk.methods.tiles import Examples, in_tiles_of_sides
from lazyjax.ntk.outputs import check_equal_outputs, checked_form, chosen_outputs
from lazyjax.ntk.requests.columns import AskedKernel, check_alike, in_real_numbers
from lazyjax.ntk.requests.complex_numbers import real_params
from lazyjax.ntk.requests.memory import (
    Budget,
    Devices,
    blocks_bytes,
    budget_of,
    check_blocks_fit,
    checked_memory,
    devices_of,
    refuse_work,
)
from lazyjax.ntk.requests.placement import (
    Rows,
    in_automatic_axes,
    is_spread,
    rows_of,
    split_by_rows,
)
from lazyjax.ntk.requests.request import KernelRequest
from lazyjax.ntk.requests.row_check import (
    check_row_independence,
    nan_if_interacting,
)
from lazyjax.ntk.requests.validate import (
    check_arguments,
    check_options,
    checked_output,
)
from lazyjax.typing import ApplyFn, Inputs, Kernel, Method, Outputs, Params

Pair = tuple[int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairsProgram:
    """What is computed between functions, beside the functions and arrays."""

    pairs: tuple[Pair, ...]  # numbers of the two functions of each kernel
    method: Method
    precision: Any
    memory: int | str | None
    outputs: Outputs = "full"
    filter: Callable[[str], bool] | None = None


def run_pairs(
    program: PairsProgram,
    functions: Mapping[str, tuple[ApplyFn, Inputs]],
    params: Params,
    *,
    check_rows: bool,
) -> list[Kernel]:
    """Kernels of pairs of functions, by what errors call each, with their examples."""
    fns = {label: fn for label, (fn, _) in functions.items()}
    batches = [x for _, x in functions.values()]
    run = functools.partial(_run, program, fns, check_rows)
    rows = [rows_of(batches[i]) for i, _ in program.pairs]
    return in_automatic_axes(run, (params, batches), rows)


def _run(
    program: PairsProgram,
    by_label: Mapping[str, ApplyFn],
    check_rows: bool,
    rows: Sequence[Rows],
    params: Params,
    batches: Sequence[Inputs],
) -> list[Kernel]:
    check_options(program.precision, check_rows)
    program = dataclasses.replace(
        program,
        outputs=checked_form(program.outputs),
        memory=checked_memory(program.memory),
    )
    if chosen_outputs(program.outputs) is not None:
        raise ValueError(
            "`outputs` of several functions must be a form or one number; got "
            f"{brief(program.outputs)}. Choose outputs within the functions."
        )
    checked = []
    for (label, fn), x in zip(by_label.items(), batches, strict=True):
        with _labelled(label):
            check_arguments(fn, params, x, None)
        checked.append((label, HashableCallable(fn), as_arrays(x)))
    fns, batches = tuple(fn for _, fn, _ in checked), [x for *_, x in checked]
    devices = devices_of(params, *batches)
    with jax.default_matmul_precision(program.precision):
        asked = []
        for label, fn, x in checked:
            with _labelled(label):
                asked.append(checked_output(fn, params, x, program.outputs))
        check_equal_outputs(program.outputs, [of.columns.num_outputs for of in asked])
        check_alike(asked)
        kernels = _compiled(
            program, fns, devices, tuple(asked), tuple(rows), params, batches
        )
        for (label, fn, x), of in (
            zip(checked, asked, strict=True) if check_rows else ()
        ):
            with _labelled(label):
                real = in_real_numbers(fn, params, of.columns)
                interacts = check_row_independence(*real, x)
            kernels = nan_if_interacting(kernels, interacts)
    return kernels


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _compiled(
    program: PairsProgram,
    fns: tuple[Callable[..., Any], ...],
    devices: Devices,
    asked: tuple[AskedKernel, ...],
    rows: tuple[Rows, ...],
    params: Params,
    batches: list[Inputs],
) -> list[Kernel]:
    networks = []
    for fn, of in zip(fns, asked, strict=True):
        real_fn, _ = in_real_numbers(fn, params, of.columns)
        networks.append(jax.jit(of.network(real_fn)))
    params = real_params(params)

    def kernels_of(params: Params, batches: list[Inputs]) -> list[Array]:
        requests = [
            KernelRequest(
                apply_fn=network,
                params=params,
                x1=x,
                outputs=of.of_columns,
                precision=program.precision,
                is_spread=any(map(is_spread, rows)),
            ).filtered(program.filter)
            for network, x, of in zip(networks, batches, asked, strict=True)
        ]
        budget = budget_of(program.memory, devices)
        return _within(budget, requests, program.pairs, program.method)

    arguments = zip(networks, batches, strict=True)
    if any(has_convolutions(network, params, x) for network, x in arguments):
        kernels_of = with_quick_convolutions(kernels_of)
    kernels = kernels_of(params, batches)
    finished = [
        asked[i].finished(kernel, asked[j].columns)
        for (i, j), kernel in zip(program.pairs, kernels, strict=True)
    ]
    return list(map(split_by_rows, finished, rows))


@contextmanager
def _labelled(label: str) -> Iterator[None]:
    """Says which function is meant, in errors of one that is checked."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if type(error) not in (TypeError, ValueError):
            raise
        raise type(error)(f"{label}: {error}") from error


def _within(
    budget: Budget,
    requests: Sequence[KernelRequest],
    pairs: Sequence[Pair],
    method: Method,
) -> list[Array]:
    """Kernels of pairs of functions: all together or, where memory asks, tile by tile."""
    check_blocks_fit(requests, pairs, budget)
    limit = budget.limit
    # Compilers hold about twice that of several functions: they take turns in no order.
    if limit is None or 2 * _held_together(requests, pairs, method) <= limit:
        return kernels_of_pairs(requests, pairs, method)
    kernels: list[Array] = []
    result = blocks_bytes(requests, pairs)
    params = requests[0].params
    for i, j in pairs:
        # One after the other: side by side, each would take memory of its own.
        params, kernels = lax.optimization_barrier((params, kernels))
        own = blocks_bytes(requests, [(i, j)])
        rest = budget.less(result - own)
        first = dataclasses.replace(requests[i], params=params)
        second = first
        if i != j:
            second = dataclasses.replace(requests[j], params=params)
        kernels = [*kernels, _in_tiles(rest, first, second, method, own)]
    return kernels


def _held_together(
    requests: Sequence[KernelRequest], pairs: Sequence[Pair], method: Method
) -> int:
    together = jax.make_jaxpr(lambda: kernels_of_pairs(requests, pairs, method))
    return held_bytes(together())


def _in_tiles(
    budget: Budget,
    first: KernelRequest,
    second: KernelRequest,
    method: Method,
    result: int,
) -> Array:
    """The kernel of one function with itself, or with another, in tiles."""
    is_one = first is second
    rows = Examples(first.x1, first.directions[0])
    columns = rows if is_one else Examples(second.x1, second.directions[0])

    def of_sides(one: Examples, two: Examples) -> Array:
        parts = [
            dataclasses.replace(
                request,
                x1=side.x,
                outputs=request.pairs,
                along=(side.along, side.along),
            )
            for request, side in ((first, one), (second, two))
        ]
        pair = (0, 0) if two is one else (0, 1)
        (kernel,) = kernels_of_pairs(parts[: 1 + pair[1]], [pair], method)
        return kernel

    def rough(tile: Tile) -> int:
        return rough_bytes(first, method, tile) + rough_bytes(second, method, tile)

    kernel = in_tiles_of_sides(
        of_sides,
        rows,
        columns,
        first.pairs,
        num_directions=max(rows.along.number, columns.along.number),
        result=result,
        is_spread=first.is_spread,
        rough=rough,
        budget=budget,
    )
    return refuse_work(first, method, budget) if kernel is None else kernel


def kernels_of_pairs(
    requests: Sequence[KernelRequest], pairs: Sequence[Pair], method: Method
) -> list[Array]:
    """Kernels of pairs of requests, of one form and without second batches."""
    if method == "jacobian":
        return _from_jacobians(requests, pairs)
    problems = [build_problem(request) for request in requests]
    evaluated = [evaluate(problem) for problem in problems]
    sides = [
        Side(network, problem.groups)
        for network, problem in zip(evaluated, problems, strict=True)
    ]

    def kernel(i: int, j: int) -> Array:
        if i == j:
            kernel_of_leaf = [0] * len(evaluated[i].leaves)
            return kernels_of_leaves(problems[i], evaluated[i], kernel_of_leaf)[0]
        return _between(problems[i], problems[j], sides[i], sides[j])

    return [kernel(i, j) for i, j in pairs]


def _from_jacobians(
    requests: Sequence[KernelRequest], pairs: Sequence[Pair]
) -> list[Array]:
    jacobians = [
        jacobian(request, request.x1, request.cotangents[0]) for request in requests
    ]
    kernels = []
    for i, j in pairs:
        one, two = requests[i], requests[j]
        dtype = common_dtype(one.f.dtype, two.f.dtype)
        kernel = contracted(jacobians[i], jacobians[j], one.pairs, one.precision, dtype)
        kernels.append(one.symmetrized(kernel) if i == j else kernel)
    return kernels


def _between(
    first: KernelProblem, second: KernelProblem, one: Side, two: Side
) -> Array:
    """Kernel of two functions, each for its own examples."""
    counts = first.sizes.num_cotangents, second.sizes.num_cotangents
    contraction = dataclasses.replace(
        one.evaluated.contraction,
        is_symmetric=False,
        num_columns=second.sizes.rows,
        num_cotangents=max(counts),
    )
    sizes = dataclasses.replace(
        first.sizes,
        is_symmetric=False,
        columns=second.sizes.rows,
        num_cotangents=max(counts),
    )
    kernel = cross_kernel(contraction, sizes, one, two)
    return kernel[:, :, : counts[0], : counts[1]] if kernel.ndim == 4 else kernel
