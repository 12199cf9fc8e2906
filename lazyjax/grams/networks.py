"""Gram matrices of finite networks, of programs that compute a block's factors once."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from lazyjax._brief import brief
from lazyjax.callables.static import HashableCallable
from lazyjax.dynamics.training.program_digest import program_digest
from lazyjax.grams.kernels import (
    NUM_BLOCKS,
    Footprint,
    GramKernel,
    GramShape,
    TileProgram,
    as_double,
    params_digest,
)
from lazyjax.jaxpr.convolutions import with_quick_convolutions
from lazyjax.ntk.methods.blockwise import BlockwiseKernel, build_blockwise
from lazyjax.ntk.methods.plan import build_plan
from lazyjax.ntk.outputs import checked_form, chosen_outputs, directions
from lazyjax.ntk.requests.complex_numbers import complex_leaves
from lazyjax.ntk.requests.request import KernelRequest
from lazyjax.ntk.requests.row_check import check_row_independence
from lazyjax.ntk.requests.validate import (
    check_arguments,
    check_network,
    check_options,
)
from lazyjax.typing import AnyArray, ApplyFn, Outputs, Params

# Rows that are compared with batches of one, if they cannot be proven independent.
_COMPARED_ROWS = 8
# Gradients are kept among a block's parts, unless blocks would hold fewer examples.
_FEWEST_EXAMPLES = 32


@dataclasses.dataclass(frozen=True)
class NetworkKernel(GramKernel):
    """The neural tangent kernel of a network at its parameters."""

    is_compiled: ClassVar[bool] = True

    apply_fn: ApplyFn
    params: Params
    outputs: Outputs
    precision: Any

    def check(self, x1: AnyArray, x2: AnyArray | None) -> None:
        """Refuse examples that it is not defined for."""
        check_arguments(self.apply_fn, self.params, x1, x2)
        check_options(self.precision, True)
        few = jnp.asarray(x1[:_COMPARED_ROWS])
        form = checked_form(self.outputs)
        if form == "flat" or chosen_outputs(form) is not None:
            raise ValueError(
                '`outputs` of a Gram matrix must be "full", "diagonal", "trace", "pseudo" '
                f"or one number; got {brief(form)}."
            )
        asked = check_network(self.apply_fn, self.params, few, form)
        if not asked.columns.is_plain or any(complex_leaves(self.params)):
            raise ValueError(
                "A Gram matrix is of networks with real parameters and one real array "
                "`(n, k)` of outputs."
            )
        check_row_independence(self.apply_fn, self.params, few)

    def entry(self, x: np.ndarray) -> jax.ShapeDtypeStruct:
        """Shape, beyond that of examples, and dtype."""
        f = jax.eval_shape(self.apply_fn, self.params, _like(x, 1))
        k = f.shape[1]
        shape = {"full": (k, k), "diagonal": (k,)}.get(str(self.outputs), ())
        return jax.ShapeDtypeStruct(shape, f.dtype)

    def fingerprint(self, x: np.ndarray) -> dict[str, str]:
        """What the numbers depend on, beside the examples."""

        def network(params: Params, x: Array, cotangents: Array) -> Any:
            f, pullback = jax.vjp(lambda p: self.apply_fn(p, x), params)
            return f, pullback(cotangents)

        f = jax.eval_shape(self.apply_fn, self.params, _like(x, 2))
        return {
            "kernel": program_digest(network, self.params, _like(x, 2), f),
            "params": params_digest(self.params),
            "outputs": str(self.outputs),
            "precision": str(self.precision),
        }

    def bytes_of_example(self, x: np.ndarray, shape: GramShape, memory: int) -> int:
        """Bytes of the parts of one example."""
        return _bytes_of_example(self._chosen(x, shape, memory), self.params, x)

    def program(self, x: np.ndarray, shape: GramShape, memory: int) -> TileProgram:
        """Programs for blocks of these sizes."""
        blockwise = self._chosen(x, shape, memory)
        found = _Compiled(blockwise, self.params, x, shape, self.precision)
        if found.cost.total <= memory or not blockwise.keeps_gradients:
            return found
        leaner = self._blockwise(x, shape, keeps_gradients=False)
        return _Compiled(leaner, self.params, x, shape, self.precision)

    def _chosen(self, x: np.ndarray, shape: GramShape, memory: int) -> BlockwiseKernel:
        """Programs that keep gradients, unless too few examples' would fit into memory."""
        keeping = self._blockwise(x, shape, keeps_gradients=True)
        size = _bytes_of_example(keeping, self.params, x)
        if _FEWEST_EXAMPLES * size * NUM_BLOCKS <= memory:
            return keeping
        return self._blockwise(x, shape, keeps_gradients=False)

    def gflop(self, x: np.ndarray, shape: GramShape, passes: float) -> float | None:
        """Operations in 1e9."""
        plan = build_plan(self._blockwise(x, shape, keeps_gradients=True).problem)
        return plan.gflop + (passes - 1) * plan.propagation_gflop

    def reference(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """By the plainest way, in float64."""
        with jax.enable_x64(True):
            params = jax.tree.map(
                lambda leaf: jnp.asarray(leaf, jnp.float64), self.params
            )
            f = jax.eval_shape(self.apply_fn, params, as_double(x[:1]))
            both = directions(self.outputs, f.shape[1], f.dtype)
            along = np.asarray(both.vectors(f.shape[1], f.dtype))
            one, two = (self._jacobians(params, batch, along) for batch in (x, y))
        if self.outputs == "full":
            return np.einsum("iap,jbp->ijab", one, two)
        if self.outputs == "diagonal":
            return np.einsum("iap,jap->ija", one, two)
        return np.einsum("iap,jap->ij", one, two)

    def _jacobians(
        self, params: Params, x: np.ndarray, along: np.ndarray
    ) -> np.ndarray:
        """Gradients of outputs along directions, example by example."""
        jacobian = jax.jit(jax.jacrev(lambda p, row: self.apply_fn(p, row)[0]))
        rows = []
        for row in x:
            leaves = jax.tree.leaves(jacobian(params, as_double(row[None])))
            flat = [np.asarray(leaf).reshape(leaf.shape[0], -1) for leaf in leaves]
            rows.append(along @ np.concatenate(flat, axis=1))
        return np.stack(rows)

    def _blockwise(
        self, x: np.ndarray, shape: GramShape, *, keeps_gradients: bool
    ) -> BlockwiseKernel:
        request = KernelRequest(
            apply_fn=HashableCallable(self.apply_fn),
            params=self.params,
            x1=_like(x, shape.num_rows),
            x2=None if shape.is_symmetric else _like(x, shape.num_columns),
            outputs=self.outputs,
            precision=self.precision,
        )
        return build_blockwise(request, keeps_gradients=keeps_gradients)


class _Compiled(TileProgram):
    """Both steps compiled for blocks of one size, on the local devices of a mesh."""

    def __init__(
        self,
        blockwise: BlockwiseKernel,
        params: Params,
        x: np.ndarray,
        shape: GramShape,
        precision: Any,
    ) -> None:
        # A tile is padded to a multiple of the devices.
        count = math.prod(shape.mesh)
        self._sizes = [count * math.ceil(size / count) for size in shape.tile]
        rows, columns = shape.mesh
        devices = np.array(jax.local_devices()[: rows * columns])
        mesh = Mesh(
            devices.reshape(rows, columns),
            ("rows", "columns"),
            axis_types=(AxisType.Auto,) * 2,
        )
        all_devices = PartitionSpec(("rows", "columns"))
        self._split = NamedSharding(mesh, all_devices)
        self._params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
        parts: Callable = with_quick_convolutions(blockwise.parts)
        tile: Callable = with_quick_convolutions(blockwise.kernel)
        if rows * columns > 1:
            parts = jax.shard_map(
                parts,
                mesh=mesh,
                in_specs=(PartitionSpec(), all_devices),
                out_specs=all_devices,
                check_vma=False,
            )
            tile = jax.shard_map(
                tile,
                mesh=mesh,
                in_specs=(PartitionSpec("rows"), PartitionSpec("columns")),
                out_specs=PartitionSpec("rows", "columns"),
                check_vma=False,
            )
        with jax.default_matmul_precision(precision):
            examples = [
                jax.ShapeDtypeStruct(_like(x, n).shape, x.dtype, sharding=self._split)
                for n in self._sizes
            ]
            makers = [jax.jit(parts).lower(self._params, some) for some in examples]
            is_one = self._sizes[0] == self._sizes[1]
            first = makers[0].compile()
            self._parts = [first, first if is_one else makers[1].compile()]
            like = [
                jax.tree.map(
                    lambda a: jax.ShapeDtypeStruct(
                        a.shape, a.dtype, sharding=self._split
                    ),
                    maker.out_info,
                )
                for maker in makers
            ]
            self._tile = jax.jit(tile).lower(*like).compile()
        self.cost = self._measured(count)

    def _measured(self, num_devices: int) -> Footprint:
        """Bytes that all devices hold together, as the compiler says."""
        made = [_bytes(program) for program in self._parts]
        temporary, result = _bytes(self._tile)
        params = sum(leaf.nbytes for leaf in jax.tree.leaves(self._params))
        row, column = (num_devices * size for _, size in made)
        other = max(*(size for size, _ in made), temporary + 3 * result)
        return Footprint(row, column, num_devices * (other + params))

    def parts(self, x: np.ndarray, axis: int) -> Any:
        missing = self._sizes[axis] - x.shape[0]
        if missing:
            x = np.concatenate([x, np.repeat(x[-1:], missing, axis=0)])
        return self._parts[axis](self._params, jax.device_put(x, self._split))

    def tile(self, rows: Any, columns: Any, *, is_same: bool) -> Array:
        del is_same
        return self._tile(rows, columns)


def _bytes_of_example(blockwise: BlockwiseKernel, params: Params, x: np.ndarray) -> int:
    """Bytes of the parts of one example."""
    parts = jax.eval_shape(blockwise.parts, params, _like(x, 2))
    sizes = (math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(parts))
    return sum(sizes) // 2


def _bytes(program: Any) -> tuple[int, int]:
    """Bytes of what a compiled program holds while it runs, and of what it returns."""
    found = program.memory_analysis()
    if found is None:
        return 0, 0
    return found.temp_size_in_bytes, found.output_size_in_bytes


def _like(x: np.ndarray, n: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((n, *x.shape[1:]), x.dtype)
