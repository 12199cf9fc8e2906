"""Width that Chatterjee (2022) asks for, from a positive start: any."""

import numpy as np
from jaxtyping import Float

from lazyjax._checks import check_at_least, check_batch, check_floating
from lazyjax.certify.theorems.positive_start import augmented_eig_min, independent
from lazyjax.certify.widths.requirement import RequiredWidth, Requirement
from lazyjax.typing import AnyArray


def requirements(
    x: Float[AnyArray, "n d"], *, depth: int = 1
) -> tuple[RequiredWidth, ...]:
    r"""What `positive_start.positive_init` asks for on the inputs `x`: nothing of width.

    Args:
        x: Training inputs.
        depth: Number of hidden layers.

    Returns:
        One requirement.

    Raises:
        TypeError: If `x` is not floating point, or `depth` not an integer.
        ValueError: If `x` is empty or not finite, or `depth` too small.

    Example:
        >>> import numpy as np
        >>> needed, = requirements(np.eye(2))
        >>> needed.applies, needed.width
        (True, 1.0)
    """
    check_floating("x", x)
    check_batch("x", x)
    check_at_least("depth", depth, 1)
    inputs = np.asarray(x, np.float64).reshape(x.shape[0], -1)
    return (
        RequiredWidth(
            theorem=f"Chatterjee (2022), smooth, from a positive start, depth {depth}",
            formula="any, with output weights that are large enough",
            width=1.0,
            depth=depth,
            is_explicit=True,
            assumptions=(independent(inputs, augmented_eig_min(inputs)),),
            source="our constants; not checked against the paper",
        ),
    )


REQUIREMENT = Requirement(
    name="chatterjee2022",
    source="Chatterjee (2022), arXiv:2203.16462",
    widths=lambda x, y, *, depth, failure: requirements(x, depth=depth),
)
