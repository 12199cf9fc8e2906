"""The network of `nt.stax` that has the infinite-width limit of an `Architecture`."""

import dataclasses
import functools
import math
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lazyjax._checks import check_choice
from lazyjax.activations import ACTIVATIONS, activation_fn
from lazyjax.architecture import Architecture
from lazyjax.typing import Activation

KernelName = Literal["nngp", "ntk"]

# Points along each axis of their quadrature: enough for smooth activations.
_QUADRATURE_DEGREE = 150

_CLOSED_FORMS: dict[str, Callable[[Any], Any]] = {
    "abs": lambda stax: stax.Abs(),
    "cos": lambda stax: stax.Cos(),
    "erf": lambda stax: stax.Erf(),
    "gelu": lambda stax: stax.Gelu(),
    "identity": lambda stax: stax.Identity(),
    "leaky_relu": lambda stax: stax.LeakyRelu(0.01),  # the slope of jax.nn.leaky_relu
    "relu": lambda stax: stax.Relu(),
    "sign": lambda stax: stax.Sign(),
    "sin": lambda stax: stax.Sin(),
}


def stax_kernels(
    stax: ModuleType,
    architecture: Architecture,
    x1: Float[Array, "n1 *d"],
    x2: Float[Array, "n2 *d"] | None,
    width: int | None,
) -> tuple[Float[Array, "n1 n2"], Float[Array, "n1 n2"]]:
    """Both kernels of `architecture` by neural-tangents.

    Args:
        stax: The module `neural_tangents.stax`.
        architecture: Description of the network.
        x1: First batch.
        x2: Second batch; `None` means `x1`.
        width: Units of each hidden layer, for "standard" parameterization only.

    Returns:
        The covariance and the tangent kernel of each output.

    Raises:
        ValueError: If `nt.stax` has no such network.
    """
    check_choice("architecture.kind", architecture.kind, _KINDS)
    _check_is_default(architecture, "activation_scale")
    if architecture.symmetrized:
        raise ValueError(
            "`architecture` must not be symmetrized: neural-tangents has no networks "
            "of two copies that start equal. Compare the network of one copy."
        )

    # One program: op by op, hundreds of small ones would be compiled.
    @jax.jit
    def both(x1: Array, x2: Array | None) -> tuple[Array, Array]:
        def compute(kernel: KernelName) -> Array:
            num_features = math.prod(x1.shape[1:])
            layers = _Layers(stax, architecture, kernel, num_features, width)
            network = stax.serial(*_KINDS[architecture.kind](layers))
            return network[2](x1, x2, kernel)

        return compute("nngp"), compute("ntk")

    return both(x1, x2)


@dataclasses.dataclass(frozen=True)
class _Layers:
    """Layers of `stax` as `architecture` describes them."""

    stax: Any
    architecture: Architecture
    kernel: KernelName
    num_features: int
    width: int | None

    def dense(self, layer: int) -> Any:
        """Weight layer `layer`, counted from 1."""
        spec = self.architecture
        is_standard = spec.parameterization == "standard"
        w_std = float(spec.w_std)
        if layer == 1 and spec.input_scaling == "none":
            w_std *= math.sqrt(self.num_features)
        if spec.parameterization == "mup" and self.kernel == "nngp" and layer > 1:
            # At its start, the readout of infinitely many units is zero.
            w_std *= layer < spec.num_layers
        dense = self.stax.Dense(
            self.width or 1,  # which counts in "standard" only
            W_std=w_std,
            b_std=float(spec.b_std) or None,
            parameterization="standard" if is_standard else "ntk",
        )
        return dense if spec.is_trained(layer) else _frozen(dense)

    def activation(self) -> Any:
        """The nonlinearity."""
        name = _name_of(self.architecture.activation)
        if name in _CLOSED_FORMS:
            return _CLOSED_FORMS[name](self.stax)
        phi = activation_fn(self.architecture.activation)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Numerical Activation Layer")
            return self.stax.ElementwiseNumerical(
                phi,
                deg=_QUADRATURE_DEGREE,
                df=jax.grad(lambda u: jnp.sum(phi(u))),
            )


def _check_is_default(architecture: Architecture, name: str) -> None:
    value = getattr(architecture, name)
    (default,) = (f.default for f in dataclasses.fields(architecture) if f.name == name)
    if value != default:
        raise ValueError(
            f"`architecture.{name}` must be {default!r}, the only one translated; "
            f"got {value!r}."
        )


def _mlp(layers: _Layers) -> list[Any]:
    stack = [layers.stax.Flatten()]
    for layer in range(1, layers.architecture.depth + 1):
        stack += [layers.dense(layer), layers.activation()]
    return [*stack, layers.dense(layers.architecture.num_layers)]


_KINDS: dict[str, Callable[[_Layers], list[Any]]] = {"mlp": _mlp}


def _frozen(layer: Any) -> Any:
    """`layer` without the contribution of its own parameters to the tangent kernel."""
    init_fn, apply_fn, kernel_fn = layer

    @functools.wraps(kernel_fn)  # requirements on inputs are its attributes
    def frozen_kernel_fn(k: Any, **options: Any) -> Any:
        result = kernel_fn(k, **options)
        if result.ntk is None:
            return result
        own = kernel_fn(k.replace(ntk=0 * k.ntk), **options).ntk
        return result.replace(ntk=result.ntk - own)

    return init_fn, apply_fn, frozen_kernel_fn


def _name_of(activation: Activation) -> str | None:
    """Name of `activation`, which may be the named function itself."""
    if isinstance(activation, str):
        return activation
    names = (name for name, phi in ACTIVATIONS.items() if phi is activation)
    return next(names, None)
