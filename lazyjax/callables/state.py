"""The state of a function: all that it computes with beside its arguments."""

import functools
import pathlib
import sys
import sysconfig
import types
import weakref
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import jax
import numpy as np

# Equal states are of functions that do the same.
State: TypeAlias = Hashable

# Beyond so many objects, some are compared by identity or by their number alone.
_MOST_OBJECTS = 2_000
# NumPy arrays of more bytes are read at so many evenly spaced entries.
_WHOLE_BYTES = 2**20
_SAMPLED_ENTRIES = 2**12

_PLAIN = frozenset({bool, bytes, int, range, str, type(None), type(...)})
# Types whose different values may be equal, or that have no hash.
_PRINTED = frozenset({bytearray, complex, float, slice})
# The most frequent types, for which no other case need be tried.
_OPENED = frozenset(
    {types.FunctionType, types.MethodType, functools.partial, dict, list, tuple}
)
_TOLD_BY_IDENTITY = (types.CodeType, types.ModuleType, jax.Array)


class ComparedByValue:
    """An object that never changes, and that equals only what does the same.

    All other objects are compared by what they hold, whatever their `==` says.
    """


def state_of(fn: Any) -> State:
    """What a function or any other object is, and what it holds now, hashable."""
    # It includes the cells of closures, defaults, attributes (of the function, of a
    # callable object, of the object of a bound method, of classes, and of all they hold),
    # the parts of a `functools.partial`, and the globals that the function and the
    # functions it calls name. JAX arrays, which do not change, modules and what is inside
    # of installed libraries are compared by identity; NumPy arrays by their entries, large
    # ones by some of them.
    return _Walk().of(fn)


class _Same:
    """Equal to another of the same object, which it keeps alive only if it must."""

    __slots__ = ("_hash", "_ref")

    def __init__(self, value: object):
        self._hash = id(value)
        try:
            self._ref = weakref.ref(value)
        except TypeError:
            self._ref = lambda: value

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Same):
            return NotImplemented
        value = self._ref()
        return self is other or (value is not None and value is other._ref())


class _Walk:
    """A walk through an object and what it holds, which opens each object once."""

    def __init__(self):
        self._num_seen = 0
        self._seen: dict[int, int] = {}
        # Keeps temporary objects alive, so that no two have the same `id`.
        self._opened: list[Any] = []

    def of(self, value: Any) -> State:
        self._num_seen += 1
        kind = type(value)
        if kind in _PLAIN:
            return kind, value
        if kind in _PRINTED:
            return kind, repr(value)
        if kind not in _OPENED:
            if isinstance(value, np.generic) and not value.dtype.hasobject:
                return kind, value.tobytes()
            is_foreign = isinstance(value, type) and _is_library_class(value)
            if is_foreign or isinstance(value, _TOLD_BY_IDENTITY):
                return _Same(value)
        if id(value) in self._seen:
            return "seen", self._seen[id(value)]
        if self._num_seen > _MOST_OBJECTS:
            return _Same(value)
        self._seen[id(value)] = len(self._opened)
        self._opened.append(value)
        return kind, *self._parts(value)

    def _parts(self, value: Any) -> Iterator[State]:
        kind = type(value)
        if isinstance(value, ComparedByValue):
            yield value
        elif isinstance(value, type):
            yield _Same(value)
            yield from self._all(value.__bases__)
            yield from self._all(_held_by_class(value))
        elif isinstance(value, types.FunctionType):
            yield _Same(value)
            yield from self._all(_held_by_function(value))
        elif isinstance(value, types.MethodType):
            yield from self._all((value.__self__, value.__func__))
        elif isinstance(value, types.BuiltinMethodType):
            yield value.__name__
            yield self.of(value.__self__)
        elif isinstance(value, functools.partial):
            yield from self._all((value.func, value.args, value.keywords))
        elif isinstance(value, np.ndarray):
            yield value.shape
            yield str(value.dtype)
            if value.dtype.hasobject:
                yield from self._all(value.ravel().tolist())
            else:
                yield _entries(value)
        else:
            yield from self._of_object(value, kind)

    def _of_object(self, value: Any, kind: type) -> Iterator[State]:
        # What is not written in Python cannot be opened.
        is_open = kind.__flags__ & _IS_HEAP_TYPE or hasattr(value, "__dict__")
        is_container = isinstance(value, _CONTAINERS)
        if kind.__eq__ is object.__eq__ or not (is_open or is_container):
            yield _Same(value)
        if isinstance(value, Mapping) and is_container:
            yield from self._all(part for pair in value.items() for part in pair)
        elif isinstance(value, set | frozenset):
            yield frozenset(self._all(value))
        elif is_container:
            yield from self._all(value)
        if is_container:
            yield len(value)
        if is_open:
            # First what tells objects of one class apart, as the walk may end early.
            yield from self._all(_attributes(value, kind))
            yield self.of(kind)

    def _all(self, values: Iterable[Any]) -> Iterator[State]:
        for value in values:
            # As `of` does, without a call.
            kind = type(value)
            if kind in _PLAIN:
                self._num_seen += 1
                yield kind, value
            else:
                yield self.of(value)
            if self._num_seen > _MOST_OBJECTS:
                return


