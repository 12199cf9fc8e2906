"""Examples that commands are asked to use: digits, arrays of a file, files of data sets."""

from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import typer

from lazyjax.cli.console import bad_usage, one_line_errors
from lazyjax.cli.extras import require

Data = Annotated[
    str,
    typer.Option(
        help="digits (odd against even), or an .npz file with arrays X and y."
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        envvar="LAZYJAX_DATA_DIR",
        help="Folder of data sets that do not come with lazyjax.",
    ),
]
NumTrain = Annotated[
    int | None,
    typer.Option(
        min=1, help="First examples to use.  [default: 20 digits, or all of a file]"
    ),
]


def read_examples(
    command: str, data: str, num_train: int | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets in float64."""
    if data == "digits":
        with one_line_errors():
            require(command, "data")
            from lazyjax.data import digits

            with bad_usage("--num-train"):
                found = digits(
                    20 if num_train is None else num_train,
                    num_test=0,
                    classes="parity",
                    key=jax.random.key(seed),
                )
        return np.asarray(found.x_train), np.asarray(found.y_train)
    with bad_usage("--data"):
        return _read_npz(Path(data), num_train)


def _read_npz(path: Path, num_train: int | None) -> tuple[np.ndarray, np.ndarray]:
    """The first rows of X, flattened, and of y; `None` means all of them."""
    arrays = arrays_of(path)
    missing = [name for name in ("X", "y") if name not in arrays]
    if missing:
        raise ValueError(
            f"{path} must hold arrays X and y; it lacks {' and '.join(missing)} and has "
            f"{', '.join(arrays) or 'none'}."
        )
    arrays = {name: arrays[name] for name in ("X", "y")}
    for name, array in arrays.items():
        if not (
            np.issubdtype(array.dtype, np.floating)
            or np.issubdtype(array.dtype, np.integer)
            or array.dtype == bool
        ):
            raise ValueError(f"{name} must hold real numbers; got dtype {array.dtype}.")
        if not np.all(np.isfinite(array)):
            raise ValueError(f"{name} must be finite; it has NaN or infinite values.")
    x, y = (arrays[name].astype(np.float64) for name in ("X", "y"))
    if x.ndim < 2 or x.size == 0:
        raise ValueError(
            f"X must have shape (n, d), a row for each example; got {x.shape}."
        )
    if y.ndim == 1:
        y = y[:, None]
    if y.ndim != 2 or len(y) != len(x) or y.size == 0:
        raise ValueError(
            f"y must have shape ({len(x)},) or ({len(x)}, 1), a row for each of X; got "
            f"{arrays['y'].shape}."
        )
    if y.shape[1] != 1:
        raise ValueError(f"y must have one column; got shape {arrays['y'].shape}.")
    if num_train is not None and num_train > len(x):
        raise ValueError(f"--num-train must be at most {len(x)}; got {num_train}.")
    return x[:num_train].reshape(len(x[:num_train]), -1), y[:num_train]


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz file by name; nothing is unpickled."""
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise ValueError("it must be an .npz file, and holds one array only")
        with file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # a damaged file makes parsers raise anything
        raise ValueError(f"{path} cannot be read: {error}") from error
