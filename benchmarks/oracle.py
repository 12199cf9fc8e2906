"""Kernels and gradients in float64, to check every entry without forming them all."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.networks import Params, apply_fn
from benchmarks.workloads import Arrays, Workload

_NUM_PROBES = 8
_NUM_EXAMPLES = 3


@dataclasses.dataclass(frozen=True)
class KernelOracle:
    r"""What the kernel does to random vectors, and some of its blocks.

    For Gaussian $V$, $\lVert (H - H^*) V \rVert / \lVert H^* V \rVert$ estimates the
    relative Frobenius error over all entries; $H^* V = J (J^\top V)$ takes one
    reverse and one forward derivative, where all of $H^*$ would take $n k$.

    Attributes:
        probes: $V$, of shape `(n, k, v)`.
        products: $H^* V$.
        examples: Indices of examples whose blocks are known.
        blocks: Those, from their Jacobians: `(m, m, k, k)`.
    """

    probes: np.ndarray
    products: np.ndarray
    examples: np.ndarray
    blocks: np.ndarray

    def relative_error(self, result: np.ndarray) -> float:
        """Larger of the errors on probes and on known blocks; infinite if misshapen."""
        n, k, _ = self.probes.shape
        if result.shape != (n, n, k, k):
            return float("inf")
        products = np.einsum("ijab,jbv->iav", result.astype(np.float64), self.probes)
        blocks = result[np.ix_(self.examples, self.examples)]
        return max(_error(products, self.products), _error(blocks, self.blocks))


@dataclasses.dataclass(frozen=True)
class GradientOracle:
    """Loss and gradient, flattened in the order of sorted names."""

    expected: np.ndarray

    def relative_error(self, result: np.ndarray) -> float:
        """Relative error over loss and gradient; infinite if misshapen."""
        if result.shape != self.expected.shape:
            return float("inf")
        return _error(result, self.expected)


def oracles(
    work: Workload, params: Arrays, x: np.ndarray, y: np.ndarray
) -> tuple[KernelOracle, GradientOracle]:
    """Oracles of the kernel on `x` with itself, and of the loss.

    The loss is the mean over examples of half the squared error.
    """
    rng = np.random.default_rng(1)
    n, k = work.n, work.k
    probes = rng.standard_normal((n, k, _NUM_PROBES))
    examples = np.sort(rng.choice(n, size=min(_NUM_EXAMPLES, n), replace=False))
    with jax.enable_x64(True):
        fn = apply_fn(work)
        at = (_float64(params), _float64(x))

        @jax.jit
        def pull_back(params: Params, x: jax.Array, v: jax.Array) -> Any:
            f, vjp_fn = jax.vjp(lambda p: fn(p, x), params)
            return f, vjp_fn(v)[0]

        @jax.jit
        def push_forward(params: Params, x: jax.Array, tangent: Params) -> jax.Array:
            return jax.jvp(lambda p: fn(p, x), (params,), (tangent,))[1]

        def gradient(v: np.ndarray) -> np.ndarray:
            leaves = pull_back(*at, v)[1]
            return np.concatenate([np.ravel(leaves[name]) for name in sorted(leaves)])

        products = [
            push_forward(*at, pull_back(*at, v)[1]) for v in np.moveaxis(probes, -1, 0)
        ]
        units = np.eye(n * k).reshape(n, k, n, k)
        rows = np.stack([gradient(units[i, a]) for i in examples for a in range(k)])
        residual = np.asarray(pull_back(*at, probes[..., 0])[0]) - y
        loss = 0.5 * np.sum(np.square(residual)) / n
        expected = np.concatenate([[loss], gradient(residual / n)])
    m = len(examples)
    blocks = (rows @ rows.T).reshape(m, k, m, k).transpose(0, 2, 1, 3)
    kernel = KernelOracle(probes, np.stack(products, axis=-1), examples, blocks)
    return kernel, GradientOracle(expected)


def _float64(tree: Any) -> Any:
    """Arrays of real numbers in float64, tokens as they are."""

    def cast(array: np.ndarray) -> jax.Array:
        is_real = np.issubdtype(array.dtype, np.floating)
        return jnp.asarray(array, jnp.float64 if is_real else None)

    return jax.tree.map(cast, tree)


def _error(actual: np.ndarray, expected: np.ndarray) -> float:
    difference = np.linalg.norm(actual.astype(np.float64) - expected)
    return float(difference / np.linalg.norm(expected))
