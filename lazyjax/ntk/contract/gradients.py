"""Streamed contraction of per-example gradients."""

import dataclasses
import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from lazyjax.ntk.contract.accumulator import (
    Contraction,
    materialize,
    platform_limit,
    split_into_blocks,
)
from lazyjax.ntk.contract.factors import Factor

# Size of a slice of gradients: it fits the cache of a processor; an accelerator needs
# large products.
_SLICE_BYTES = {"cpu": 4 * 2**20, "other": 256 * 2**20}
# Fewest inputs of a slice that make an efficient product.
_SLICE_INPUTS = 16


def gradients(contraction: Contraction, factor: Factor) -> Array:
    """Gradients `(n, s, g, o, i)` of a factor."""
    if factor.operand is None:
        return factor.delta[:, :, :, 0, :, None]
    if factor.shape.is_index:
        return embedding_gradients(factor, 0, factor.shape.inputs)
    if factor.shape.groups == 1:
        act = materialize(factor.act[:, 0])
        return _formed(contraction, _flat(factor.delta), act)[:, :, None]
    return jnp.einsum(
        "nsgpo,ngpi->nsgoi", factor.delta, factor.act, precision=contraction.precision
    )


def by_gradients(contraction: Contraction, first: Factor, second: Factor) -> Array:
    """Kernel of one factor by its gradients."""
    width = _slice_inputs(first, second)
    if width == first.shape.inputs:
        formed = gradients(contraction, first)
        is_same = second is first
        return contraction.gram(
            formed, formed if is_same else gradients(contraction, second)
        )
    return _by_slices(contraction, first, second, width)


def _by_slices(
    contraction: Contraction, first: Factor, second: Factor, width: int
) -> Array:
    sides = [_sliced(first, width)]
    if second is not first:
        sides.append(_sliced(second, width))

    def add(kernel: Array, start: Array) -> tuple[Array, None]:
        made = [
            _formed(contraction, side.delta, materialize(side.operand(start)))
            for side in sides
        ]
        return contraction.add_gram(kernel, made[0], made[-1]), None

    zeros = contraction.zeros(first.delta.dtype)
    return lax.scan(add, zeros, jnp.asarray(sides[0].starts))[0]


@dataclasses.dataclass(frozen=True, eq=False)
class _Sliced:
    """A factor whose gradients are formed for some of its inputs at a time."""

    delta: Array  # cotangents `(n, s * o, p)`
    starts: np.ndarray  # where each slice starts
    operand: Callable[[Array], Array]  # operand `(n, p, i)` of a slice, by its start


def _sliced(factor: Factor, width: int) -> _Sliced:
    delta, windows = _flat(factor.delta), factor.windows
    if windows is None or factor.images is None:
        pieces = _pieces(factor.act[:, 0], width)
        pieces = materialize(jnp.moveaxis(pieces, 2, 0))  # (slice, n, p, i)
        return _Sliced(
            delta,
            np.arange(pieces.shape[0]),
            lambda start: lax.dynamic_index_in_dim(
                pieces, start, keepdims=False, allow_negative_indices=False
            ),
        )
    # Patches are never formed: the pixels of one tap are a box of the image.
    channels = factor.images.shape[-1]
    images = _pieces(factor.images, min(width, channels))
    splits, width = images.shape[-2:]
    num_examples = images.shape[0]
    images = materialize(images.reshape(-1, *images.shape[2:-2], splits * width))

    starts = [
        (0, *offset, split * width)
        for offset in windows.offsets
        for split in range(splits)
    ]

    def operand(start: Array) -> Array:
        pixels = windows.pixels_of_tap(images, start, width)
        return pixels.reshape(num_examples, -1, width)

    return _Sliced(delta, np.asarray(starts, np.int32), operand)


def _pieces(array: Array, width: int) -> Array:
    # The last axis in pieces of at most `width`.
    return split_into_blocks(array, array.ndim - 1, math.ceil(array.shape[-1] / width))


def _slice_inputs(first: Factor, second: Factor) -> int:
    # Inputs whose gradients are formed at a time: all, or few enough for the cache.
    shape, delta = first.shape, first.delta
    if not shape.has_act or shape.is_index or shape.groups > 1:
        return shape.inputs
    examples = max(delta.shape[0], second.delta.shape[0])
    of_input = examples * delta.shape[1] * max(shape.outputs, 1) * delta.dtype.itemsize
    width = max(platform_limit(_SLICE_BYTES) // of_input, _SLICE_INPUTS)
    return min(width, shape.inputs)


def _flat(delta: Array) -> Array:
    # Cotangents (n, s, 1, p, o) as (n, s * o, p), along whose rows products are quickest.
    n, _, _, positions, _ = delta.shape
    return materialize(delta[:, :, 0].swapaxes(2, 3).reshape(n, -1, positions))


def _formed(contraction: Contraction, delta: Array, act: Array) -> Array:
    # Gradients (n, s, o, i) of cotangents (n, s * o, p): the order of axes in which the
    # product is written.
    rows = jnp.einsum("nxp,npi->nxi", delta, act, precision=contraction.precision)
    return rows.reshape(rows.shape[0], contraction.num_cotangents, -1, rows.shape[-1])


def embedding_gradients(factor: Factor, start: int, end: int) -> Array:
    """Gradients `(n, s, g, o, i)` of an embedding, for `i` from `start` to `end` only."""
    # The one-hot operand is never formed: cotangents are added to the rows selected.
    n, num_cotangents, _, _, outputs = factor.delta.shape
    is_inside = (factor.act >= start) & (factor.act < end)
    index = jnp.where(is_inside, factor.act - start, end - start)
    table = jnp.zeros((n, end - start, num_cotangents, outputs), factor.delta.dtype)
    values = factor.delta[:, :, 0].transpose(0, 2, 1, 3)
    table = table.at[jnp.arange(n)[:, None], index].add(values, mode="drop")
    return table.transpose(0, 2, 3, 1)[:, :, None]
