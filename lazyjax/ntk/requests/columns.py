"""Outputs of any form as columns of one real array, and kernels of these in their form."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from lazyjax.callables.state import ComparedByValue
from lazyjax.callables.static import HashableCallable
from lazyjax.ntk.requests.complex_numbers import (
    complex_leaves,
    complex_params,
    hermitian,
    is_complex,
    real_params,
)
from lazyjax.typing import ApplyFn, Inputs, Kernel, Outputs, Params


@dataclasses.dataclass(frozen=True)
class OutputArray:
    """One array of outputs, by shape for one example, and the columns that it fills."""

    shape: tuple[int, ...]
    dtype: Any
    start: int  # number of its first column

    @property
    def size(self) -> int:
        """Outputs, whether real or complex, for one example."""
        return math.prod(self.shape)

    @property
    def num_parts(self) -> int:
        """Real numbers that make up an output."""
        return 2 if is_complex(self) else 1

    @property
    def columns(self) -> slice:
        """Its columns: real parts of all outputs first, then imaginary ones."""
        return slice(self.start, self.start + self.num_parts * self.size)


@dataclasses.dataclass(frozen=True)
class Columns:
    """How outputs, a tree of arrays `(n, *shape)`, are laid out as columns `(n, K)`."""

    structure: Any  # of the tree
    arrays: tuple[OutputArray, ...]  # its leaves, in order

    @classmethod
    def of(cls, f: Any) -> "Columns":
        """The layout of outputs, or of their shapes and dtypes."""
        leaves, structure = jax.tree.flatten(f)
        arrays: list[OutputArray] = []
        for leaf in leaves:
            start = arrays[-1].columns.stop if arrays else 0
            arrays.append(OutputArray(tuple(leaf.shape[1:]), leaf.dtype, start))
        return cls(structure, tuple(arrays))

    @property
    def shapes(self) -> list[tuple[tuple[int, ...], bool]]:
        """Of each array, the shape of one example and whether it is complex."""
        return [(array.shape, is_complex(array)) for array in self.arrays]

    @property
    def number(self) -> int:
        """Number `K` of columns."""
        return self.arrays[-1].columns.stop

    @property
    def num_outputs(self) -> int:
        """Number of outputs, of which a complex one has two columns."""
        return sum(array.size for array in self.arrays)

    @property
    def dtype(self) -> Any:
        """Dtype of the columns."""
        return _common(*(jnp.finfo(array.dtype).dtype for array in self.arrays))

    @property
    def has_complex(self) -> bool:
        """Whether some outputs are complex."""
        return any(map(is_complex, self.arrays))

    @property
    def is_plain(self) -> bool:
        """Whether outputs are their own columns: one real array `(n, k)`."""
        is_array = jax.tree_util.treedef_is_leaf(self.structure)
        return is_array and len(self.arrays[0].shape) == 1 and not self.has_complex

    def filled(self, f: Any) -> Float[Array, "n K"]:
        """Outputs as columns."""
        if self.is_plain:
            return f
        parts = []
        for leaf in jax.tree.leaves(f):
            if is_complex(leaf):
                leaf = jnp.stack([leaf.real, leaf.imag], axis=1)
            parts.append(leaf.reshape(leaf.shape[0], -1).astype(self.dtype))
        return jnp.concatenate(parts, axis=1)

    def outputs(self, columns: Float[Array, "n K"]) -> Any:
        """Outputs from their columns."""
        if self.is_plain:
            return columns

        def array(of: OutputArray) -> Array:
            parts = columns[:, of.columns].reshape(-1, of.num_parts, *of.shape)
            parts = parts.astype(jnp.finfo(of.dtype).dtype)
            if is_complex(of):
                return lax.complex(parts[:, 0], parts[:, 1])
            return parts[:, 0]

        return self.structure.unflatten(map(array, self.arrays))


@dataclasses.dataclass(frozen=True)
class RealNetwork(ComparedByValue):
    """A network as a function of real parameters whose outputs are real columns."""

    apply_fn: ApplyFn  # hashable
    complex_leaves: tuple[bool, ...]  # of its parameters
    # One output in place of all: that of an index, or their sum over the root of their
    # number.
    only: int | Literal["pseudo"] | None = None

    def __call__(self, params: Params, x: Inputs, /) -> Float[Array, "n K"]:
        """Columns of outputs."""
        f = self.apply_fn(complex_params(params, self.complex_leaves), x)
        if self.only is not None:
            f = _one_output(f, self.only)
        return Columns.of(f).filled(f)


def in_real_numbers(
    apply_fn: ApplyFn, params: Params, columns: Columns
) -> tuple[ApplyFn, Params]:
    """A network and its parameters in real numbers: the same if that is what they are."""
    which = complex_leaves(params)
    if columns.is_plain and not any(which):
        return apply_fn, params
    return RealNetwork(HashableCallable(apply_fn), which), real_params(params)


@dataclasses.dataclass(frozen=True)
class AskedKernel:
    """A form of the kernel of a network's outputs, in terms of that of their columns."""

    outputs: Outputs
    columns: Columns

    @property
    def of_columns(self) -> Outputs:
        """The form of the kernel of columns that it is made of."""
        if self.outputs == "flat" or self.columns.has_complex:
            return "full"
        return self.outputs

    @property
    def only(self) -> int | Literal["pseudo"] | None:
        """The one output whose columns are wanted, of complex ones; `None` for all."""
        is_one = self.outputs == "pseudo" or isinstance(self.outputs, int)
        return self.outputs if is_one and self.columns.has_complex else None  # pyright: ignore[reportReturnType]

    def network(self, real_fn: ApplyFn) -> ApplyFn:
        """The network whose kernel is to be computed, of one in real numbers."""
        if self.only is None or not isinstance(real_fn, RealNetwork):
            return real_fn
        return dataclasses.replace(real_fn, only=self.only)

    def finished(self, kernel: Array, second: Columns | None = None) -> Kernel:
        """The kernel in the form asked for, of that of columns, with those of `second`."""
        rows, columns = self.columns, self.columns if second is None else second
        if self.outputs == "flat" or (rows.is_plain and columns.is_plain):
            return kernel
        if self.outputs == "full":
            return rows.structure.unflatten(
                columns.structure.unflatten(
                    _block(kernel, a, b) for b in columns.arrays
                )
                for a in rows.arrays
            )
        if self.outputs == "diagonal":
            pairs = zip(rows.arrays, columns.arrays, strict=True)
            return rows.structure.unflatten(
                self._equal(kernel, *pair) for pair in pairs
            )
        if not rows.has_complex:
            return kernel
        if self.only is not None:
            parts = kernel.shape[-1]
            block = kernel.reshape(*kernel.shape[:-2], parts, 1, parts, 1)
            return hermitian(block, parts == 2, parts == 2)[..., 0, 0]
        pairs = zip(rows.arrays, columns.arrays, strict=True)
        blocks = [_flat_block(kernel, *pair) for pair in pairs]
        dtype = _common(*(block.dtype for block in blocks))
        traces = [jnp.trace(b, axis1=-2, axis2=-1).astype(dtype) for b in blocks]
        return functools.reduce(jnp.add, traces)

    def _equal(self, kernel: Array, row: OutputArray, column: OutputArray) -> Array:
        """The kernel of equal outputs of two arrays."""
        if self.columns.has_complex:
            block = _flat_block(kernel, row, column)
            equal = jnp.diagonal(block, axis1=-2, axis2=-1)
        else:
            equal = kernel[..., row.columns]
            equal = equal.astype(_common(row.dtype, column.dtype))
        return equal.reshape(*equal.shape[:-1], *row.shape)


