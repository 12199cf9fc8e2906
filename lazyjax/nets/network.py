"""A finite network as two pure functions and the description they were built from."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lazyjax._brief import brief
from lazyjax._checks import check_batch, check_floating, check_key
from lazyjax.architecture import Architecture
from lazyjax.typing import AnyArray, ApplyFn, InitFn, Params, RandomKey


@dataclasses.dataclass(frozen=True)
class Network:
    """A finite network: `init(key, x) -> params` and `apply(params, x) -> f`.

    Two networks built with the same arguments are equal and hash alike, so a program
    compiled for one serves the other.

    Attributes:
        init: Initializer; only the shape and dtype of `x` are used.
        apply: Forward pass, batch first, rows independent.
        architecture: What `lazyjax.infinite_ntk` reads.
        width: Number of units of each hidden layer.
    """

    init: InitFn
    apply: ApplyFn
    architecture: Architecture
    width: int

    def __repr__(self) -> str:
        return f"Network(width={self.width}, architecture={self.architecture!r})"


@dataclasses.dataclass(frozen=True)
class Init:
    """Checked initializer around `init_fn(key, x)`."""

    init_fn: Callable[[Array, Array], Params]

    def __call__(self, key: RandomKey, x: Float[AnyArray, "n *d"], /) -> Params:
        """Parameters for inputs shaped like `x`, in the dtype of `x`.

        Args:
            key: Source of randomness, from `jax.random.key`.
            x: A batch; its values are not used.

        Returns:
            The parameters as a pytree.

        Raises:
            TypeError: If `key` is no random key, or `x` not floating point.
            ValueError: If `x` is not a non-empty batch.
        """
        check_key("key", key)
        check_floating("x", x)
        check_batch("x", x)
        return _compiled_init(
            key, init_fn=self.init_fn, shape=x.shape[1:], dtype=x.dtype
        )


@functools.partial(jax.jit, static_argnames=("init_fn", "shape", "dtype"))
def _compiled_init(
    key: Array,
    *,
    init_fn: Callable[[Array, Array], Params],
    shape: tuple[int, ...],
    dtype: jnp.dtype,
) -> Params:
    return init_fn(key, jnp.zeros((1, *shape), dtype))


@dataclasses.dataclass(frozen=True)
class Apply:
    """Forward pass `apply_fn(params, x)` after `check_fn(params, x)`."""

    apply_fn: Callable[[Params, Array], Array]
    check_fn: Callable[[Params, Array], None]

    def __call__(
        self, params: Any, x: Float[AnyArray, "n *d"], /
    ) -> Float[Array, "n k"]:
        """Outputs of the network at `params`.

        Args:
            params: As returned by the initializer.
            x: Inputs with as many features as the initializer saw.

        Returns:
            One row per row of `x`.

        Raises:
            TypeError: If `x` is not floating point.
            ValueError: If `x` has another number of features, or of axes.
        """
        check_floating("x", x)
        x = jnp.asarray(x)
        self.check_fn(params, x)
        return self.apply_fn(params, x)


def from_module(
    module: nn.Module,
    architecture: Architecture,
    width: int,
    check_fn: Callable[[Params, Array], None],
) -> Network:
    """Network of a Flax module that `architecture` describes.

    Args:
        module: From inputs to outputs.
        architecture: Its description, not symmetrized.
        width: Units of each hidden layer.
        check_fn: Raises if inputs do not fit parameters.

    Returns:
        The network.
    """
    return Network(
        init=Init(_ModuleInit(module)),
        apply=Apply(ModuleApply(module), check_fn),
        architecture=architecture,
        width=width,
    )


def builder(
    module_fn: Callable[[Architecture, int], nn.Module],
    check_fn: Callable[[Params, Array], None],
) -> Callable[[Architecture, int], Network]:
    """Function from an architecture and a width to the network of such a module."""

    def build(architecture: Architecture, width: int) -> Network:
        module = module_fn(architecture, width)
        return from_module(module, architecture, width, check_fn)

    return build


@dataclasses.dataclass(frozen=True)
class _ModuleInit:
    module: nn.Module

    def __call__(self, key: Array, x: Array) -> Params:
        return self.module.init(key, x)["params"]


@dataclasses.dataclass(frozen=True)
class ModuleApply:
    """Forward pass of a Flax module."""

    module: nn.Module

    def __call__(self, params: Params, x: Array) -> Array:
        """Outputs of the module at `params`."""
        return cast(Array, self.module.apply({"params": params}, x))


def symmetrize(network: Network) -> Network:
    r"""Network $(g(w_1) - g(w_2)) / \sqrt 2$ that starts from $w_1 = w_2$.

    The output is exactly zero at the start and the neural tangent kernel is that of
    `network`, so that training starts in the lazy regime whatever the output scale.

    Args:
        network: The network $g$.

    Returns:
        The symmetrized network, whose parameters are `{"minus": ..., "plus": ...}`.

    References:
        Chizat, Oyallon and Bach (2019), arXiv:1812.07956 (doubling trick; section
        numbers not checked).
    """
    return Network(
        init=_SymmetrizedInit(network.init),
        apply=SymmetrizedApply(network.apply),
        architecture=dataclasses.replace(network.architecture, symmetrized=True),
        width=network.width,
    )


@dataclasses.dataclass(frozen=True)
class _SymmetrizedInit:
    init_fn: InitFn

    def __call__(self, key: Array, x: AnyArray, /) -> Params:
        params = self.init_fn(key, x)
        return {"minus": params, "plus": params}


@dataclasses.dataclass(frozen=True)
class SymmetrizedApply:
    """Half the difference of two copies of `apply_fn`, times the root of 2."""

    apply_fn: ApplyFn

    def __call__(self, params: Any, x: AnyArray, /) -> Array:
        """Outputs at the parameters of both copies."""
        x = jnp.asarray(x)
        plus = self.apply_fn(params["plus"], x)
        minus = self.apply_fn(params["minus"], x)
        return (plus - minus) / 2**0.5


def pre_activations(
    network: Network,
) -> Callable[[Params, Array], dict[str, Array]]:
    """What hidden layers of a network pass to their activations, for observers of gates.

    Args:
        network: As built here, of layers of weights "layer_1" and so on.

    Returns:
        Function `(params, x)`, of one array for each hidden layer, by its name.

    Raises:
        ValueError: If the network is symmetrized, or normalizes pre-activations.

    Example:
        >>> import jax, jax.numpy as jnp, lazyjax
        >>> net = lazyjax.nets.mlp(width=4, depth=2)
        >>> x = jnp.ones((3, 2))
        >>> gates = lazyjax.nets.pre_activations(net)
        >>> found = gates(net.init(jax.random.key(0), x), x)
        >>> {name: z.shape for name, z in found.items()}
        {'layer_1': (3, 4), 'layer_2': (3, 4)}
    """
    apply_fn = network.apply.apply_fn if isinstance(network.apply, Apply) else None
    has_them = network.architecture.kind in ("mlp", "resnet", "cnn", "conv_resnet")
    if (
        not isinstance(apply_fn, ModuleApply)
        or network.architecture.normalization != "none"
        or not has_them
    ):
        raise ValueError(
            "`network` must be fully connected or convolutional, not symmetrized and "
            f"without normalization; got {brief(network)}."
        )
    return _PreActivations(apply_fn.module, f"layer_{network.architecture.num_layers}")


@dataclasses.dataclass(frozen=True)
class _PreActivations:
    module: nn.Module
    last: str  # the output layer, which has no activation

    def __call__(self, params: Params, x: Array) -> dict[str, Array]:
        _, state = self.module.apply(
            {"params": params},
            x,
            capture_intermediates=lambda module, _: (
                (module.name or self.last) != self.last
            ),
            mutable=["intermediates"],
        )
        layers = state["intermediates"].items()
        return {name: cast(Any, seen)["__call__"][0] for name, seen in layers}


# Checks of inputs ---------------------------------------------------------------------


def first_kernel(params: Params) -> AnyArray:
    """Weights of the first layer; parameters that have none are refused."""
    try:
        return params["layer_1"]["kernel"]
    except (KeyError, TypeError, IndexError) as error:
        hint = ""
        if isinstance(params, Mapping) and "params" in params:
            hint = " Pass `params['params']`."
        raise ValueError(
            "`params` must be those that the network's `init` returns, with layers "
            f"'layer_1' and so on; got {brief(params)}.{hint}"
        ) from error


def check_num_features(params: Params, x: Array) -> None:
    """Check that flattened inputs have as many features as the first layer.

    Raises:
        ValueError: If they have not.
    """
    expected = first_kernel(params).shape[0]
    if x.ndim < 1 or math.prod(x.shape[1:]) != expected:
        hint = " For one example: `x[None]`." if x.shape == (expected,) else ""
        raise ValueError(
            f"`x` must have {expected} features per example, as at initialization; "
            f"got shape {x.shape}.{hint}"
        )


def check_sequence(params: Params, x: Array) -> None:
    """Check that inputs are sequences of as many features as the first layer reads.

    Raises:
        ValueError: If they are not.
    """
    expected = first_kernel(params).shape[0]
    if x.ndim != 3 or x.shape[-1] != expected:
        raise ValueError(
            f"`x` must be a batch of sequences (n, time, {expected}); got {x.shape}."
        )


def check_image(params: Params, x: Array) -> None:
    """Check that inputs are images with as many channels as the first layer reads.

    Raises:
        ValueError: If they are not.
    """
    *taps, channels, _ = first_kernel(params).shape
    if x.ndim != len(taps) + 2 or x.shape[-1] != channels:
        raise ValueError(
            f"`x` must have {len(taps)} spatial axes and {channels} channels, (n, "
            f"{'height, width' if len(taps) == 2 else 'length'}, {channels}); got shape "
            f"{x.shape}."
        )
