"""Networks of layer after layer: fully connected or convolutional, plain or residual."""

import flax.linen as nn
from jaxtyping import Array, Float

from lazyjax.activations import activation_fn
from lazyjax.architecture import Architecture
from lazyjax.nets._layers import convolution, dense, normalize, pool, read_out


class Layered(nn.Module):
    """The network of an architecture whose layers are dense or convolutional."""

    architecture: Architecture
    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "n *d"]) -> Float[Array, "n k"]:
        """Outputs; vectors are made of what is no image to be convolved."""
        spec = self.architecture
        weights = convolution if spec.is_convolutional else dense
        phi = activation_fn(spec.activation)
        h = x if spec.is_convolutional else x.reshape(x.shape[0], -1)
        for layer in range(1, spec.num_layers):
            z = normalize(spec, weights(spec, layer, self.width, h))
            branch = spec.activation_factor(layer) * phi(z)
            h = h + branch if spec.is_residual and layer > 1 else branch
            if layer in spec.pool_after:
                h = pool(spec, h)
        return read_out(spec, self.width, h)
