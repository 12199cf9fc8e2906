"""Each bound against an exact oracle, and each weakened bound against the same check.

A check asserts that a bound is on the right side, on cases where it is tight enough
that a bound which is wrong by a factor, or leaves out rounding, is seen.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lazyjax.certify import (
    activation_bounds,
    ball,
    bounds as local_bounds,
    dense_layers,
    evaluation,
    flips,
    lipschitz,
    logistic,
    matrix_bounds,
    rounding,
    theorems,
)
from lazyjax.certify.bounds import Block, Kernel, LocalBounds
from lazyjax.certify.dense_layers import Layer, Layers
from lazyjax.certify.rounding import Interval
from tests.helpers import exact

U = rounding.UNIT_ROUNDOFF


def matrices(count: int = 12, rows: int = 5, columns: int = 7):
    rng = np.random.default_rng(0)
    return [rng.standard_normal((rows, columns)) for _ in range(count)]


def symmetric_matrices():
    """Well and badly conditioned ones; the last is singular up to rounding."""
    hilbert = np.array([[1 / (i + j + 1) for j in range(7)] for i in range(7)])
    return [m @ m.T for m in matrices()] + [hilbert, np.full((3, 3), 0.1)]


# Norms and eigenvalues of matrices, in rational arithmetic.


def check_row_norms():
    for m in matrices():
        bounds = matrix_bounds.row_norms_upper(m, U)
        for row, bound in zip(m, bounds, strict=True):
            assert exact.sum_of_squares(row) <= Fraction(float(bound)) ** 2
            assert bound <= np.linalg.norm(row) * (1 + 1e-13)


def check_frobenius():
    for m in matrices():
        square = exact.sum_of_squares(m)
        upper = matrix_bounds.frobenius_upper(m, U)
        lower = matrix_bounds.frobenius_lower(m, U)
        assert Fraction(lower) ** 2 <= square <= Fraction(upper) ** 2
        assert upper <= lower * (1 + 1e-12)


def check_symmetric_norm():
    for m in [*symmetric_matrices(), np.diag([1.0, -3.0])]:
        bound = matrix_bounds.symmetric_norm_upper(m, U)
        q = exact.fractions(m)
        assert exact.eig_max_is_below(q, exact.ulps(bound, 1))
        assert exact.eig_min_is_above(q, -exact.ulps(bound, 1))


def check_gram():
    for m in matrices():
        gram, error = matrix_bounds.gram_and_error(m, U)
        np.testing.assert_array_equal(gram, gram.T)
        difference = exact.fractions(gram)
        for row, true in zip(difference, exact.gram(m), strict=True):
            row[:] = [a - b for a, b in zip(row, true, strict=True)]
        assert exact.eig_max_is_below(difference, error)
        assert exact.eig_min_is_above(difference, -error)
        assert error <= 1e-13 * np.trace(gram)


def check_eig_min():
    for m in symmetric_matrices():
        bound = matrix_bounds.eig_min_lower(m, U)
        q, size = exact.fractions(m), np.trace(m)
        assert exact.eig_min_is_above(q, bound)
        assert not exact.eig_min_is_above(q, bound + 1e-13 * size)


def check_eig_max():
    for m in symmetric_matrices():
        bound = matrix_bounds.eig_max_upper(m, U)
        q, size = exact.fractions(m), np.trace(m)
        assert exact.eig_max_is_below(q, bound)
        assert not exact.eig_max_is_below(q, bound - 1e-13 * size)


def check_cholesky():
    """Also for a shift that is far from the smallest eigenvalue."""
    for m in symmetric_matrices()[:-1]:
        for shift in (-1.0, 0.3 * np.linalg.eigvalsh(m)[0]):
            bound = matrix_bounds._eig_min_by_cholesky(m, shift, U)
            assert bound <= shift
            assert exact.eig_min_is_above(exact.fractions(m), bound)
            assert bound >= shift - 1e-13 * (np.trace(m) + abs(shift))
        # Of any matrix, such as a factor in single precision.
        shift = 0.9 * np.linalg.eigvalsh(m)[0]
        factor = np.linalg.cholesky(m - shift * np.eye(len(m))).astype(np.float32)
        for poor in (factor.astype(float), factor * 1.001, factor * 0.0):
            bound = matrix_bounds._eig_min_by_factor(m, poor.astype(float), shift, U)
            assert exact.eig_min_is_above(exact.fractions(m), bound)


def check_spectral_norm():
    for m in [*matrices(), *(m.T for m in matrices(3))]:
        bound = matrix_bounds.spectral_norm_upper(m, U)
        gram = exact.gram(m)
        square = Fraction(bound) ** 2
        assert exact.is_positive_definite(exact.shifted(gram, -square, sign=-1))
        assert bound <= np.linalg.norm(m, 2) * (1 + 1e-12)


def check_perron():
    for m in map(np.abs, symmetric_matrices()):
        bound = matrix_bounds.perron_upper(m, U)
        assert exact.eig_max_is_below(exact.fractions(m), exact.ulps(bound, 1))
        assert bound <= np.linalg.eigvalsh(m)[-1] * (1 + 1e-6)


# Scalars.


def check_intervals():
    rng = np.random.default_rng(1)
    for a, b in rng.standard_normal((200, 2)):
        p, q = Fraction(a), Fraction(b)
        pairs = [
            (rounding.interval(a) + b, p + q),
            (rounding.interval(a) - b, p - q),
            (rounding.interval(a) * b, p * q),
            (rounding.interval(a) / b, p / q),
        ]
        for result, true in pairs:
            assert Fraction(result.low) < true < Fraction(result.high)
        root = rounding.interval(abs(a)).sqrt()
        assert Fraction(root.low) ** 2 <= abs(p) <= Fraction(root.high) ** 2
        for result, true in (
            (rounding.interval(abs(a)).log(), Decimal(abs(a)).ln()),
            (rounding.interval(a).expm1(), Decimal(a).exp() - 1),
        ):
            assert Decimal(result.low) < true < Decimal(result.high)
    wide = Interval(-1.0, 2.0) * Interval(-3.0, 5.0)
    assert wide.low <= -6 <= 10 <= wide.high


def check_rounding_of_sums():
    rng = np.random.default_rng(2)
    for _ in range(50):
        values = rng.random(9)
        computed = functools.reduce(lambda s, v: s + v, values, 0.0)
        true = sum(map(Fraction, values), Fraction(0))
        assert Fraction(float(rounding.raised(computed, 9, U))) > true
        assert Fraction(float(rounding.lowered(computed, 9, U))) < true
    for count in (1, 10, 10**6):
        true = Fraction(count) * Fraction(U) / (1 - Fraction(count) * Fraction(U))
        assert Fraction(rounding.gamma(count, U)) > true


# Activations.


def check_activation_values():
    points = np.concatenate([np.linspace(-30, 30, 61), np.linspace(-1, 1, 40) ** 3])
    for name in ("sigmoid", "silu", "softplus", "tanh", "gaussian", "elu"):
        known = activation_bounds.SMOOTH_ACTIVATIONS[name]
        values, slopes = activation_bounds.values_of(known, points)
        for u, value, slope in zip(points, values, slopes, strict=True):
            true_value, true_slope = exact.activation(name, Decimal(float(u)))
            assert abs(Decimal(float(value)) - true_value) <= Decimal(
                activation_bounds.ROUNDING
            ) * (1 + abs(Decimal(float(u)))), (name, u)
            assert abs(Decimal(float(slope)) - true_slope) <= Decimal(
                activation_bounds.ROUNDING
            ), (name, u)


def check_activation_suprema():
    grid = np.linspace(-8, 8, 320_001)
    for name, known in activation_bounds.SMOOTH_ACTIVATIONS.items():
        values, slopes = activation_bounds.values_of(known, grid)
        step = grid[1] - grid[0]
        assert np.max(np.abs(slopes)) <= known.slope * (1 + 4 * U), name
        assert np.max(np.abs(slopes)) >= known.slope * (1 - 1e-3), name
        curvature = np.max(np.abs(np.diff(slopes))) / step
        assert curvature <= known.curvature * (1 + 1e-9) + 1e-10, name
        assert curvature >= known.curvature * (1 - 1e-3), name
        secants = np.diff(values) / step
        middle = (slopes[1:] + slopes[:-1]) / 2
        np.testing.assert_allclose(secants, middle, atol=1e-4)


# Networks: outputs, kernels and their errors, with 50 digits.


def random_layers(sizes, activation, *, trained=None, biases=True, seed=0) -> Layers:
    rng = np.random.default_rng(seed)
    trained = (True,) * (len(sizes) - 1) if trained is None else trained
    layers = tuple(
        Layer(
            weight=rng.standard_normal(shape),
            bias=rng.standard_normal(shape[1]),
            scale=1 / math.sqrt(shape[0]),
            bias_scale=0.3 if biases else 0.0,
            is_trained=is_trained,
        )
        for shape, is_trained in zip(itertools.pairwise(sizes), trained, strict=True)
    )
    return Layers(layers, activation, 1.1)


EVALUATED = [
    ((3, 4, 2), "softplus", None),
    ((3, 4, 5, 1), "tanh", None),
    ((2, 3, 3, 3, 2), "silu", (True, False, True, True)),
    ((3, 4, 1), "relu", (True, False)),
    ((5, 2), "identity", None),
]


@functools.cache
def evaluated_exactly(case: int):
    sizes, activation, trained = EVALUATED[case]
    network = random_layers(sizes, activation, trained=trained)
    x = np.random.default_rng(5).standard_normal((3, sizes[0]))
    oracle = exact.network(network.layers, activation, network.factor, x)
    return network, x, *oracle


def check_evaluation():
    for case in range(len(EVALUATED)):
        network, x, outputs, kernel = evaluated_exactly(case)
        found = evaluation.evaluate(network, x, U)
        for row, true, error in zip(
            found.output.value, outputs, found.output.error, strict=True
        ):
            off = np.array([Decimal(float(v)) for v in row]) - true
            assert float(sum(v * v for v in off)) ** 0.5 <= error
        assert np.max(found.output.error) <= 1e-11
        total = evaluation.kernel(found)
        rows = [[Decimal(float(v)) for v in row] for row in total.value]
        off = exact.spectral_norm(np.array(rows) - kernel)
        assert 0 < off <= total.error <= 1e-11 * np.trace(total.value)


def check_error_propagation():
    """Errors of inputs, made large enough that rounding does not matter."""
    network = random_layers((6, 1, 6, 1), "identity", biases=False)
    norms = evaluation.evaluate(network, np.ones((1, 6)), U).norms
    shift = 1e-3
    for layer, norm in zip(network.layers, norms, strict=True):
        left, _, right = np.linalg.svd(layer.weight)
        for spread, fn, direction in (
            (evaluation.affine, lambda v, w=layer.weight: v @ w, left[:, 0]),
            (evaluation.transposed, lambda v, w=layer.weight: v @ w.T, right[0]),
        ):
            h = direction[None]
            rows = evaluation.Rows(h, np.array([shift]), np.array([1.0]))
            found = spread(layer, norm, rows, U)
            moved = layer.scale * np.linalg.norm(fn(shift * h))
            assert moved <= found.error[0] * (1 + 1e-9)
    slope = evaluation.Rows(np.ones((1, 2)), np.array([0.0]), np.array([2.0**0.5]))
    b = evaluation.Rows(np.array([[[3.0, 0]]]), np.array([[shift]]), np.array([[3.0]]))
    chained = evaluation.chained(network, b, slope, U)
    assert chained.error[0, 0] >= shift * network.factor
    slope = dataclasses.replace(slope, error=np.array([shift]))
    b = dataclasses.replace(b, error=np.array([[0.0]]))
    assert evaluation.chained(network, b, slope, U).error[0, 0] >= 3 * shift
    tanh = dataclasses.replace(network, activation="tanh")
    z = evaluation.Rows(np.array([[0.0]]), np.array([shift]), np.array([0.0]))
    assert evaluation.activated(tanh, z, U)[0].error[0] >= 1.1 * math.tanh(shift)
    bend = math.atanh(3**-0.5)  # where the slope of tanh changes fastest
    z = evaluation.Rows(np.array([[bend]]), np.array([1e-5]), np.array([bend]))
    change = math.tanh(bend) ** 2 - math.tanh(bend - 1e-5) ** 2
    assert evaluation.activated(tanh, z, U)[1].error[0] >= 1.1 * change
    # Kernels (s^2 h h + s_b^2) e e, with errors of h or of e along themselves.
    found = evaluation.evaluate(random_layers((2, 1), "identity"), np.ones((1, 2)), U)
    layer, h = found.network.layers[0], 2.0
    for errors, change in (
        ({"inputs": True}, layer.scale**2 * (2 * h**0.5 * shift + shift**2)),
        (
            {"cotangents": True},
            (layer.scale**2 * h + layer.bias_scale**2) * (2 * shift + shift**2),
        ),
    ):
        (name,) = errors
        (rows,) = getattr(found, name)
        rows = dataclasses.replace(rows, error=np.full_like(rows.error, shift))
        wrong = dataclasses.replace(found, **{name: (rows,)})
        assert evaluation.layer_kernel(wrong, 0).error >= change * (1 - 1e-12)


# Lipschitz constants: one unit, where they are attained, and larger networks.


def jacobian(network: Layers, x: np.ndarray, weights: list) -> np.ndarray:
    """Jacobian for trained arrays, with others as they are."""
    fn = {
        "tanh": jnp.tanh,
        "softplus": jax.nn.softplus,
        "identity": lambda u: u,
        "sin": jnp.sin,
        "relu": jax.nn.relu,
    }[network.activation]

    def outputs(weights):
        h = jnp.asarray(x)
        for number, (layer, (w, b)) in enumerate(
            zip(network.layers, weights, strict=True)
        ):
            if not layer.is_trained:
                w, b = jax.lax.stop_gradient((w, b))
            h = layer.scale * (h @ w) + layer.bias_scale * b[None]
            if number < len(network.layers) - 1:
                h = network.factor * fn(h)
        return h.reshape(-1)

    with jax.enable_x64(True):
        leaves = jax.tree.leaves(jax.jacrev(outputs)(weights))
        return np.concatenate([np.asarray(j).reshape(len(j), -1) for j in leaves], 1)


def weights_of(network: Layers) -> list:
    return [(layer.weight, layer.bias) for layer in network.layers]


def moved(network: Layers, radius: float, rng) -> list:
    """Trained arrays moved in a random direction, or in those of few entries."""
    steps = [
        tuple(
            rng.standard_normal(v.shape)
            * layer.is_trained
            * (rng.random(v.shape) < 0.5)
            for v in (layer.weight, layer.bias * (layer.bias_scale > 0))
        )
        for layer in network.layers
    ]
    if network.layers[0].bias_scale == 0:
        steps = [(w, 0 * b) for w, b in steps]
    norm = math.sqrt(sum(np.sum(v**2) for pair in steps for v in pair)) or 1.0
    return [
        tuple(v + radius * s / norm for v, s in zip(arrays, step, strict=True))
        for arrays, step in zip(weights_of(network), steps, strict=True)
    ]


LIPSCHITZ = [
    ((4, 6, 1), "tanh", (True, False), True),
    ((4, 6, 2), "softplus", None, True),
    ((4, 5, 5, 1), "tanh", None, False),
    ((3, 4, 4, 4, 2), "softplus", None, True),
    ((3, 4, 4, 1), "sin", (True, False, True), False),
]


def check_lipschitz_constants():
    rng = np.random.default_rng(3)
    for sizes, activation, trained, biases in LIPSCHITZ:
        network = random_layers(sizes, activation, trained=trained, biases=biases)
        x = rng.standard_normal((3, sizes[0]))
        constants = lipschitz.lipschitz_of(evaluation.evaluate(network, x, U))
        start = jacobian(network, x, weights_of(network))
        for radius in (1e-3, 0.3, 2.0):
            for _ in range(4):
                end = jacobian(network, x, moved(network, radius, rng))
                change = np.linalg.norm(end - start, 2)
                assert change <= constants.at(radius) * radius


def one_unit(activation, weights, x, scales, trained, factor=1.0) -> tuple:
    layers = tuple(
        Layer(np.array([[w]]), np.zeros(1), float(s), 0.0, t)
        for w, s, t in zip(weights, scales, trained, strict=True)
    )
    network = Layers(layers, activation, factor)
    return network, np.array([[x]])


def slope_at(network, x, direction, step=1e-5):
    """Length of the derivative of the Jacobian along a direction."""
    ends = []
    for sign in (1, -1):
        weights = [
            (w + sign * step * d, b)
            for (w, b), d in zip(weights_of(network), direction, strict=True)
        ]
        ends.append(jacobian(network, x, weights))
    return np.linalg.norm(ends[0] - ends[1]) / (2 * step)


def check_lipschitz_is_attained_by_one_unit():
    # The inflection of sin, where |phi''| is 1, and that of tanh''.
    for activation, u in (("sin", math.pi / 2), ("tanh", math.atanh(3**-0.5))):
        network, x = one_unit(
            activation, (u / 1.5, 2.0), 1.5, (1, 0.5), (True, False), 3.0
        )
        constants = lipschitz.two_layer(evaluation.evaluate(network, x, U))
        attained = slope_at(network, x, (1.0, 0.0))
        assert attained <= constants.at(0.0) * (1 + 1e-8)
        assert attained >= constants.at(0.0) * (1 - 1e-4)


def check_lipschitz_of_both_layers_is_attained_by_a_product():
    """f = w2 s2 s1 w1 x: the derivative of the Jacobian is s1 s2 |x|."""
    network, x = one_unit("identity", (1.0, 1.0), 2.0, (1.5, 0.5), (True, True))
    constants = lipschitz.two_layer(evaluation.evaluate(network, x, U))
    assert slope_at(network, x, (0.6, 0.8)) >= 1.5 * (1 - 1e-9)
    for constant in (constants.at(0.7), constants.of_first_layer(0.7)):
        assert 1.5 <= constant <= 1.5 * (1 + 1e-9)


def check_lipschitz_grows_with_the_readout():
    """sin, all trained, in a ball of radius 1 around readout 0."""
    network, x = one_unit("sin", (math.pi / 2, 0.0), 1.0, (1.0, 1.0), (True, True))
    constants = lipschitz.two_layer(evaluation.evaluate(network, x, U))
    far = dataclasses.replace(
        network,
        layers=(
            network.layers[0],
            dataclasses.replace(network.layers[1], weight=np.ones((1, 1))),
        ),
    )
    assert slope_at(far, x, (1.0, 0.0)) >= 1 - 1e-6
    for fn in (constants.at, constants.of_first_layer):
        expected = (1 + 5**0.5) / 2 if fn == constants.at else 2**0.5
        assert fn(1.0) == pytest.approx(expected, rel=1e-9)


def check_deep_lipschitz_of_a_product():
    """f = w3 w2 w1 x at ones: D^2 f[U, U] = 2 (u1 u2 + u2 u3 + u1 u3) at most 2."""
    network, x = one_unit("identity", (1.0,) * 3, 1.0, (1.0,) * 3, (True,) * 3)
    constants = lipschitz.deep(evaluation.evaluate(network, x, U))
    attained = slope_at(network, x, (3**-0.5,) * 3)
    assert attained == pytest.approx(2, rel=1e-6)
    assert attained <= constants.at(0.0) <= 1.3 * attained
    # In a ball of radius R, at weights 1 + R / sqrt(3), it is 2 (1 + R / sqrt(3)).
    for radius in (0.5, 3.0):
        far = 2 * (1 + radius / 3**0.5)
        assert far <= constants.at(radius) <= 3 * far


def check_deep_lipschitz_with_curvature():
    """f = w3 sin(w2 sin(w1 x)), only w1 trained, at a maximum of the inner sine."""
    trained = (True, False, False)
    network, x = one_unit("sin", (math.pi / 2, 0.5, 3.0), 1.0, (1.0,) * 3, trained)
    constants = lipschitz.deep(evaluation.evaluate(network, x, U))
    attained = slope_at(network, x, (1.0, 0.0, 0.0))
    assert attained == pytest.approx(1.5 * math.cos(0.5), rel=1e-6)
    # Left out: cotangents are taken at their largest, and phi'' of the outer sine.
    assert attained <= constants.at(0.0) <= 2.2 * attained
    frozen = dataclasses.replace(
        network,
        layers=tuple(
            dataclasses.replace(layer, is_trained=number == 2)
            for number, layer in enumerate(network.layers)
        ),
    )
    assert lipschitz.deep(evaluation.evaluate(frozen, x, U)).at(9.0) <= 1e-12


def check_input_gram():
    rng = np.random.default_rng(4)
    x = rng.standard_normal((4, 3))
    layer = Layer(np.ones((3, 1)), np.ones(1), 0.7, 0.4, True)
    found = lipschitz.input_gram(x, layer, U)
    scaled = np.concatenate([0.7 * x, np.full((4, 1), 0.4)], axis=1)
    gram = scaled @ scaled.T
    assert np.all(np.abs(gram) <= found.entries * (1 + 1e-12))
    assert np.all(found.entries <= np.abs(gram) + 1e-13)
    assert np.all(np.diagonal(gram) <= found.norms**2 * (1 + 1e-12))
    largest = np.linalg.norm(scaled, 2)
    assert largest * (1 - 1e-12) <= found.spectral <= largest * (1 + 1e-10)
    # Rounding of products is in the entries.
    true = exact.gram(x)
    plain = lipschitz.input_gram(
        x, dataclasses.replace(layer, scale=1.0, bias_scale=0.0), U
    )
    for row, bound in zip(true, plain.entries, strict=True):
        assert all(abs(a) <= Fraction(b) for a, b in zip(row, bound, strict=True))


# Singular values and residuals.


def check_singular_values():
    for m in matrices(4):
        value, error = matrix_bounds.gram_and_error(m, U)
        kernel = Kernel(value, error)
        gram = exact.gram(m)
        low = Fraction(local_bounds.sigma_min_lower(kernel, U))
        high = Fraction(local_bounds.sigma_max_upper(kernel, U))
        assert exact.is_positive_definite(exact.shifted(gram, low**2))
        assert exact.is_positive_definite(exact.shifted(gram, -(high**2), sign=-1))
        assert low >= np.linalg.svd(m)[1][-1] * (1 - 1e-10)
        off = Kernel(value, 0.5 * np.linalg.eigvalsh(value)[0])
        smallest = np.linalg.eigvalsh(value - off.error * np.eye(len(m)))[0]
        assert local_bounds.sigma_min_lower(off, U) <= math.sqrt(smallest) * (1 + 1e-9)
        assert local_bounds.sigma_max_upper(off, U) ** 2 >= off.error + np.linalg.norm(
            value, 2
        )


def check_newton_norm():
    rng = np.random.default_rng(6)
    for m in matrices(6):
        value, error = matrix_bounds.gram_and_error(m, U)
        residual = rng.standard_normal(len(m))
        sigma = np.linalg.svd(m)[1][-1] * (1 - 1e-9)
        bound = local_bounds.newton_norm_upper(
            Kernel(value, error), residual, 0.0, sigma, U
        )
        true = np.linalg.norm(np.linalg.pinv(m) @ residual)
        assert true * (1 - 1e-12) <= bound <= true * (1 + 1e-9)
        # Along the worst direction an error of the residual counts in full.
        left = np.linalg.svd(m)[0][:, -1]
        off = 1e-3
        bound = local_bounds.newton_norm_upper(
            Kernel(value, error), left, off, sigma, U
        )
        assert bound >= (1 + off) / sigma * (1 - 1e-8)


def check_residual_norm():
    network, x, outputs, _ = evaluated_exactly(0)
    found = evaluation.evaluate(network, x, U)
    for targets in (np.zeros_like(found.output.value), found.output.value):
        residual = local_bounds.residual_of((found,), targets)
        shift = np.vectorize(lambda v: Decimal(float(v)))(targets)
        true = sum(v * v for v in (outputs - shift).ravel()).sqrt()
        assert Decimal(residual.norm.low) <= true <= Decimal(residual.norm.high)


def check_symmetrized():
    """Half the sum of kernels, and the difference of outputs over sqrt(2)."""
    plus = random_layers((3, 4, 1), "tanh", seed=1)
    minus = random_layers((3, 4, 1), "tanh", seed=2)
    x = np.random.default_rng(7).standard_normal((2, 3))
    both = tuple(evaluation.evaluate(copy, x, U) for copy in (plus, minus))
    value, error = local_bounds.output_of(both)
    true = (both[0].output.value - both[1].output.value) / 2**0.5
    np.testing.assert_allclose(value, true, rtol=1e-14)
    assert error >= sum(np.linalg.norm(e.output.error) for e in both) / 2**0.5
    kernel = local_bounds.kernel_of(both)
    jacobians = [jacobian(copy, x, weights_of(copy)) for copy in (plus, minus)]
    joint = np.concatenate([jacobians[0], -jacobians[1]], 1) / 2**0.5
    np.testing.assert_allclose(kernel.value, joint @ joint.T, rtol=1e-11)
    parts = [evaluation.kernel(e).error for e in both]
    assert kernel.error >= sum(parts) / 2
    constants = [lipschitz.lipschitz_of(e).at(0.5) for e in both]
    joined = local_bounds.lipschitz_fn(both)(0.5)
    assert joined >= max(constants) / 2**0.5 * (1 - 1e-15)


# The ball: sharp for one parameter with r = -r0 + sigma w - lambda w^2 / 2.


def scalar_bounds(sigma: float, constant: float, residual: float) -> LocalBounds:
    fn = lambda radius, constant=constant: constant
    return LocalBounds(
        residual=Interval(residual, residual),
        jacobian_norm=sigma,
        lipschitz=fn,
        blocks=(Block(name="all", sigma_min=sigma, lipschitz=fn),),
        newton_norm=residual / sigma,
    )


def root_of(sigma, constant, residual):
    return (sigma - math.sqrt(sigma**2 - 2 * constant * residual)) / constant


def check_ball_is_sharp():
    for sigma, constant in ((1.0, 0.5), (3.0, 7.0)):
        for h in (0.01, 0.4, 0.4999):
            residual = h * sigma**2 / constant
            found = ball.smallest_ball(
                sigma, residual, lambda radius, constant=constant: constant
            )
            root = root_of(sigma, constant, residual)
            assert found.holds
            assert root * (1 - 1e-13) <= found.length.high <= root * (1 + 1e-9)
            mu = sigma - constant * root
            assert mu * (1 - 1e-9) <= found.sigma_end.low <= mu * (1 + 1e-12)
            assert h * (1 - 1e-14) <= found.condition.high <= h * (1 + 1e-9)
            assert found.margin <= 1 - 2 * h + 1e-14
        for h in (0.50001, 0.6, 3.0, math.inf, math.nan):
            residual = h * sigma**2 / constant
            assert not ball.smallest_ball(
                sigma, residual, lambda radius, constant=constant: constant
            ).holds


def check_ball_needs_its_radius():
    """A constant that grows: the path must fit the radius that it is taken for."""
    grows = lambda radius: 0.1 if radius < 1.0 else 10.0
    assert not ball.smallest_ball(1.0, 1.0, grows).holds
    found = ball.smallest_ball(1.0, 0.9, grows)
    assert found.holds
    assert found.lipschitz == 0.1
    assert found.length.high <= found.radius < 1


def check_zero_distance():
    """The farthest that r = -r0 + norm w + constant w^2 / 2 can be from its zero."""
    for norm, constant, residual in ((1.0, 0.5, 2.0), (2.0, 0.0, 3.0), (0.5, 9.0, 1.0)):
        nearest = ball.zero_distance(scalar_bounds(norm, constant, residual))
        if constant:
            true = (math.sqrt(norm**2 + 2 * constant * residual) - norm) / constant
        else:
            true = residual / norm
        assert true * 0.9 <= nearest <= true


def check_gap_and_drift():
    """One parameter: K = (sigma - lambda w)^2, so drift 2 sigma lambda s + ... is near."""
    bounds = scalar_bounds(2.0, 0.5, 1.0)
    certificate = theorems.flow_theorem(bounds)
    s = certificate.radius
    largest = 2 * 2.0 * 0.5 * s + (0.5 * s) ** 2
    assert certificate["kernel_drift"] == pytest.approx(largest, rel=1e-9)
    assert certificate["kernel_drift"] >= 4.0 - (2.0 - 0.5 * s) ** 2
    # The gap itself, by integration of both.
    time = np.linspace(0, 8, 80_001)
    w = r_lin = 0.0
    r, r_lin, worst = -1.0, -1.0, 0.0
    step = time[1]
    for _ in time:
        j = 2.0 - 0.5 * w
        worst = max(worst, abs(r - r_lin))
        w -= step * j * r
        r = -1.0 + 2.0 * w - 0.25 * w * w
        r_lin -= step * 4.0 * r_lin
    assert worst <= certificate["linearization_gap"] <= 10 * worst


def check_flow_rate():
    """The loss of the sharp model falls at the rate promised, and not much faster."""
    bounds = scalar_bounds(2.0, 0.5, 3.0)
    certificate = theorems.flow_theorem(bounds)
    mu = math.sqrt(4 - 3)
    assert certificate.rate == pytest.approx(2 * mu**2, rel=1e-9)
    assert certificate.rate <= 2 * mu**2


def check_descent_step_and_rate():
    """Curvature of the worst model of these bounds, and the rate at its end."""
    bounds = scalar_bounds(2.0, 0.5, 1.0)
    certificate = theorems.descent_theorem(bounds)
    epsilon = certificate["epsilon"]
    s = root_of(2.0, 0.5, 1.0 / (1 - epsilon))
    assert certificate.radius == pytest.approx(s, rel=1e-9)
    assert certificate.radius >= s * (1 - 1e-13)
    smoothness = (2 + 0.5 * s) ** 2 + 0.5
    largest = 2 * epsilon / smoothness
    assert largest * (1 - 1e-9) <= certificate.step_size <= largest * (1 + 1e-13)
    mu = 2.0 - 0.5 * s
    rate = 2 * (1 - epsilon) * largest * mu**2
    assert rate * (1 - 1e-9) <= certificate.rate <= rate * (1 + 1e-12)
    over = theorems.descent_theorem(bounds, learning_rate=2.0 / (2.0**2 + 0.5) * 1.01)
    assert not over.is_certified
    inexact = theorems.descent_theorem(bounds, gradient_error=0.2)
    epsilon = inexact["epsilon"]
    s = root_of(2.0, 0.5, 1.2 / 0.8 / (1 - epsilon))
    largest = 2 * epsilon * 0.8 / (((2 + 0.5 * s) ** 2 + 0.5) * 1.2**2)
    assert inexact.radius == pytest.approx(s, rel=1e-9)
    assert inexact.step_size == pytest.approx(largest, rel=1e-9)
    rate = 2 * (1 - epsilon) * 0.8 * largest * (2.0 - 0.5 * s) ** 2
    assert inexact.rate == pytest.approx(rate, rel=1e-9)


def check_existence_radius():
    """Newton and Kantorovich are sharp on the same quadratic."""
    for h in (0.1, 0.499):
        certificate = theorems.existence_theorem(scalar_bounds(1.0, 2.0, h / 2.0))
        assert certificate.is_certified
        root = root_of(1.0, 2.0, h / 2.0)
        assert root * (1 - 1e-13) <= certificate.radius <= root * (1 + 1e-9)
    assert not theorems.existence_theorem(scalar_bounds(1.0, 2.0, 0.2501)).is_certified


# Flips of ReLU units.


def relu_case():
    rng = np.random.default_rng(8)
    first = Layer(rng.standard_normal((3, 6)), rng.standard_normal(6), 0.5, 0.2, True)
    last = Layer(rng.standard_normal((6, 2)), np.zeros(2), 0.4, 0.0, False)
    network = Layers((first, last), "relu", 1.3)
    return network, rng.standard_normal((4, 3))


def check_margins():
    """A unit that moves straight towards its kink flips just beyond the margin."""
    network, x = relu_case()
    found = evaluation.evaluate(network, x, U)
    layer = network.layers[0]
    gram = lipschitz.input_gram(x, layer, U)
    margins = flips.margins_lower(found, gram)
    for i, row in enumerate(x):
        full = np.append(layer.scale * row, layer.bias_scale)
        for r in range(layer.weight.shape[1]):
            z = full @ np.append(layer.weight[:, r], layer.bias[r])
            true = abs(z) / np.linalg.norm(full)
            assert true * (1 - 1e-9) <= margins[i, r] <= true * (1 + 1e-15)


def check_flips():
    """All patterns of few flips, by enumeration."""
    network, x = relu_case()
    found = evaluation.evaluate(network, x, U)
    gram = lipschitz.input_gram(x, network.layers[0], U)
    bound = flips.flips_fn((found,), gram)
    margins = flips.margins_lower(found, gram)
    first, last = network.layers
    full = np.concatenate([first.scale * x, np.full((4, 1), first.bias_scale)], 1)
    outer = last.scale * network.factor
    for radius in np.sort(margins.ravel())[[0, 2, 5]]:
        can = np.argwhere(margins <= radius)
        worst = 0.0
        for pattern in range(2 ** len(can)):
            change = np.zeros((4, 2, 6, 4))
            for bit, (i, r) in enumerate(can):
                if pattern >> bit & 1:
                    was_on = found.preactivations[0].value[i, r] > 0
                    sign = -1.0 if was_on else 1.0
                    change[i, :, r] += sign * outer * np.outer(last.weight[r], full[i])
            worst = max(worst, np.linalg.norm(change.reshape(8, -1), 2))
        assert worst * (1 - 1e-9) <= bound(float(radius)) <= 2 * worst
    assert bound(0.0) <= 1e-100


def check_drive():
    """Speed of the fastest unit, for residuals of unit norm: attained by one unit."""
    first = Layer(np.array([[1.0, 0.1], [0.0, 0.1]]), np.zeros(2), 0.5, 0.0, True)
    last = Layer(np.array([[3.0], [1.0]]), np.zeros(1), 0.4, 0.0, False)
    network = Layers((first, last), "relu", 1.0)
    x = np.array([[2.0, 0.0]])
    found = evaluation.evaluate(network, x, U)
    bound = flips.drive_upper((found,), lipschitz.input_gram(x, first, U))
    speed = 0.4 * 3.0 * 0.5 * 2.0
    assert speed <= bound <= speed * (1 + 1e-9)
    assert flips.drive_upper((found, found), lipschitz.input_gram(x, first, U)) >= (
        speed / 2**0.5
    )


# The logistic loss.


def check_logistic():
    """One example and one parameter, f = w: the length to the target is known."""
    for start, target in ((3.0, 0.01), (0.5, 0.1), (800.0, 1e-3)):
        demand = logistic.demand_of(start, target, 1)
        # log(1 + e^-f) = a at f = -log(e^a - 1).
        f = [-math.log(math.expm1(a)) if a < 700 else -a for a in (start, target)]
        true = f[1] - f[0]
        assert true * (1 - 1e-13) <= demand <= true * (1 + 1e-9)
        time = (logistic._antiderivative(start) - logistic._antiderivative(target)).high
        # dt = df / (1 - e^-loss), by quadrature.
        grid = np.linspace(f[0], f[1], 200_001)
        speed = 1 / (1 + np.exp(np.minimum(grid, 700)))
        middle = (1 / speed[1:] + 1 / speed[:-1]) / 2
        quadrature = float(np.sum(np.diff(grid) * middle))
        assert time == pytest.approx(quadrature, rel=1e-3)
    output, labels = np.array([[0.3], [-2.0]]), np.array([[1.0], [1.0]])
    total = logistic.total_loss_upper(output, labels, 0.0, U)
    true = sum((1 + (-Decimal(float(v))).exp()).ln() for v in output.ravel())
    assert Decimal(total) >= true
    assert total <= float(true) * (1 + 1e-12)
    worse = logistic.total_loss_upper(output, labels, 0.1, U)
    shifted = output - 0.1 / 2**0.5 * np.ones((2, 1))
    assert worse >= float(np.sum(np.log1p(np.exp(-shifted)))) - 1e-12


CHECKS = {
    name.removeprefix("check_"): check
    for name, check in list(globals().items())
    if name.startswith("check_")
}


@pytest.mark.parametrize("name", CHECKS)
def test_bound(name):
    CHECKS[name]()


def scaled(factor: float) -> Callable:
    return lambda fn: lambda *a, **k: fn(*a, **k) * factor


def no_error(result):
    return dataclasses.replace(result, error=0 * result.error)


def without_error(fn: Callable) -> Callable:
    """Rows or kernels as if they were exact."""
    return lambda *args, **kwargs: no_error(fn(*args, **kwargs))


def field(name: str, factor: float) -> Callable:
    """One field of the result scaled."""

    def weaken(fn):
        def weakened(*args, **kwargs):
            result = fn(*args, **kwargs)
            value = getattr(result, name)
            return dataclasses.replace(result, **{name: value * factor})

        return weakened

    return weaken


def part(index: int, factor: float) -> Callable:
    """One entry of a pair scaled."""

    def weaken(fn):
        def weakened(*args, **kwargs):
            result = list(fn(*args, **kwargs))
            result[index] = result[index] * factor
            return tuple(result)

        return weakened

    return weaken


def constant(value: float) -> Callable:
    return lambda fn: lambda *a, **k: value


def of_function(factor: float) -> Callable:
    """What a function returns is a function; its values scaled."""
    return lambda fn: lambda *a, **k: scaled(factor)(fn(*a, **k))


def activations(name: str, factor: float) -> Callable:
    return lambda table: {
        key: dataclasses.replace(known, **{name: getattr(known, name) * factor})
        for key, known in table.items()
    }


Mutation = tuple[ModuleType | type, str, Callable, str]

MUTATIONS: list[Mutation] = [
    (rounding, "gamma", constant(0.0), "rounding_of_sums"),
    (rounding, "raised", lambda fn: lambda v, n, u: v, "rounding_of_sums"),
    (rounding, "lowered", lambda fn: lambda v, n, u: v, "rounding_of_sums"),
    (rounding, "_outward", lambda fn: Interval, "intervals"),
    (rounding, "_widened", lambda fn: Interval, "intervals"),
    (
        matrix_bounds,
        "raised",
        lambda fn: lambda v, n, u: v * (1 - 16 * U),
        "row_norms",
    ),
    (
        matrix_bounds,
        "lowered",
        lambda fn: lambda v, n, u: v * (1 + 16 * U),
        "frobenius",
    ),
    (matrix_bounds, "gamma", constant(0.0), "gram"),
    (matrix_bounds, "row_norms_upper", scaled(1 - 1e-15), "row_norms"),
    (matrix_bounds, "frobenius_upper", scaled(1 - 1e-14), "frobenius"),
    (matrix_bounds, "frobenius_lower", scaled(1 + 1e-14), "frobenius"),
    (matrix_bounds, "symmetric_norm_upper", scaled(0.5), "symmetric_norm"),
    (matrix_bounds, "symmetric_norm_upper", constant(0.0), "cholesky"),
    (matrix_bounds, "gram_and_error", part(1, 1e-3), "gram"),
    (matrix_bounds, "eig_min_lower", scaled(1.01), "eig_min"),
    (matrix_bounds, "eig_max_upper", scaled(0.99), "eig_max"),
    (
        matrix_bounds,
        "_eig_min_by_cholesky",
        lambda fn: lambda m, s, u: s + 1e-12,
        "eig_min",
    ),
    (matrix_bounds, "spectral_norm_upper", scaled(1 - 1e-9), "spectral_norm"),
    (matrix_bounds, "perron_upper", scaled(0.999), "perron"),
    (activation_bounds, "ROUNDING", lambda v: v / 64, "activation_values"),
    (
        activation_bounds,
        "SMOOTH_ACTIVATIONS",
        activations("slope", 0.99),
        "activation_suprema",
    ),
    (
        activation_bounds,
        "SMOOTH_ACTIVATIONS",
        activations("curvature", 0.99),
        "activation_suprema",
    ),
    (evaluation, "gamma", constant(0.0), "evaluation"),
    (evaluation, "affine", without_error, "error_propagation"),
    (evaluation, "affine", without_error, "residual_norm"),
    (evaluation, "transposed", without_error, "error_propagation"),
    (evaluation, "chained", without_error, "error_propagation"),
    (evaluation, "layer_kernel", without_error, "evaluation"),
    (
        evaluation,
        "activated",
        lambda fn: lambda *a: tuple(map(no_error, fn(*a))),
        "error_propagation",
    ),
    (evaluation, "_product_error", constant(0.0), "error_propagation"),
    (lipschitz, "_largest_column", scaled(0.3), "deep_lipschitz_with_curvature"),
    (lipschitz, "_largest_frobenius", scaled(0.3), "deep_lipschitz_of_a_product"),
    (
        lipschitz,
        "two_layer",
        field("curvature", 0.9),
        "lipschitz_is_attained_by_one_unit",
    ),
    (
        lipschitz,
        "two_layer",
        field("readout", 0.9),
        "lipschitz_is_attained_by_one_unit",
    ),
    (
        lipschitz,
        "two_layer",
        field("slope", 0.9),
        "lipschitz_of_both_layers_is_attained_by_a_product",
    ),
    (
        lipschitz.TwoLayer,
        "at",
        scaled(0.9),
        "lipschitz_of_both_layers_is_attained_by_a_product",
    ),
    (
        lipschitz.TwoLayer,
        "of_first_layer",
        scaled(0.9),
        "lipschitz_of_both_layers_is_attained_by_a_product",
    ),
    (
        lipschitz.TwoLayer,
        "at",
        lambda fn: lambda self, r: fn(self, 0.0),
        "lipschitz_grows_with_the_readout",
    ),
    (lipschitz.Deep, "at", scaled(0.7), "deep_lipschitz_of_a_product"),
    (
        lipschitz.Deep,
        "at",
        lambda fn: lambda self, r: fn(self, 0.0),
        "deep_lipschitz_of_a_product",
    ),
    (
        lipschitz.Deep,
        "_forward",
        lambda fn: lambda self, r, one: [0.4 * v for v in fn(self, r, one=one)],
        "deep_lipschitz_of_a_product",
    ),
    (lipschitz, "input_gram", field("entries", 0.999), "input_gram"),
    (lipschitz, "input_gram", field("norms", 0.999), "input_gram"),
    (lipschitz, "input_gram", field("spectral", 0.999), "input_gram"),
    (local_bounds, "sigma_min_lower", scaled(1.01), "singular_values"),
    (local_bounds, "sigma_max_upper", scaled(0.99), "singular_values"),
    (local_bounds, "newton_norm_upper", scaled(0.99), "newton_norm"),
    (local_bounds, "output_of", part(1, 0.0), "residual_norm"),
    (local_bounds, "output_of", part(1, 0.5), "symmetrized"),
    (local_bounds, "kernel_of", field("error", 0.5), "symmetrized"),
    (local_bounds, "_largest", of_function(0.5), "symmetrized"),
    (ball, "_ball", field("length", 0.99), "ball_is_sharp"),
    (ball, "_ball", field("sigma_end", 1.01), "ball_is_sharp"),
    (ball, "_ball", field("condition", 0.9), "ball_is_sharp"),
    (ball, "_ball", field("radius", 2.0), "ball_needs_its_radius"),
    (ball, "zero_distance", scaled(1.1), "zero_distance"),
    (theorems, "kernel_drift", scaled(0.5), "gap_and_drift"),
    (theorems, "kernel_drift", scaled(0.05), "gap_and_drift"),
    (flips, "margins_lower", scaled(1.1), "margins"),
    (flips, "flips_fn", of_function(0.4), "flips"),
    (flips, "_weights", scaled(0.4), "flips"),
    (flips, "drive_upper", scaled(0.9), "drive"),
    (logistic, "demand_of", scaled(0.9), "logistic"),
    (logistic, "total_loss_upper", scaled(0.9), "logistic"),
]


@pytest.mark.parametrize(
    "mutation",
    MUTATIONS,
    ids=[f"{m[0].__name__.split('.')[-1]}.{m[1]}-{m[3]}" for m in MUTATIONS],
)
def test_a_weakened_bound_fails_its_check(mutation, monkeypatch):
    owner, name, weaken, check = mutation
    original = getattr(owner, name)
    weakened = weaken(original)
    monkeypatch.setattr(owner, name, weakened)
    # Names that other modules have imported.
    for module in (
        ball,
        evaluation,
        flips,
        lipschitz,
        local_bounds,
        logistic,
        theorems,
    ):
        if isinstance(owner, ModuleType) and getattr(module, name, None) is original:
            monkeypatch.setattr(module, name, weakened)
    with pytest.raises(AssertionError):
        CHECKS[check]()


def test_every_function_that_returns_a_bound_is_mutated():
    """A bound that is added later has to be added here as well."""
    marks = ("_upper", "_lower", "_error")
    mutated = {name for _, name, _, _ in MUTATIONS}
    for module in (matrix_bounds, evaluation, flips, lipschitz, local_bounds, logistic):
        for name, value in vars(module).items():
            own = getattr(value, "__module__", None) == module.__name__
            if own and callable(value) and name.endswith(marks):
                assert name in mutated, f"{module.__name__}.{name}"


@pytest.mark.parametrize("scale", [1e-170, 1e160, 1e308])
def test_overflow_and_underflow_never_certify(scale):
    m = np.eye(2) * scale
    with np.errstate(over="ignore", invalid="ignore"):
        assert_safe(m, scale)


def assert_safe(m, scale):
    value, error = matrix_bounds.gram_and_error(m, U)
    sigma = local_bounds.sigma_min_lower(Kernel(value, error), U)
    assert sigma <= scale
    assert matrix_bounds.frobenius_upper(m, U) >= scale


def test_singular_matrices_have_no_lower_bound():
    rng = np.random.default_rng(9)
    for rank in (1, 3):
        m = rng.standard_normal((5, rank))
        assert matrix_bounds.eig_min_lower(m @ m.T, U) <= 0
    assert matrix_bounds.eig_min_lower(np.full((2, 2), np.nan), U) == -math.inf


def test_intervals_of_unknown_numbers_stay_unknown():
    unknown = Interval(math.nan, 1.0)
    assert math.isnan(unknown.low)
    assert math.isnan(unknown.high)
    for result in (
        unknown + 1.0,
        Interval(0.0, 1.0) * math.inf,
        1.0 / Interval(-1.0, 1.0),
        Interval(-1.0, 1.0).sqrt(),
        Interval(0.0, 1.0).log(),
    ):
        assert math.isnan(result.low)
        assert math.isnan(result.high)


def test_symmetrized_scale_is_within_two_roundings():
    true = Decimal(1) / Decimal(2).sqrt()
    assert abs(Decimal(dense_layers.SYMMETRIZED_SCALE) / true - 1) <= 2 * Decimal(U)
