"""Power laws fitted to the tail of a sample."""

import dataclasses

import numpy as np
from jaxtyping import Float

from lazyjax._checks import check_at_least
from lazyjax.files.results import Storable
from lazyjax.typing import AnyArray


@dataclasses.dataclass(frozen=True, kw_only=True)
class PowerLaw(Storable):
    r"""Density $\propto x^{-\alpha}$ from `start` on.

    Attributes:
        exponent: $\alpha$; NaN if there are fewer than two different values.
        standard_error: $(\alpha - 1) / \sqrt n$ of `num_tail` values, `start` taken as
            known.
        bootstrap_error: Scatter of the exponent over samples drawn with replacement,
            `start` chosen anew for each; NaN if none were drawn.
        start: Smallest value of the tail.
        num_tail: Number of values in the tail.
        distance: Largest distance between the tail's distribution and that of the power
            law (Kolmogorov and Smirnov's): how good the fit is.
    """

    exponent: float
    standard_error: float
    bootstrap_error: float
    start: float
    num_tail: int
    distance: float


def power_law(
    values: Float[AnyArray, " values"],
    *,
    min_tail: int = 10,
    num_bootstrap: int = 0,
    seed: int = 0,
) -> PowerLaw:
    r"""Exponent of the tail of a sample, by maximum likelihood.

    The tail starts where the distance between the two distributions is least, among all
    starts that leave at least `min_tail` values.

    Args:
        values: The sample; what is not positive is left out.
        min_tail: Least number of values in the tail; all of them, if there are fewer.
        num_bootstrap: Samples drawn for `bootstrap_error`.
        seed: Of those draws.

    Returns:
        The fit.

    Raises:
        ValueError: If `min_tail` is below 2, `num_bootstrap` is negative, or a value is
            not finite.
        TypeError: If they are not integers.

    Example:
        >>> import numpy as np
        >>> from lazyjax import spectrum
        >>> u = (np.arange(1000) + 0.5) / 1000
        >>> round(spectrum.power_law(u ** (-1 / 2)).exponent, 1)  # alpha - 1 = 2
        3.0

    References:
        Clauset, Shalizi and Newman (2009), SIAM Review 51, 661-703, Sections 3.1 and 3.3
        (numbers not checked).
    """
    check_at_least("min_tail", min_tail, 2)
    check_at_least("num_bootstrap", num_bootstrap, 0)
    sample = np.asarray(values, np.float64).ravel()
    if not np.all(np.isfinite(sample)):
        raise ValueError("`values` must be finite; some are not.")
    sample = np.sort(sample[sample > 0])
    exponent, start, num_tail, distance = _fitted(sample, min_tail)
    generator = np.random.default_rng(seed)
    drawn = [
        _fitted(np.sort(generator.choice(sample, sample.size)), min_tail)[0]
        for _ in range(num_bootstrap if np.isfinite(exponent) else 0)
    ]
    drawn = [value for value in drawn if np.isfinite(value)]
    return PowerLaw(
        exponent=exponent,
        standard_error=(exponent - 1) / np.sqrt(max(num_tail, 1)),
        bootstrap_error=float(np.std(drawn, ddof=1)) if len(drawn) > 1 else np.nan,
        start=start,
        num_tail=num_tail,
        distance=distance,
    )


def _fitted(sample: np.ndarray, min_tail: int) -> tuple[float, float, int, float]:
    """Exponent, start, size and distance of the best tail of a sorted sample."""
    best = np.nan, np.nan, 0, np.inf
    starts = np.flatnonzero(np.diff(sample, prepend=0) > 0)
    for first in starts[: max(1, np.sum(starts <= sample.size - min_tail))]:
        tail = sample[first:]
        logs = np.log(tail / tail[0])
        if logs[-1] == 0:
            continue
        exponent = 1 + tail.size / np.sum(logs)
        fitted = -np.expm1((1 - exponent) * logs)
        steps = np.arange(tail.size + 1) / tail.size
        distance = max(np.max(steps[1:] - fitted), np.max(fitted - steps[:-1]))
        if distance < best[3]:
            best = float(exponent), float(tail[0]), int(tail.size), float(distance)
    return best if best[2] else (np.nan, np.nan, 0, np.nan)
