"""What is known of each kind of network: one record a name.

This floor knows which fields of `Architecture` a kind uses and how they must fit. What
needs higher floors, the records of this package leave open, and those floors fill it in
by `complete`: `nets` builds, `infinite` has limits, `interop` has counterparts in
neural-tangents. Kinds of other packages come complete, by one `register`.
"""

import dataclasses
import types
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

from jaxtyping import Array, Float

LayerType: TypeAlias = Literal["dense", "convolutional", "recurrent", "attention"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class InfiniteLimit:
    """Kernels at infinite width: first of each input alone, then of each pair.

    Attributes:
        statistics: `(architecture, x, width)` to arrays that depend on one input alone,
            such as variances; `width` is None unless the parameterization is "standard".
        kernels: `(architecture, x1, x2, statistics1, statistics2, is_same, width)` to an
            object with scalars `nngp` and `ntk`, which is None if no layer is trained;
            `is_same` tells whether the inputs are one, None if that is not known.
        activated_variances: `(architecture, statistics)` to the variances of arguments
            of activations, at which quadratures are checked.
    """

    statistics: Callable[..., Any]
    kernels: Callable[..., Any]
    activated_variances: Callable[[Any, Any], list[Float[Array, "..."]]]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ArchitectureKind:
    """A kind of network and everything that is known of it.

    Attributes:
        name: The `kind` of its descriptions.
        fields: Fields of `Architecture` that it uses beside those of every kind; others
            are refused unless they have their default.
        layers: What hidden layers are: "convolutional" ones read images, "recurrent"
            ones sequences, others what they please.
        is_residual: Whether each layer adds to the one before.
        min_depth: Least number of hidden layers.
        num_extra_layers: Layers of weights beside the hidden ones.
        check: Raises `ValueError` if fields of a description do not fit each other.
        build: `(architecture, width)` to a `lazyjax.nets.Network`, whose description is
            never symmetrized: `lazyjax.nets.build` does that.
        limit: Its kernels at infinite width, if they are known.
        why_no_limit: Why they are not, if there is a reason.
        stax: Layers of `neural_tangents.stax` with the same limit, made from a
            `lazyjax.interop.neural_tangents.StaxLayers`; `None` if that library has no such network.
    """

    name: str
    fields: frozenset[str] = frozenset({"normalization"})
    layers: LayerType = "dense"
    is_residual: bool = False
    min_depth: int = 1
    num_extra_layers: int = 1
    check: Callable[[Any], None] = lambda architecture: None
    build: Callable[[Any, int], Any] | None = None
    limit: InfiniteLimit | None = None
    why_no_limit: str | None = None
    stax: Callable[[Any], list[Any]] | None = None


_KINDS: dict[str, ArchitectureKind] = {}

KINDS: Mapping[str, ArchitectureKind] = types.MappingProxyType(_KINDS)
"""Every kind of network, by name."""


def register(kind: ArchitectureKind) -> None:
    """Make a kind of network known by its name, wherever descriptions are read.

    Args:
        kind: The kind.

    Raises:
        ValueError: If the name is taken, or a field is unknown or one of every kind. A
            name keeps its meaning: programs that were compiled with it are kept.
        TypeError: If `kind` is not an `ArchitectureKind`.
    """
    if not isinstance(kind, ArchitectureKind):
        raise TypeError(
            f"`kind` must be an ArchitectureKind; got {type(kind).__name__}."
        )
    if kind.name in _KINDS:
        raise ValueError(f"`kind.name` must be new; {kind.name!r} is taken.")
    unknown = sorted(kind.fields - FIELDS_OF_SOME)
    if unknown:
        raise ValueError(
            f"`kind.fields` must be some of {sorted(FIELDS_OF_SOME)}; got {unknown}."
        )
    _KINDS[kind.name] = kind


def complete(name: str, **parts: Any) -> None:
    """Fill in parts that a record of this package leaves to a higher floor."""
    _KINDS[name] = dataclasses.replace(_KINDS[name], **parts)


# The kinds of this package -------------------------------------------------------------

_READOUT = {"head", "pixel_scaling"}
_CONVOLUTIONAL = _READOUT | {
    *("filter_shape", "strides", "padding", "pool_after", "pooling")
}
_OF_ONE_KIND = {"recurrent_std", "patch_size", "num_heads"}

FIELDS_OF_SOME = frozenset(
    {*_CONVOLUTIONAL, *_OF_ONE_KIND, "normalization", "residual_scale", "width_factors"}
)
"""Fields of `Architecture` that not every kind uses."""


def _check_conv_resnet(spec: Any) -> None:
    keeps_size = set(spec.strides) <= {1} and not spec.pool_after
    if not keeps_size or spec.padding == "VALID":
        raise ValueError(
            "`strides`, `pool_after` and `padding` of a 'conv_resnet' must keep "
            "the size of images, for sums of layers; got "
            f"{spec.strides}, {spec.pool_after} and {spec.padding!r}."
        )


def _check_block_resnet(spec: Any) -> None:
    if spec.pool_after or spec.padding == "VALID":
        raise ValueError(
            "`pool_after` and `padding` of a 'block_resnet' must leave the size "
            "of images to `strides`, for sums of layers; got "
            f"{spec.pool_after} and {spec.padding!r}."
        )
    if spec.depth % 2 == 0:
        raise ValueError(
            "`depth` of a 'block_resnet' must be odd, a layer and blocks of two; "
            f"got {spec.depth}."
        )


for _kind in (
    ArchitectureKind(name="mlp", min_depth=0),
    ArchitectureKind(
        name="resnet",
        fields=frozenset({"normalization", "residual_scale"}),
        is_residual=True,
    ),
    ArchitectureKind(
        name="cnn",
        fields=frozenset({*_CONVOLUTIONAL, "normalization", "width_factors"}),
        layers="convolutional",
    ),
    ArchitectureKind(
        name="conv_resnet",
        fields=frozenset({*_CONVOLUTIONAL, "normalization", "residual_scale"}),
        layers="convolutional",
        is_residual=True,
        check=_check_conv_resnet,
    ),
    ArchitectureKind(
        name="rnn",
        fields=frozenset({"normalization", "recurrent_std"}),
        layers="recurrent",
    ),
    ArchitectureKind(
        name="block_resnet",
        fields=frozenset({*_CONVOLUTIONAL, "residual_scale", "width_factors"}),
        layers="convolutional",
        check=_check_block_resnet,
        why_no_limit="the activation of a sum with units that are not Gaussian has no "
        "known mean; kind 'conv_resnet' has one",
    ),
    ArchitectureKind(
        name="vit",
        fields=frozenset({*_READOUT, "normalization", "patch_size", "num_heads"}),
        layers="attention",
        num_extra_layers=2,
        why_no_limit="attention multiplies hidden values with each other",
    ),
):
    register(_kind)
