"""Functions as static arguments of `jax.jit`."""

from collections.abc import Callable
from typing import Any


def as_static(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn` if it is hashable, else a stand-in that is new at every call.

    A function that cannot be hashed may have changed since the last call, so the
    program made of it must not be reused.

    Args:
        fn: The function.

    Returns:
        A hashable function that does the same.
    """
    try:
        hash(fn)
    except TypeError:
        return lambda *args, **kwargs: fn(*args, **kwargs)
    return fn