def check_real(what: str, columns: Columns) -> None:
    """Check that no output is complex, where columns are to be outputs.

    Raises:
        ValueError: If one is.
    """
    if columns.has_complex:
        raise ValueError(
            f"{what} must be of real outputs; some of `apply_fn` are complex. Take what is "
            'wanted from `outputs="full"`.'
        )


def check_alike(asked: Sequence[AskedKernel]) -> None:
    """Check that functions have outputs of one form, where equal ones make pairs.

    Raises:
        ValueError: If they do not.
    """
    first = asked[0]
    if first.outputs in ("full", "flat"):
        return
    if first.outputs != "diagonal" and not any(of.columns.has_complex for of in asked):
        return
    forms = [(of.columns.structure, *of.columns.shapes) for of in asked]
    if any(form != forms[0] for form in forms):
        raise ValueError(
            f"`outputs={first.outputs!r}` is of equal outputs of functions whose outputs "
            "are of one form, all real or all complex; these differ. Take "
            '`outputs="full"`.'
        )


def _flat_block(kernel: Array, row: OutputArray, column: OutputArray) -> Array:
    """The kernel `(..., a, b)` of two arrays of outputs, of that of all columns."""
    lead = kernel.shape[:-2]
    block = kernel[..., row.columns, column.columns]
    sizes = (row.num_parts, row.size, column.num_parts, column.size)
    return hermitian(block.reshape(*lead, *sizes), is_complex(row), is_complex(column))


def _block(kernel: Array, row: OutputArray, column: OutputArray) -> Array:
    """The kernel `(..., *shape, *shape)` of two arrays of outputs."""
    block = _flat_block(kernel, row, column)
    dtype = _common(row.dtype, column.dtype)
    return block.reshape(*block.shape[:-2], *row.shape, *column.shape).astype(dtype)


def _one_output(f: Any, only: int | Literal["pseudo"]) -> Array:
    leaves = [leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(f)]
    if only != "pseudo":
        starts = itertools.accumulate((leaf.shape[1] for leaf in leaves), initial=0)
        places = zip(leaves, starts, strict=False)
        leaf, start = next(p for p in reversed(list(places)) if p[1] <= only)
        return leaf[:, only - start, None]
    dtype = _common(*(leaf.dtype for leaf in leaves))
    whole = jnp.concatenate([leaf.astype(dtype) for leaf in leaves], axis=1)
    total = jnp.sum(whole, axis=1, keepdims=True)
    return total * jnp.asarray(whole.shape[1] ** -0.5, dtype)


def _common(*dtypes: Any) -> Any:
    """The narrowest type that holds all."""
    with jax.numpy_dtype_promotion("standard"):
        return functools.reduce(jnp.promote_types, dtypes)
