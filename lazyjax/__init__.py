"""Lazy training and neural tangent kernels in JAX."""

import importlib as _importlib
import importlib.metadata as _metadata
import importlib.util as _util
import typing as _typing

if _typing.TYPE_CHECKING:
    from lazyjax._api import *  # noqa: F403

__version__: str


def __getattr__(name: str) -> _typing.Any:
    # Everything is imported when it is first asked for: the command line is to answer
    # an interrupt, or a question about its options, before JAX is there.
    if name == "__version__":
        value = _metadata.version(__name__)
    elif name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    elif _util.find_spec(f"{__name__}.{name}") is not None:
        return _importlib.import_module(f"{__name__}.{name}")
    else:
        api = _importlib.import_module(f"{__name__}._api")
        if not hasattr(api, name):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(api, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    api = _importlib.import_module(f"{__name__}._api")
    return sorted({*globals(), *vars(api)})
