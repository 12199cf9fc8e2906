"""Functions as static arguments of `jax.jit`."""

import functools
import types
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from lazyjax.callables.state import State, state_of

# States of late, each with what stands for the function in the keys of programs.
_identities: OrderedDict[State, object] = OrderedDict()
_MOST_IDENTITIES = 4_096


def as_static(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn` as it is now: equal to what it was at another call if it is unchanged.

    The program made of a function must not be reused once the function has changed: by
    what its closure, its defaults, its attributes or the globals it names hold. What
    `fn` itself changes of these while it is traced, such as a count of its calls, does
    not matter.

    Args:
        fn: The function.

    Returns:
        A hashable function that does the same.
    """
    if isinstance(fn, _Static):
        return fn
    return _Static(fn, _identity(fn))


def forget_programs() -> None:
    """Make every function new, so that no program made until now is used again."""
    _identities.clear()


def _identity(fn: Callable[..., Any]) -> object:
    state = state_of(fn)
    identity = _identities.setdefault(state, object())
    _identities.move_to_end(state)
    if len(_identities) > _MOST_IDENTITIES:
        _identities.popitem(last=False)
    return identity


class _Static:
    def __init__(self, fn: Callable[..., Any], identity: object):
        if isinstance(fn, types.FunctionType | types.MethodType):
            functools.update_wrapper(self, fn)
        self._fn = fn
        self._identity = identity

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = self._fn(*args, **kwargs)
        _identities.setdefault(state_of(self._fn), self._identity)
        return result

    def __hash__(self) -> int:
        return hash(self._identity)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Static):
            return NotImplemented
        return self._identity is other._identity
