"""lazyjax itself, a plain Jacobian contraction, and one gradient of the same network.

Runs in the environment of the project.
"""

import dataclasses
import functools
import json
import sys
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

import lazyjax
from benchmarks import _harness
from benchmarks.networks import ApplyFn, Params, apply_fn
from benchmarks.peers import _jax, worker
from benchmarks.roofline import Cost
from benchmarks.workloads import Size
from lazyjax.typing import Method

_OWN = "lazyjax:"


class LazyjaxRunner:
    """`lazyjax.empirical_ntk` by each of its methods, and what it is measured by."""

    methods = (
        *(f"{_OWN}{method}" for method in get_args(Method)),
        "jacrev",
        "value_and_grad",
    )

    def versions(self) -> dict[str, str]:
        """Of the libraries at work."""
        return {"lazyjax": lazyjax.__version__, "jax": jax.__version__}

    def device(self) -> str:
        """What JAX computes on."""
        return _jax.device()

    def prepare(self, method: str, problem: worker.Problem) -> worker.Prepared:
        """`method` compiled for `problem`."""
        fn = apply_fn(problem.work)
        if method == "value_and_grad":
            arguments = (problem.params, problem.x, problem.y)
            return _jax.prepare(_value_and_grad(fn), arguments, _flatten)
        if method == "jacrev":
            size = worker.block_size(problem.work)
            return _jax.prepare_blocks(_jacrev(fn), problem.params, problem.x, size)

        def kernel(params: Params, x: jax.Array) -> jax.Array:
            name: Any = method.removeprefix(_OWN)
            return lazyjax.empirical_ntk(fn, params, x, method=name)

        return _jax.prepare(kernel, (problem.params, problem.x))


def measure_peak(size: Size) -> Cost:
    """Rates of this machine: a float32 matrix product, and a copy (read and write)."""
    matrix_side, copy_bytes = (3072, 2**28) if size == "full" else (256, 2**22)
    key = jax.random.key(0)
    matrix = jax.random.normal(key, (matrix_side, matrix_side))
    vector = jnp.zeros(copy_bytes // 4)
    product = _jax.prepare(
        lambda a: jnp.matmul(a, a, precision="highest"), (matrix,)
    ).call
    copy = _jax.prepare(lambda a: a + 1, (vector,)).call

    def fastest(call: Any) -> float:
        return min(_harness.timed(call)[0] for _ in range(10))

    return Cost(2 * matrix_side**3 / fastest(product), 2 * copy_bytes / fastest(copy))


def _jacrev(fn: ApplyFn) -> Any:
    """The contraction anyone would write: per-example Jacobians, one einsum a leaf."""

    def one(params: Params, x: jax.Array) -> jax.Array:
        return fn(params, x[None])[0]

    def kernel(params: Params, x1: jax.Array, x2: jax.Array | None) -> jax.Array:
        jacobian_fn = jax.vmap(jax.jacrev(one), (None, 0))
        j1 = jacobian_fn(params, x1)
        j2 = j1 if x2 is None else jacobian_fn(params, x2)
        rows1, rows2 = (
            {name: leaf.reshape(*leaf.shape[:2], -1) for name, leaf in j.items()}
            for j in (j1, j2)
        )
        terms = [
            jnp.einsum("iap,jbp->ijab", rows1[name], rows2[name], precision="highest")
            for name in rows1
        ]
        return functools.reduce(jnp.add, terms)

    return kernel


def _value_and_grad(fn: ApplyFn) -> Any:
    """Mean over examples of half the squared error, and its gradient."""

    def loss(params: Params, x: jax.Array, y: jax.Array) -> jax.Array:
        return 0.5 * jnp.sum(jnp.square(fn(params, x) - y)) / len(x)

    return jax.value_and_grad(loss)


def _flatten(result: tuple[jax.Array, Params]) -> np.ndarray:
    value, gradient = result
    parts = [value[None], *(gradient[name].ravel() for name in sorted(gradient))]
    return np.concatenate([np.asarray(part) for part in parts])


if __name__ == "__main__":
    jax.config.update("jax_default_matmul_precision", "highest")
    if sys.argv[1:2] == ["--peak"]:
        peak_size: Any = sys.argv[2]
        print(json.dumps(dataclasses.astuple(measure_peak(peak_size))))
    else:
        worker.serve(LazyjaxRunner())
