r"""The kernel $K^{(H)}$ of Du et al. (2019b), on which their deep theorems rest.

All layers are trained, but only the last hidden layer's share of the kernel is used: it
is $K^{(H)}$ at infinite width, and its smallest eigenvalue $\lambda$ gives the rate
$L_k \le (1 - \eta\lambda/2)^k L_0$ of gradient descent on $L = \tfrac12\lVert f-y\rVert^2$
with high probability, at a width that grows with $1/\lambda$. They have three networks,
for smooth activations that are no polynomials and inputs of unit norm, no two parallel:
fully connected, residual, and convolutional residual.
"""

import math
from typing import Literal, get_args

import jax
import numpy as np
from jaxtyping import Float

from lazyjax._checks import check_at_least, check_choice
from lazyjax._renamed import deprecated_names
from lazyjax.activations import find
from lazyjax.architecture import Architecture
from lazyjax.certify.statements import Assumption
from lazyjax.certify.widths.requirement import (
    RequiredWidth,
    Requirement,
    check_probability,
)
from lazyjax.certify.widths.separation import separation
from lazyjax.infinite import infinite_ntk
from lazyjax.typing import Activation, AnyArray

NetworkKind = Literal["mlp", "resnet", "conv_resnet"]


def architecture(
    network: NetworkKind = "mlp",
    *,
    depth: int = 2,
    activation: Activation = "softplus",
    residual_scale: float = 0.5,
) -> Architecture:
    r"""Network of Du et al. (2019b), whose `infinite_ntk` is $K^{(H)}$.

    Args:
        network: Fully connected ("mlp"), residual ("resnet"), or convolutional and
            residual ("conv_resnet": filters of 3 pixels along one axis, stride 1).
        depth: Number $H$ of hidden layers.
        activation: Activation.
        residual_scale: Their $c_{res}$, between 0 and 1; for residual networks.

    Returns:
        The description, with only the last hidden layer trained.

    Raises:
        ValueError: If a choice is not valid, or `residual_scale` out of range.
        TypeError: If `depth` is not an integer.

    Example:
        >>> architecture("resnet", depth=3).trained
        'last_hidden'

    References:
        Du, Lee, Li, Wang and Zhai (2019), arXiv:1811.03804, sections 5 to 7 (formulas
        not checked against the paper: the last layer's is derived anew, so that one
        hidden layer gives the two-layer kernel).
    """
    check_choice("network", network, get_args(NetworkKind))
    check_at_least("depth", depth, 1)
    options = {}
    if network != "mlp":
        check_probability("residual_scale", residual_scale)
        options["residual_scale"] = residual_scale
    if network == "conv_resnet":
        options |= {"filter_shape": (3,), "pixel_scaling": "none"}
    return Architecture(
        kind=network,
        depth=depth,
        activation=activation,
        activation_scale="unit",
        input_scaling="none",
        trained="last_hidden",
        **options,
    )


def last_hidden_kernel(
    x: Float[AnyArray, "n *d"], described: Architecture
) -> Float[np.ndarray, "n n"]:
    r"""$K^{(H)}$ on the inputs, in double precision.

    Args:
        x: Inputs; for a convolutional network (n, pixels, channels).
        described: From `architecture`.

    Returns:
        The kernel.

    Raises:
        TypeError: If `x` is not floating point.
        ValueError: If `x` is empty, not finite, or of the wrong shape.

    Example:
        >>> import numpy as np
        >>> last_hidden_kernel(np.eye(2), architecture(depth=3)).round(6)
        array([[0.318459, 0.285199],
               [0.285199, 0.318459]])
    """
    with jax.enable_x64(True):
        return np.asarray(infinite_ntk(described, np.asarray(x, np.float64)))


