r"""Canonical form of the cotangents and operands of sites.

The gradient of every site by its root is

$$G[n, s, g, o, i] = \sum_p \delta[n, s, g, p, o] \; a[n, g, p, i]$$

with examples $n$, cotangents $s$ of the output, axes $g$ shared by both (groups,
scanned layers), positions $p$, axes $o$ that only the cotangent has (outputs) and
axes $i$ that only the operand has (inputs).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jaxtyping import Array

from lazyjax.ntk.trace.rules import Labels
from lazyjax.ntk.trace.sites import Site, TracedNetwork
from lazyjax.ntk.trace.views import Origin, View, view_of
from lazyjax.ntk.trace.windows import Windows


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of a canonical factor."""

    groups: int  # size of `g`
    positions: int  # size of `p`
    outputs: int  # size of `o`
    inputs: int  # size of `i`
    has_act: bool = True  # whether there is an operand; if not, `p` and `i` have size 1
    # Whether the operand is an index along `i`, of shape `(n, p)`; `g` is 1.
    is_index: bool = False
    pooled: int = 1  # number of positions over which the operand has been summed

    @property
    def size(self) -> int:
        """Number of entries of the gradient, for one example and cotangent."""
        return self.groups * self.outputs * self.inputs


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """Roles of the axes of one site: what turns its operands into a canonical factor."""

    site: Site
    view: View  # its operand as a view of a root
    delta: Labels  # label of each axis of the cotangent
    delta_shape: tuple[int, ...]  # shape with these axes
    act: Labels  # label of each axis of the operand
    axes: tuple[Labels, Labels, Labels, Labels]  # labels of `g`, `p`, `o` and `i`
    sizes: Mapping[Any, int]  # size of each label
    is_index: bool  # whether the operand stays an index
    # Labels of positions and outputs, where positions are summed over first.
    pooled: tuple[Labels, Labels] | None = None

    @property
    def shape(self) -> Shape:
        """Sizes of the canonical factor."""
        g, p, o, i = (self.size(axes) for axes in self.axes)
        pooled = 1 if self.pooled is None else self.size(self.pooled[0])
        return Shape(g, p, o, i, self.site.record is not None, self.is_index, pooled)

    def size(self, labels: Labels) -> int:
        """Number of entries along axes with these labels."""
        return math.prod(self.sizes[label] for label in labels)

    @property
    def windows(self) -> Windows | None:
        """Windows of the patches that the operand consists of, if it does."""
        form, (g, p, _, i) = self.site.form, self.axes
        if form is None or form.windows is None or form.act is None:
            return None
        space = form.act[: 1 + len(form.windows.places)]
        rest = set(form.act[len(space) :])
        is_whole = not self.site.depth and p == space and {*g, *i} == rest
        return form.windows if is_whole and self.shape.groups == 1 else None

    @property
    def index_axis(self) -> int:
        """The axis of the root along which the operand selects, if it is an index."""
        return self.view.labels.index(self.axes[3])

    @property
    def key(self) -> tuple:
        """Equal for sites of one root that form one factor with more positions."""
        where = {
            label: (axis, number, self.sizes[label])
            for axis, labels in enumerate(self.view.labels)
            for number, label in enumerate(labels)
        }
        g, _, o, i = (tuple(where.get(x) for x in axes) for axes in self.axes)
        return g, o, i, self.site.record is None, self.is_index


