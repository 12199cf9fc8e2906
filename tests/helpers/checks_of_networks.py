"""Checks of bounds of networks and their Jacobians; see `test_certify_bounds`."""

import dataclasses
import functools
import itertools
import math
from decimal import Decimal
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lazyjax.certify.arithmetic import matrices as matrix_bounds
from lazyjax.certify.bounds import (
    branches,
    evaluation,
    lipschitz,
    singular_values,
)
from lazyjax.certify.bounds.evaluation import Kernel
from lazyjax.certify.bounds.layers import Layer, Layers
from tests.helpers import exact
from tests.helpers.checks_of_matrices import U, matrices

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
            rows = evaluation.EnclosedRows(h, np.array([shift]), np.array([1.0]))
            found = spread(layer, norm, rows, U)
            moved = layer.scale * np.linalg.norm(fn(shift * h))
            assert moved <= found.error[0] * (1 + 1e-9)
    slope = evaluation.EnclosedRows(
        np.ones((1, 2)), np.array([0.0]), np.array([2.0**0.5])
    )
    b = evaluation.EnclosedRows(
        np.array([[[3.0, 0]]]), np.array([[shift]]), np.array([[3.0]])
    )
    chained = evaluation.chained(network, b, slope, U)
    assert chained.error[0, 0] >= shift * network.factor
    slope = dataclasses.replace(slope, error=np.array([shift]))
    b = dataclasses.replace(b, error=np.array([[0.0]]))
    assert evaluation.chained(network, b, slope, U).error[0, 0] >= 3 * shift
    tanh = dataclasses.replace(network, activation="tanh")
    z = evaluation.EnclosedRows(np.array([[0.0]]), np.array([shift]), np.array([0.0]))
    assert evaluation.activated(tanh, z, U)[0].error[0] >= 1.1 * math.tanh(shift)
    bend = math.atanh(3**-0.5)  # where the slope of tanh changes fastest
    z = evaluation.EnclosedRows(np.array([[bend]]), np.array([1e-5]), np.array([bend]))
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
        low = Fraction(singular_values.sigma_min_lower(kernel, U))
        high = Fraction(singular_values.sigma_max_upper(kernel, U))
        assert exact.is_positive_definite(exact.shifted(gram, low**2))
        assert exact.is_positive_definite(exact.shifted(gram, -(high**2), sign=-1))
        assert low >= np.linalg.svd(m)[1][-1] * (1 - 1e-10)
        off = Kernel(value, 0.5 * np.linalg.eigvalsh(value)[0])
        smallest = np.linalg.eigvalsh(value - off.error * np.eye(len(m)))[0]
        assert singular_values.sigma_min_lower(off, U) <= math.sqrt(smallest) * (
            1 + 1e-9
        )
        assert singular_values.sigma_max_upper(
            off, U
        ) ** 2 >= off.error + np.linalg.norm(value, 2)


def check_newton_norm():
    rng = np.random.default_rng(6)
    for m in matrices(6):
        value, error = matrix_bounds.gram_and_error(m, U)
        residual = rng.standard_normal(len(m))
        sigma = np.linalg.svd(m)[1][-1] * (1 - 1e-9)
        bound = singular_values.newton_norm_upper(
            Kernel(value, error), residual, 0.0, sigma, U
        )
        true = np.linalg.norm(np.linalg.pinv(m) @ residual)
        assert true * (1 - 1e-12) <= bound <= true * (1 + 1e-9)
        # Along the worst direction an error of the residual counts in full.
        left = np.linalg.svd(m)[0][:, -1]
        off = 1e-3
        bound = singular_values.newton_norm_upper(
            Kernel(value, error), left, off, sigma, U
        )
        assert bound >= (1 + off) / sigma * (1 - 1e-8)


def check_residual_norm():
    network, x, outputs, _ = evaluated_exactly(0)
    found = evaluation.evaluate(network, x, U)
    for targets in (np.zeros_like(found.output.value), found.output.value):
        residual = branches.residual_of((found,), targets)
        shift = np.vectorize(lambda v: Decimal(float(v)))(targets)
        true = sum((v * v for v in (outputs - shift).ravel()), Decimal(0)).sqrt()
        assert Decimal(residual.norm.low) <= true <= Decimal(residual.norm.high)


def check_symmetrized():
    """Half the sum of kernels, and the difference of outputs over sqrt(2)."""
    plus = random_layers((3, 4, 1), "tanh", seed=1)
    minus = random_layers((3, 4, 1), "tanh", seed=2)
    x = np.random.default_rng(7).standard_normal((2, 3))
    both = tuple(evaluation.evaluate(copy, x, U) for copy in (plus, minus))
    value, error = branches.output_of(both)
    true = (both[0].output.value - both[1].output.value) / 2**0.5
    np.testing.assert_allclose(value, true, rtol=1e-14)
    assert error >= sum(np.linalg.norm(e.output.error) for e in both) / 2**0.5
    kernel = branches.kernel_of(both)
    jacobians = [jacobian(copy, x, weights_of(copy)) for copy in (plus, minus)]
    joint = np.concatenate([jacobians[0], -jacobians[1]], 1) / 2**0.5
    np.testing.assert_allclose(kernel.value, joint @ joint.T, rtol=1e-11)
    parts = [evaluation.kernel(e).error for e in both]
    assert kernel.error >= sum(parts) / 2
    constants = [lipschitz.lipschitz_of(e).at(0.5) for e in both]
    joined = branches.lipschitz_fn(both)(0.5)
    assert joined >= max(constants) / 2**0.5 * (1 - 1e-15)
