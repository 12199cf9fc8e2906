r"""Widths that Du et al. (2019) ask for, of two-layer ReLU networks at a random start.

Their argument, step by step from (A) to (D'), is in `lazyjax.certify.measured.du2019`.
With failure probability $\delta$, $H^\infty$ the kernel of infinite width and $\lambda_0 =
\lambda_{\min}(H^\infty)$, each step holds at widths that are derived here.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lazyjax._checks import check_batch, check_floating, check_targets
from lazyjax._renamed import deprecated_names
from lazyjax.architecture import Architecture
from lazyjax.certify.widths.requirement import (
    RequiredWidth,
    Requirement,
    check_probability,
)
from lazyjax.certify.widths.separation import separation
from lazyjax.files.results import Storable
from lazyjax.infinite import infinite_ntk
from lazyjax.typing import AnyArray

ARCHITECTURE = Architecture(
    kind="mlp",
    depth=1,
    activation="relu",
    parameterization="ntk",
    trained="first",
    input_scaling="none",
    readout="sign",
)
"""The network of Du et al. (2019); `lazyjax.infinite_ntk` of it is their H^∞."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class RequiredWidths(Storable):
    r"""Widths that the theory asks for, with failure probability `failure`.

    None certifies anything about one network. All but `literal` are derived in
    `required_widths`, with their constants.

    Attributes:
        literal: $n^6 / (\lambda_0^4 \delta^3)$, the order of magnitude in the theorem,
            whose constant is not stated.
        start: $8 n^2 \log(2n^2/\delta) / \lambda_0^2$, which is enough for (B), by
            Hoeffding's inequality.
        start_eig_min: $32 \lVert X\rVert_2^2 \log(n/\delta) / \lambda_0$, which is
            enough for (B') alone by a matrix Chernoff bound.
        flow: Enough for (D), on gradient flow.
        descent: Enough for (D'), with learning rates up to `learning_rate`.
        learning_rate: $\lambda_0 / (2 n^2)$.
        failure: The probability $\delta$.
    """

    literal: Float[Array, "*batch"]
    start: Float[Array, "*batch"]
    start_eig_min: Float[Array, "*batch"]
    flow: Float[Array, "*batch"]
    descent: Float[Array, "*batch"]
    learning_rate: Float[Array, "*batch"]
    failure: float = dataclasses.field(metadata={"static": True})


def required_widths(
    x: Float[AnyArray, "n d"],
    y: Float[AnyArray, "n 1"] | None = None,
    *,
    failure: float = 0.1,
) -> RequiredWidths:
    r"""Widths that the theory asks for on the inputs `x`.

    *(B)*: entries of $H(0)$ are means over neurons of numbers in an interval of length
    $\lvert x_i \cdot x_j\rvert \le 1$. Hoeffding's inequality with a union bound keeps
    all of them within $\lambda_0/(4n)$ of their expectations.

    *(B')*: the kernel at the start is a mean over neurons of independent matrices
    between 0 and $\lVert X\rVert_2^2$ with expectation $H^\infty$, so its smallest
    eigenvalue is below $\tfrac34\lambda_0$ with probability at most
    $n \exp(-m \lambda_0 / (32 \lVert X\rVert_2^2))$.

    *(C)*: let $S_i$ be the neurons with $\lvert w_r(0)\cdot x_i\rvert \le R$, whose
    sign at $x_i$ may change while all neurons stay within $R$ of their start. As
    $E \lvert S_i\rvert \le 2Rm/\sqrt{2\pi}$, Markov's inequality gives
    $\sum_i \lvert S_i\rvert \le 2nRm/(\sqrt{2\pi}\,\delta)$, and the kernel moves by at
    most $2n \sum_i \lvert S_i\rvert / m \le \lambda_0/4$ if
    $R \le \sqrt{2\pi}\,\delta\lambda_0/(16n^2)$.

    *(D)*: while that holds, neurons move by at most
    $2\sqrt n \lVert r_0\rVert/(\sqrt m \lambda_0)$, where
    $E\lVert r_0\rVert^2 = n/2 + \lVert y\rVert^2$, with Markov's inequality once more.
    This is below $R$ if $m > 1024\, n^5 (n/2 + \lVert y\rVert^2) / (2\pi \delta^3
    \lambda_0^4)$. The three events of (B'), (C) and $r_0$ get a third of `failure` each.

    *(D')*: steps move neurons by at most $4\sqrt n \lVert r_0\rVert/(\sqrt m \lambda_0)$
    in sum. Half of the above $R$ leaves $\lambda_{\min}(H(k)) \ge \tfrac58\lambda_0$; as
    signs flip in $S_i$ only, $\lVert r_{k+1}\rVert^2 \le \lVert r_k\rVert^2 (1 -
    2\eta(\tfrac58\lambda_0 - (n + \sqrt n)\sum_i\lvert S_i\rvert/m) + \eta^2n^2)$,
    which is below $1 - \eta\lambda_0/2$ times $\lVert r_k\rVert^2$ for
    $\eta \le \lambda_0/(2n^2)$. So $m$ must be 16 times as large.

    Args:
        x: Training inputs of unit norm.
        y: Targets; `None` means that they are $\pm 1$.
        failure: Accepted probability $\delta$ of failure, between 0 and 1.

    Returns:
        The widths, as real numbers.

    Raises:
        TypeError: If `x` or `y` is not floating point.
        ValueError: If `x` is empty or not finite, `y` is not one column of as many
            numbers, or `failure` is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> float(required_widths(jnp.eye(2)).start_eig_min)  # 64 log 20
        191.727

    References:
        Du, Zhai, Poczos and Singh (2019), arXiv:1810.02054, Theorems 3.1 and 4.1; Tropp
        (2012), arXiv:1004.4389, Theorem 1.1 (numbers not checked). The constants are
        ours: the paper states none.
    """
    check_floating("x", x)
    check_batch("x", x)
    check_probability("failure", failure)
    x = jnp.asarray(x)
    n = x.shape[0]
    target_sq: float | Array = float(n)
    if y is not None:
        check_targets("y", y, n, 1)
        target_sq = jnp.sum(jnp.asarray(y, x.dtype) ** 2)
    # Zero up to rounding asks for an infinite width, not for a negative one.
    eig_min = jnp.maximum(jnp.linalg.eigvalsh(infinite_ntk(ARCHITECTURE, x))[0], 0)
    x_norm_sq = jnp.linalg.norm(x, ord=2) ** 2
    # Fourth powers are taken last: n^5 or the power of lambda_0 alone may overflow.
    third = failure / 3
    residual_sq = n / 2 + target_sq
    movement = (n**1.25 / eig_min) ** 4 * (1024 / (2 * math.pi)) * residual_sq
    movement = movement / third**3
    start_eig_min = 32 * x_norm_sq / eig_min
    start_of_third = start_eig_min * math.log(n / third)
    return RequiredWidths(
        literal=(n**1.5 / eig_min) ** 4 / failure**3,
        start=8 * (n / eig_min) ** 2 * math.log(2 * n**2 / failure),
        start_eig_min=start_eig_min * math.log(n / failure),
        flow=jnp.maximum(start_of_third, movement),
        descent=jnp.maximum(start_of_third, 16 * movement),
        learning_rate=eig_min / (2 * n**2),
        failure=failure,
    )