def layout_of(network: TracedNetwork, site: Site) -> Layout:
    """The layout of `site`, by the form of its rule and the view of its operand."""
    perturbation, form = network.perturbations[site.perturbation], site.form
    levels = [level for level, stacked in enumerate(site.operand.stack) if stacked]
    if form is None:
        delta: Labels = tuple(("axis", axis) for axis in range(len(perturbation.shape)))
        delta_shape, act, sizes = perturbation.shape, (), {}
        weight = [(label,) for label in delta]
    else:
        scans = tuple(("scan", level) for level in range(site.depth))
        lengths = perturbation.shape[: site.depth]
        delta = scans + form.delta
        delta_shape = lengths + (form.delta_shape or perturbation.shape[site.depth :])
        weight = [(("scan", level),) for level in levels] + list(form.weight)
        act, sizes = (), {}
        if form.act is not None:
            act = scans + form.act
            operand = jax.eval_shape(
                lambda a: prepare_operand(site, a), site.record_aval
            )
            sizes = dict(zip(act, operand.shape, strict=True))
    sizes |= dict(zip(delta, delta_shape, strict=True))
    view = view_of(network, site.operand.id, weight)
    flat = [label for labels in view.labels for label in labels]
    index = None if form is None else form.index_into
    if index is not None:
        axis = next(a for a, labels in enumerate(weight) if labels == (index,))
        sizes[index] = network.avals[site.operand.id].shape[axis]
    has_index = index is not None and index in flat
    acts = set(act) | ({index} if index is not None else set())
    g = tuple(x for x in flat if x in delta and x in acts)
    p = tuple(x for x in delta if x in acts and x not in flat)
    o = tuple(x for x in flat if x in delta and x not in acts)
    i = tuple(x for x in flat if x not in delta and x in acts)
    is_index = has_index and not g and i == (index,)
    if index is not None and not is_index:
        act = (*act, index)
    return Layout(site, view, delta, delta_shape, act, (g, p, o, i), sizes, is_index)


def pool_positions(network: TracedNetwork, layout: Layout) -> Layout:
    """The layout of a site before pooling, with its positions summed over if they are."""
    # With cotangents delta[p, o] = u[o] m[p, o], where only u differs between outputs of
    # the network, the gradient is u[o] sum_p m[p, o] a[p, i], so that o is an axis that
    # cotangent and operand share.
    (_, p, o, i), pool = layout.axes, layout.site.pool
    if pool is None or layout.is_index or layout.shape.groups > 1 or not o or not i:
        return layout
    perturbation = network.perturbations[layout.site.perturbation]
    summed = {
        label
        for axis, labels in enumerate(_split(perturbation.shape, layout))
        for label in labels
        if axis in pool.axes
    }
    wide = {label for label in layout.delta if layout.sizes[label] > 1}
    if (
        not summed & wide
        or summed & wide != wide - set(o)
        or set(p) & wide != summed & wide
    ):
        return layout
    axes = (layout.axes[0] + o, (), (), i)
    return dataclasses.replace(layout, axes=axes, pooled=(p, o))


def _split(shape: Sequence[int], layout: Layout) -> list[Labels]:
    # Labels of each axis of the perturbation, some of which are several axes of the layout.
    labels, split = list(layout.delta), []
    for size in shape:
        own = [labels.pop(0)]
        while layout.size(tuple(own)) < size:
            own.append(labels.pop(0))
        split.append(tuple(own))
    return split


def scale_to_leaf(layout: Layout, origin: Origin) -> Layout:
    """The layout by the leaf itself: with the factor by which its root is scaled."""
    view = dataclasses.replace(
        layout.view,
        scales=layout.view.scales + origin.scales,
        sign=layout.view.sign * origin.sign,
    )
    return dataclasses.replace(layout, view=view)


def merged(layouts: Sequence[Layout]) -> list[list[Layout]]:
    """Layouts of one root, in groups that form one factor each."""
    groups: dict[tuple, list[Layout]] = {}
    for layout in layouts:
        groups.setdefault(layout.key, []).append(layout)
    return list(groups.values())


def merged_shape(layouts: Sequence[Layout]) -> Shape:
    """Sizes of the one factor of a group of layouts."""
    shapes = [layout.shape for layout in layouts]
    positions = sum(s.positions for s in shapes) if shapes[0].has_act else 1
    return dataclasses.replace(shapes[0], positions=positions)


def prepare_operand(site: Site, act: Array) -> Array:
    """The recorded operand of a site, prepared as its form asks."""
    form = site.form
    if form is None or form.prepare is None:
        return act
    prepare = form.prepare
    for _ in range(site.depth):
        prepare = jax.vmap(prepare)
    return prepare(act)
