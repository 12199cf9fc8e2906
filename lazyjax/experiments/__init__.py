"""Published experiments, one file each, and the registry that names them."""

from lazyjax.experiments import du2019, simon2023
from lazyjax.experiments.registry import (
    EXPERIMENTS as EXPERIMENTS,
    Experiment as Experiment,
    Result as Result,
    register as register,
)

register(du2019.EXPERIMENT)
register(simon2023.EXPERIMENT)
