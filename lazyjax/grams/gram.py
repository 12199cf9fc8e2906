"""Gram matrices of any size, on disk."""

import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias, overload

import jax
import numpy as np
from jaxtyping import Shaped

from lazyjax._brief import brief
from lazyjax._checks import (
    check_at_least,
    check_batch,
    check_flag,
    check_same_features,
    checked_bytes,
    checked_path,
)
from lazyjax._models import model_hint
from lazyjax.architecture import Architecture
from lazyjax.dynamics.training.fingerprint import differences
from lazyjax.dynamics.training.program_digest import content_digest
from lazyjax.files.writing import check_folder
from lazyjax.grams.kernels import (
    FunctionKernel,
    GramKernel,
    LimitKernel,
    fingerprint_of,
)
from lazyjax.grams.lock import writing_alone
from lazyjax.grams.networks import NetworkKernel
from lazyjax.grams.plan import GramPlan, plan_of, timed, usable
from lazyjax.grams.run import computed_by, computed_here, write_tiles
from lazyjax.grams.store import GramStore
from lazyjax.grams.tile_files import (
    Place,
    TileFiles,
    create,
    holds_tiles,
    opened,
    tensorstore,
)
from lazyjax.ntk.outputs import checked_form
from lazyjax.progress import Progress, progress_reporter
from lazyjax.typing import AnyArray, ApplyFn, Outputs, Params

# A network at its parameters, the limit of one, or a function of two batches.
GramSource: TypeAlias = (
    tuple[ApplyFn, Params] | Architecture | Callable[[Any, Any], Any]
)


@overload
def gram(
    kernel: GramSource,
    x1: AnyArray,
    x2: AnyArray | None = ...,
    *,
    path: str | Path,
    outputs: Outputs = ...,
    memory: int | str = ...,
    tile: int | None = ...,
    mesh: tuple[int, int] | None = ...,
    precision: jax.lax.PrecisionLike = ...,
    executor: Executor | None = ...,
    resume: bool = ...,
    progress: bool | Progress = ...,
    plan_only: Literal[False] = ...,
) -> GramStore: ...
@overload
def gram(
    kernel: GramSource,
    x1: AnyArray,
    x2: AnyArray | None = ...,
    *,
    path: str | Path,
    outputs: Outputs = ...,
    memory: int | str = ...,
    tile: int | None = ...,
    mesh: tuple[int, int] | None = ...,
    precision: jax.lax.PrecisionLike = ...,
    executor: Executor | None = ...,
    resume: bool = ...,
    progress: bool | Progress = ...,
    plan_only: Literal[True],
) -> GramPlan: ...
def gram(
    kernel: GramSource,
    x1: Shaped[AnyArray, "n1 ..."],
    x2: Shaped[AnyArray, "n2 ..."] | None = None,
    *,
    path: str | Path,
    outputs: Outputs = "full",
    memory: int | str = "4GiB",
    tile: int | None = None,
    mesh: tuple[int, int] | None = None,
    precision: jax.lax.PrecisionLike = "highest",
    executor: Executor | None = None,
    resume: bool = True,
    progress: bool | Progress = True,
    plan_only: bool = False,
) -> GramStore | GramPlan:
    r"""Gram matrix of a kernel on disk, tile by tile, in bounded memory.

    A call that was cut short, however suddenly, is resumed by the same call: tiles that
    are there and whole are kept, and the result has the bits of one that was not cut
    short. Of networks, what a block of examples brings along, such as gradients, is
    computed once for as many others as memory holds at a time.

    Args:
        kernel: A pair `(apply_fn, params)` for the neural tangent kernel, as of
            `empirical_ntk`; an `Architecture` for that of infinite width, as of
            `infinite_ntk`; or a function `f(x1, x2)` of two batches, such as
            `functools.partial(lazyjax.infinite_nngp, architecture)`, which must be
            symmetric if `x2` is left out.
        x1: First batch; an array of NumPy may be one of a file (`numpy.memmap`).
        x2: Second batch; `None` means `x1`, and half of the tiles.
        path: Folder of the matrix, which is an array of zarr (version 3).
        outputs: Form of the kernel of a network, as in `empirical_ntk`.
        memory: Bytes that may be held at once beside the examples, such as "4GiB"; with
            an executor, by each task.
        tile: Examples on a side of a tile; `None` leaves it to the plan. A matrix that
            is resumed keeps its tiles.
        mesh: Local devices along rows and columns of a tile; `None` means all of them
            for networks.
        precision: Of matrix products of networks, as in `empirical_ntk`.
        executor: Who computes tiles: anything with the interface of
            `concurrent.futures`, such as `Client.get_executor()` of Dask. `None`
            computes them here. Results are written here in any case.
        resume: Whether to go on with a matrix that the folder holds; if not, it is
            refused.
        progress: Whether a bar is shown on a terminal, or a function of the share done
            and a message.
        plan_only: Whether to return the plan, with the time that one tile takes, and
            write nothing.

    Returns:
        The matrix, which is read as it is asked for; or its plan.

    Raises:
        ValueError: If the folder holds a matrix of something else, somebody else writes
            to it or it cannot be written to, an option is unknown, `memory` is too
            little for one pair of examples, or as the verb of the kernel says.
        TypeError: If `kernel` is none, or as the verb of the kernel says.
        ImportError: If tensorstore is not installed.
        OSError: If a tile cannot be written, as on a full disk. The others are kept.

    Example:
        >>> import tempfile, jax.numpy as jnp, lazyjax
        >>> linear = lambda w, x: x @ w
        >>> x = jnp.array([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]])
        >>> kernel = linear, jnp.ones((2, 1))
        >>> store = lazyjax.gram(kernel, x, path=tempfile.mkdtemp(), outputs="trace")
        >>> store[1, :].tolist(), store.missing
        ([3.0, 1.0, 0.0], [])
    """
    tensorstore()
    folder = checked_path("path", path)
    _check_options(resume, plan_only, tile)
    limit = usable(checked_bytes("memory", memory))
    check_batch("x1", x1)
    if x2 is not None:
        check_batch("x2", x2)
        check_same_features("x1", x1, "x2", x2)
    source = _checked_kernel(kernel, outputs, precision)
    source.check(x1, x2)
    x1, x2 = np.asarray(x1), None if x2 is None else np.asarray(x2)
    batches = x1, x1 if x2 is None else x2
    size = None if tile is None else (min(tile, len(x1)), min(tile, len(batches[1])))
    own_mesh = _checked_mesh(mesh, source)
    with _alone(folder, writes=not plan_only):
        of_kernel = source.fingerprint(x1)
        about = fingerprint_of(of_kernel, x1, x2)
        files = _kept(folder, about, resume=resume)
        name = content_digest(of_kernel)
        size = files.tile if files else size
        plan, program = plan_of(
            source, x1, x2, limit, name=name, mesh=own_mesh, tile=size
        )
        if plan_only:
            return timed(plan, program, batches)
        if files is None:
            content = {"is_symmetric": x2 is None, "fingerprint": about}
            files = create(folder, content, plan.shape, plan.tile, plan.dtype)
        if places := _left(files):
            shape = plan.gram_shape(own_mesh)
            if executor is None:
                tiles = computed_here(source, program, shape, batches, places, plan)
            else:
                tiles = computed_by(
                    executor, source, shape, batches, places, plan, limit, name
                )
            with progress_reporter(progress, "gram") as report:
                write_tiles(files, places, tiles, report)
    return GramStore(files, (source, *batches))


