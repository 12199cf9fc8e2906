"""How lazy training is: what moves, how much, and how that scales with width or alpha."""

from lazyjax._renamed import deprecated_names as _deprecated_names
from lazyjax.laziness.criterion import Kappa as Kappa, kappa as kappa
from lazyjax.laziness.distances import (
    linearization_gap as linearization_gap,
    relative_distance as relative_distance,
    relative_parameter_distance as relative_parameter_distance,
)
from lazyjax.laziness.exponents import (
    PREDICTIONS as PREDICTIONS,
    PredictedExponent as PredictedExponent,
    Scaling as Scaling,
    scaling as scaling,
)
from lazyjax.laziness.power_laws import (
    SlopeFit as SlopeFit,
    log_log_slope as log_log_slope,
    mean_and_sem as mean_and_sem,
)

__getattr__ = _deprecated_names(
    __name__, {"Prediction": "lazyjax.laziness.PredictedExponent"}
)
