"""The one way in which kernels are computed: checked, compiled, returned at once."""

import abc
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from lazyjax.callables.static import HashableCallable
from lazyjax.ntk.memory import Devices, devices_of
from lazyjax.ntk.request import KernelRequest
from lazyjax.ntk.row_check import check_row_independence, nan_if_interacting
from lazyjax.ntk.validate import check_arguments, check_network
from lazyjax.typing import AnyArray, ApplyFn, Outputs, Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class KernelProgram(abc.ABC):
    """What a verb computes, and what its program depends on beside arrays.

    Attributes:
        outputs: Form of the kernels.
        precision: Of matrix products, the network's own included where it sets none.
    """

    outputs: Outputs
    precision: Any

    @abc.abstractmethod
    def compute(self, request: KernelRequest, devices: Devices) -> Any:
        """Kernels of a network that has been checked, as a pytree of arrays."""


def run_program(
    program: KernelProgram,
    apply_fn: ApplyFn,
    params: Params,
    x1: Shaped[AnyArray, "n1 *d"],
    x2: Shaped[AnyArray, "n2 *d"] | None = None,
    *,
    check_rows: bool,
) -> Any:
    """Kernels of `program`, compiled once per function, shapes and options.

    Returns before the device is done, unless the independence of rows cannot be proven:
    then it waits, to compare them.

    Returns:
        What `program.compute` returns; NaN if rows interact and values are not known.
    """
    check_arguments(apply_fn, params, x1, x2)
    apply_fn = HashableCallable(apply_fn)
    x1, x2 = jnp.asarray(x1), None if x2 is None else jnp.asarray(x2)
    devices = devices_of(params, x1, x2)
    interacts = None
    with jax.default_matmul_precision(program.precision):
        kernels = _compiled(program, apply_fn, devices, params, x1, x2)
        if check_rows:
            interacts = check_row_independence(apply_fn, params, x1, x2)
    return nan_if_interacting(kernels, interacts)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _compiled(
    program: KernelProgram,
    apply_fn: ApplyFn,
    devices: Devices,
    params: Params,
    x1: Array,
    x2: Array | None,
) -> Any:
    # As a program of its own, the network is traced once for each size of batch.
    apply_fn = jax.jit(apply_fn)
    check_network(apply_fn, params, x1, program.outputs)
    request = KernelRequest(
        apply_fn=apply_fn,
        params=params,
        x1=x1,
        x2=x2,
        outputs=program.outputs,
        precision=program.precision,
    )
    return program.compute(request, devices)