@contextmanager
def _alone(folder: Path, *, writes: bool) -> Iterator[None]:
    """Context in which nobody else writes to a folder, made if it is to be written to."""
    if not writes:
        yield
        return
    check_folder("path", folder)
    holds_tiles(folder)  # refuses what is none of ours, before anything is put there
    folder.mkdir(parents=True, exist_ok=True)
    with writing_alone(folder):
        yield


def _check_options(resume: object, plan_only: object, tile: object) -> None:
    check_flag("resume", resume)
    check_flag("plan_only", plan_only)
    if tile is not None:
        check_at_least("tile", tile, 1)


def _checked_kernel(kernel: Any, outputs: Outputs, precision: Any) -> GramKernel:
    if isinstance(kernel, tuple) and len(kernel) == 2:
        return NetworkKernel(*kernel, checked_form(outputs), precision)
    if outputs != "full":
        raise ValueError(
            "`outputs` is for `(apply_fn, params)`; other kernels have one form. Leave "
            f"it out; got {brief(outputs)}."
        )
    if isinstance(kernel, Architecture):
        return LimitKernel(kernel)
    if callable(kernel):
        return FunctionKernel(kernel)
    raise TypeError(
        "`kernel` must be a pair (apply_fn, params), an Architecture or a function "
        f"f(x1, x2); got {brief(kernel)}.{model_hint(kernel)}"
    )


def _checked_mesh(mesh: object, kernel: GramKernel) -> tuple[int, int]:
    count = jax.local_device_count()
    if mesh is None:
        if not isinstance(kernel, NetworkKernel):
            return 1, 1
        # As square as can be: then the least is sent between devices.
        rows = max(i for i in range(1, math.isqrt(count) + 1) if count % i == 0)
        return rows, count // rows
    if not isinstance(mesh, tuple) or len(mesh) != 2:
        raise TypeError(f"`mesh` must be a pair of integers; got {brief(mesh)}.")
    for number in mesh:
        check_at_least("mesh", number, 1)
    rows, columns = map(int, mesh)
    if rows * columns > count:
        raise ValueError(
            f"`mesh` must have at most {count} devices, those of this process; got "
            f"{rows} by {columns}."
        )
    if rows * columns > 1 and not isinstance(kernel, NetworkKernel):
        raise ValueError(
            "`mesh` is for `(apply_fn, params)`; other kernels are called on one "
            f"device. Leave it out; got {brief(mesh)}."
        )
    return rows, columns


def _kept(folder: Path, about: Mapping[str, Any], *, resume: bool) -> TileFiles | None:
    """The matrix in a folder, if there is one and it is the same."""
    if not holds_tiles(folder):
        return None
    if not resume:
        raise ValueError(
            f"`path` holds a Gram matrix already: {folder}. Pass `resume=True` to go on "
            "with it, or another folder."
        )
    files = opened(folder)
    found = files.content["fingerprint"]
    if found != about:
        which = " and another ".join(differences(found, about))
        raise ValueError(
            f"`path` holds another Gram matrix: {folder} was made with another {which}. "
            "Choose another folder, or delete this one to start anew."
        )
    return files


def _left(files: TileFiles) -> list[Place]:
    """Tiles that are missing or damaged; what is left of these is removed."""
    written = files.written()
    damaged = {place for place, tile in files.read(sorted(written)) if tile is None}
    files.remove(damaged)
    return [p for p in files.places if p not in written or p in damaged]
