"""Kernels of any network from its sites, exactly and at least cost."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from lazyjax.ntk._validate import check_arguments, check_network
from lazyjax.ntk.contract import kernel_of, weighted
from lazyjax.ntk.contract_factors import Factor, factor_of, in_box, merge, rooted
from lazyjax.ntk.contract_gradients import gradients, scattered
from lazyjax.ntk.contract_layout import merged_shape, of_rows
from lazyjax.ntk.contract_orders import Sizes
from lazyjax.ntk.contract_panels import (
    Arrangement,
    Contraction,
    Panels,
    Precision,
    add_panels,
    settled,
)
from lazyjax.ntk.outputs import directions
from lazyjax.ntk.parts import Block, Part, parts_of
from lazyjax.ntk.plan import Plan, plan_of
from lazyjax.ntk.sites import Network
from lazyjax.ntk.sites_replay import factors, outer_values
from lazyjax.ntk.sites_trace import trace_network
from lazyjax.ntk.sites_views import bounding_box
from lazyjax.typing import AnyArray, ApplyFn, Outputs, Params

_EACH_OUTPUT = ("full", "diagonal", "trace")


def structured_ntk(
    apply_fn: ApplyFn,
    params: Params,
    x1: Shaped[AnyArray, "n1 *d"],
    x2: Shaped[AnyArray, "n2 *d"] | None = None,
    *,
    outputs: Outputs = "full",
    precision: Precision = "highest",
) -> Float[Array, "n1 n2 *k"]:
    r"""Neural tangent kernel of `apply_fn`, contracted site by site.

    Args:
        apply_fn: Network `(params, x) -> f`; rows of `x` must not interact.
        params: Point at which the network is linearized.
        x1: First batch.
        x2: Second batch; `None` means `x1`, and an exactly symmetric result.
        outputs: "full" for all pairs of outputs, "diagonal" for equal ones, "trace" for
            the sum over equal ones, "pseudo" for the sum over all pairs divided by
            $k$, or the number of one output.
        precision: Precision of all contractions.

    Returns:
        The kernel: `(n1, n2, k, k)` for "full", `(n1, n2, k)` for "diagonal", else
        `(n1, n2)`.

    Example:
        >>> structured_ntk(lambda w, x: x @ w, jnp.ones((2, 1)), jnp.ones((1, 2))).item()
        2.0
    """
    traced = sized_network(apply_fn, params, x1, x2, outputs)
    return contracted(*traced, params, x1, x2, outputs=outputs, precision=precision)


def contracted(
    network: Network,
    sizes: Sizes,
    params: Params,
    x1: AnyArray,
    x2: AnyArray | None,
    *,
    outputs: Outputs,
    precision: Precision,
) -> Array:
    """The kernel of a network that is taken apart already, by `sized_network`."""
    together = [0] * len(jax.tree.leaves(params))
    (kernel,) = contracted_in_groups(
        network,
        sizes,
        params,
        x1,
        x2,
        groups=together,
        outputs=outputs,
        precision=precision,
    )
    return kernel


def contracted_in_groups(
    network: Network,
    sizes: Sizes,
    params: Params,
    x1: AnyArray,
    x2: AnyArray | None,
    *,
    groups: Sequence[int],
    outputs: Outputs,
    precision: Precision,
) -> list[Array]:
    """Kernels of groups of leaves: `groups` has a number, from 0 on, for each leaf."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(params)]
    num_outputs = network.result.shape[1]
    chosen = directions(outputs, num_outputs, network.result.dtype)
    seeds = chosen.cotangents[:, None, :]
    n1, n2 = sizes.rows, sizes.columns
    outer = outer_values(network, leaves)
    x = jnp.asarray(x1) if x2 is None else jnp.concatenate([x1, x2])
    cotangents, records = factors(network, outer, x, seeds)
    arrangement: Arrangement = (
        "pairs" if outputs == "full" else "equal" if outputs == "diagonal" else "summed"
    )
    contraction = Contraction(
        arrangement=arrangement,
        is_symmetric=x2 is None,
        precision=precision,
        num_rows=n1,
        num_columns=n2,
        seeds=seeds.shape[0],
    )
    run = _Run(
        network=network,
        contraction=contraction,
        outer=outer,
        leaves=leaves,
        cotangents=cotangents,
        records=records,
    )
    dtype = network.result.dtype
    sums = [contraction.zeros(dtype) for _ in range(max(groups) + 1)]
    for part in parts_of(network, sizes):
        for leaf, term in run.part(part):
            typed = tuple(panel.astype(dtype) for panel in term)
            # One after the other, so that terms need not be kept until the end.
            total = add_panels(sums[groups[leaf]], typed)
            sums[groups[leaf]] = settled(total)

    def formed(panels: Panels) -> Array:
        kernel = contraction.assembled(panels)
        if arrangement == "pairs":
            blocks = kernel.reshape(n1, num_outputs, n2, num_outputs)
            return blocks.transpose(0, 2, 1, 3)
        return kernel.transpose(1, 2, 0) if arrangement == "equal" else kernel

    return [formed(panels) for panels in sums]


