"""neural-tangents 0.6.5 on the last JAX on which all of its methods run by themselves.

Its environment, with Python 3.11:

    python3.11 -m venv nt
    nt/bin/pip install jax==0.4.23 jaxlib==0.4.23 "numpy<2" "scipy<1.13" frozendict
    nt/bin/pip install --no-deps neural-tangents==0.6.5

Its requirement tf2jax, and TensorFlow with it, serves a module that is not used here.
"""

import sys
import types

import jax

from benchmarks.peers import worker
from benchmarks.peers._nt import NeuralTangentsRunner

if __name__ == "__main__":
    sys.modules["neural_tangents.experimental"] = types.ModuleType("experimental")
    import neural_tangents as nt

    jax.config.update("jax_default_matmul_precision", "highest")
    worker.serve(NeuralTangentsRunner(nt, "neural-tangents"))
