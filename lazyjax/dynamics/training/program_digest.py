"""A name for what a function computes, the same in every process.

It is made of the equations that JAX traces, with the values of all constants; names,
lines of source and places in memory have no part in it.
"""

import dataclasses
import enum
import functools
import hashlib
import re
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from lazyjax.jaxpr.equations import opened

# Parameters of equations that say nothing about results: names and lines of source, and
# rules of differentiation, which show in the equations once they are applied.
_NAMES = {"name", "name_and_src_info", "debug", "debug_info", "source_info"}
_RULES = {"jvp_jaxpr_fun", "jvp_jaxpr_thunk", "fwd_jaxpr_thunk", "bwd", "out_trees"}
_IGNORED = frozenset(_NAMES | _RULES)


def program_digest(fn: Callable[..., Any], *args: Any) -> str:
    """A name that two functions share if they compute the same in the same way."""
    jaxpr, shapes = jax.make_jaxpr(fn, return_shape=True)(*args)
    structure = _described(str(jax.tree.structure(shapes)))
    return content_digest(_Reader().jaxpr(jaxpr), structure)


def content_digest(*values: Any) -> str:
    """A name that values share if they are equal."""
    reader = _Reader()
    return _hashed(*map(reader.value, values))


class _Reader:
    """Digests of the parts of a jaxpr; jaxprs that are called often are read once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, str]] = {}
        self._open: set[int] = set()

    def jaxpr(self, jaxpr: Any) -> str:
        """Digest of a jaxpr, open or closed."""
        if id(jaxpr) not in self._known:
            self._known[id(jaxpr)] = jaxpr, self._jaxpr(*opened(jaxpr))
        return self._known[id(jaxpr)][1]

    def _jaxpr(self, jaxpr: jex.Jaxpr, constants: Iterable[Any]) -> str:
        numbers: dict[Any, int] = {}

        def defined(variable: Any) -> str:
            numbers[variable] = len(numbers)
            return _described(variable.aval)

        def used(atom: Any) -> str:
            if isinstance(atom, jex.Literal):
                return f"{_described(atom.aval)} {self.value(atom.val)}"
            return str(numbers[atom])

        parts = [*map(defined, jaxpr.constvars), *map(self.value, constants), "in"]
        parts.extend(map(defined, jaxpr.invars))
        for eqn in jaxpr.eqns:
            parts += ["eqn", eqn.primitive.name, *map(used, eqn.invars), "params"]
            for key, value in sorted(eqn.params.items()):
                if key not in _IGNORED:
                    parts += [key, self.value(value)]
            parts += ["out", *map(defined, eqn.outvars)]
        return _hashed(*parts, "out", *map(used, jaxpr.outvars))

    def value(self, value: Any) -> str:
        """Digest of a constant, or of a parameter of an equation."""
        if isinstance(value, jex.Jaxpr | jex.ClosedJaxpr):
            return self.jaxpr(value)
        if isinstance(value, jax.Array | np.ndarray | np.generic):
            return _array(value)
        if isinstance(value, Mapping):
            items = [(repr(k), self.value(v)) for k, v in value.items()]
            return _hashed(
                "mapping", *(part for item in sorted(items) for part in item)
            )
        if isinstance(value, tuple | list):
            return _hashed(type(value).__name__, *map(self.value, value))
        if isinstance(value, set | frozenset):
            return _hashed("set", *sorted(map(self.value, value)))
        if value is None or isinstance(
            value,
            bool | int | float | complex | str | bytes | enum.Enum | np.dtype | type,
        ):
            return _hashed(type(value).__name__, repr(value))
        if id(value) in self._open:  # a function that refers to itself
            return "again"
        self._open.add(id(value))
        try:
            return self._object(value)
        finally:
            self._open.remove(id(value))

    def _object(self, value: Any) -> str:
        if isinstance(value, functools.partial):
            return self.value(("partial", value.func, value.args, value.keywords))
        if isinstance(value, types.FunctionType):
            cells = [cell.cell_contents for cell in value.__closure__ or ()]
            return self.value(("fn", value.__code__, value.__defaults__, cells))
        if isinstance(value, types.CodeType):
            return self.value((value.co_code, value.co_names, value.co_consts))
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = [f.name for f in dataclasses.fields(value)]
            shown = {name: getattr(value, name) for name in fields}
            return self.value((type(value).__qualname__, shown))
        return _hashed(type(value).__qualname__, _described(value))


def _array(value: Any) -> str:
    if isinstance(value, jax.Array) and jnp.issubdtype(
        value.dtype, jax.dtypes.prng_key
    ):
        kind = _described(jax.random.key_impl(value))
        return _hashed(kind, _array(jax.random.key_data(value)))
    array = np.asarray(value)
    header = f"{array.dtype.name} {array.shape}"
    return hashlib.sha256(
        header.encode() + np.ascontiguousarray(array).tobytes()
    ).hexdigest()


def _described(value: object) -> str:
    """Text of an object without places in memory."""
    return re.sub(r" at 0x[0-9a-f]+|0x[0-9a-f]+", "", str(value))


def _hashed(*parts: str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}:{part}".encode())
    return digest.hexdigest()
