"""What a Gram matrix is of: a network, its limit of infinite width, or any function.

A kernel makes programs of two steps. `parts` is what a block of examples brings along,
computed once; `tile` is the kernel of two blocks, of their parts.
"""

import abc
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lazyjax._brief import brief
from lazyjax.architecture import Architecture
from lazyjax.dynamics.training.fingerprint import tree_digest, versions
from lazyjax.dynamics.training.program_digest import content_digest, program_digest
from lazyjax.infinite import infinite_ntk
from lazyjax.typing import AnyArray

# Of a batch, while its digest is taken.
_BYTES_AT_ONCE = 2**24

NUM_BLOCKS = 6
"""Blocks whose parts should fit into memory: some rows, columns, what is being made."""


class GramShape(NamedTuple):
    """Sizes of a Gram matrix and of what is computed at a time."""

    num_rows: int  # examples of the first batch
    num_columns: int  # and of the second
    is_symmetric: bool  # whether they are one
    tile: tuple[int, int]  # examples on both sides of a tile
    mesh: tuple[int, int] = (1, 1)  # local devices along rows and columns of a tile


class Footprint(NamedTuple):
    """Bytes that a program holds."""

    row: int  # parts of a block of rows
    column: int  # and of columns
    other: int  # most of what is needed beside parts, results included

    @property
    def total(self) -> int:
        """With one block of rows and one of columns."""
        return self.row + self.column + self.other


class TileProgram(abc.ABC):
    """Both steps, for blocks of given shape."""

    cost: Footprint

    @abc.abstractmethod
    def parts(self, x: np.ndarray, axis: int) -> Any:
        """What a block of at most so many rows (axis 0) or columns (1) brings along."""

    @abc.abstractmethod
    def tile(self, rows: Any, columns: Any, *, is_same: bool) -> AnyArray:
        """The kernel of two blocks, or of one with itself; it may be padded."""


