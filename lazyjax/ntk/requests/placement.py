"""Arrays that are split over the devices of a mesh, and kernels that are split as rows are.

Axes of a mesh may be automatic, so that the compiler places what is computed, or explicit,
so that types of arrays say how they are split. The engine lets the compiler place things:
it takes networks apart example by example, where an axis of examples has no place.
"""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

Rows: TypeAlias = NamedSharding | None  # how the first axis of a kernel is split


def rows_of(x: Any) -> Rows:
    """How examples are split over devices, if that is known: not of automatic axes in `jit`."""
    for leaf in jax.tree.leaves(x):
        sharding = _sharding(leaf)
        if isinstance(sharding, NamedSharding) and _first(sharding):
            return NamedSharding(sharding.mesh, PartitionSpec(_first(sharding)))
    return None


def is_spread(rows: Rows) -> bool:
    """Whether there is more than one part of the rows."""
    return rows is not None and math.prod(rows.mesh.shape[a] for a in _axes(rows)) > 1


def split_by_rows(kernels: Any, rows: Rows) -> Any:
    """Kernels, split over devices as the examples of their rows are."""
    return kernels if rows is None else lax.with_sharding_constraint(kernels, rows)


def in_automatic_axes(
    call: Callable[..., Any], arrays: tuple, rows: Rows | list[Rows] = None
) -> Any:
    """`call(rows, *arrays)`, where no array is split over explicit axes any more.

    Args:
        call: What is called.
        arrays: Trees of arrays, on one mesh if its axes are explicit.
        rows: How the first axis of all that `call` returns is split; or, of a list that it
            returns, a list.

    Returns:
        What `call` returns, split over explicit axes by `rows`.

    Raises:
        ValueError: If arrays are on several meshes, or what is called names their axes.
    """
    leaves, structure = jax.tree.flatten(arrays)
    meshes = {number: _explicit_mesh(leaf) for number, leaf in enumerate(leaves)}
    meshes = {number: mesh for number, mesh in meshes.items() if mesh is not None}
    if not meshes:
        return call(rows, *arrays)
    mesh = next(iter(meshes.values()))

    def of_each(change: Callable[[Rows], Any]) -> Any:
        return [change(r) for r in rows] if isinstance(rows, list) else change(rows)

    of_each(lambda rows: _check_one_mesh(mesh, rows.mesh if rows else mesh))
    for other in meshes.values():
        _check_one_mesh(mesh, other)

    def automatic(explicit: list[jax.Array]) -> Any:
        inside, own = list(leaves), jax.sharding.get_abstract_mesh()
        for number, leaf in zip(meshes, explicit, strict=True):
            inside[number] = leaf
        split = of_each(lambda rows: rows and NamedSharding(own, rows.spec))
        return call(split, *structure.unflatten(inside))

    out = of_each(lambda rows: NamedSharding(mesh, _explicit_part(mesh, rows)))
    placed = jax.sharding.auto_axes(automatic, out_sharding=out)
    try:
        return placed([leaves[number] for number in meshes])
    except ValueError as error:
        if "context mesh" not in str(error) and "are of type Auto" not in str(error):
            raise
        raise ValueError(
            "`apply_fn` must neither hold arrays on a mesh with explicit axes nor name such "
            "axes, as in `out_sharding=` or `jax.sharding.reshard`: kernels are made of the "
            "program of one example, whose axis of examples cannot be split, so that axes "
            "are automatic there. Pass the arrays as parameters (`filter=` says which "
            "count), or make the mesh's axes automatic, with `jax.make_mesh(..., "
            "axis_types=(jax.sharding.AxisType.Auto,) * num_axes)`."
        ) from error


def _check_one_mesh(mesh: Any, other: Any) -> None:
    """Check that two meshes are the same, but for the types of their axes."""
    if dict(mesh.shape) != dict(other.shape):
        raise ValueError(
            "`params` and batches must be on one mesh where its axes are explicit; they "
            f"are on {dict(mesh.shape)} and {dict(other.shape)}. Put them there with "
            "`jax.device_put`."
        )


def _explicit_part(mesh: Any, rows: Rows) -> PartitionSpec:
    """What of a split is over explicit axes: only these are named outside."""
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    axes = () if rows is None else _axes(rows)
    return PartitionSpec(tuple(a for a in axes if kinds[a] == AxisType.Explicit))


def _explicit_mesh(leaf: Any) -> Any:
    """The mesh of an array, if some of its axes are explicit."""
    if not isinstance(leaf, jax.Array):
        return None
    mesh = jax.typeof(leaf).sharding.mesh
    return mesh if AxisType.Explicit in mesh.axis_types else None


def _sharding(leaf: Any) -> Any:
    """How an array is split: as its type says, or else, where it has values, as these are."""
    if not isinstance(leaf, jax.Array):
        return None
    typed = jax.typeof(leaf).sharding
    return typed if _first(typed) else getattr(leaf, "sharding", None)


def _first(sharding: NamedSharding) -> Any:
    """The axes of a mesh that the first axis of an array is split over."""
    return sharding.spec[0] if len(sharding.spec) else None


def _axes(rows: NamedSharding) -> tuple[str, ...]:
    axes = rows.spec[0]
    return axes if isinstance(axes, tuple) else (axes,)
