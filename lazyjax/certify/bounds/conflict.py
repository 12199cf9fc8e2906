"""Data that no network fits."""

import numpy as np
from jaxtyping import Float, Shaped

from lazyjax.certify.statements import Assumption


def conflict_of(
    inputs: Shaped[np.ndarray, "n d"], targets: Float[np.ndarray, "n k"]
) -> Assumption | None:
    """The first two equal inputs with different targets, if there are any.

    Args:
        inputs: Inputs, a row for each.
        targets: Targets.

    Returns:
        The statement that there are, or `None`.
    """
    seen: dict[bytes, int] = {}
    for i, row in enumerate(inputs + 0):  # -0.0 equals 0.0
        j = seen.setdefault(row.tobytes(), i)
        if not np.array_equal(targets[i], targets[j]):
            return Assumption(
                name="conflict",
                statement="two equal inputs have different targets, which no "
                "parameters fit",
                holds=True,
                detail=f"examples {j} and {i}",
            )
    return None
