"""Checks of the output scale, of comparison with networks, and of what is refused."""

import dataclasses
import math
import types
from decimal import Decimal
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lazyjax.certify import LocalBounds
from lazyjax.certify.bounds import (
    branches,
    evaluation,
    layers as dense_layers,
    singular_values,
)
from lazyjax.certify.bounds.evaluation import Kernel
from lazyjax.certify.bounds.start import described_start
from lazyjax.nets import mlp
from tests.helpers import exact
from tests.helpers.checks_of_matrices import U, matrices

X = np.random.default_rng(0).standard_normal((3, 4))
Y = np.ones((3, 1))
NETWORK = mlp(width=3, activation="tanh", trained="first", output_scale=0.3, b_std=0.1)


def params_of() -> dict:
    rng = np.random.default_rng(1)
    return {
        "layer_1": {
            "kernel": rng.standard_normal((4, 3)),
            "bias": rng.standard_normal(3),
        },
        "layer_2": {
            "kernel": rng.standard_normal((3, 1)),
            "bias": rng.standard_normal(1),
        },
    }


def is_refused(call) -> bool:
    try:
        call()
    except ValueError:
        return True
    return False


def check_output_scale():
    """Outputs and kernel with the exact product of both scales, in 50 digits."""
    for scale in (0.3, 1e3, 1e-3):
        described = dataclasses.replace(NETWORK.architecture, output_scale=scale)
        scaled = dataclasses.replace(NETWORK, architecture=described)
        (layers,) = dense_layers.layers_of(scaled, params_of())
        first, last = layers.layers
        stored = 1 / math.sqrt(3), NETWORK.architecture.b_std  # as multipliers are
        exactly = [Decimal(scale) * Decimal(value) for value in stored]
        true_last = types.SimpleNamespace(
            weight=last.weight,
            bias=last.bias,
            scale=exactly[0],
            bias_scale=exactly[1],
            is_trained=last.is_trained,
        )
        alone = dense_layers.Layers((last,), "identity", 1.0)
        for network, true, x in (
            (layers, (first, true_last), X),
            (alone, (true_last,), X[:, :3]),
        ):
            name = network.activation
            outputs, kernel = exact.network(true, name, network.factor, x)
            found = evaluation.evaluate(network, x, U)
            off = (
                np.vectorize(lambda v: Decimal(float(v)))(found.output.value) - outputs
            )
            error = float(np.linalg.norm(found.output.error))
            assert exact.spectral_norm(off) <= error
            total = evaluation.kernel(found)
            rows = [[Decimal(float(v)) for v in row] for row in total.value]
            size = exact.spectral_norm(kernel)
            off = exact.spectral_norm(np.array(rows) - kernel)
            assert off <= total.error <= 1e-11 * size


def check_agreement():
    """Small changes of outputs, derivatives and curvature are seen, rounding is not."""
    params = params_of()
    centre = jax.tree.map(lambda v: v.astype(np.float32), params)
    outputs = NETWORK.apply

    def linearized(p, x):
        start = jax.tree.map(lambda v: jnp.asarray(v, x.dtype), params)
        move = jax.tree.map(jnp.subtract, p, start)
        f, change = jax.jvp(lambda q: outputs(q, x), (start,), (move,))
        return f + change

    def of(apply_fn):
        network = dataclasses.replace(NETWORK, apply=apply_fn)
        return lambda: described_start(network, params, X, Y).evaluations

    assert not is_refused(of(outputs))
    assert not is_refused(of(lambda p, x: outputs(p, x)))
    assert is_refused(of(lambda p, x: outputs(p, x) + 1e-11))
    assert is_refused(of(lambda p, x: (1 + 1e-11) * outputs(p, x)))
    assert is_refused(of(lambda p, x: jax.lax.stop_gradient(outputs(p, x))))
    assert is_refused(of(mlp(width=3, activation="tanh", b_std=0.1).apply))
    assert is_refused(of(linearized))
    lowered = lambda p, x: outputs(centre, x.astype(np.float32))
    assert is_refused(of(lambda p, x: 1.01 * lowered(p, x)))


def check_impossible_bounds():
    known = {"sigma_min": 1.0, "jacobian_norm": 2.0, "lipschitz": 0.1}
    for changes in (
        {"lipschitz": -5.0},
        {"sigma_min": -1.0},
        {"lipschitz": lambda radius: 1 / (1 + radius)},
        {"jacobian_norm": 0.5},
    ):
        arguments: Any = known | changes

        def bent(arguments=arguments):
            LocalBounds.from_constants(1.0, **arguments).lipschitz(2.0)

        assert is_refused(bent)


def check_plain_sigma_min():
    """Kernels of more examples than parameters are singular, whatever LAPACK says."""
    for m in matrices(12, rows=5, columns=4):
        for scale in (1.0, 1e70, 1e-70):
            x, zeros = scale * m, np.zeros((4, 1))
            layer = dense_layers.Layer(zeros, np.zeros(1), 1.0, 0.0, True)
            network = dense_layers.Layers((layer,), "identity", 1.0)
            gram = branches.kernel_of(branches.evaluations_of((network,), x, U))
            assert singular_values.sigma_min_lower(gram, 0.0) == 0
            full = Kernel(gram.value[:3, :3], gram.error)
            smallest = np.linalg.svd(x[:3], compute_uv=False)[-1]
            assert (
                abs(singular_values.sigma_min_lower(full, 0.0) / smallest - 1) <= 1e-6
            )
