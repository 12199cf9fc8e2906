"""Training of networks, what is observed on the way, and the linear model beside it."""

from lazyjax._renamed import deprecated_names as _deprecated_names
from lazyjax.dynamics import losses as losses, observers as observers
from lazyjax.dynamics.flow.exact import Flow as Flow, gradient_flow as gradient_flow
from lazyjax.dynamics.linear.closed_form import Linearized as Linearized
from lazyjax.dynamics.linear.decomposition import linear_dynamics as linear_dynamics
from lazyjax.dynamics.linear.flow import (
    LinearizedFlow as LinearizedFlow,
    dual_params as dual_params,
    linearized_flow as linearized_flow,
)
from lazyjax.dynamics.linear.sgd import (
    LinearizedSGD as LinearizedSGD,
    linearized_sgd as linearized_sgd,
)
from lazyjax.dynamics.losses import scaled as scaled, square_loss as square_loss
from lazyjax.dynamics.schedules import flow_times as flow_times
from lazyjax.dynamics.snapshot import Observer as Observer, Snapshot as Snapshot
from lazyjax.dynamics.stability import largest_stable_rate as largest_stable_rate
from lazyjax.dynamics.training.stream import train_on_batches as train_on_batches
from lazyjax.dynamics.training.train import Run as Run, train as train

__getattr__ = _deprecated_names(
    __name__,
    {
        "OverSeeds": "lazyjax.sweeps.OverSeeds",
        "Sweep": "lazyjax.sweeps.Sweep",
        "linearized": "lazyjax.dynamics.linear_dynamics",
        "sweep": "lazyjax.sweeps.sweep",
    },
)
