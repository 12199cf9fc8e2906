"""Functions as static arguments of `jax.jit`."""

import functools
import types
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from lazyjax.callables.state import State, state_of


class Identity:
    """Stands for a function in one state, in the keys of caches."""

    __slots__ = ("__weakref__",)


# Recent states of functions, each with the generation of programs that it belongs to.
_identities: OrderedDict[tuple[int, State], Identity] = OrderedDict()
_MOST_IDENTITIES = 4_096
_generation = 0


def forget_programs() -> None:
    """Make every function new, so that no program made until now is used again."""
    global _generation
    _generation += 1
    _identities.clear()


class HashableCallable:
    """A function in its present state, as a static argument of `jax.jit`.

    Two are equal if they are of the same function in the same state: the values in its
    closure, its defaults and attributes, and the globals it names. So a program made of
    a function is not used again once the function has changed. What `fn` itself changes
    of these while it is traced, such as a count of its calls, does not matter.

    Attributes:
        identity: Object that equal ones share.
    """

    __name__: str  # where the function has one

    def __init__(self, fn: Callable[..., Any]):
        """Wrap `fn`, or another `HashableCallable`."""
        if isinstance(fn, HashableCallable):
            self.__dict__.update(fn.__dict__)
            return
        if isinstance(fn, types.FunctionType | types.MethodType):
            functools.update_wrapper(self, fn)
        self._fn = fn
        self._generation = _generation
        self.identity = self._known_as(Identity())

    def _known_as(self, identity: Identity) -> Identity:
        """The identity of the present state, which is `identity` if it has none yet."""
        key = self._generation, state_of(self._fn)
        identity = _identities.setdefault(key, identity)
        _identities.move_to_end(key)
        if len(_identities) > _MOST_IDENTITIES:
            _identities.popitem(last=False)
        return identity

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Result of the function."""
        result = self._fn(*args, **kwargs)
        self._known_as(self.identity)
        return result

    def __hash__(self) -> int:
        return hash(self.identity)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, HashableCallable):
            return NotImplemented
        return self.identity is other.identity
