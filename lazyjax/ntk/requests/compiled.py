"""The one way in which kernels are computed: checked, compiled, returned at once."""

import abc
import dataclasses
import functools
from typing import Any, ClassVar

import jax

from lazyjax.batches import as_arrays, num_rows
from lazyjax.callables.static import HashableCallable
from lazyjax.jaxpr.convolutions import has_convolutions, with_quick_convolutions
from lazyjax.ntk.outputs import (
    Directions,
    are_outputs,
    check_chosen,
    checked_form,
    chosen_outputs,
)
from lazyjax.ntk.requests.columns import Columns, check_real, in_real_numbers
from lazyjax.ntk.requests.memory import (
    Budget,
    Devices,
    budget_of,
    checked_memory,
    devices_of,
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
    rows_are_proven,
)
from lazyjax.ntk.requests.validate import (
    check_arguments,
    check_network,
    check_options,
    checked_output,
)
from lazyjax.typing import ApplyFn, Inputs, Outputs, Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class KernelProgram(abc.ABC):
    """What a verb computes, and what its program depends on beside arrays."""

    outputs: Outputs  # form of the kernels
    precision: Any  # of matrix products, the network's own included where it sets none
    memory: int | str | None  # bytes that may be held; by default what is free
    # Whether kernels are those of columns of outputs, not yet in the form `outputs`.
    is_of_columns: ClassVar[bool] = False

    def along(
        self, request: KernelRequest, columns: Columns, given: Any
    ) -> tuple[Directions, Directions]:
        """Directions in the space of columns of outputs: here the numbers that are given."""
        rows = Directions(given[0])
        return rows, rows if len(given) == 1 else Directions(given[1])

    @abc.abstractmethod
    def compute(self, request: KernelRequest, budget: Budget) -> Any:
        """Kernels of a network that has been checked, as a pytree of arrays."""


def run_program(
    program: KernelProgram,
    apply_fn: ApplyFn,
    params: Params,
    x1: Inputs,
    x2: Inputs | None = None,
    *,
    given: Any = None,
    check_rows: bool,
) -> Any:
    """Kernels of `program`, compiled once per function, shapes and options."""
    # Directions in output space are those that `program.along` makes of `given`, a pytree
    # of arrays, or else those that its form names. Returns before the device is done,
    # unless the independence of rows cannot be proven: then it waits, to compare them. NaN
    # if rows interact and values are not known. Kernels are split over devices as the rows
    # of `x1` are.
    run = functools.partial(_run, program, apply_fn, check_rows)
    return in_automatic_axes(run, (params, x1, x2, given), rows_of(x1))


def _run(
    program: KernelProgram,
    apply_fn: ApplyFn,
    check_rows: bool,
    rows: Rows,
    params: Params,
    x1: Inputs,
    x2: Inputs | None,
    given: Any,
) -> Any:
    check_arguments(apply_fn, params, x1, x2)
    check_options(program.precision, check_rows)
    program = dataclasses.replace(
        program,
        outputs=checked_form(program.outputs),
        memory=checked_memory(program.memory),
    )
    apply_fn = HashableCallable(apply_fn)
    x1, x2 = as_arrays(x1), as_arrays(x2)
    devices = devices_of(params, x1, x2)
    with jax.default_matmul_precision(program.precision):
        chosen, num_outputs = chosen_outputs(program.outputs), 0
        if chosen is not None:
            program, given = dataclasses.replace(program, outputs="flat"), chosen
            columns = checked_output(apply_fn, params, x1, "flat").columns
            check_real("`outputs` as numbers of outputs", columns)
            num_outputs = columns.num_outputs
            nums_examples = [num_rows(x) for x in (x1, x2) if x is not None]
            check_chosen(chosen, num_outputs, nums_examples)
        found = _compiled(
            program, apply_fn, devices, check_rows, rows, params, x1, x2, given
        )
        kernels = found.kernels
        if chosen is not None:  # where numbers are traced, they are not known before
            kernels = nan_if_interacting(kernels, ~are_outputs(chosen, num_outputs))
        if found.is_proven:
            return kernels
        if not found.is_plain:
            columns = Columns.of(jax.eval_shape(apply_fn, params, x1))
            apply_fn, params = in_real_numbers(apply_fn, params, columns)
        interacts = check_row_independence(apply_fn, params, x1, x2)
    return nan_if_interacting(kernels, interacts)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Kernels:
    """Kernels, and what tracing told of rows: every call has it, at no cost."""

    kernels: Any  # a pytree of arrays
    # Whether rows need not be compared.
    is_proven: bool = dataclasses.field(metadata={"static": True})
    # Whether parameters and outputs are those of the program, one real array `(n, k)`.
    is_plain: bool = dataclasses.field(metadata={"static": True})


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _compiled(
    program: KernelProgram,
    apply_fn: ApplyFn,
    devices: Devices,
    check_rows: bool,
    rows: Rows,
    params: Params,
    x1: Inputs,
    x2: Inputs | None,
    given: Any,
) -> _Kernels:
    # As a program of its own, the network is traced once for each size of batch.
    network = jax.jit(apply_fn)
    asked = check_network(network, params, x1, program.outputs)
    real_fn, params = in_real_numbers(apply_fn, params, asked.columns)
    is_plain = real_fn is apply_fn
    if not is_plain:
        network = jax.jit(asked.network(real_fn))

    def kernels_of(params: Params, x1: Inputs, x2: Inputs | None, given: Any) -> Any:
        request = KernelRequest(
            apply_fn=network,
            params=params,
            x1=x1,
            x2=x2,
            outputs=program.outputs if program.is_of_columns else asked.of_columns,
            precision=program.precision,
            is_spread=is_spread(rows),
        )
        if given is not None:
            along = program.along(request, asked.columns, given)
            request = dataclasses.replace(request, along=along)
        return program.compute(request, budget_of(program.memory, devices))

    # Only where there are some: it traces the whole program once more.
    if has_convolutions(network, params, x1):
        kernels_of = with_quick_convolutions(kernels_of)
    kernels = kernels_of(params, x1, x2, given)
    if not program.is_of_columns:
        kernels = jax.tree.map(asked.finished, kernels)
    is_proven = not check_rows or rows_are_proven(real_fn, params, x1, x2)
    return _Kernels(split_by_rows(kernels, rows), is_proven, is_plain)
