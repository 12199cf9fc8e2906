"""Labelled arrays in CSV files."""

import csv
import io
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np

from lazyjax.files.archive import Arrays, header, reading, verified
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


def write_csv(path: Path, axes: Axes, arrays: Arrays) -> None:
    """Write one row a number; the first line, a comment, says what shapes they have."""
    text = io.StringIO()
    described = {
        name: {"dtype": array.dtype.name, "shape": array.shape}
        for name, array in arrays.items()
    }
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
                writer.writerow([name, *member, step, rest, row[index].item()])
    write_file(path, text.getvalue().encode())


def _step(name: str, index: tuple[int, ...], observed_at: list[int]) -> tuple[Any, str]:
    """The step that a number belongs to, if to any, and its place in what was seen."""
    if name == "loss":
        return index[0], ""
    if name.startswith("observations/"):
        return observed_at[index[0]], " ".join(map(str, index[1:]))
    return "", " ".join(map(str, index))


def read_csv(path: Path) -> tuple[Axes, Arrays]:
    """Labels and arrays that `write_csv` wrote."""
    with reading(path, _ADVICE):
        lines = path.read_text().splitlines()
        first = json.loads(lines[0].removeprefix("# "))
        described = first.pop("arrays")
        values: dict[str, list[str]] = {name: [] for name in described}
        for row in itertools.islice(csv.reader(lines[1:]), 1, None):
            values[row[0]].append(row[-1])
        arrays = {name: _array(described[name], values[name]) for name in values}
        axes = verified(_KIND, first, arrays)["axes"]
        return {name: tuple(labels) for name, labels in axes.items()}, arrays


def _array(described: Mapping[str, Any], values: list[str]) -> np.ndarray:
    dtype = np.dtype(described["dtype"])
    read = {"b": "True".__eq__, "i": int, "u": int}.get(dtype.kind, float)
    return np.array(list(map(read, values)), dtype).reshape(described["shape"])