_IS_HEAP_TYPE = 1 << 9  # of classes that are made by a `class` statement
_CONTAINERS = (dict, list, tuple, set, frozenset, types.MappingProxyType)


def _held_by_function(fn: types.FunctionType) -> Iterator[Any]:
    yield fn.__code__
    yield fn.__defaults__
    yield fn.__kwdefaults__
    for cell in fn.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not yet filled
            yield None
    if fn.__dict__:
        yield {k: v for k, v in fn.__dict__.items() if k != "__wrapped__"}
    if not _is_library(fn):
        for name in _names(fn.__code__):
            yield fn.__globals__.get(name)


@functools.lru_cache(maxsize=4096)
def _names(code: types.CodeType) -> tuple[str, ...]:
    """Names that are not local to a function or those inside it."""
    inner = (c for c in code.co_consts if isinstance(c, types.CodeType))
    names = [*code.co_names, *(name for c in inner for name in _names(c))]
    return tuple(dict.fromkeys(names))


def _held_by_class(kind: type) -> Iterator[Any]:
    for name, attribute in vars(kind).items():
        if isinstance(attribute, staticmethod | classmethod):
            yield name
            yield attribute.__func__
        elif isinstance(attribute, property):
            yield name
            yield attribute.fget
        elif name == "__call__" or not name.startswith("__"):
            yield name
            yield attribute


def _attributes(value: Any, kind: type) -> Iterator[Any]:
    for name, attribute in getattr(value, "__dict__", {}).items():
        # A property computed from the others on first use is no change.
        is_derived = isinstance(getattr(kind, name, None), functools.cached_property)
        if not is_derived and name != "__wrapped__":
            yield name
            yield attribute
    for name in _slots(kind):
        yield getattr(value, name, None)


@functools.lru_cache(maxsize=4096)
def _slots(kind: type) -> tuple[str, ...]:
    found: list[str] = []
    for base in kind.__mro__:
        slots = vars(base).get("__slots__", ())
        found += [slots] if isinstance(slots, str) else slots
    return tuple(name for name in found if name not in ("__dict__", "__weakref__"))


def _entries(array: np.ndarray) -> State:
    if array.nbytes > _WHOLE_BYTES:
        flat = array.reshape(-1) if array.flags.c_contiguous else array.ravel()
        array = flat[:: max(1, array.size // _SAMPLED_ENTRIES)]
    return hash(array.tobytes())


def _is_library_class(kind: type) -> bool:
    module = sys.modules.get(kind.__module__)
    file = getattr(module, "__file__", None)
    return kind.__module__ != "__main__" and (file is None or _is_library_file(file))


def _is_library(fn: types.FunctionType) -> bool:
    return _is_library_file(fn.__code__.co_filename)


@functools.lru_cache(maxsize=4096)
def _is_library_file(name: str) -> bool:
    """Whether a file is Python's, installed, or of this package."""
    path = pathlib.PurePath(name)
    package = pathlib.PurePath(__file__).parent.parent
    return (
        "site-packages" in path.parts
        or "dist-packages" in path.parts
        or path.is_relative_to(package)
        or path.is_relative_to(sysconfig.get_path("stdlib"))
    )
