"""Values in a few words, for error messages and results: shapes in place of numbers."""

import contextlib
import itertools
import math
import reprlib
import types
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np


class Brief(reprlib.Repr):
    """Arrays by dtype and shape, scalars by value, and what is long cut short."""

    def __init__(self, *, max_level: int = 6) -> None:
        super().__init__()
        self.maxlevel = max_level
        self.maxstring = self.maxother = 80

    def repr1(self, x: Any, level: int) -> str:
        """Text of a value, with `level` more levels of what it holds."""
        if isinstance(x, types.FunctionType):
            return f"<function {x.__name__}>"
        if isinstance(x, jax.Array | np.ndarray | jax.ShapeDtypeStruct):
            # What is traced, or deleted, has no value.
            with contextlib.suppress(Exception):
                if x.ndim == 0 and not isinstance(x, jax.ShapeDtypeStruct):
                    return str(np.asarray(x))
            return f"{x.dtype}[{','.join(map(str, x.shape))}]"
        if isinstance(x, Mapping):
            return self.repr_dict(x, level)
        return super().repr1(x, level)

    def repr_dict(self, x: Any, level: int) -> str:
        """Text of a mapping, unlike that of the base class in the order of the keys."""
        if level <= 0:
            return "{...}"
        items = [
            f"{self.repr1(key, level - 1)}: {self.repr1(item, level - 1)}"
            for key, item in itertools.islice(x.items(), self.maxdict)
        ]
        return f"{{{', '.join(items + ['...'] * (len(x) > self.maxdict))}}}"

    def repr_instance(self, x: Any, level: int) -> str:
        """Text of any other object: its class where its own text is long."""
        text = super().repr_instance(x, level)
        own_is_short = "\n" not in text and len(text) < self.maxother
        return text if own_is_short else f"<{type(x).__qualname__}>"


_IN_ERRORS = Brief(max_level=3)
_LONGEST = 160


def summary(value: object, **shown: object) -> str:
    """Class of a value and what is shown of it, as `__repr__` returns."""
    parts = (f"{name}={brief(item)}" for name, item in shown.items())
    return f"{type(value).__name__}({', '.join(parts)})"


def brief(value: object) -> str:
    """A value as error messages show it, in one line of at most 160 characters.

    Args:
        value: Anything, however large.

    Returns:
        Its text; of an array dtype and shape, of an object without a short text its
        class.
    """
    if isinstance(value, int | np.integer) and abs(int(value)) >= 10**30:
        return f"an integer of about 10^{int(value).bit_length() * 30103 // 100000}"
    text = " ".join(_IN_ERRORS.repr(value).split())
    if len(text) <= _LONGEST:
        return text
    return f"{type(value).__name__} {text[: _LONGEST - 30].rstrip()}..."[:_LONGEST]


def in_bytes(count: int | float) -> str:
    """A number of bytes with a unit, such as "1.5 GiB"."""
    if not math.isfinite(count):
        return "infinite"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.0f} EiB" if count < 1e5 else f"{count:.0e} EiB"
