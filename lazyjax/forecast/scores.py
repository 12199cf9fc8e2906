"""How well a forecast did."""

import dataclasses

import numpy as np
from jaxtyping import Float

from lazyjax._checks import check_instance, known_numbers
from lazyjax.files.results import Storable
from lazyjax.forecast.curves import LearningCurve
from lazyjax.typing import AnyArray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score(Storable):
    """A forecast beside what was measured.

    Attributes:
        sizes: Numbers of training examples.
        forecast: Test errors, summed over outputs, as they were forecast.
        measured: As they were measured.
        ratio: Forecast over measured; 1 is right.
        worst: Largest of `ratio` and its inverse, less 1.
    """

    sizes: tuple[int, ...]
    forecast: Float[np.ndarray, " sizes"]
    measured: Float[np.ndarray, " sizes"]
    ratio: Float[np.ndarray, " sizes"]
    worst: float


def score(curve: LearningCurve, measured: Float[AnyArray, " sizes"]) -> Score:
    """Compare a learning curve with test errors that were measured.

    Args:
        curve: The forecast.
        measured: Mean squared error on test examples, summed over outputs, for each of
            `curve.sizes`; means over several training sets are steadier.

    Returns:
        Both, and how far they are apart.

    Raises:
        ValueError: If there is not one positive number for each size.
        TypeError: If `curve` is no learning curve, or `measured` no numbers.

    Example:
        >>> import numpy as np
        >>> from lazyjax import forecast
        >>> kernel, y = np.eye(100), np.ones((100, 1))
        >>> curve = forecast.learning_curve(kernel, y, sizes=[10, 50])
        >>> round(forecast.score(curve, np.array([1.0, 1.25])).worst, 6)
        0.25
    """
    check_instance("curve", curve, LearningCurve, "lazyjax.forecast.learning_curve")
    errors = known_numbers("measured", measured)
    if errors.shape != (len(curve.sizes),) or not np.all(errors > 0):
        raise ValueError(
            f"`measured` must be {len(curve.sizes)} positive numbers, one for each of "
            f"`curve.sizes`; got shape {errors.shape}."
        )
    expected = np.sum(curve.test_error, axis=1)
    ratio = expected / errors
    return Score(
        sizes=curve.sizes,
        forecast=expected,
        measured=errors,
        ratio=ratio,
        worst=float(np.max(np.maximum(ratio, 1 / ratio)) - 1),
    )
