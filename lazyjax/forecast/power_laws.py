"""Quantities that go on as power laws of the size of the training set."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

# By how much the natural logarithm of an error may be off the power law it goes on with.
STRAIGHT = 0.1


class PowerLaws(NamedTuple):
    r"""Fits $e^{a + b \log n}$ of several quantities, by name.

    Attributes:
        slopes: Exponents $b$.
        levels: Logarithms $a$.
        is_zero: Which quantities are zero throughout.
    """

    slopes: Mapping[str, np.ndarray]
    levels: Mapping[str, np.ndarray]
    is_zero: Mapping[str, np.ndarray]

    @classmethod
    def through(
        cls, sizes: np.ndarray, series: Mapping[str, np.ndarray], *, falling: str
    ) -> "PowerLaws":
        """Fits by least squares of logarithms.

        Args:
            sizes: Sizes.
            series: Quantities `(sizes, _)` at each, by name.
            falling: Name of the quantities that must fall, in a straight line.

        Returns:
            The fits.

        Raises:
            ValueError: If there are fewer than 3 sizes, or quantities follow no such law.
        """
        slopes, levels, is_zero = {}, {}, {}
        if len(sizes) < 3:
            raise ValueError(
                "`extrapolate` needs a kernel of at least 6 examples, of whose errors a "
                f"power law can be seen; got sizes {sizes.tolist()} inside of it."
            )
        logs = np.log(sizes)
        for name, values in series.items():
            is_zero[name] = np.all(values == 0, axis=0)
            values = np.where(is_zero[name], 1.0, values)
            if not (np.all(values > 0) and np.all(np.isfinite(values))):
                raise ValueError(
                    f"`extrapolate` needs errors that follow a power law; the {name} is "
                    "zero or infinite at some of the sizes that the sample shows. Pass a "
                    "`ridge`, or a larger sample."
                )
            slopes[name], levels[name] = np.polyfit(logs, np.log(values), 1)
            if name == falling:
                fitted = levels[name] + slopes[name] * logs[:, None]
                off = float(np.max(np.abs(np.log(values) - fitted)))
                if off > STRAIGHT or np.max(slopes[name]) > 1e-3:
                    raise ValueError(
                        "`extrapolate` needs errors that fall as a power law from half "
                        f"the sample on; theirs is {np.max(slopes[name]):.2g}, and they "
                        f"are off it by {off:.0%}. Pass a `ridge`, or a larger sample."
                    )
        return cls(slopes, levels, is_zero)

    def at(self, size: int, name: str) -> np.ndarray:
        """The quantities of one name at another size."""
        found = np.exp(self.levels[name] + self.slopes[name] * np.log(size))
        return np.where(self.is_zero[name], 0.0, found)
