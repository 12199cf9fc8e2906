"""neural-tangents 0.6.5 through `lazyjax.interop`, on the same JAX as lazyjax.

Runs in the environment of the project.
"""

import jax

from benchmarks.peers import worker
from benchmarks.peers._nt import NeuralTangentsRunner
from lazyjax.interop.neural_tangents import load_neural_tangents


def runner() -> NeuralTangentsRunner:
    """neural-tangents, loaded for this process."""
    return NeuralTangentsRunner(load_neural_tangents(), "neural-tangents (bridge)")


if __name__ == "__main__":
    jax.config.update("jax_default_matmul_precision", "highest")
    worker.serve(runner())
