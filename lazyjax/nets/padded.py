r"""Networks of several widths as one function, so that one program serves them all.

A network initialized at its own width and padded with zeros to a larger one is the same
function, if layers keep the multipliers of its own width. Its gradient is that of the
network alone, and zero in all that was added: what a unit sends on is multiplied by zero,
and nothing comes back to it. So an optimizer that leaves alone what has no gradient keeps
the padding at zero.
"""

import dataclasses
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from lazyjax._checks import check_floating
from lazyjax.activations import activation_fn
from lazyjax.architecture import KINDS
from lazyjax.nets._layers import MULTIPLIERS
from lazyjax.nets.network import Apply, ModuleApply, Network, SymmetrizedApply
from lazyjax.typing import AnyArray, Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Narrow:
    """What a program of one width needs to know of a narrower network.

    Attributes:
        multipliers: Those of each layer, at the width of the network.
        masks: Where parameters are not padding; `None` if activations make sure that
            padding has no gradient.
    """

    multipliers: dict[str, Any]
    masks: Params | None


@dataclasses.dataclass(frozen=True)
class PaddedNetwork:
    """Networks of one architecture and of every width up to `network.width`.

    Attributes:
        network: The widest of them.

    Raises:
        ValueError: If networks of its architecture cannot be padded.

    Example:
        >>> import jax, jax.numpy as jnp, lazyjax
        >>> x, key = jnp.ones((1, 3)), jax.random.key(0)
        >>> wide, narrow = (lazyjax.nets.mlp(width=width) for width in (8, 5))
        >>> padded = PaddedNetwork(wide)
        >>> params, about = padded.init(narrow, key, x)
        >>> params["layer_1"]["kernel"].shape
        (3, 8)
        >>> alone = narrow.apply(narrow.init(key, x), x)
        >>> bool(jnp.allclose(padded.apply(params, x, about), alone))
        True
    """

    network: Network

    def __post_init__(self) -> None:
        reason = _obstacle(self.network)
        if reason is not None:
            raise ValueError(f"`network` cannot be padded: {reason}.")

    def init(
        self, narrow: Network, key: Key[Array, ""], x: Float[AnyArray, "n *d"], /
    ) -> tuple[Params, Narrow]:
        """Parameters of `narrow` as `narrow.init(key, x)` draws them, padded with zeros.

        Args:
            narrow: Network of the same architecture, no wider than `network`.
            key: Source of randomness.
            x: A batch; its values are not used.

        Returns:
            The parameters, and what `apply` needs beside them.

        Raises:
            ValueError: If `narrow` is of another architecture, or wider.
            TypeError: If `x` is not floating point.
        """
        wide = self.network
        if narrow.architecture != wide.architecture or narrow.width > wide.width:
            raise ValueError(
                f"`narrow` must be a network of the architecture of `network`, of width "
                f"{wide.width} or less; got width {narrow.width} and "
                f"{narrow.architecture}."
            )
        check_floating("x", x)
        row = jnp.zeros((1, *x.shape[1:]), x.dtype)
        variables = _module(narrow).init(key, row)
        shapes = jax.eval_shape(_module(wide).init, key, row)["params"]

        def pad(params: Params) -> Params:
            return jax.tree.map(
                lambda p, s: _pad(p, s.shape, wide.width), params, shapes
            )

        params = variables["params"]
        masks = None
        if not _padding_is_idle(wide):
            masks = pad(jax.tree.map(lambda p: jnp.ones(p.shape, bool), params))
        padded = pad(params)
        if wide.architecture.symmetrized:
            padded = {"minus": padded, "plus": padded}
        return padded, Narrow(dict(variables[MULTIPLIERS]), masks)

    def apply(
        self, params: Params, x: Float[AnyArray, "n *d"], narrow: Narrow, /
    ) -> Float[Array, "n k"]:
        """Outputs of the narrow network at its padded parameters.

        Args:
            params: Padded parameters.
            x: Inputs.
            narrow: As returned by `init`.

        Returns:
            One row per row of `x`.
        """
        x = jnp.asarray(x)
        if self.network.architecture.symmetrized:
            plus, minus = (
                self._apply_one(params[s], x, narrow) for s in ("plus", "minus")
            )
            return (plus - minus) / 2**0.5
        return self._apply_one(params, x, narrow)

    def _apply_one(self, params: Params, x: Array, narrow: Narrow) -> Array:
        if narrow.masks is not None:
            params = jax.tree.map(_masked, narrow.masks, params)
        variables = {"params": params, MULTIPLIERS: narrow.multipliers}
        return cast(Array, _module(self.network).apply(variables, x))

    def trim(self, params: Params, shapes: Params, /) -> Params:
        """Parameters without their padding.

        Args:
            params: Padded parameters, possibly with further axes in front.
            shapes: Of the parameters of the narrow network, as from `jax.eval_shape` of
                its `init`.

        Returns:
            The parameters of the narrow network, as NumPy arrays.
        """
        width = self.network.width
        return jax.tree.map(lambda p, s: _trim(p, s.shape, width), params, shapes)


