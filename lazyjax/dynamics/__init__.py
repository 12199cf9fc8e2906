"""Training of networks, what is observed on the way, and the linear model beside it."""

from lazyjax.dynamics import losses as losses, observers as observers
from lazyjax.dynamics.flow import Flow as Flow, gradient_flow as gradient_flow
from lazyjax.dynamics.linearized import (
    Linearized as Linearized,
    linearized as linearized,
)
from lazyjax.dynamics.linearized_flow import (
    LinearizedFlow as LinearizedFlow,
    dual_params as dual_params,
    linearized_flow as linearized_flow,
)
from lazyjax.dynamics.losses import scaled as scaled, square_loss as square_loss
from lazyjax.dynamics.observers import Observer as Observer, Snapshot as Snapshot
from lazyjax.dynamics.sweep import sweep as sweep
from lazyjax.dynamics.sweep_plan import CostModel as CostModel
from lazyjax.dynamics.sweep_result import OverSeeds as OverSeeds, Sweep as Sweep
from lazyjax.dynamics.train import Run as Run, train as train
