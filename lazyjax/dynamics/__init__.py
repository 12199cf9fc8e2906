"""Training of networks, what is observed on the way, and the linear model beside it."""

import importlib as _importlib
import warnings as _warnings

from lazyjax.dynamics import losses as losses, observers as observers
from lazyjax.dynamics.flow.exact import Flow as Flow, gradient_flow as gradient_flow
from lazyjax.dynamics.linear.closed_form import (
    Linearized as Linearized,
    linearized as linearized,
)
from lazyjax.dynamics.linear.flow import (
    LinearizedFlow as LinearizedFlow,
    dual_params as dual_params,
    linearized_flow as linearized_flow,
)
from lazyjax.dynamics.losses import scaled as scaled, square_loss as square_loss
from lazyjax.dynamics.observers import Observer as Observer, Snapshot as Snapshot
from lazyjax.dynamics.training.train import Run as Run, train as train

_MOVED = ("OverSeeds", "Sweep", "sweep")


def __getattr__(name: str) -> object:
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    message = f"`lazyjax.dynamics.{name}` is now `lazyjax.sweeps.{name}`"
    _warnings.warn(message, DeprecationWarning, stacklevel=2)
    return getattr(_importlib.import_module("lazyjax.sweeps"), name)