def ntk_plan(
    apply_fn: ApplyFn,
    params: Params,
    x1: Shaped[AnyArray, "n1 *d"],
    x2: Shaped[AnyArray, "n2 *d"] | None = None,
    *,
    outputs: Outputs = "full",
) -> Plan:
    """Plan of a kernel: site, order and cost of each parameter leaf.

    Operations of the structured method are counted site by site, and modelled times of
    all methods compared: `plan.method` is what `method="auto"` will be. Nothing is
    computed; only shapes and dtypes of `params` and the batches are used.

    Args:
        apply_fn: Network `(params, x) -> f`; rows of `x` must not interact.
        params: Point at which the network is linearized.
        x1: First batch.
        x2: Second batch; `None` means `x1`.
        outputs: As in `empirical_ntk`.

    Returns:
        The plan, which prints as a table.

    Raises:
        ValueError: If `outputs` is unknown, a batch is empty or not finite, features
            differ, the output is not `(n, k)`, or `apply_fn` ignores `params`.
        TypeError: If a parameter or the output is not real floating point.

    Example:
        >>> import jax.numpy as jnp
        >>> from lazyjax.ntk import ntk_plan
        >>> w, x = jnp.ones((784, 10)), jnp.ones((50, 784))
        >>> print(ntk_plan(lambda w, x: x @ w, w, x))
        parameter               shape   sites        order       GFLOP   MB
                                784x10  dot_general  kronecker   0.005  1.9
        outputs and cotangents                                   0.009
        total                                        structured  0.014  1.9
        floor                                                    0.014
    """
    check_arguments(apply_fn, params, x1, x2)
    check_network(apply_fn, params, jnp.asarray(x1)[:1], outputs)
    return plan_of(*sized_network(apply_fn, params, x1, x2, outputs), params)


def sized_network(
    apply_fn: ApplyFn,
    params: Params,
    x1: AnyArray,
    x2: AnyArray | None,
    outputs: Outputs,
) -> tuple[Network, Sizes]:
    """The network of one example, taken apart, and the sizes of the kernel asked for."""
    example = jax.ShapeDtypeStruct((1, *x1.shape[1:]), x1.dtype)
    network = trace_network(apply_fn, params, example)
    sizes = Sizes(
        rows=x1.shape[0],
        columns=(x1 if x2 is None else x2).shape[0],
        seeds=network.result.shape[1] if outputs in _EACH_OUTPUT else 1,
        is_full=outputs == "full",
        is_symmetric=x2 is None,
        itemsize=max(4, jnp.dtype(network.result.dtype).itemsize),
    )
    return network, sizes


