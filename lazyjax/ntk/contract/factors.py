"""Cotangents and operands of sites in the canonical form of `layout`."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lazyjax.ntk.contract.layout import Layout, Shape, prepare_operand
from lazyjax.ntk.trace.rules import Labels
from lazyjax.ntk.trace.sites import Site, TracedNetwork
from lazyjax.ntk.trace.views import Box, Origin, View
from lazyjax.ntk.trace.windows import Windows


@dataclasses.dataclass(frozen=True, eq=False)
class Factor:
    """Canonical cotangents `(n, s, g, p, o)` and operand `(n, g, p, i)` of a root."""

    shape: Shape
    delta: Array  # cotangents
    # Operand, or a function that returns it; `None` if it is one everywhere.
    operand: Array | Callable[[], Array] | None
    # Images `(n, batch, *size, channels)` whose patches the operand is, with `p` over
    # batch and places and `i`, in any order, over taps and channels.
    images: Array | None = None
    windows: Windows | None = None  # where these patches are

    @functools.cached_property
    def act(self) -> Array:
        """The operand of a factor that has one."""
        if self.operand is None:
            raise ValueError("A factor without an operand has none to give.")
        return self.operand() if callable(self.operand) else self.operand

    def __getitem__(self, examples: slice) -> "Factor":
        return dataclasses.replace(
            self,
            delta=self.delta[examples],
            operand=None if self.operand is None else lambda: self.act[examples],
            images=None if self.images is None else self.images[examples],
        )


def factor_of(
    network: TracedNetwork,
    layout: Layout,
    values: Mapping[int, Array],
    cotangents: Mapping[int, Array],
    records: Mapping[int, Array],
) -> Factor:
    """The canonical factor of one site, from the cotangents and recorded operands."""
    site, shape = layout.site, layout.shape
    g, p, o, _ = layout.axes
    dtype = working_dtype(network.avals[layout.view.root].dtype)
    if layout.pooled is None or site.pool is None:
        delta, sizes = cotangents[site.perturbation], layout.delta_shape
    else:
        delta, summed = cotangents[site.pool.perturbation], layout.pooled[0]
        pairs = zip(layout.delta, layout.delta_shape, strict=True)
        sizes = [1 if label in summed else size for label, size in pairs]
    delta = delta.reshape(*delta.shape[:2], *sizes).astype(dtype)
    scale = _scale(layout.view, values, dtype)
    if layout.view.sign * (1 if site.form is None else site.form.sign) < 0:
        delta = -delta
    if scale is not None:
        delta = delta * scale
    delta = _arranged(delta, 2, layout.delta, (*g, *p, *o))
    delta = delta.reshape(
        *delta.shape[:2], shape.groups, shape.positions, shape.outputs
    )
    if site.record is None:
        return Factor(shape, delta, None)
    windows = layout.windows
    if windows is not None and layout.pooled is None:
        images = jax.vmap(windows.lay_out)(records[site.record]).astype(dtype)
        patches = lambda: _act(layout, _prepared_operand(site, records), dtype)
        return Factor(shape, delta, patches, images, windows)
    act = _prepared_operand(site, records)
    if layout.is_index:
        act = _arranged(act, 1, layout.act, p).reshape(act.shape[0], shape.positions)
        delta = jnp.where(
            act[:, None, None, :, None] >= 0, delta, jnp.zeros_like(delta)
        )
        return Factor(shape, delta, act)
    if site.form is not None and site.form.index_into is not None:
        act = jax.nn.one_hot(act, layout.sizes[site.form.index_into], dtype=dtype)
    if layout.pooled is not None and site.pool is not None:
        slopes = records[site.pool.record]
        slopes = slopes.reshape(slopes.shape[0], *layout.delta_shape).astype(dtype)
        act = _pooled_act(layout, layout.pooled, slopes, act.astype(dtype))
        return Factor(shape, delta, act)
    return Factor(shape, delta, _act(layout, act, dtype))


def _prepared_operand(site: Site, records: Mapping[int, Array]) -> Array:
    assert site.record is not None
    return jax.vmap(lambda act: prepare_operand(site, act))(records[site.record])


def _act(layout: Layout, act: Array, dtype: Any) -> Array:
    g, p, _, i = layout.axes
    act = _arranged(act.astype(dtype), 1, layout.act, (*g, *p, *i))
    shape = layout.shape
    return act.reshape(act.shape[0], shape.groups, shape.positions, shape.inputs)


def _pooled_act(
    layout: Layout, pooled: tuple[Labels, Labels], slopes: Array, act: Array
) -> Array:
    # Operands summed over positions, weighted by the derivative of the pooled function.
    (p, o), i = pooled, layout.axes[3]
    n, shape = act.shape[0], layout.shape
    slopes = _arranged(slopes, 1, layout.delta, (*p, *o)).reshape(n, shape.pooled, -1)
    act = _arranged(act, 1, layout.act, (*p, *i)).reshape(n, shape.pooled, -1)
    summed = jnp.einsum("npo,npi->noi", slopes, act, precision="highest")
    return summed[:, :, None]


def working_dtype(dtype: Any) -> Any:
    """Dtype in which gradients are contracted and added up: at least float32."""
    return jnp.dtype(dtype) if jnp.dtype(dtype).itemsize >= 4 else jnp.dtype("float32")


def common_dtype(*dtypes: Any) -> Any:
    """Dtype of a kernel between networks of these dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*dtypes)