class GramKernel(abc.ABC):
    """What a Gram matrix is of."""

    is_compiled: ClassVar[bool] = False  # whether its programs are worth keeping

    @abc.abstractmethod
    def check(self, x1: AnyArray, x2: AnyArray | None) -> None:
        """Refuse examples that it is not defined for."""

    @abc.abstractmethod
    def entry(self, x: np.ndarray) -> jax.ShapeDtypeStruct:
        """Shape, beyond that of examples, and dtype of the matrix."""

    @abc.abstractmethod
    def fingerprint(self, x: np.ndarray) -> dict[str, str]:
        """What the numbers depend on, beside the examples."""

    @abc.abstractmethod
    def program(self, x: np.ndarray, shape: GramShape, memory: int) -> TileProgram:
        """Its programs for blocks of these sizes, which should fit into `memory`."""

    @abc.abstractmethod
    def reference(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The kernel of two batches of a few examples by the plainest way, in float64."""

    def bytes_of_example(self, x: np.ndarray, shape: GramShape, memory: int) -> int:
        """How much of a block's parts is one example's."""
        del shape, memory
        return x[:1].nbytes

    def gflop(self, x: np.ndarray, shape: GramShape, passes: float) -> float | None:
        """Operations in 1e9 if each example is evaluated so many times, if known."""
        del x, shape, passes
        return None


@dataclasses.dataclass(frozen=True)
class FunctionKernel(GramKernel):
    """Any function of two batches, called as it is."""

    fn: Callable[..., Any]

    def check(self, x1: AnyArray, x2: AnyArray | None) -> None:
        """Refuse examples that it is not defined for."""
        del x1, x2

    def entry(self, x: np.ndarray) -> jax.ShapeDtypeStruct:
        """Shape, beyond that of examples, and dtype."""
        found = self.fn(x[:1], x[:1])
        shape = np.shape(found)
        if shape[:2] != (1, 1) or len(shape) > 4 or len({*shape[2:]}) > 1:
            raise ValueError(
                "`kernel` must return an array (n1, n2), (n1, n2, k) or (n1, n2, k, k) "
                f"for n1 and n2 examples; for one and one it returned {brief(found)}."
            )
        if not jnp.issubdtype(found.dtype, jnp.floating):
            raise TypeError(
                f"`kernel` must return floating-point numbers; got {found.dtype}."
            )
        return jax.ShapeDtypeStruct(shape[2:], found.dtype)

    def fingerprint(self, x: np.ndarray) -> dict[str, str]:
        """What the numbers depend on, beside the examples."""
        like = [jax.ShapeDtypeStruct((n, *x.shape[1:]), x.dtype) for n in (2, 3)]
        try:
            return {"kernel": program_digest(self.fn, *like)}
        except Exception:  # JAX cannot trace it: it is told by its code and some values
            values = [
                np.asarray(self.fn(x[:1], x[j : j + 1])) for j in range(min(3, len(x)))
            ]
            return {"kernel": content_digest(self.fn, values)}

    def program(self, x: np.ndarray, shape: GramShape, memory: int) -> TileProgram:
        """Programs for blocks of these sizes."""
        return _Calls(
            x, shape, self.entry(x), lambda x, y: self.fn(x, x if y is None else y)
        )

    def reference(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """By the plainest way, in float64."""
        with jax.enable_x64(True):
            return np.asarray(self.fn(as_double(x), as_double(y)), np.float64)


@dataclasses.dataclass(frozen=True)
class LimitKernel(GramKernel):
    """That of a network of infinite width."""

    architecture: Architecture

    def check(self, x1: AnyArray, x2: AnyArray | None) -> None:
        """Refuse examples that it is not defined for."""
        infinite_ntk(self.architecture, x1[:1], None if x2 is None else x2[:1])

    def entry(self, x: np.ndarray) -> jax.ShapeDtypeStruct:
        """Shape, beyond that of examples, and dtype."""
        return jax.ShapeDtypeStruct((), x.dtype)

    def fingerprint(self, x: np.ndarray) -> dict[str, str]:
        """What the numbers depend on, beside the examples."""
        del x
        return {"kernel": content_digest(self.architecture)}

    def program(self, x: np.ndarray, shape: GramShape, memory: int) -> TileProgram:
        """Programs for blocks of these sizes."""
        limit = functools.partial(
            infinite_ntk, self.architecture, memory=max(memory // 2, 1)
        )
        return _Calls(x, shape, self.entry(x), limit, other=memory // 2)

    def reference(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """By the plainest way, in float64."""
        with jax.enable_x64(True):
            return np.asarray(
                infinite_ntk(self.architecture, as_double(x), as_double(y))
            )


class _Calls(TileProgram):
    """A function called with blocks as they are; parts are examples."""

    def __init__(
        self,
        x: np.ndarray,
        shape: GramShape,
        entry: jax.ShapeDtypeStruct,
        call: Callable[[Any, Any], Any],
        other: int = 0,
    ) -> None:
        self._call = call
        row, column = (size * x[:1].nbytes for size in shape.tile)
        tile = np.prod((*shape.tile, *entry.shape), dtype=int) * entry.dtype.itemsize
        self.cost = Footprint(row, column, other or 8 * int(tile))

    def parts(self, x: np.ndarray, axis: int) -> Any:
        del axis
        return jnp.asarray(x)

    def tile(self, rows: Any, columns: Any, *, is_same: bool) -> AnyArray:
        return self._call(rows, None if is_same else columns)


def as_double(x: np.ndarray) -> Array:
    """A batch in float64; integers, such as tokens, as they are."""
    is_float = jnp.issubdtype(x.dtype, jnp.floating)
    return jnp.asarray(x, jnp.float64 if is_float else x.dtype)


def params_digest(params: Any) -> str:
    """Digest of parameters: structure and values."""
    return tree_digest(jax.tree.map(np.asarray, params))


def fingerprint_of(
    of_kernel: Mapping[str, str], x1: np.ndarray, x2: np.ndarray | None
) -> dict[str, Any]:
    """Everything that numbers depend on, by argument; `of_kernel` is its own part."""
    return {
        "versions": versions(),
        "platform": jax.default_backend(),
        **of_kernel,
        "x1": batch_digest(x1),
        "x2": None if x2 is None else batch_digest(x2),
    }


def batch_digest(x: np.ndarray) -> str:
    """Digest of a batch that need not fit into memory."""
    digest = hashlib.sha256(f"{x.dtype.name} {x.shape}".encode())
    rows = max(1, _BYTES_AT_ONCE // max(1, x[:1].nbytes))
    for start in range(0, len(x), rows):
        digest.update(np.ascontiguousarray(x[start : start + rows]).data)
    return digest.hexdigest()
