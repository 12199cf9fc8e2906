"""Packages that only some commands need, and how to install them."""

import importlib.util
from collections.abc import Mapping

EXTRAS: Mapping[str, tuple[str, str]] = {
    "data": ("sklearn", "scikit-learn"),
    "ode": ("diffrax", "diffrax"),
    "plot": ("matplotlib", "matplotlib"),
    "store": ("tensorstore", "tensorstore"),
    "cluster": ("distributed", "dask.distributed"),
    "tables": ("xarray", "xarray"),
    "compare": ("neural_tangents", "neural-tangents"),
}
"""By extra: the module that it brings, and its name."""


def require(command: str, *extras: str) -> None:
    """Refuse to go on without packages, naming all that lack."""
    missing = [e for e in extras if importlib.util.find_spec(EXTRAS[e][0]) is None]
    if missing:
        names = " and ".join(EXTRAS[extra][1] for extra in missing)
        raise ImportError(
            f'`lazyjax {command}` needs {names}: pip install "lazyjax[{",".join(missing)}]".'
        )
