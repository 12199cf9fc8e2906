"""What a kernel and targets say before anyone trains: errors, sizes, times.

Everything is computed on the host, in float64.
"""

from lazyjax.forecast.calibration import (
    Calibration as Calibration,
    calibration as calibration,
)
from lazyjax.forecast.curves import (
    LearningCurve as LearningCurve,
    learning_curve as learning_curve,
    optimal_ridge as optimal_ridge,
)
from lazyjax.forecast.eigenlearning import learnabilities as learnabilities
from lazyjax.forecast.scores import Score as Score, score as score
from lazyjax.forecast.times import (
    EarlyStopping as EarlyStopping,
    early_stopping as early_stopping,
    training_time as training_time,
)