@dataclasses.dataclass(frozen=True, eq=False)
class _Run:
    """Everything that the parts of the kernel are computed of."""

    network: Network
    contraction: Contraction
    outer: Mapping[int, Array]
    leaves: Sequence[Array]
    cotangents: Mapping[int, Array]
    records: Mapping[int, Array]
    products: dict[tuple, Panels] = dataclasses.field(default_factory=dict)

    def part(self, part: Part) -> list[tuple[int, Panels]]:
        """Leaves and terms of the kernel of a part, whose leaves no other part has."""
        if part.kind == "direct":
            return [
                (part.origins[root].leaf, self.direct(root, blocks))
                for root, blocks in part.roots.items()
            ]
        if part.kind == "looked up":
            (leaf,) = part.leaves
            return [(leaf, self.looked_up(part))]
        by_root = {
            root: self.root_gradient(root, blocks)
            for root, blocks in part.roots.items()
        }
        by_leaf = self.pulled_back(part, by_root)
        return [
            (leaf, self.gram(gradient))
            for leaf, gradient in zip(part.leaves, by_leaf, strict=True)
        ]

    def direct(self, root: int, blocks: Sequence[Block]) -> Panels:
        """Kernel of a root; products of cotangents are shared between roots."""
        if len(blocks) > 1:
            return self.gram(self.root_gradient(root, blocks))
        (block,) = blocks
        factor = self.factor(block)
        first, second = self.halves(factor)
        key = block.shared_key
        if key is None:
            return kernel_of(self.contraction, first, second, block.order)
        if key not in self.products:
            self.products[key] = self.contraction.gram(first.delta, second.delta)
        return weighted(self.contraction, self.products[key], first, second)

    def looked_up(self, part: Part) -> Panels:
        """Kernel of a table that is looked up, and of other uses of a small box of it."""
        # With gradients t and b of either, (t + b)(t + b)' differs from t t' within the
        # box only, where t is small enough to be formed.
        tables, others = [], {}
        for root, blocks in part.roots.items():
            if any(block.shape.is_index for block in blocks):
                tables.append((root, *blocks))
            else:
                others[root] = self.root_gradient(root, blocks)
        ((root, block),) = tables
        factor, (layout, *_) = self.factor(block), block.layouts
        first, second = self.halves(factor)
        whole = kernel_of(self.contraction, first, second, block.order)
        box = bounding_box([part.origins[other].box for other in others])
        shape = list(self.network.avals[root].shape)
        axis = layout.index_axis
        shape[axis] = box[axis][1] - box[axis][0]
        rows = of_rows(layout, *box[axis])
        within = rooted(rows, shape, scattered(factor, *box[axis]))
        cut = [slice(*bounds) for bounds in box]
        cut[axis] = slice(None)
        within = within[(..., *cut)]
        total = within
        for other, gradient in others.items():
            total = total + in_box(part.origins[other], box, gradient)
        added = add_panels(self.gram(total), self.gram(within), -1)
        return add_panels(whole, added)

    def factor(self, block: Block) -> Factor:
        made = [
            factor_of(self.network, layout, self.outer, self.cotangents, self.records)
            for layout in block.layouts
        ]
        return merge(merged_shape(block.layouts), made)

    def halves(self, factor: Factor) -> tuple[Factor, Factor]:
        if self.contraction.is_symmetric:
            return factor, factor
        return factor[: self.contraction.num_rows], factor[self.contraction.num_rows :]

    def gram(self, gradient: Array) -> Panels:
        if self.contraction.is_symmetric:
            return self.contraction.gram(gradient, gradient)
        return self.contraction.gram(
            gradient[: self.contraction.num_rows], gradient[self.contraction.num_rows :]
        )

    def root_gradient(self, root: int, blocks: Sequence[Block]) -> Array:
        shape = self.network.avals[root].shape
        terms = [
            rooted(
                block.layouts[0], shape, gradients(self.contraction, self.factor(block))
            )
            for block in blocks
        ]
        return sum(terms[1:], terms[0])

    def pulled_back(self, part: Part, gradients: Mapping[int, Array]) -> list[Array]:
        """Gradients by the leaves of a part, from those by its roots."""
        roots = list(gradients)

        def of_leaves(chosen: list[Array]) -> list[Array]:
            leaves = list(self.leaves)
            for number, leaf in zip(part.leaves, chosen, strict=True):
                leaves[number] = leaf
            values = outer_values(self.network, leaves)
            return [values[root] for root in roots]

        values, pullback = jax.vjp(of_leaves, [self.leaves[i] for i in part.leaves])
        typed = [
            gradients[root].astype(value.dtype)
            for root, value in zip(roots, values, strict=True)
        ]
        (by_leaf,) = jax.vmap(jax.vmap(pullback))(typed)
        return by_leaf
