"""neural-tangents, whichever way it was imported."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import jax

from benchmarks.networks import Params, apply_fn
from benchmarks.peers import _jax, worker

_IMPLEMENTATIONS = {
    "jacobian": "JACOBIAN_CONTRACTION",
    "vector-products": "NTK_VECTOR_PRODUCTS",
    "structured": "STRUCTURED_DERIVATIVES",
}


class NeuralTangentsRunner:
    """Its three ways to an empirical kernel, all outputs kept.

    Args:
        nt: The module `neural_tangents`.
        name: What the methods' names begin with.
    """

    def __init__(self, nt: ModuleType, name: str) -> None:
        self._nt = nt
        self._name = name

    @property
    def methods(self) -> Sequence[str]:
        """What it can do."""
        return tuple(f"{self._name}:{method}" for method in _IMPLEMENTATIONS)

    def versions(self) -> dict[str, str]:
        """Of the libraries at work."""
        return {"neural-tangents": self._nt.__version__, "jax": jax.__version__}

    def device(self) -> str:
        """What JAX computes on."""
        return _jax.device()

    def prepare(self, method: str, problem: worker.Problem) -> worker.Prepared:
        """`method` compiled for `problem`."""
        name = _IMPLEMENTATIONS[method.removeprefix(f"{self._name}:")]
        kernel_fn = self._nt.empirical_ntk_fn(
            apply_fn(problem.work),
            trace_axes=(),
            vmap_axes=0,
            implementation=self._nt.NtkImplementation[name],
        )

        def kernel(params: Params, x1: jax.Array, x2: jax.Array | None) -> Any:
            return kernel_fn(x1, x2, params)

        work = problem.work
        is_structured = name == "STRUCTURED_DERIVATIVES"
        size = work.n if is_structured else worker.block_size(work)
        return _jax.prepare_blocks(kernel, problem.params, problem.x, size)
