"""Finite-width kernels the slow way, in float64: what every faster way must equal.

Nothing here is imported from the library. Three ways that share no step with each
other: reverse-mode gradients one output at a time, central differences, and a
two-layer ReLU network differentiated by hand.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.helpers.compilation import UNOPTIMIZED


def naive_ntk(
    apply_fn: Callable, params: object, x1: object, x2: object | None = None
) -> np.ndarray:
    """NTK `(n1, n2, k, k)`: one gradient per example and output, looped over leaves."""
    with jax.enable_x64(True):
        params = to_float64(params)
        gradients1 = _gradients(apply_fn, params, x1)
        gradients2 = gradients1 if x2 is None else _gradients(apply_fn, params, x2)
    return _pairings(gradients1, gradients2)


def finite_difference_ntk(
    apply_fn: Callable,
    params: object,
    x1: object,
    x2: object | None = None,
    *,
    step: float = 1e-5,
) -> np.ndarray:
    """NTK `(n1, n2, k, k)` by central differences, one parameter entry at a time."""
    with jax.enable_x64(True):
        params = to_float64(params)
        x1 = _wide(np.asarray(x1))
        x2 = x1 if x2 is None else _wide(np.asarray(x2))
        leaves, treedef = jax.tree.flatten(params)
        num_rows1, num_rows2 = x1.shape[0], x2.shape[0]
        evaluate = jax.jit(lambda p, x: apply_fn(p, x))
        num_outputs = evaluate(params, jnp.asarray(x1)).shape[1]
        ntk = np.zeros((num_rows1, num_rows2, num_outputs, num_outputs))
        for index, leaf in enumerate(leaves):
            for entry in np.ndindex(leaf.shape):
                sides = []
                for x in (x1, x2):
                    values = []
                    for sign in (1.0, -1.0):
                        moved = leaf.copy()
                        moved[entry] += sign * step
                        there = [*leaves[:index], moved, *leaves[index + 1 :]]
                        p = jax.tree.unflatten(treedef, there)
                        values.append(np.asarray(evaluate(p, jnp.asarray(x))))
                    sides.append((values[0] - values[1]) / (2 * step))
                for i in range(num_rows1):
                    for j in range(num_rows2):
                        ntk[i, j] += np.outer(sides[0][i], sides[1][j])
    return ntk


def two_layer_relu_outputs(params: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """Outputs `(n, k)` of f(x) = V relu(W x / sqrt(d) + b) / sqrt(m) + c."""
    num_features, width = params["W"].shape[1], params["W"].shape[0]
    hidden = np.maximum(x @ params["W"].T / np.sqrt(num_features) + params["b"], 0.0)
    return hidden @ params["V"].T / np.sqrt(width) + params["c"]


def two_layer_relu_ntk(
    params: dict[str, np.ndarray], x1: np.ndarray, x2: np.ndarray
) -> np.ndarray:
    """NTK of `two_layer_relu_outputs`, differentiated by hand, all four leaves."""
    weights, bias, readout = params["W"], params["b"], params["V"]
    width, num_features = weights.shape
    num_outputs = readout.shape[0]
    ntk = np.zeros((len(x1), len(x2), num_outputs, num_outputs))
    for i, first in enumerate(x1):
        for j, second in enumerate(x2):
            before1 = weights @ first / np.sqrt(num_features) + bias
            before2 = weights @ second / np.sqrt(num_features) + bias
            after = np.maximum(before1, 0.0) @ np.maximum(before2, 0.0)
            both = (before1 > 0) & (before2 > 0)
            inputs = first @ second / num_features + 1.0  # from W and from b
            for a in range(num_outputs):
                for b in range(num_outputs):
                    pairs = np.sum(readout[a, both] * readout[b, both])
                    ntk[i, j, a, b] = pairs * inputs / width
                    if a == b:
                        ntk[i, j, a, b] += after / width + 1.0  # from V and from c
    return ntk


def reduce_ntk(ntk: np.ndarray, outputs: Any) -> np.ndarray:
    """The reduction of a full kernel `(n1, n2, k, k)` that `outputs` names.

    "diagonal" is `(n1, n2, k)`; "trace" sums it over k; "pseudo" is the mean over k of
    the sum over all pairs; a class index is that entry of the diagonal.
    """
    num_outputs = ntk.shape[-1]
    if outputs == "full":
        return ntk
    diagonal = np.stack([ntk[..., a, a] for a in range(num_outputs)], axis=-1)
    if outputs == "diagonal":
        return diagonal
    if outputs == "trace":
        return diagonal.sum(axis=-1)
    if outputs == "pseudo":
        return ntk.sum(axis=(-2, -1)) / num_outputs
    assert isinstance(outputs, int)
    return diagonal[..., outputs]


def to_float64(tree: Any) -> Any:
    """The tree with every leaf a NumPy array, floating-point leaves in float64."""
    return jax.tree.map(lambda leaf: _wide(np.asarray(leaf)), tree)


def _wide(array: np.ndarray) -> np.ndarray:
    # jnp.issubdtype, for NumPy does not know that bfloat16 is floating point.
    wide = jnp.issubdtype(array.dtype, jnp.floating)
    return array.astype(np.float64) if wide else array


def _gradients(
    apply_fn: Callable, params: object, x: object
) -> list[list[list[np.ndarray]]]:
    """`gradients[example][output][leaf]`, each by its own call of `jax.grad`."""
    gradient = _gradient_fn(apply_fn)
    x = _wide(np.asarray(x))
    num_outputs = jax.eval_shape(apply_fn, params, x[:1]).shape[1]
    per_example = []
    for row in x:
        per_output = []
        for index in range(num_outputs):
            tree = gradient(params, row, np.int32(index))
            per_output.append([np.asarray(g) for g in jax.tree.leaves(tree)])
        per_example.append(per_output)
    return per_example


@functools.lru_cache(maxsize=8)
def _gradient_fn(apply_fn: Callable) -> Callable:
    """One program per network, however many parameters and batches it is given."""

    def output(p, row, index):
        return apply_fn(p, row[None])[0, index]

    return jax.jit(jax.grad(output), compiler_options=UNOPTIMIZED)


def _pairings(gradients1: list, gradients2: list) -> np.ndarray:
    num_outputs = len(gradients1[0])
    ntk = np.zeros((len(gradients1), len(gradients2), num_outputs, num_outputs))
    for i, example1 in enumerate(gradients1):
        for j, example2 in enumerate(gradients2):
            for a in range(num_outputs):
                for b in range(num_outputs):
                    for leaf1, leaf2 in zip(example1[a], example2[b], strict=True):
                        assert leaf1.dtype == leaf2.dtype == np.float64
                        ntk[i, j, a, b] += np.sum(leaf1 * leaf2)
    return ntk
