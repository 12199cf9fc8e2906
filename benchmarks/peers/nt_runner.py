"""neural-tangents 0.6.5 on the last JAX on which all of its methods run.

Its environment, with Python 3.11:

    python3.11 -m venv nt
    nt/bin/pip install jax==0.4.23 jaxlib==0.4.23 "numpy<2" "scipy<1.13" frozendict
    nt/bin/pip install --no-deps neural-tangents==0.6.5

Its requirement tf2jax, and TensorFlow with it, serves a module that is not used here.
"""

import sys
import types
from typing import Any

import jax

from benchmarks.networks import Params, apply_fn
from benchmarks.peers import _jax, worker

sys.modules["neural_tangents.experimental"] = types.ModuleType("experimental")

import neural_tangents as nt  # noqa: E402 # pyright: ignore[reportMissingImports]

_IMPLEMENTATIONS = {
    "neural-tangents:jacobian": nt.NtkImplementation.JACOBIAN_CONTRACTION,
    "neural-tangents:vector-products": nt.NtkImplementation.NTK_VECTOR_PRODUCTS,
    "neural-tangents:structured": nt.NtkImplementation.STRUCTURED_DERIVATIVES,
}


class NeuralTangentsRunner:
    """Its three ways to an empirical kernel, all outputs kept."""

    methods = tuple(_IMPLEMENTATIONS)

    def versions(self) -> dict[str, str]:
        """Of the libraries at work."""
        return {"neural-tangents": nt.__version__, "jax": jax.__version__}

    def device(self) -> str:
        """What JAX computes on."""
        return _jax.device()

    def prepare(self, method: str, problem: worker.Problem) -> worker.Prepared:
        """`method` compiled for `problem`."""
        fn = apply_fn(problem.work)
        kernel_fn = nt.empirical_ntk_fn(
            fn, trace_axes=(), vmap_axes=0, implementation=_IMPLEMENTATIONS[method]
        )

        def kernel(params: Params, x1: jax.Array, x2: jax.Array | None) -> Any:
            return kernel_fn(x1, x2, params)

        work = problem.work
        is_structured = method.endswith("structured")
        size = work.n if is_structured else worker.block_size(work)
        return _jax.prepare_blocks(kernel, problem.params, problem.x, size)


if __name__ == "__main__":
    jax.config.update("jax_default_matmul_precision", "highest")
    worker.serve(NeuralTangentsRunner())
