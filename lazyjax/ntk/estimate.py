"""Kernels summed over many outputs, estimated along random directions."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lazyjax._checks import check_at_least, check_choice, check_key
from lazyjax.files.results import Storable
from lazyjax.ntk.empirical import METHODS, Empirical
from lazyjax.ntk.outputs import Directions
from lazyjax.ntk.requests.columns import Columns, check_real
from lazyjax.ntk.requests.compiled import run_program
from lazyjax.ntk.requests.memory import Budget, result_bytes
from lazyjax.ntk.requests.request import KernelRequest
from lazyjax.typing import ApplyFn, Inputs, Method, Params, RandomKey


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TraceEstimate(Storable):
    """Estimate of a kernel summed over equal outputs.

    Attributes:
        mean: Mean over probes, an unbiased estimate; exactly symmetric and positive
            semidefinite for one batch.
        sem: Its standard error, entry by entry.
        num_probes: Number of random directions.
    """

    mean: Float[Array, "n1 n2"]
    sem: Float[Array, "n1 n2"]
    num_probes: int = dataclasses.field(metadata={"static": True})


def ntk_trace_estimate(
    apply_fn: ApplyFn,
    params: Params,
    x1: Inputs,
    x2: Inputs | None = None,
    *,
    key: RandomKey,
    num_probes: int = 32,
    method: Method = "auto",
    precision: jax.lax.PrecisionLike = "highest",
    memory: int | str | None = None,
    check_rows: bool = True,
) -> TraceEstimate:
    r"""Estimate of `empirical_ntk(..., outputs="trace")`, with its standard error.

    For random signs $v \in \{\pm 1\}^k$, the kernel of $v \cdot f$ has the trace kernel
    for its mean. Each probe is the kernel of a network of one output, whereas the exact
    trace takes a backward pass for each of the k outputs. (`outputs="pseudo"` is along one
    direction anyway, and exact for the work of one probe.)

    Args:
        apply_fn: Network `(params, x) -> f`, as in `empirical_ntk`.
        params: Point at which the network is linearized.
        x1: First batch.
        x2: Second batch; `None` means `x1`.
        key: Source of randomness.
        num_probes: Number of probes, at least 2. The standard error falls with its root.
        method: As in `empirical_ntk`.
        precision: As in `empirical_ntk`.
        memory: As in `empirical_ntk`; what is held grows with `n1 n2 num_probes`.
        check_rows: As in `empirical_ntk`.

    Returns:
        Mean and standard error of each entry.

    Raises:
        ValueError: If `num_probes` is less than 2, or as `empirical_ntk` says.
        TypeError: If `num_probes` is no integer, or as `empirical_ntk` says.

    Example:
        >>> import jax, jax.numpy as jnp, lazyjax
        >>> linear = lambda w, x: x @ w
        >>> w, x = jnp.ones((2, 1000)), jnp.array([[3.0, 4.0]])
        >>> found = lazyjax.ntk_trace_estimate(linear, w, x, key=jax.random.key(0))
        >>> found.mean.item(), found.sem.item()  # nothing off the diagonal is in the way
        (25000.0, 0.0)

    References:
        Hutchinson (1990), "A stochastic estimator of the trace of the influence matrix"
        (not checked).
    """
    check_choice("method", method, METHODS)
    check_key("key", key)
    check_at_least("num_probes", num_probes, 2)
    program = _AlongProbes(
        outputs="diagonal",
        precision=precision,
        memory=memory,
        method=method,
        filter=None,
        num_probes=int(num_probes),
    )
    mean, sem = run_program(
        program, apply_fn, params, x1, x2, given=key, check_rows=check_rows
    )
    return TraceEstimate(mean=mean, sem=sem, num_probes=int(num_probes))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _AlongProbes(Empirical):
    """Mean and standard error of the kernels along random signs of the outputs."""

    num_probes: int
    is_of_columns = True

    def along(
        self, request: KernelRequest, columns: Columns, given: Any
    ) -> tuple[Directions, Directions]:
        check_real("An estimated trace", columns)
        shape = self.num_probes, request.f.shape[1]
        probes = Directions(jax.random.rademacher(given, shape, request.f.dtype))
        return probes, probes

    def compute(self, request: KernelRequest, budget: Budget) -> tuple[Array, Array]:
        kernels = super().compute(request, budget.less(2 * result_bytes(request)))
        error = jnp.std(kernels, axis=-1, ddof=1) / self.num_probes**0.5
        return jnp.mean(kernels, axis=-1), error.astype(kernels.dtype)