def can_be_padded(network: Network) -> bool:
    """Whether `PaddedNetwork` takes networks like this one.

    Args:
        network: One of them.

    Returns:
        True for those of `lazyjax.nets`, unless they are recurrent or transformers,
        normalize over units, or their activation or its derivative is not finite at zero.
    """
    return _obstacle(network) is None


def _obstacle(network: Network) -> str | None:
    try:
        _module(network)
    except TypeError:
        return "it is not made by a function of `lazyjax.nets`"
    if not KINDS[network.architecture.kind].is_paddable:
        return f"its kind, {network.architecture.kind!r}, cannot be"
    if network.architecture.normalization != "none":
        return "it normalizes over hidden units, padding included"
    if not np.isfinite(_activation_at_zero(network)).all():
        return "its activation, or the derivative, is not finite at zero"
    return None


def _module(network: Network) -> nn.Module:
    apply_fn = network.apply
    if isinstance(apply_fn, SymmetrizedApply):
        apply_fn = apply_fn.apply_fn
    if isinstance(apply_fn, Apply) and isinstance(apply_fn.apply_fn, ModuleApply):
        return apply_fn.apply_fn.module
    raise TypeError(f"`network` is not made of a module; got {network!r}.")


def _activation_at_zero(network: Network) -> np.ndarray:
    """The activation and its derivative at zero."""
    phi = activation_fn(network.architecture.activation)

    # Under `jax.vmap`, only what is compiled is evaluated at once.
    @jax.jit
    def value_and_slope(zero: Float[Array, ""]) -> Float[Array, "2"]:
        return jnp.stack(jax.jvp(phi, (zero,), (jnp.ones_like(zero),)))

    with jax.ensure_compile_time_eval():
        return np.asarray(value_and_slope(jnp.zeros(())))


def _padding_is_idle(network: Network) -> bool:
    """Whether padding has no gradient even without masks: units at zero send zero."""
    return bool(_activation_at_zero(network)[0] == 0)


def _pad(leaf: Array, shape: tuple[int, ...], width: int) -> Array:
    """`leaf` with zeros up to `shape`; axes that grow are (other, units), units last."""
    for axis, (size, target) in enumerate(zip(leaf.shape, shape, strict=True)):
        if size != target:
            other = target // width
            split = leaf.reshape(*leaf.shape[:axis], other, -1, *leaf.shape[axis + 1 :])
            pads = [(0, 0)] * split.ndim
            pads[axis + 1] = (0, width - size // other)
            leaf = jnp.pad(split, pads).reshape(
                *leaf.shape[:axis], target, *leaf.shape[axis + 1 :]
            )
    return leaf


def _trim(leaf: AnyArray, shape: tuple[int, ...], width: int) -> np.ndarray:
    leaf = np.asarray(leaf)
    first = leaf.ndim - len(shape)
    for axis, size in enumerate(shape, first):
        if leaf.shape[axis] != size:
            other = leaf.shape[axis] // width
            before, after = leaf.shape[:axis], leaf.shape[axis + 1 :]
            split = leaf.reshape(*before, other, width, *after)
            split = np.take(split, range(size // other), axis + 1)
            leaf = split.reshape(*before, size, *after)
    return leaf


def _masked(mask: Bool[Array, "*shape"], leaf: Float[Array, "*shape"]) -> Array:
    return jnp.where(mask, leaf, 0)
