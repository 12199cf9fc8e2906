"""Lazy training and neural tangent kernels in JAX."""

import importlib as _importlib
import importlib.metadata as _metadata
import importlib.util as _util
import typing as _typing

__version__: str

if _typing.TYPE_CHECKING:
    from lazyjax import (
        experiments as experiments,
        interop as interop,
        plot as plot,
        report as report,
    )
    from lazyjax._api import *  # noqa: F403
else:
    from lazyjax._renamed import deprecated_names as _deprecated_names

    _deprecated = _deprecated_names(
        __name__, {"linearized": "lazyjax.linear_dynamics"}, stacklevel=3
    )

    # Not for type checkers, which would take any name to be there.
    def __getattr__(name):
        # Everything is imported when it is first asked for: the command line is to
        # answer an interrupt, or a question about its options, before JAX is there.
        if name == "__version__":
            value = _metadata.version(__name__)
        elif name == "__all__":
            value = _public_names()
        elif name.startswith("_"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        elif name.isidentifier() and _util.find_spec(f"{__name__}.{name}"):
            return _importlib.import_module(f"{__name__}.{name}")
        else:
            if name not in _public_names():
                return _deprecated(name)
            value = getattr(_importlib.import_module(f"{__name__}._api"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    with_extras = {"experiments", "interop", "plot", "report"}
    return sorted({*globals(), *_public_names(), *with_extras})


def _public_names() -> list[str]:
    api = _importlib.import_module(f"{__name__}._api")
    return sorted(name for name in vars(api) if not name.startswith("_"))
