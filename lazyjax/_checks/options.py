"""Numbers, names of choices, keys and functions."""

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from lazyjax._brief import brief


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Check that `value` is one of `choices`."""
    choices = tuple(choices)
    if isinstance(value, str) and value in choices:
        return
    word = value[:80].lower() if isinstance(value, str) else ""
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"`{name}` must be one of {', '.join(map(repr, choices))}; got {brief(value)}."
        f"{hint}"
    )


def check_flag(name: str, value: object) -> None:
    """Check that `value` is `True` or `False`."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"`{name}` must be True or False; got {brief(value)}.")


def checked_path(name: str, value: object) -> Path:
    """A path, from text or a path."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"`{name}` must be a path; got {brief(value)}.")
    return Path(value)


def check_at_least(
    name: str, value: object, minimum: int, maximum: int = 2**31 - 1
) -> None:
    """Check that `value` is an integer, Python's or NumPy's, within these limits."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        is_whole = isinstance(value, float | np.floating) and value == value // 1
        hint = f" Write `int({brief(value)})`." if is_whole else ""
        raise TypeError(f"`{name}` must be an integer; got {brief(value)}.{hint}")
    if value < minimum:
        raise ValueError(f"`{name}` must be at least {minimum}; got {brief(value)}.")
    if value > maximum:
        raise ValueError(f"`{name}` must be at most {maximum}; got {brief(value)}.")


def checked_bytes(name: str, value: object) -> int:
    """Number of bytes that `value` states, an integer or a text such as "4GiB"."""
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]i?)?B\s*", value)
        if found is None:
            raise ValueError(
                f"`{name}` must be a number with a unit, such as '4GiB', '500MB' or "
                f"'64KiB'; got {brief(value)}."
            )
        prefix = found[2] or ""
        base = 1024 if prefix.endswith("i") else 1000
        value = int(float(found[1]) * base ** " KMGT".index(prefix[:1] or " "))
    check_at_least(name, value, 1, 2**63)
    assert isinstance(value, int | np.integer)
    return int(value)


def check_nonnegative(
    name: str, value: object, *, infinity_allowed: bool = True
) -> None:
    """Check that every number in `value` is zero or positive, where values are known."""
    values = known_numbers(name, value)
    if not np.all((values >= 0) & (infinity_allowed | np.isfinite(values))):
        expected = (
            "zero or positive" if infinity_allowed else "finite, zero or positive"
        )
        raise ValueError(f"`{name}` must be {expected}; got {brief(value)}.")


def check_positive(name: str, value: object) -> None:
    """Check that a number is positive and finite, where its value is known."""
    values = known_numbers(name, value)
    if not np.all((values > 0) & np.isfinite(values)):
        raise ValueError(f"`{name}` must be positive and finite; got {brief(value)}.")


def check_number(name: str, value: object) -> None:
    """Check that `value` is one real number, not an array of several."""
    if np.ndim(known_numbers(name, value)):
        raise ValueError(f"`{name}` must be one number; got {brief(value)}.")


def check_instance(name: str, value: object, kind: type, maker: str) -> None:
    """Check that `value` is a result of this kind, which `maker` returns."""
    if not isinstance(value, kind):
        raise TypeError(
            f"`{name}` must be a `{kind.__name__}`, from `{maker}`; got {brief(value)}."
        )


def known_numbers(name: str, value: object) -> np.ndarray:
    """Real numbers as an array, empty where values are not known."""
    try:
        values = np.asarray(value)
    except jax.errors.TracerArrayConversionError:
        return np.zeros(0)
    except (TypeError, ValueError):  # lists of unequal lengths, random keys
        values = np.asarray(None)
    if values.dtype.kind not in "biufV":  # V: low precision of JAX
        raise TypeError(f"`{name}` must be numbers; got {brief(value)}.")
    return values


def check_key(name: str, key: object) -> None:
    """Check that `key` is one key of `jax.random`, of the new style or the old."""
    hint = "Make one with `jax.random.key(0)`."
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        shape = key.shape
    elif isinstance(key, jax.Array | np.ndarray) and key.dtype == np.uint32:
        shape = key.shape[:-1] if key.ndim else (1,)
    else:
        raise TypeError(f"`{name}` must be a random key; got {brief(key)}. {hint}")
    if shape:
        raise ValueError(f"`{name}` must be one random key; got {brief(key)}. {hint}")