def merge(shape: Shape, factors: Sequence[Factor]) -> Factor:
    """One factor of several: their positions side by side."""
    if len(factors) == 1:
        return factors[0]
    if not shape.has_act:
        total = functools.reduce(jnp.add, (f.delta for f in factors))
        return Factor(shape, total, None)
    delta = jnp.concatenate([f.delta for f in factors], axis=3)
    axis = 1 if shape.is_index else 2
    act = jnp.concatenate([f.act for f in factors], axis=axis)
    return Factor(shape, delta, act)


def pad_to_box(origin: Origin, box: Box, gradient: Array) -> Array:
    """A gradient `(n, s, *root)` as that by a box of the leaf, which holds the root's."""

    def to_root(piece: Array) -> Array:
        for step in origin.steps:
            (piece,) = step.evaluate(piece)
        return piece

    sizes = [end - start for start, end in origin.box]
    piece = jax.ShapeDtypeStruct(sizes, gradient.dtype)
    back = jax.linear_transpose(to_root, piece)
    (pieces,) = jax.vmap(jax.vmap(back))(gradient)
    margins = [
        (own[0] - whole[0], whole[1] - own[1])
        for own, whole in zip(origin.box, box, strict=True)
    ]
    return jnp.pad(pieces, [(0, 0), (0, 0), *margins])


def with_root_axes(layout: Layout, root_shape: Sequence[int], gradient: Array) -> Array:
    """A gradient `(n, s, g, o, i)` with the axes of its root, `(n, s, *root)`."""
    g, _, o, i = layout.axes
    flat = [label for labels in layout.view.labels for label in labels]
    have = (*g, *o, *i)
    gradient = gradient.reshape(
        *gradient.shape[:2], *(layout.sizes[label] for label in have)
    )
    order = [2 + have.index(label) for label in flat if label in have]
    return gradient.transpose(0, 1, *order).reshape(*gradient.shape[:2], *root_shape)


def _scale(view: View, values: Mapping[int, Array], dtype: Any) -> Array | None:
    scale = None
    for number, power in view.scales:
        value = jnp.asarray(values[number]).astype(dtype)
        value = 1 / value if power < 0 else value
        scale = value if scale is None else scale * value
    return scale


def _arranged(array: Array, lead: int, labels: Labels, wanted: Labels) -> Array:
    # Axes in the wanted order after `lead` leading ones; the others are summed over.
    rest = tuple(lead + a for a, label in enumerate(labels) if label not in wanted)
    left = [label for label in labels if label in wanted]
    if rest:
        array = jnp.sum(array, axis=rest)
    return array.transpose(*range(lead), *(lead + left.index(x) for x in wanted))
