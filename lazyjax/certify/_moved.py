"""Names that have moved: they are found under the old name too, with a warning."""

import importlib
import warnings
from collections.abc import Callable, Mapping


def moved(module: str, names: Mapping[str, str]) -> Callable[[str], object]:
    """A `__getattr__` for a module that had other names before.

    Args:
        module: Name of the module.
        names: For each old name the module and name that it has now, with a colon
            between the two.

    Returns:
        The function. It warns of a name that has moved, and raises an AttributeError for
        one that was never there.
    """

    def find(name: str) -> object:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        owner, new = names[name].split(":")
        message = f"`{module}.{name}` is now `{owner}.{new}`"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return getattr(importlib.import_module(owner), new)

    return find
