"""Labelled arrays in files: NumPy's archives, JSON and CSV."""

import csv
import io
import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np

from lazyjax.files.archive import Arrays, header, read_npz, reading, verified, write_npz
from lazyjax.files.writing import write_file
from lazyjax.trees import leaf_paths
from lazyjax.typing import Params

Label: TypeAlias = int | float
Axes: TypeAlias = dict[str, tuple[Label, ...]]

_KIND = "sweep"
_ADVICE = "Save the sweep anew."


def flat(tree: Params) -> Arrays:
    """Leaves of a tree by path, such as `layer_1/kernel`; one leaf alone has path ""."""
    leaves = map(np.asarray, jax.tree.leaves(tree))
    return dict(zip(leaf_paths(tree), leaves, strict=True))


def nested(leaves: Mapping[str, Any]) -> Any:
    """Nested dictionaries that `flat` takes apart again."""
    if list(leaves) == [""]:
        return leaves[""]
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *folders, name = path.split("/")
        branch = tree
        for folder in folders:
            branch = branch.setdefault(folder, {})
        branch[name] = leaf
    return tree


def _write_npz(path: Path, axes: Axes, arrays: Arrays) -> None:
    write_npz(path, _KIND, {"axes": axes}, arrays)


def _read_npz(path: Path) -> tuple[Axes, Arrays]:
    content, arrays = read_npz(path, _KIND, advice=_ADVICE)
    return _axes(content["axes"]), arrays


def _write_json(path: Path, axes: Axes, arrays: Arrays) -> None:
    described = {
        name: _described(array) | {"values": [_plain(v) for v in array.ravel()]}
        for name, array in arrays.items()
    }
    content = header(_KIND, {"axes": axes}, arrays) | {"arrays": described}
    write_file(path, (json.dumps(content, allow_nan=False) + "\n").encode())


def _read_json(path: Path) -> tuple[Axes, Arrays]:
    with reading(path, _ADVICE):
        first = json.loads(path.read_text())
        arrays = {
            name: _array(described, described["values"])
            for name, described in first.pop("arrays").items()
        }
        return _axes(verified(_KIND, first, arrays)["axes"]), arrays


def _write_csv(path: Path, axes: Axes, arrays: Arrays) -> None:
    """One row a number; the first line, a comment, says what shapes they have."""
    text = io.StringIO()
    described = {name: _described(array) for name, array in arrays.items()}
    first = header(_KIND, {"axes": axes}, arrays) | {"arrays": described}
    text.write(f"# {json.dumps(first)}\n")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["quantity", *axes, "step", "index", "value"])
    observed_at = arrays["observed_at"].tolist()
    for name, array in arrays.items():
        own_axes = [] if name == "observed_at" else list(axes.values())
        labels = itertools.product(*own_axes)
        inner = array.shape[len(own_axes) :]
        rows = array.reshape(-1, *inner) if own_axes else array[None]
        for label, row in zip(labels, rows, strict=True):
            member = label if own_axes else ("",) * len(axes)
            for index in np.ndindex(inner):
                step, rest = _step(name, index, observed_at)
                value = _plain(row[index])
                writer.writerow([name, *member, step, rest, value])
    write_file(path, text.getvalue().encode())


def _step(name: str, index: tuple[int, ...], observed_at: list[int]) -> tuple[Any, str]:
    """The step that a number belongs to, if to any, and its place in what was seen."""
    if name == "loss":
        return index[0], ""
    if name.startswith("observations/"):
        return observed_at[index[0]], " ".join(map(str, index[1:]))
    return "", " ".join(map(str, index))


def _read_csv(path: Path) -> tuple[Axes, Arrays]:
    with reading(path, _ADVICE):
        lines = path.read_text().splitlines()
        first = json.loads(lines[0].removeprefix("# "))
        described = first.pop("arrays")
        values: dict[str, list[str]] = {name: [] for name in described}
        for row in itertools.islice(csv.reader(lines[1:]), 1, None):
            values[row[0]].append(row[-1])
        arrays = {name: _array(described[name], values[name]) for name in values}
        return _axes(verified(_KIND, first, arrays)["axes"]), arrays


def _axes(axes: Mapping[str, Any]) -> Axes:
    return {name: tuple(labels) for name, labels in axes.items()}


def _described(array: np.ndarray) -> dict[str, Any]:
    return {"dtype": array.dtype.name, "shape": array.shape}


def _plain(number: np.generic) -> Any:
    """A number as JSON has it, exactly; what is not finite is a string."""
    value = number.item()
    return str(value) if isinstance(value, float) and not np.isfinite(value) else value


def _array(described: Mapping[str, Any], values: list[Any]) -> np.ndarray:
    dtype = np.dtype(described["dtype"])
    if dtype.kind == "b":
        values = [value in (True, "True") for value in values]
    elif dtype.kind in "iu":
        values = [int(value) for value in values]
    else:
        values = [float(value) for value in values]
    return np.array(values, dtype).reshape(described["shape"])


Writer = Callable[[Path, Axes, Arrays], None]
Reader = Callable[[Path], tuple[Axes, Arrays]]
_FORMATS: dict[str, tuple[Writer, Reader]] = {
    ".npz": (_write_npz, _read_npz),
    ".json": (_write_json, _read_json),
    ".csv": (_write_csv, _read_csv),
}


def format_of(path: Path) -> tuple[Writer, Reader]:
    """What writes and what reads files of the suffix of a path."""
    if path.suffix not in _FORMATS:
        raise ValueError(
            f"`path` must end in one of {', '.join(_FORMATS)}; got {str(path)!r}."
        )
    return _FORMATS[path.suffix]
