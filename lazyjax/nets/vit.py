"""Vision transformers."""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lazyjax.activations import activation_fn
from lazyjax.architecture import Architecture
from lazyjax.architecture.kinds import complete
from lazyjax.nets._layers import dense, normalize, projection, read_out
from lazyjax.nets.build import build
from lazyjax.nets.network import Network, first_kernel, from_module
from lazyjax.typing import Params

_MLP_FACTOR = 4  # hidden units of a block, as a multiple of the width
_POSITION_STD = 0.02


def vit(*, width: int, depth: int = 4, **options: Any) -> Network:
    r"""Vision transformer of inputs (height, width, channels).

    As in Dosovitskiy et al. (2021), blocks normalize what their branches read, and
    positions are learned, of standard deviation 0.02 at the start. Unlike there, the
    output layer reads the mean over tokens, there is no class token, and normalization
    has no parameters. Attention divides products of queries and keys by
    $\sqrt{\text{width of a head}}$, or by that width in "mup".

    Attention has no infinite-width kernel here: `lazyjax.infinite_ntk` refuses it.

    Args:
        width: Features of a token; a multiple of `num_heads`.
        depth: Number of blocks.
        **options: Fields of `lazyjax.Architecture`, where their formulas stand, such as
            `patch_size` and `num_heads`. Unlike there, `activation` is "gelu",
            `normalization` "layer" and `head` "average" unless given.

    Returns:
        The network. Its parameters are `{"layer_1": {"kernel": (patch_size**2 *
        channels, width)}, "positions": {"kernel": (tokens, width)}, ...}`; those of
        blocks, from "layer_2" on, are "query", "key", "value", "attended", "hidden" and
        "output"; the last layer's as those of `lazyjax.nets.cnn`. Each has a "bias" if
        `b_std` is not 0, positions excepted.

    Raises:
        ValueError: If an option is out of range, not one of its choices, or without
            meaning for this kind, or `width` not a multiple of `num_heads`.
        TypeError: If a count is not an integer, or an option unknown.

    Example:
        >>> import jax, jax.numpy as jnp, lazyjax
        >>> net = lazyjax.nets.vit(width=16, depth=2, patch_size=2)
        >>> x = jnp.ones((5, 8, 8, 1))
        >>> net.apply(net.init(jax.random.key(0), x), x).shape
        (5, 1)

    References:
        Dosovitskiy et al. (2021), arXiv:2010.11929; Yang et al. (2022),
        arXiv:2203.03466, for attention in "mup" (equation numbers not checked).
    """
    usual = {"activation": "gelu", "normalization": "layer", "head": "average"}
    architecture = Architecture(**{"kind": "vit", **usual, "depth": depth, **options})
    return build(architecture, width=width)


class _ViT(nn.Module):
    architecture: Architecture
    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "n *d"]) -> Float[Array, "n k"]:
        spec = self.architecture
        patches = _patches(spec, x)
        h = dense(spec, 1, self.width, patches)
        h = h + self._positions(h.shape[1], h.dtype)[None]
        for layer in range(2, spec.num_layers):
            h = _TransformerBlock(spec, self.width, layer, name=f"layer_{layer}")(h)
        return read_out(spec, self.width, normalize(spec, h))

    def _positions(self, num_tokens: int, dtype: jnp.dtype) -> Array:
        # Weights of the first layer too, of one-hot inputs; not divided by their number.
        w_std = _POSITION_STD * math.sqrt(num_tokens)
        spec = dataclasses.replace(self.architecture, w_std=w_std, b_std=0.0)
        one_hot = jnp.eye(num_tokens, dtype=dtype)
        return projection(spec, 1, self.width, self.width, one_hot, "positions")


class _TransformerBlock(nn.Module):
    """Attention among tokens, then a network of each token; both add to their input."""

    architecture: Architecture
    width: int
    layer: int

    @nn.compact
    def __call__(self, h: Float[Array, "n tokens m"]) -> Float[Array, "n tokens m"]:
        spec = self.architecture
        h = h + self._attended(normalize(spec, h))
        z = self._project("hidden", _MLP_FACTOR * self.width, normalize(spec, h))
        units = spec.activation_factor(self.layer) * activation_fn(spec.activation)(z)
        return h + self._project("output", self.width, units)

    def _project(self, name: str, features: int, h: Array) -> Array:
        return projection(self.architecture, self.layer, self.width, features, h, name)

    def _attended(self, h: Array) -> Array:
        num_heads = self.architecture.num_heads
        size = self.width // num_heads

        def by_head(name: str) -> Array:
            z = self._project(name, self.width, h)
            return z.reshape(*z.shape[:-1], num_heads, size)

        is_mup = self.architecture.parameterization == "mup"
        query, key, value = map(by_head, ("query", "key", "value"))
        products = jnp.einsum("nqhc,nkhc->nhqk", query, key)
        weights = jax.nn.softmax(products / (size if is_mup else math.sqrt(size)))
        attended = jnp.einsum("nhqk,nkhc->nqhc", weights, value)
        return self._project("attended", self.width, attended.reshape(h.shape))


def _patches(
    architecture: Architecture, x: Float[Array, "n *d"]
) -> Float[Array, "n tokens features"]:
    """Pixels of each patch, one patch after the other.

    Returns:
        The patches, row by row.

    Raises:
        ValueError: If inputs are not images of whole patches.
    """
    size = architecture.patch_size
    if x.ndim != 4 or x.shape[1] % size or x.shape[2] % size:
        raise ValueError(
            "`x` must be a batch of images (n, height, width, channels), of heights and "
            f"widths that are multiples of `patch_size`, {size}; got shape {x.shape}."
        )
    n, height, width, channels = x.shape
    x = x.reshape(n, height // size, size, width // size, size, channels)
    return x.swapaxes(2, 3).reshape(n, -1, size * size * channels)


@dataclasses.dataclass(frozen=True)
class _CheckPatches:
    """Check that inputs are images of as many patches as the network was made for."""

    architecture: Architecture

    def __call__(self, params: Params, x: Array) -> None:
        features = first_kernel(params).shape[0]
        tokens = params["positions"]["kernel"].shape[0]
        came = jax.eval_shape(lambda x: _patches(self.architecture, x), x).shape[1:]
        if came != (tokens, features):
            raise ValueError(
                f"`x` must have {tokens} patches of {features} numbers, as at "
                f"initialization; got {came[0]} of {came[1]}."
            )


def _build(architecture: Architecture, width: int) -> Network:
    if width % architecture.num_heads:
        raise ValueError(
            f"`width` must be a multiple of `num_heads`, {architecture.num_heads}; got "
            f"{width}."
        )
    module = _ViT(architecture, width)
    return from_module(module, architecture, width, _CheckPatches(architecture))


complete("vit", build=_build)
