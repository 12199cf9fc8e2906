"""Widths that Zou et al. (2018) and Zou and Gu (2019) ask for, of deep ReLU networks.

Conditions on the loss, and how far training goes, are measured by
`lazyjax.certify.measured.zou2018`.
"""

import numpy as np
from jaxtyping import Float

from lazyjax._checks import check_at_least
from lazyjax._renamed import deprecated_names
from lazyjax.certify.statements import Assumption
from lazyjax.certify.widths.requirement import RequiredWidth, Requirement
from lazyjax.certify.widths.separation import separation
from lazyjax.typing import AnyArray


def requirements(
    x: Float[AnyArray, "n *d"], y: Float[AnyArray, "n k"], *, depth: int = 2
) -> tuple[RequiredWidth, ...]:
    r"""What the theorems of Zou et al. ask for on the data.

    Args:
        x: Training inputs.
        y: Labels.
        depth: The number $L$ of layers.

    Returns:
        The theorem of 2018, whose polynomial is not known here, and that of Zou and Gu
        (2019) for the square loss, an order of magnitude.

    Raises:
        TypeError: If an array is not floating point, or `depth` not an integer.
        ValueError: If `x` is empty, `y` does not fit it, or `depth` is too small.

    Example:
        >>> import numpy as np
        >>> first, second = requirements(np.eye(2), np.array([[1.0], [-1.0]]))
        >>> first.width is None, second.applies
        (True, True)

    References:
        Zou, Cao, Zhou and Gu (2018), arXiv:1811.08888; Zou and Gu (2019),
        arXiv:1906.04688. The degrees in n and L of the latter are as quoted by later
        papers; that of phi is not checked.
    """
    check_at_least("depth", depth, 1)
    found = separation(x, y)
    n, k = x.shape[0], y.shape[1]
    with np.errstate(divide="ignore"):
        width = (
            k * np.float64(n) ** 8 * depth**12 / np.float64(found.class_distance) ** 4
        )
    is_binary = bool(k == 1 and np.all(np.abs(np.asarray(y)) == 1))
    signs = Assumption(
        name="binary labels", statement="labels are -1 and +1", holds=is_binary
    )
    common = {
        "depth": depth,
        "is_explicit": False,
        "source": "not checked against the paper",
    }
    return (
        RequiredWidth(
            theorem=f"Zou et al. (2018), deep ReLU classifier, L = {depth}",
            formula="poly(n, 1/phi, L, 1/eps)",
            width=None,
            assumptions=(found.unit_norm, found.classes_separated, signs),
            **common,
        ),
        RequiredWidth(
            theorem=f"Zou and Gu (2019), deep ReLU, square loss, L = {depth}",
            formula="C k n^8 L^12 / phi^4, without logarithms",
            width=float(width),
            assumptions=(found.unit_norm, found.classes_separated),
            **common,
        ),
    )


REQUIREMENT = Requirement(
    name="zou2018",
    source="Zou, Cao, Zhou and Gu (2018), arXiv:1811.08888; Zou and Gu (2019), "
    "arXiv:1906.04688",
    widths=lambda x, y, *, depth, failure: requirements(x, y, depth=depth),
)

_MEASURED = "lazyjax.certify.measured.zou2018"
__getattr__ = deprecated_names(
    __name__,
    {
        name: f"{_MEASURED}.{name}"
        for name in (
            "LOGISTIC",
            "LossCheck",
            "MarginLoss",
            "Radius",
            "check_loss",
            "logistic_loss",
            "measure_radius",
        )
    }
    | {"LossFamily": "lazyjax.dynamics.losses.LossFamily"},
)
