"""Published experiments, one file each, and what all of them share.

An `Experiment` says what a source claims and how it is measured. `run` measures it, and
judges by a rule that was fixed beforehand whether the claim is reproduced.
"""

from lazyjax.experiments.judgement import (
    INCONCLUSIVE as INCONCLUSIVE,
    NOT_REPRODUCED as NOT_REPRODUCED,
    REPRODUCED as REPRODUCED,
    Check as Check,
    Judgement as Judgement,
)
from lazyjax.experiments.record import (
    Conditions as Conditions,
    Control as Control,
    Experiment as Experiment,
    Size as Size,
)
from lazyjax.experiments.registry import (
    EXPERIMENTS as EXPERIMENTS,
    register as register,
)
from lazyjax.experiments.running import (
    PlannedRun as PlannedRun,
    Result as Result,
    plan as plan,
    run as run,
)
