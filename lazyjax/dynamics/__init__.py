"""Training of networks, what is observed on the way, and the linear model's closed form."""

from lazyjax.dynamics.linearized import (
    Linearized as Linearized,
    linearized as linearized,
)
from lazyjax.dynamics.losses import square_loss as square_loss
from lazyjax.dynamics.observers import (
    Observer as Observer,
    Snapshot as Snapshot,
)
from lazyjax.dynamics.sweep import sweep as sweep
from lazyjax.dynamics.sweep_plan import CostModel as CostModel
from lazyjax.dynamics.sweep_result import OverSeeds as OverSeeds, Sweep as Sweep
from lazyjax.dynamics.train import Run as Run, train as train