def requirements(
    x: Float[AnyArray, "n *d"],
    described: Architecture | None = None,
    *,
    failure: float = 0.1,
) -> tuple[RequiredWidth, ...]:
    r"""What the theorem on one of their networks asks for on the inputs `x`.

    Args:
        x: Inputs; for a convolutional network (n, pixels, channels).
        described: From `architecture`; `None` means that of its defaults.
        failure: Accepted probability of failure, between 0 and 1.

    Returns:
        One requirement, an order of magnitude; without a width if the activation is
        known to be none of theirs.

    Raises:
        TypeError: If `x` is not floating point.
        ValueError: If `x` is empty, not finite, or of the wrong shape; if `failure` is
            out of range, or `described` is no such network.

    Example:
        >>> import numpy as np
        >>> needed, = requirements(np.eye(3))
        >>> needed.applies, needed.is_explicit
        (True, False)

    References:
        Du, Lee, Li, Wang and Zhai (2019), arXiv:1811.03804, Theorems 5.1, 6.1 and 7.1.
        Degrees in n were seen; terms and powers of lambda are not checked against the
        paper.
    """
    check_probability("failure", failure)
    spec = architecture() if described is None else described
    check_choice("described.kind", spec.kind, get_args(NetworkKind))
    found = separation(x)
    n, depth = x.shape[0], spec.depth
    smooth = _smooth(spec.activation)
    # Of other activations the theorem says nothing, so that no width is given.
    eig_min = 0.0
    if smooth.holds is not False:
        eig_min = float(np.linalg.eigvalsh(last_hidden_kernel(x, spec))[0])
    with np.errstate(divide="ignore", over="ignore"):
        ratio = n / np.float64(max(eig_min, 0.0))
        concentration = ratio**2 * math.log(depth * n / failure)
        quartic = ratio**4
    if spec.kind == "mlp":
        theorem = f"Du et al. (2019b), fully connected, H = {depth}"
        formula = (
            "2^O(H) max(n^4/lambda^4, n/delta, n^2 log(H n/delta)/lambda^2), "
            "without 2^O(H)"
        )
        width = max(quartic, n / failure, concentration)
        learning_rate = max(eig_min, 0.0) / n**2
    else:
        is_conv = spec.kind == "conv_resnet"
        name = "convolutional residual" if is_conv else "residual"
        theorem = f"Du et al. (2019b), {name}, H = {depth}"
        formula = (
            "C max(n^4/(lambda^4 H^6), n^2/(lambda^2 H^2), n/delta, "
            "n^2 log(H n/delta)/lambda^2)"
        )
        if is_conv:
            formula += " poly(pixels), without poly(pixels)"
        width = max(
            quartic / depth**6, (ratio / depth) ** 2, n / failure, concentration
        )
        learning_rate = max(eig_min, 0.0) * (depth / n) ** 2
    return (
        RequiredWidth(
            theorem=theorem,
            formula=formula,
            width=None if smooth.holds is False else float(width),
            depth=depth,
            is_explicit=False,
            assumptions=(
                found.unit_norm,
                found.not_parallel,
                smooth,
                Assumption(
                    name="positive kernel",
                    statement="lambda = lambda_min(K^(H)) > 0",
                    holds=bool(eig_min > n * np.finfo(np.float64).eps),
                    detail=f"lambda = {eig_min:.3g}",
                ),
            ),
            source="not checked against the paper",
            max_learning_rate=learning_rate,
        ),
    )


def _smooth(activation: Activation) -> Assumption:
    spec = find(activation)
    holds = None if spec is None else spec.is_analytic
    if holds and spec is not None:  # its derivatives may still grow, or it be linear
        float64 = spec.float64
        known = float64 is not None and float64.is_bounded
        holds = float64.curvature > 0 if known else None
    return Assumption(
        name="smooth activation",
        statement="the activation is analytic, with bounded derivatives, and no "
        "polynomial",
        holds=holds,
        detail=str(activation),
    )


def _fully_connected_and_residual(
    x: Float[AnyArray, "n *d"], y: Float[AnyArray, "n k"], *, depth: int, failure: float
) -> tuple[RequiredWidth, ...]:
    kinds: tuple[NetworkKind, ...] = ("mlp", "resnet")
    return tuple(
        needed
        for kind in kinds
        for needed in requirements(x, architecture(kind, depth=depth), failure=failure)
    )


REQUIREMENT = Requirement(
    name="du2019b",
    source="Du, Lee, Li, Wang and Zhai (2019), arXiv:1811.03804",
    widths=_fully_connected_and_residual,
)

__getattr__ = deprecated_names(__name__, {"Network": f"{__name__}.NetworkKind"})
