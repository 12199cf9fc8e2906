"""Names that moved: they still work for one version, and warn."""

import importlib
import warnings
from collections.abc import Callable, Mapping


def deprecated_names(
    module: str, targets: Mapping[str, str], *, stacklevel: int = 2
) -> Callable[[str], object]:
    """Function for a module's `__getattr__` that serves its former names, and warns."""
    # Targets are full paths, by former name. The level is 3 if `__getattr__` is not the
    # function itself but calls it.

    def getattr_of_module(name: str) -> object:
        target = targets.get(name)
        if target is None:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(
            f"`{module}.{name}` is now `{target}`",
            DeprecationWarning,
            stacklevel=stacklevel,
        )
        package, _, attribute = target.rpartition(".")
        return getattr(importlib.import_module(package), attribute)

    return getattr_of_module
