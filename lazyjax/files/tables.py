"""Results with labelled axes, as tables of pandas and data sets of xarray."""

import abc
import importlib
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from lazyjax.trees import leaf_paths

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

STEP, OBSERVED = "step", "observed_at"
"""Axes of what is known at every step, and where observers looked."""

# Names of other arrays and axes, which those of observers may be, as `observers.loss`.
_TAKEN = ("loss", STEP, "stopped_at", "diverged_at", "is_solved", "status", "num_steps")


class LabelledArrays(NamedTuple):
    """Arrays whose axes have names, and labels along some of them.

    Attributes:
        labels: Along each axis that has them.
        arrays: Names of axes, and the array, by name.
    """

    labels: Mapping[str, Sequence[Any] | np.ndarray]
    arrays: Mapping[str, tuple[tuple[str, ...], np.ndarray]]


class Tabular(abc.ABC):
    """Base of results that are tables of numbers too."""

    @abc.abstractmethod
    def _labelled(self) -> LabelledArrays:
        """The arrays of the result."""

    def to_pandas(self) -> "pd.DataFrame":
        """A table with one row for each step, or time, of each run.

        Returns:
            Columns for the loss and for all that observers saw as one number, missing
            where they did not look. Arrays are in `to_xarray` alone.

        Raises:
            ImportError: If pandas is not installed.
        """
        pandas = _imported("pandas", "to_pandas")
        labelled = self._labelled()
        columns = {}
        for name, (axes, array) in labelled.arrays.items():
            rows = tuple(STEP if axis == OBSERVED else axis for axis in axes)
            if not {STEP, "time"}.intersection(rows) or set(axes) - {*labelled.labels}:
                continue
            index = pandas.MultiIndex.from_product(
                [labelled.labels[axis] for axis in axes], names=rows
            )
            if len(rows) == 1:
                index = index.get_level_values(0)
            columns[name] = pandas.Series(array.ravel(), index, name=name)
        return pandas.concat(columns.values(), axis=1)

    def to_xarray(self) -> "xr.Dataset":
        """All arrays but parameters, with their axes named and labelled.

        Returns:
            The data set. What observers saw lies along "observed_at", the loss along
            "step"; of runs under `jax.vmap`, the mapped axes are "run".

        Raises:
            ImportError: If xarray is not installed.
        """
        xarray = _imported("xarray", "to_xarray")
        labelled = self._labelled()
        return xarray.Dataset(
            {k: (axes, array) for k, (axes, array) in labelled.arrays.items()},
            coords={k: list(values) for k, values in labelled.labels.items()},
            attrs={"lazyjax": type(self).__name__},
        )


def observed(
    observations: Mapping[str, Any], axes: tuple[str, ...]
) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """What observers saw, by name: of a pytree, its leaves by `name/path`.

    Where the name of an observer has another meaning, it is `observed/name`.

    Args:
        observations: Pytrees of arrays.
        axes: Names of their first axes.

    Returns:
        Names of all axes, and the array, by name.
    """
    named = {}
    for name, tree in observations.items():
        for path, leaf in zip(leaf_paths(tree), jax.tree.leaves(tree), strict=True):
            key = f"{name}/{path}" if path else name
            key = f"observed/{key}" if key in _TAKEN or key in axes else key
            inner = [f"{key}_{axis}" for axis in range(leaf.ndim - len(axes))]
            named[key] = ((*axes, *inner), on_host(leaf))
    return named


def run_axes(num_axes: int) -> tuple[str, ...]:
    """Names of the axes of runs that are mapped."""
    return ("run",) if num_axes == 1 else tuple(f"run_{i}" for i in range(num_axes))


def on_host(array: Any) -> np.ndarray:
    """An array as NumPy's, of a dtype that NumPy knows."""
    array = np.asarray(array)
    return array.astype(np.float32) if array.dtype.kind == "V" else array


def _imported(module: str, method: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f'`{method}` needs {module}: pip install "lazyjax[tables]".'
        ) from error
