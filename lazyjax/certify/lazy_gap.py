r"""How far outputs can be from those of the linearized model, on new inputs too.

Along a certified path, with $\mu$ the smallest singular value and $s^*$ the length, the
kernel drifts by at most $\kappa = 2 \lVert J_0\rVert \Lambda s^* + (\Lambda s^*)^2$.
For an input $x$ with Jacobian $j$, of Lipschitz constant $\Lambda_x$ and $j_0$ at the
start,

$$\frac{d}{dt} (f - f^{lin})(x) = -(j J^\top - j_0 J_0^\top) r - j_0 J_0^\top (r -
r^{lin}),$$

where $\int \lVert r\rVert \le \lVert r_0\rVert/\mu^2$ and $\int \lVert r - r^{lin}\rVert
\le \kappa \lVert r_0\rVert / (\sigma_0^2 \mu^2)$.
"""

import dataclasses
import functools
import math

import numpy as np
from jaxtyping import Float

from lazyjax._checks import check_batch, check_floating
from lazyjax.certify.arithmetic.matrices import frobenius_upper
from lazyjax.certify.arithmetic.rounding import (
    interval,
    root_up,
    round_up,
    unit_roundoff,
    upper_or_infinity,
)
from lazyjax.certify.bounds.agreement import check_agreement
from lazyjax.certify.bounds.branches import (
    at_rigor,
    kernel_of,
    lipschitz_fn,
    map_branches,
)
from lazyjax.certify.bounds.evaluation import concatenated, evaluate, example_of
from lazyjax.certify.bounds.layers import check_features
from lazyjax.certify.bounds.local import LocalBounds
from lazyjax.certify.bounds.start import described_start
from lazyjax.certify.certificate import Certificate, Rigor
from lazyjax.certify.theorems.residual import flow_theorem
from lazyjax.files.results import Storable
from lazyjax.nets import Network
from lazyjax.typing import AnyArray, Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class LazyGap(Storable):
    """Bounds of the distance from the linearized model, at any time of gradient flow.

    Attributes:
        train: For the outputs on all training inputs together.
        test: For the outputs on each of the other inputs.
        certificate: Of the flow; if it is not certified, all bounds are infinite.
    """

    train: float
    test: Float[np.ndarray, "n_test"]
    certificate: Certificate


def lazy_gap(
    network: Network,
    params: Params,
    x: Float[AnyArray, "n *d"],
    y: Float[AnyArray, "n k"],
    x_test: Float[AnyArray, "n_test *d"],
    *,
    rigor: Rigor = "proof",
) -> LazyGap:
    r"""Bounds of $\sup_t \lVert f_t(x) - f_t^{lin}(x) \rVert$ under gradient flow.

    Both models start at `params` and are trained on $L = \tfrac12\lVert f - y\rVert^2$.

    Args:
        network: From `lazyjax.nets.mlp`, with a smooth activation.
        params: The start.
        x: Training inputs.
        y: Training targets.
        x_test: Inputs to bound the gap on.
        rigor: "proof" accounts for rounding in all numbers, "float" does not where
            bounds are those of an `Architecture`.

    Returns:
        The bounds. They hold but are seldom tight: by a factor of ten and more.

    Raises:
        ValueError: If the network is of another kind, or arguments do not fit.
        TypeError: If an array is not floating point.

    Example:
        >>> import jax, lazyjax
        >>> net = lazyjax.nets.mlp(width=1, depth=0)  # is its own linearization
        >>> data = lazyjax.data.sphere(3, 5, key=jax.random.key(0), num_test=2)
        >>> params = net.init(jax.random.key(1), data.x_train)
        >>> gap = lazy_gap(net, params, data.x_train, data.y_train, data.x_test)
        >>> bool(gap.train < 1e-9), bool((gap.test < 1e-9).all())
        (True, True)
    """
    start = described_start(network, params, x, y, rigor=rigor)
    certificate = flow_theorem(start.local)
    check_floating("x_test", x_test)
    check_batch("x_test", x_test)
    inputs = np.asarray(x_test, np.float64).reshape(len(x_test), -1)
    check_features(start.branches, "x_test", inputs)
    with np.errstate(all="ignore"):
        others = map_branches(
            lambda e: evaluate(e.network, inputs, e.unit, norms=e.norms),
            start.evaluations,
        )
        check_agreement(network, params, x_test, others)
    if not certificate.is_certified:
        infinite = np.full(len(inputs), np.inf)
        return LazyGap(train=math.inf, test=infinite, certificate=certificate)
    unit, others = unit_roundoff(rigor), at_rigor(others, rigor)
    known = at_rigor(start.evaluations, rigor)
    joined = kernel_of(map_branches(concatenated, known, others))
    n, k = start.targets.shape
    test = []
    for i in range(len(inputs)):
        own = slice((n + i) * k, (n + i + 1) * k)
        cross = frobenius_upper(joined.value[: n * k, own], unit) + joined.error
        trace = float(np.trace(joined.value[own, own])) + k * joined.error
        example = map_branches(functools.partial(example_of, i=i), others)
        test.append(
            _gap_at(
                start.local,
                certificate,
                cross=float(round_up(cross, 2, unit)),
                norm=float(root_up(trace, k + 2, unit)),
                lipschitz=lipschitz_fn(example)(certificate["path_length"]),
            )
        )
    return LazyGap(
        train=certificate["linearization_gap"],
        test=np.array(test),
        certificate=certificate,
    )


def _gap_at(
    bounds: LocalBounds,
    certificate: Certificate,
    *,
    cross: float,
    norm: float,
    lipschitz: float,
) -> float:
    """Bound for one input, from bounds of its kernel with the others and itself."""
    length = interval(certificate["path_length"])
    moved = bounds.lipschitz(certificate["path_length"]) * length
    own_moved = lipschitz * length
    mu, sigma = certificate["sigma_min_end"], bounds.blocks[0].sigma_min
    mu_sq, sigma_sq = interval(mu) * mu, interval(sigma) * sigma
    drift = interval(bounds.jacobian_norm) * own_moved + norm * moved
    factor = drift + moved * own_moved
    factor = factor + interval(cross) * certificate["kernel_drift"] / sigma_sq
    return max(upper_or_infinity(factor * bounds.residual.high / mu_sq), 0.0)
