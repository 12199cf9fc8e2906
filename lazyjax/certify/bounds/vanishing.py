"""Which derivatives vanish because weights and inputs do, whatever rounding does.

A computed zero proves nothing, as it may have been cancelled or have underflowed. So no
number is computed of others here: only which of them are zero is followed.
"""

import numpy as np
from jaxtyping import Bool, Float

from lazyjax.certify.arithmetic.activations import values_of
from lazyjax.certify.bounds.evaluation import activation_of
from lazyjax.certify.bounds.layers import Layer, Layers


def gradient_vanishes(network: Layers, x: Float[np.ndarray, "n d"]) -> bool:
    """Whether the Jacobian of every trained layer is certain to be zero."""
    value, derivative = values_of(activation_of(network), np.zeros(1))
    rows, slopes = x != 0, []
    inputs = [rows]
    for layer in network.layers[:-1]:
        z = _forward(layer, rows)
        rows = z if value == 0 else np.ones_like(z)
        slopes.append(z if derivative == 0 else np.ones_like(z))
        inputs.append(rows)
    # An entry for each example, output and unit.
    num_outputs = network.layers[-1].weight.shape[1]
    cotangent = np.broadcast_to(
        np.eye(num_outputs, dtype=bool), (len(x), *[num_outputs] * 2)
    )
    for i in range(network.depth, -1, -1):
        layer = network.layers[i]
        if layer.is_trained:
            touched = np.any(cotangent, axis=(1, 2))
            has_bias = layer.bias_scale != 0
            if np.any(touched & (np.any(inputs[i], axis=1) | has_bias)):
                return False
        if i > 0:
            backward = _product(cotangent, (layer.weight != 0).T)
            cotangent = backward & slopes[i - 1][:, None, :]
    return True


def _forward(
    layer: Layer, rows: Bool[np.ndarray, "n m"]
) -> Bool[np.ndarray, "n units"]:
    """Which pre-activations may differ from zero."""
    has_bias = (layer.bias != 0) & (layer.bias_scale != 0)
    return _product(rows, layer.weight != 0) | has_bias


def _product(
    a: Bool[np.ndarray, "*rows m"], b: Bool[np.ndarray, "m units"]
) -> Bool[np.ndarray, "*rows units"]:
    """Which entries of a product of matrices may differ from zero."""
    # Counts, in floating point as only such products are quick.
    return a.astype(np.float32) @ b.astype(np.float32) > 0
