"""One normal form of results: shown in a line, written to files, and read back.

A result is a frozen dataclass with `Storable` for a base. Files end in ".json" (arrays
as lists) or ".npz" (arrays as NumPy's); both tell their class and the version of their
layout, carry a checksum, and are there whole or not at all. Nothing is pickled. So
functions and networks cannot be written: a result that holds one says so.
"""

import dataclasses
import enum
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import jax
import numpy as np

from lazyjax._brief import Brief
from lazyjax.files.archive import (
    RESERVED,
    Arrays,
    FileError,
    header,
    read_npz,
    reading,
    verified,
    write_npz,
)
from lazyjax.files.encoding import (
    Keep,
    decode,
    encode,
    fetch_inline,
    keep_inline,
)
from lazyjax.files.writing import check_file, write_file

_ADVICE = "Save the result anew."

_CLASSES: dict[str, type["Storable"]] = {}

_T = TypeVar("_T", bound="Storable")


class Storable:
    """Base of results, which are frozen dataclasses.

    `_derived` names properties, such as a verdict, that are shown and written with the
    fields. They are computed anew when a file is read, and must come out the same.
    """

    _derived: ClassVar[tuple[str, ...]] = ()
    _suffixes: ClassVar[tuple[str, ...]] = (".npz", ".json")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        known = _CLASSES.setdefault(cls.__name__, cls)
        if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise TypeError(f"there is another class {cls.__name__}: {known!r}")
        _CLASSES[cls.__name__] = cls
        # Set on the class itself, or `dataclasses.dataclass` would write another.
        setattr(cls, "__repr__", Storable.__repr__)  # noqa: B010

    def __repr__(self) -> str:
        """The fields in one line: arrays by dtype and shape, what is long cut short."""
        shown = self._headline() | self._items()
        parts = (f"{name}={_shown(value)}" for name, value in shown.items())
        return f"{type(self).__name__}({', '.join(parts)})"

    def _headline(self) -> dict[str, Any]:
        """What is shown before the fields."""
        return {}

    def _items(self) -> dict[str, Any]:
        """Derived properties, then fields."""
        names = [field.name for field in dataclasses.fields(self)]  # pyright: ignore[reportArgumentType]
        found = {name: getattr(self, name) for name in (*self._derived, *names)}
        return {
            name: value.value if isinstance(value, enum.Enum) else value
            for name, value in found.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """Fields by name, as plain data.

        Returns:
            A dictionary in which results are dictionaries too, and arrays are NumPy's.
        """
        return {name: _plain(value) for name, value in self._items().items()}

    def to_json(self) -> str:
        """The result as strict JSON in one line, arrays as lists.

        NaN and infinities are the words "nan", "inf" and "-inf".

        Returns:
            The text, from which `from_json` makes the same result.

        Raises:
            TypeError: If a field holds a function, or anything else that is no data.
        """
        fields = _encoded(self, "", keep_inline)
        about = header(fields.pop("class"), fields, {})
        return json.dumps(about, allow_nan=False)

    @classmethod
    def from_json(cls: type[_T], text: str) -> _T:
        """The result that `to_json` wrote.

        Args:
            text: The text.

        Returns:
            The result, with arrays of the dtypes they had.

        Raises:
            ValueError: If it is damaged, was changed, or is of another class or version.
        """
        return cls._parsed(text, "`text`")

    @classmethod
    def _parsed(cls: type[_T], text: str | bytes, subject: object) -> _T:
        with reading(subject, _ADVICE):
            fields = verified(cls.__name__, json.loads(text), {})
            data = {"class": cls.__name__, **fields}
            return decode(data, fetch_inline, _make)

    @classmethod
    def _checked_path(cls, path: str | Path) -> Path:
        path = Path(path)
        if path.suffix not in cls._suffixes:
            raise ValueError(
                f"`path` must end in one of {', '.join(cls._suffixes)}; got "
                f"{str(path)!r}."
            )
        return path

    def save(self, path: str | Path) -> Path:
        """Write the result to a file that `load` reads.

        Args:
            path: Ends in ".npz", or in ".json" if arrays are small.

        Returns:
            The path.

        Raises:
            TypeError: If a field holds a function, or anything else that is no data.
            ValueError: If the suffix is another, or the file cannot be written.
        """
        path = self._checked_path(path)
        check_file("path", path)
        if path.suffix == ".json":
            write_file(path, (self.to_json() + "\n").encode())
            return path
        arrays: Arrays = {}

        def keep(name: str, array: np.ndarray) -> dict[str, str]:
            while name in arrays or name in RESERVED:  # as keys with slashes may be
                name += "'"
            arrays[name] = array
            return {"array": name}

        fields = _encoded(self, "", keep)
        write_npz(path, fields.pop("class"), fields, arrays)
        return path

    @classmethod
    def load(cls: type[_T], path: str | Path) -> _T:
        """The result that `save` wrote.

        Args:
            path: Ends in ".npz" or ".json".

        Returns:
            The result, with arrays of the dtypes they had.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the suffix is another, or the file is damaged, was changed, or
                is of another class or version.
        """
        path = cls._checked_path(path)
        if path.suffix == ".json":
            with reading(path, _ADVICE):
                text = path.read_bytes()
            return cls._parsed(text, path)
        fields, arrays = read_npz(path, cls.__name__, advice=_ADVICE)
        with reading(path, _ADVICE):
            data = {"class": cls.__name__, **fields}
            return decode(data, lambda of: arrays[of["array"]], _make)


def _encoded(value: object, path: str, keep: Keep) -> dict[str, Any]:
    """A result as data; all else is refused."""
    if not isinstance(value, Storable):
        kind = "a function" if callable(value) else f"of type {type(value).__name__}"
        raise TypeError(
            f"`{path}` is {kind}, which a file cannot hold: numbers, strings, arrays, "
            "tuples, lists, dictionaries and results can be written."
        )
    start = f"{path}/" if path else ""
    return {"class": type(value).__name__} | {
        name: encode(item, start + name, keep, lambda v, p: _encoded(v, p, keep))
        for name, item in value._items().items()
    }


def _make(name: str, items: dict[str, Any]) -> Storable:
    """The result of a class with these fields and derived properties."""
    cls = _CLASSES[name]
    derived = {key: items.pop(key) for key in cls._derived}
    result = cls(**items)
    found = result._items()
    for key, value in derived.items():
        if found[key] != value:
            raise FileError(f"it says {key} {value!r}, but {found[key]!r} follows")
    return result


def _plain(value: object) -> Any:
    if isinstance(value, Storable):
        return value.to_dict()
    if isinstance(value, jax.Array):
        return np.asarray(value)
    if type(value) in (tuple, list):
        return type(value)(map(_plain, value))  # pyright: ignore
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _shown(value: object) -> str:
    text = _BRIEF.repr(value)
    leaves = jax.tree.leaves(value)
    are_arrays = all(isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves)
    if len(text) <= 100 or not (leaves and are_arrays):
        return text
    return f"<{len(leaves)} arrays of {sum(leaf.size for leaf in leaves)} numbers>"


class _Brief(Brief):
    def repr1(self, x: Any, level: int) -> str:
        return repr(x) if isinstance(x, Storable) else super().repr1(x, level)


_BRIEF = _Brief()