def requirements(
    x: Float[AnyArray, "n d"],
    y: Float[AnyArray, "n 1"] | None = None,
    *,
    failure: float = 0.1,
) -> tuple[RequiredWidth, ...]:
    r"""What the theorems ask for on the inputs `x`, in double precision.

    Args:
        x: Training inputs.
        y: Targets; `None` means that they are $\pm 1$.
        failure: Accepted probability of failure, between 0 and 1.

    Returns:
        The theorem as stated, the widths of `required_widths`, and the assumptions that
        inputs have unit norm and no two are parallel.

    Raises:
        TypeError: As `required_widths` does.
        ValueError: As `required_widths` does.

    Example:
        >>> import numpy as np
        >>> literal = requirements(np.eye(2))[0]
        >>> literal.applies, literal.is_explicit, round(literal.width)  # 2^6 2^4 10^3
        (True, False, 1024000)
    """
    found = separation(x, y)
    with jax.enable_x64(True):
        rows = np.asarray(x, np.float64)
        targets = None if y is None else np.asarray(y, np.float64)
        widths = required_widths(rows, targets, failure=failure)
    return tuple(
        RequiredWidth(
            theorem=f"Du et al. (2019){theorem}",
            formula=formula,
            width=float(getattr(widths, name)),
            depth=1,
            is_explicit=name != "literal",
            assumptions=(found.unit_norm, found.not_parallel),
            source=_QUOTED if name == "literal" else "derived here",
            max_learning_rate=float(widths.learning_rate)
            if name == "descent"
            else None,
        )
        for name, theorem, formula in _STATEMENTS
    )


_QUOTED = "order as stated by others; not checked against the paper"
# Fields of `RequiredWidths`, what they are enough for, and their formulas.
_STATEMENTS = (
    ("literal", ", two-layer ReLU", "C n^6 / (lambda_0^4 delta^3)"),
    (
        "start",
        ", step (B), |H(0) - H^inf| <= lambda_0/4",
        "8 n^2 log(2 n^2/delta) / lambda_0^2",
    ),
    (
        "start_eig_min",
        ", step (B'), lambda_min(H(0)) >= 3/4 lambda_0",
        "32 |X|^2 log(n/delta) / lambda_0",
    ),
    (
        "flow",
        " for gradient flow, with constants",
        "1024 n^5 (n/2 + |y|^2) / (2 pi (delta/3)^3 lambda_0^4)",
    ),
    (
        "descent",
        " for gradient descent, with constants",
        "16 * 1024 n^5 (n/2 + |y|^2) / (2 pi (delta/3)^3 lambda_0^4)",
    ),
)

REQUIREMENT = Requirement(
    name="du2019",
    source="Du, Zhai, Poczos and Singh (2019), arXiv:1810.02054",
    widths=lambda x, y, *, depth, failure: requirements(x, y, failure=failure),
)

__getattr__ = deprecated_names(
    __name__,
    {
        "Measurement": "lazyjax.certify.measured.du2019.MeasuredArgument",
        "Step": "lazyjax.certify.measured.du2019.Step",
        "measure": "lazyjax.certify.measured.du2019.measure",
    },
)
