"""`lazyjax gram`: Gram matrices on disk, planned, computed, resumed and checked."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import jax
import numpy as np
import typer

import lazyjax
from lazyjax._checks import checked_bytes
from lazyjax.cli import interrupts
from lazyjax.cli.console import bad_usage, one_line_errors, progress_shown
from lazyjax.cli.data import arrays_of
from lazyjax.cli.extras import require
from lazyjax.cli.imports import imported
from lazyjax.ntk.outputs import checked_form

if TYPE_CHECKING:
    from lazyjax.grams import GramStore

gram_app = typer.Typer(no_args_is_help=True)

Factory = Annotated[
    str,
    typer.Argument(
        help="module:function of an importable module. The function is called with the "
        "examples X, and returns (apply_fn, params), an Architecture, or f(x1, x2)."
    ),
]
Examples = Annotated[
    Path, typer.Option("--data", help="An .npz file with an array X and, at will, X2.")
]
Folder = Annotated[Path, typer.Option("--path", help="Folder of the matrix.")]
Outputs = Annotated[
    str,
    typer.Option(help="full, diagonal, trace, pseudo or a class, of networks."),
]
Memory = Annotated[str, typer.Option(help="Held at once, such as 4GiB.")]
TileSize = Annotated[
    int | None,
    typer.Option(min=1, help="Examples on a side of a tile.  [default: by the plan]"),
]
X64 = Annotated[bool, typer.Option("--x64", help="Compute in double precision.")]


@gram_app.command("run")
def run(
    factory: Factory,
    data: Examples,
    path: Folder,
    outputs: Outputs = "full",
    memory: Memory = "4GiB",
    tile: TileSize = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print the plan, and do no more.")
    ] = False,
    x64: X64 = False,
) -> None:
    """Compute a Gram matrix: prints the plan, and shows tiles per second and time left."""
    from lazyjax.grams.tile_files import holds_tiles

    with bad_usage("--path"):
        if not plan and holds_tiles(path):
            raise ValueError(
                f"{path} holds a Gram matrix already. `lazyjax gram resume` with the "
                "same arguments goes on with it; or choose another folder."
            )
    _compute(factory, data, path, outputs, memory, tile, x64, resume=False, plan=plan)


@gram_app.command("resume")
def resume(
    factory: Factory,
    data: Examples,
    path: Folder,
    outputs: Outputs = "full",
    memory: Memory = "4GiB",
    tile: TileSize = None,
    x64: X64 = False,
) -> None:
    """Go on with a matrix that was cut short, by the same options; or mend one."""
    from lazyjax.grams.tile_files import holds_tiles

    with bad_usage("--path"):
        if not holds_tiles(path):
            raise ValueError(f"{path} holds no Gram matrix.")
    _compute(factory, data, path, outputs, memory, tile, x64, resume=True, plan=False)


@gram_app.command("verify")
def verify(path: Annotated[Path, typer.Argument(help="Folder of the matrix.")]) -> None:
    """Read all tiles: checksums, finite entries, symmetry, eigenvalues of a block."""
    with one_line_errors():
        found = _opened(path).verify()
    print(found.explain())
    if not found.holds:
        sys.exit(1)


@gram_app.command("info")
def info(path: Annotated[Path, typer.Argument(help="Folder of the matrix.")]) -> None:
    """What a matrix is of, and how much of it is there."""
    with one_line_errors():
        store = _opened(path)
        num_tiles = len(store.files.places)
        print(f"matrix    {' x '.join(map(str, store.shape))}, {store.dtype.name}")
        print(f"tiles     {num_tiles - len(store.missing)} of {num_tiles}")
        for name, value in store.files.content["fingerprint"].items():
            print(f"{name:<10}{_in_a_word(value)}")


def _compute(
    factory: str,
    data: Path,
    path: Path,
    outputs: str,
    memory: str,
    tile: int | None,
    x64: bool,
    *,
    resume: bool,
    plan: bool,
) -> None:
    if x64:
        jax.config.update("jax_enable_x64", True)
    with bad_usage("--memory"):
        checked_bytes("memory", memory)
    with bad_usage("--outputs"):
        form: Any = int(outputs) if outputs.isdecimal() else checked_form(outputs)
    with bad_usage("--data"):
        x1, x2 = _examples(data)
    interrupts.after_interrupt(
        otherwise=lambda: f"`lazyjax gram resume` goes on with what {path} holds"
    )
    with one_line_errors():
        require("gram", "store")
        with bad_usage("FACTORY"):
            make = _factory(factory)
        options: dict[str, Any] = {
            "path": path,
            "outputs": form,
            "memory": memory,
            "tile": tile,
            "resume": resume,
        }
        kernel = make(x1)
        with bad_usage():  # all that can be told before tiles are computed
            planned = lazyjax.gram(kernel, x1, x2, **options, plan_only=True)
        print(planned, flush=True)
        if plan:
            return
        with progress_shown() as report:
            store = lazyjax.gram(kernel, x1, x2, **options, progress=report)
    print(f"wrote {store!r}", file=sys.stderr)


def _examples(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    arrays = arrays_of(path)
    if "X" not in arrays:
        raise ValueError(
            f"{path} must hold an array X; it has {', '.join(arrays) or 'none'}."
        )
    return arrays["X"], arrays.get("X2")


def _factory(name: str) -> Callable[[np.ndarray], Any]:
    found = imported(name)
    if not callable(found):
        raise ValueError(f"{name} must be a function of examples.")
    return found


def _opened(path: Path) -> "GramStore":
    require("gram", "store")
    from lazyjax.grams import GramStore

    return GramStore.open(path)


def _in_a_word(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {version}" for name, version in value.items())
    return str(value) if len(str(value)) < 40 else f"{value[:12]}..."
