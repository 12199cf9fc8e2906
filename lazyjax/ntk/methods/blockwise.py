"""Kernels block by block: what a block of examples brings along is computed once.

The kernel of two blocks is then made of what both bring along, so that each block can
meet many others: gradients where they are what is multiplied, else cotangents and
operands.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Shaped

from lazyjax.ntk.contract.accumulator import Contraction, platform_limit
from lazyjax.ntk.contract.contract import factor_kernel
from lazyjax.ntk.contract.cross import Side
from lazyjax.ntk.contract.factors import Factor, working_dtype
from lazyjax.ntk.contract.gradients import gradients
from lazyjax.ntk.contract.groups import SiteBlock, SiteGroup
from lazyjax.ntk.contract.positions import products_of_operands
from lazyjax.ntk.contract.sums import shared_key
from lazyjax.ntk.methods.structured import (
    KernelProblem,
    build_problem,
    contraction_of,
    evaluate,
)
from lazyjax.ntk.requests.request import KernelRequest
from lazyjax.typing import Params

# Of a slice of gradients of a block: so much stays in the cache of a processor.
_SLICE_BYTES = {"cpu": 2**20, "other": 2**31}


class Part(NamedTuple):
    """What a block brings along for one term of the kernel."""

    rows: Array  # gradients, or cotangents, by example and direction
    operand: Array | None = None


class _Term(NamedTuple):
    """One term of the kernel: the gradients by a root, or by a leaf of a group."""

    group: SiteGroup
    root: int | None = None
    leaf: int = 0  # where there is no root
    block: SiteBlock | None = None  # the only one of its root
    key: tuple | None = None  # equal for terms that have their cotangents in common


@dataclasses.dataclass(frozen=True, eq=False)
class BlockwiseKernel:
    """Two programs that make up a kernel: `parts` of a block, `kernel` of two blocks."""

    problem: KernelProblem
    keeps_gradients: bool  # else they are formed anew for each pair of blocks

    def parts(self, params: Params, x: Shaped[Array, "n *d"]) -> list[Part]:
        """What a block of examples brings along, term by term."""
        request = dataclasses.replace(
            self.problem.request, params=params, x1=x, x2=None
        )
        evaluated = evaluate(dataclasses.replace(self.problem, request=request))
        side = Side(evaluated, self.problem.groups)
        found, seen = [], set()
        for term in self._terms:
            part = self._part(side, term)
            if term.key in seen:  # its cotangents are there already
                part = part._replace(rows=jnp.zeros(0, part.rows.dtype))
            elif term.key is not None:
                seen.add(term.key)
            found.append(part)
        return found

    def kernel(
        self, first: Sequence[Part], second: Sequence[Part]
    ) -> Float[Array, "n1 n2 *k"]:
        """The kernel of two blocks."""
        whole = contraction_of(self.problem)
        contraction = dataclasses.replace(
            whole,
            is_symmetric=False,
            num_rows=first[0].rows.shape[0],
            num_columns=second[0].rows.shape[0],
        )
        dtype = self.problem.network.result.dtype
        kernel = contraction.zeros(working_dtype(dtype))
        rows: dict[tuple, tuple[Array, Array]] = {}
        weights: dict[tuple, Array] = {}
        for term, one, two in zip(self._terms, first, second, strict=True):
            if term.key is not None:
                rows.setdefault(term.key, (one.rows, two.rows))
                weight = _weights(contraction, term, one, two)
                weights[term.key] = weights.get(term.key, 0) + weight
            elif one.operand is None:
                kernel = contraction.add(kernel, _gram(contraction, one.rows, two.rows))
            else:
                assert term.block is not None
                factors = _factor(term.block, one), _factor(term.block, two)
                found = factor_kernel(contraction, *factors, term.block.order)
                kernel = contraction.add(kernel, found)
        for key, weight in weights.items():
            kernel = contraction.add_gram(kernel, *rows[key], weight)
        return contraction.finalize(kernel, dtype)

    @functools.cached_property
    def _terms(self) -> list[_Term]:
        terms = []
        for group in reversed(self.problem.groups):
            if group.kind != "direct":
                terms += [_Term(group, leaf=leaf) for leaf in group.leaves]
                continue
            for root, blocks in group.roots.items():
                block = blocks[0] if len(blocks) == 1 else None
                key = None
                if block is not None:
                    key = shared_key(self.problem.network, root, block)
                terms.append(_Term(group, root=root, block=block, key=key))
        return terms

    def _part(self, side: Side, term: _Term) -> Part:
        evaluated = side.evaluated
        if term.root is None:
            return Part(side.gradient(term.leaf))
        if term.block is None:
            blocks = term.group.roots[term.root]
            return Part(evaluated.root_gradient(term.root, blocks))
        factor = evaluated.factor(term.block)
        if term.key is None and (factor.operand is None or self._keeps(term.block)):
            return Part(gradients(evaluated.contraction, factor))
        operand = None if factor.operand is None else factor.act
        return Part(factor.delta, operand)

    def _keeps(self, block: SiteBlock) -> bool:
        return self.keeps_gradients and block.order == "gradient"


def build_blockwise(
    request: KernelRequest, *, keeps_gradients: bool
) -> BlockwiseKernel:
    """The programs for a request, of whose arrays only the shapes are used."""
    # Its batches are whole: orders of contraction are those for blocks that each meet all
    # others.
    return BlockwiseKernel(build_problem(request), keeps_gradients)


def _gram(contraction: Contraction, first: Array, second: Array) -> Array:
    """Kernel of gradients of two blocks, as it is accumulated, slice by slice."""
    # Products along axes that are much longer than blocks take four times as long in one.
    rows, columns = map(contraction.as_rows, (first, second))
    axis = rows.ndim - 1
    most = max(rows.shape[-2], columns.shape[-2]) * rows.dtype.itemsize
    width = max(1, platform_limit(_SLICE_BYTES) // most)
    number = rows.shape[-1] // width
    if number < 2:
        return contraction.product_of_rows(rows, columns)

    def product(start: Array | int, size: int) -> Array:
        slices = (
            lax.dynamic_slice_in_dim(side, start, size, axis)
            for side in (rows, columns)
        )
        return contraction.product_of_rows(*slices)

    def add(total: Array, start: Array) -> tuple[Array, None]:
        return total + product(start, width), None

    rest = product(number * width, rows.shape[-1] - number * width)
    return lax.scan(add, rest, width * jnp.arange(number))[0]


def _factor(block: SiteBlock, part: Part) -> Factor:
    return Factor(block.shape, part.rows, part.operand)


def _weights(contraction: Contraction, term: _Term, one: Part, two: Part) -> Array:
    """What products of cotangents that several terms share are multiplied by for one."""
    assert term.block is not None
    if one.operand is None or two.operand is None:
        shape = contraction.num_rows, contraction.num_columns
        return jnp.ones(shape, one.rows.dtype)
    # Of cotangents only the dtype is read.
    factors = _factor(term.block, one), _factor(term.block, two)
    return products_of_operands(contraction, *factors)[:, :, 0, 0, 0]
