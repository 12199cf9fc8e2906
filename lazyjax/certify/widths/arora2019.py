r"""Complexity of targets at infinite width, after Arora et al. (2019).

A two-layer ReLU network that is wide enough, trained by gradient descent from a start
close to zero, has with high probability a population risk (of a loss bounded by 1 and
1-Lipschitz) of at most $\sqrt{2 y^\top (H^\infty)^{-1} y / n}$, plus a term of order
$\sqrt{\log(n / (\lambda_0 \delta)) / n}$ whose constant is not specified. The first term
is a measure of the targets that needs no training: small for those that the kernel
aligns with, and about $\sqrt{2 \operatorname{tr}((H^\infty)^{-1}) / n}$ for random signs.
Above 1 it bounds nothing, and is of use in comparisons only.
"""

import dataclasses
import math

import jax
import numpy as np
from jaxtyping import Float

from lazyjax._checks import check_targets
from lazyjax.architecture import Architecture
from lazyjax.certify.widths import du2019
from lazyjax.certify.widths.requirement import (
    RequiredWidth,
    Requirement,
    check_probability,
)
from lazyjax.certify.widths.separation import separation
from lazyjax.files.results import Storable
from lazyjax.infinite import infinite_ntk
from lazyjax.typing import AnyArray

MAX_CONDITION = 1e10
"""Condition number of the kernel above which no complexity is given."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Complexity(Storable):
    r"""The measure of Arora et al. (2019), and what it is to be compared with.

    Attributes:
        value: $\sqrt{2 y^\top H^{-1} y/n}$ of each output; NaN if $H$ is too badly
            conditioned for that to mean anything.
        random: $\sqrt{2 \operatorname{tr}(H^{-1})/n}$, the root mean square of `value`
            over random signs; NaN likewise.
        eig_min: $\lambda_{\min}(H)$.
        condition: Condition number of $H$; infinite if it is not positive definite.
        num_examples: The number $n$.
    """

    value: Float[np.ndarray, "k"]
    random: float
    eig_min: float
    condition: float
    num_examples: int

    @property
    def is_reliable(self) -> bool:
        """Whether the kernel is well enough conditioned."""
        return self.condition <= MAX_CONDITION

    @property
    def is_vacuous(self) -> bool:
        """Whether some output's value says nothing about the risk, being at least 1."""
        return not bool(np.all(self.value < 1))

    def explain(self) -> str:
        """The outcome in words."""
        if not self.is_reliable:
            return (
                f"The kernel has condition number {self.condition:.3g}, above "
                f"{MAX_CONDITION:g}: y^T H^-1 y would be rounding error. Inputs may be "
                "nearly parallel; remove duplicates."
            )
        values = ", ".join(f"{value:.4g}" for value in self.value)
        reading = (
            "at least 1, so no bound of the risk: compare it only"
            if self.is_vacuous
            else "below 1"
        )
        return (
            f"sqrt(2 y^T H^-1 y / n) = {values}, {reading}; random signs have "
            f"{self.random:.4g} (n = {self.num_examples})."
        )


def complexity(
    x: Float[AnyArray, "n *d"],
    y: Float[AnyArray, "n k"],
    *,
    architecture: Architecture = du2019.ARCHITECTURE,
) -> Complexity:
    r"""Complexity of targets under the kernel at infinite width.

    Args:
        x: Inputs; of unit norm in the theorem.
        y: Targets, of magnitude 1 at most in the theorem.
        architecture: Whose kernel; the theorem is about the default.

    Returns:
        The complexity of each output, in double precision.

    Raises:
        TypeError: If an array is not floating point.
        ValueError: If `x` is empty, or `y` does not have one finite row per input.

    Example:
        >>> import numpy as np
        >>> complexity(np.eye(2), np.array([[1.0], [-1.0]])).value  # sqrt(2 * 4 / 2)
        array([2.])

    References:
        Arora, Du, Hu, Li and Wang (2019), arXiv:1901.08584, Theorem 5.1 (constants and
        number not checked against the paper).
    """
    n = x.shape[0]
    check_targets("y", y, n, y.shape[1] if y.ndim == 2 else 1)
    with jax.enable_x64(True):
        gram = np.asarray(infinite_ntk(architecture, np.asarray(x, np.float64)))
    targets = np.asarray(y, np.float64)
    eigenvalues = np.linalg.eigvalsh(gram)
    eig_min, eig_max = float(eigenvalues[0]), float(eigenvalues[-1])
    condition = eig_max / eig_min if eig_min > 0 else math.inf
    value, random = np.full(targets.shape[1], np.nan), math.nan
    if condition <= MAX_CONDITION:
        # y^T H^-1 y is a sum of squares, and never negative by rounding.
        factor = np.linalg.cholesky(gram)
        whitened = np.linalg.solve(factor, np.hstack([targets, np.eye(n)]))
        squares = np.sum(whitened**2, axis=0)
        value = np.sqrt(2 * squares[: targets.shape[1]] / n)
        random = math.sqrt(2 * float(np.sum(squares[targets.shape[1] :])) / n)
    return Complexity(
        value=value, random=random, eig_min=eig_min, condition=condition, num_examples=n
    )


def requirements(
    x: Float[AnyArray, "n d"], *, failure: float = 0.1, accuracy: float = 0.1
) -> tuple[RequiredWidth, ...]:
    r"""What the theorem asks for on the inputs `x`.

    Args:
        x: Training inputs.
        failure: Accepted probability $\delta$ of failure, between 0 and 1.
        accuracy: Accuracy $\epsilon$ of outputs compared to the linear model's.

    Returns:
        One requirement, an order of magnitude.

    Raises:
        TypeError: If `x` is not floating point.
        ValueError: If `x` is empty or not finite, or a number is not between 0 and 1.

    Example:
        >>> import numpy as np
        >>> needed, = requirements(np.eye(2))
        >>> needed.applies, needed.is_explicit
        (True, False)

    References:
        Arora, Du, Hu, Li and Wang (2019), arXiv:1901.08584, Theorem 4.1 (not checked
        against the paper).
    """
    check_probability("failure", failure)
    check_probability("accuracy", accuracy)
    found = separation(x)
    n = x.shape[0]
    measured = complexity(x, np.zeros((n, 1)))
    eig_min = max(measured.eig_min, 0.0)
    with np.errstate(divide="ignore"):
        width = np.float64(n) ** 8 / (eig_min**4 * failure**6 * accuracy**4)
    return (
        RequiredWidth(
            theorem="Arora et al. (2019), two-layer ReLU, outputs to accuracy eps",
            formula="C n^7 / (lambda_0^4 kappa^2 delta^4 eps^2), kappa = eps delta/n^0.5",
            width=float(width),
            depth=1,
            is_explicit=False,
            assumptions=(found.unit_norm, found.not_parallel),
            source="not checked against the paper",
            max_learning_rate=eig_min / n**2,
        ),
    )


REQUIREMENT = Requirement(
    name="arora2019",
    source="Arora, Du, Hu, Li and Wang (2019), arXiv:1901.08584",
    widths=lambda x, y, *, depth, failure: requirements(x, failure=failure),
)
