r"""The description of a network that finite and infinite width are both read from."""

import dataclasses
import math
from typing import get_args

from lazyjax._brief import brief
from lazyjax._checks import check_at_least, check_choice
from lazyjax.activations import check_activation, unit_scale
from lazyjax.architecture.kinds import FIELDS_OF_SOME, KINDS, ArchitectureKind
from lazyjax.typing import (
    Activation,
    ActivationScale,
    Head,
    InputScaling,
    Normalization,
    Padding,
    Parameterization,
    Pooling,
    Readout,
    Trained,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    r"""Static, hashable description of a network; the width is not part of it.

    Hidden layer $l = 1, \dots, \text{depth}$ computes, from $h^0 = x$,

    $$z^l = W^l h^{l-1} + b^l, \qquad h^l = \phi(z^l),$$

    and the output is $f = \alpha (W^{\text{depth}+1} h^{\text{depth}} +
    b^{\text{depth}+1})$, with $\alpha$ = `output_scale`.
    Entries of $W^l$ have variance `w_std**2 / fan_in` and those of $b^l$ have variance
    `b_std**2`, so that every parameterization is the same random function of width
    $m$, except that the output of "mup" is smaller by $\sqrt m$. They differ in what
    is trained, the array $w$ with $W = \text{multiplier} \cdot w$:

    - "ntk": $w \sim N(0, 1)$, multiplier `w_std / sqrt(fan_in)` (Jacot et al. 2018).
    - "standard": multiplier 1, the usual practice; its kernel grows like the width.
    - "mup": maximal update (Yang and Hu 2021, Table 1), for one learning rate
      independent of the width.

    Kinds of networks (others come by `lazyjax.architecture.register`):

    - "mlp": fully connected, as above.
    - "resnet": fully connected residual network of Du et al. (2019b), in which hidden
      layers after the first add to the one before,
      $h^l = h^{l-1} + (c / \text{depth}) \phi(z^l)$ with $c$ = `residual_scale`.
    - "cnn": convolutional, inputs (height, width, channels) or (length, channels).
      The width is the number of channels of hidden layers; `head` says how the last
      image is read by the output layer.
    - "conv_resnet": convolutional, and residual in the same way.
    - "rnn": recurrent (Elman), inputs (time, features): layer $l$ computes
      $h_t^l = \phi(W^l h_t^{l-1} + R^l h_{t-1}^l + b^l)$ from $h_t^0 = x_t$ and
      $h_0^l = 0$, with the same weights at all times, entries of $R^l$ of variance
      `recurrent_std**2 / width`; the output layer reads the last time.
    - "block_resnet": residual in blocks of two convolutions, as ResNet-18 is: after the
      first layer, layers $l$ and $l + 1$ make
      $h^{l+1} = \phi(S h^{l-1} + c z^{l+1})$ of $z^{l+1} = W^{l+1} \phi(W^l h^{l-1})$,
      with $c$ = `residual_scale`. $S$ is the identity or, where the block changes the
      size of images or the number of channels, a convolution by filters of 1 pixel,
      which is trained with layer $l + 1$.
    - "vit": vision transformer, inputs (height, width, channels). Layer 1 embeds patches
      and adds their positions; the next `depth` layers are blocks of attention and of
      a network with one hidden layer of 4 times the width; layer `depth + 2` is the
      output, which reads tokens as `head` says it of pixels.

    The last two, and max pooling, have no infinite-width kernel here.

    Attributes:
        kind: See above.
        depth: Number $H$ of hidden layers; 0 is a linear model, for "mlp" only.
        activation: Name of an activation, or an elementwise function of one array.
        w_std: Standard deviation of weights, before division by $\sqrt{\text{fan-in}}$;
            `2**0.5` is the start of He et al. (2015), the usual one of "relu".
        b_std: Standard deviation of biases; 0 means that the network has none.
        parameterization: See above.
        num_outputs: Number of outputs $k$.
        trained: Which layers are trained: "all", the "first", the "last", that before
            it ("last_hidden"), or a tuple of layers counted from 1, of which the last
            is `num_layers`; the others are constants and get zero gradients.
        input_scaling: "fan_in" divides the first layer by $\sqrt d$ like the others;
            "none" does not, which is the convention of Du et al. (2019), Arora et al.
            (2019) and others for inputs of unit norm.
        readout: Distribution of the last layer's weights, "normal" or random "sign"
            ($\pm 1$ times the same standard deviation).
        symmetrized: Whether the network is the difference of two copies that start
            equal, divided by $\sqrt 2$: the output is zero at the start and the kernel
            that of one copy (Chizat, Oyallon and Bach 2019).
        activation_scale: "unit" multiplies activations by a constant such that
            $E[\phi(g)^2] = 1$ for standard Gaussians $g$; in residual networks, those of
            the first layer only, as in Du et al. (2019b).
        normalization: Of pre-activations of hidden layers: "layer" subtracts their
            mean over units and divides by their standard deviation over units, at each
            pixel, with 1e-6 added to the variance and no parameters of its own. In a
            "vit", of what each branch and the output layer read.
        residual_scale: The $c$ of residual networks.
        recurrent_std: Of recurrent weights, before division by the root of the width;
            they are trained with their layer.
        output_scale: The $\alpha$ above, by which training becomes lazy as it grows
            (Chizat, Oyallon and Bach 2019); kernels are $\alpha^2$ times as large.
        width_factors: Channels of each hidden layer, as multiples of the width; empty
            means 1. For "cnn" and "block_resnet".
        filter_shape: Extent of convolutions along each spatial axis.
        strides: Stride of each hidden layer, along all spatial axes; empty means 1.
        padding: Of convolutions: "SAME" (zeros), "VALID" (none) or "CIRCULAR".
        pool_after: Hidden layers whose images are pooled over windows of 2 pixels
            along each axis, with stride 2; odd ends are dropped.
        pooling: What pooling takes of a window, "average" or "max".
        head: What the output layer reads: all pixels ("flatten") or their mean
            ("average", global average pooling).
        pixel_scaling: Whether fan-in counts the pixels of a filter, and of the image
            that is flattened, times the channels ("fan_in"), or only the channels
            ("none", as in Du et al. 2019b).
        patch_size: Pixels of a patch of a "vit" along each axis.
        num_heads: Heads of attention of a "vit", which share the width.

    Raises:
        ValueError: If a field is not one of its choices, out of range, or without
            meaning for the kind.
        TypeError: If a count is not an integer or `activation` neither a name nor
            callable.
    """

    kind: str = "mlp"
    depth: int = 1
    activation: Activation = "relu"
    w_std: float = 1.0
    b_std: float = 0.0
    parameterization: Parameterization = "ntk"
    num_outputs: int = 1
    trained: Trained | tuple[int, ...] = "all"
    input_scaling: InputScaling = "fan_in"
    readout: Readout = "normal"
    symmetrized: bool = False
    activation_scale: ActivationScale = "none"
    normalization: Normalization = "none"
    residual_scale: float = 0.5
    recurrent_std: float = 1.0
    output_scale: float = 1.0
    width_factors: tuple[int, ...] = ()
    filter_shape: tuple[int, ...] = (3, 3)
    strides: tuple[int, ...] = ()
    padding: Padding = "SAME"
    pool_after: tuple[int, ...] = ()
    pooling: Pooling = "average"
    head: Head = "flatten"
    pixel_scaling: InputScaling = "fan_in"
    patch_size: int = 4
    num_heads: int = 4

    def __repr__(self) -> str:
        """Kind, depth and activation, and whatever else is not by default."""
        always = ("kind", "depth", "activation")
        shown = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        parts = [
            f"{field.name}={shown[field.name]!r}"
            for field in dataclasses.fields(self)
            if field.name in always or shown[field.name] != field.default
        ]
        return f"Architecture({', '.join(parts)})"

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, KINDS)
        for name, choices in _CHOICES.items():
            check_choice(name, getattr(self, name), get_args(choices))
        check_at_least("depth", self.depth, 0)
        check_at_least("num_outputs", self.num_outputs, 1)
        check_activation(self.activation)
        for name in ("w_std", "residual_scale", "recurrent_std", "output_scale"):
            _check_std(name, getattr(self, name), zero_allowed=False)
        _check_std("b_std", self.b_std, zero_allowed=True)
        self._check_layers()
        self._check_fields_of_kind()

    def _check_layers(self) -> None:
        check_at_least("depth", self.depth, self._kind.min_depth)
        if isinstance(self.trained, tuple):
            _check_members("trained", self.trained, self.num_layers)
        else:
            check_choice("trained", self.trained, get_args(Trained))
        _check_members("pool_after", self.pool_after, self.depth)
        check_at_least("patch_size", self.patch_size, 1)
        check_at_least("num_heads", self.num_heads, 1)
        for name in ("filter_shape", "strides", "width_factors"):
            for number in getattr(self, name):
                check_at_least(name, number, 1)
        if len(self.filter_shape) not in (1, 2):
            raise ValueError(
                f"`filter_shape` must have 1 or 2 entries; got {self.filter_shape}."
            )
        for name in ("strides", "width_factors"):
            entries = getattr(self, name)
            if entries and len(entries) != self.depth:
                raise ValueError(
                    f"`{name}` must have one entry for each of {self.depth} hidden "
                    f"layers; got {entries}."
                )

    def _check_fields_of_kind(self) -> None:
        """Refuse what would be ignored, and what does not fit.

        Raises:
            ValueError: If there is such a field.
        """
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        for name in sorted(FIELDS_OF_SOME - self._kind.fields):
            if getattr(self, name) != defaults[name]:
                raise ValueError(
                    f"`{name}` has no meaning for kind {self.kind!r}; got "
                    f"{getattr(self, name)!r}."
                )
        self._kind.check(self)

    @property
    def _kind(self) -> ArchitectureKind:
        return KINDS[self.kind]

    @property
    def num_layers(self) -> int:
        """Number of layers of weights: `depth + 1`, or `depth + 2` for a "vit"."""
        return self.depth + self._kind.num_extra_layers

    @property
    def is_convolutional(self) -> bool:
        """Whether layers are convolutions of images."""
        return self._kind.layers == "convolutional"

    @property
    def is_residual(self) -> bool:
        """Whether each layer adds to the one before."""
        return self._kind.is_residual

    @property
    def why_no_limit(self) -> str | None:
        """Why no kernel of its infinite width is known here; `None` if one is."""
        if self.pooling == "max":
            return (
                'a maximum over pixels has no known mean; `pooling="average"` has one'
            )
        return self._kind.why_no_limit

    def fan_in(self, layer: int, channels: int, num_pixels: int = 1) -> int:
        """What the variance of weights is divided by.

        Args:
            layer: The layer, counted from 1.
            channels: Features that a unit reads of each pixel.
            num_pixels: Pixels that it reads: those of a filter, or of a flat image.

        Returns:
            The number, as `input_scaling` and `pixel_scaling` say.
        """
        if layer == 1 and self.input_scaling == "none":
            channels = 1
        return channels * (num_pixels if self.pixel_scaling == "fan_in" else 1)

    def is_trained(self, layer: int) -> bool:
        """Whether weight layer `layer`, counted from 1, is trained."""
        if isinstance(self.trained, tuple):
            return layer in self.trained
        return {
            "all": True,
            "first": layer == 1,
            "last_hidden": layer == self.num_layers - 1,
            "last": layer == self.num_layers,
        }[self.trained]

    def stride(self, layer: int) -> int:
        """Stride of hidden layer `layer`, counted from 1."""
        return self.strides[layer - 1] if self.strides else 1

    def width_factor(self, layer: int) -> int:
        """Units of hidden layer `layer`, counted from 1, as a multiple of the width."""
        return self.width_factors[layer - 1] if self.width_factors else 1

    def activation_factor(self, layer: int) -> float:
        r"""What multiplies $\phi$ in hidden layer `layer`, counted from 1.

        Returns:
            The scale of the branch in residual layers, else that of the activation.
        """
        if self.is_residual and layer > 1:
            return self.residual_scale / self.depth
        return unit_scale(self.activation) if self.activation_scale == "unit" else 1.0

    def pads(self, size: int, axis: int, stride: int) -> tuple[int, int]:
        """Pixels that a convolution adds before and after an axis of its input.

        Args:
            size: Extent of the input along the axis.
            axis: Spatial axis, from 0.
            stride: Stride of the layer.

        Returns:
            The two counts, of which the second is the larger if their sum is odd.

        Raises:
            ValueError: If the filter does not fit.
        """
        extent = self.filter_shape[axis]
        if self.padding == "VALID":
            total = 0
        else:
            total = max((math.ceil(size / stride) - 1) * stride + extent - size, 0)
        if size + total < extent or (self.padding == "CIRCULAR" and total > size):
            raise ValueError(
                f"`x` is too small: a filter of {extent} pixels does not fit an axis of "
                f"{size} with padding {self.padding!r}."
            )
        return total // 2, total - total // 2

    def space_after(self, layer: int, space: tuple[int, ...]) -> tuple[int, ...]:
        """Extents of the image that hidden layer `layer` makes, pooling included.

        Args:
            layer: The layer, counted from 1.
            space: Extents of its input along the spatial axes.

        Returns:
            One extent an axis, at least 1.

        Raises:
            ValueError: If the filter or the pool does not fit.
        """
        stride = self.stride(layer)
        extents = []
        for axis, size in enumerate(space):
            padded = size + sum(self.pads(size, axis, stride))
            extents.append((padded - self.filter_shape[axis]) // stride + 1)
        if layer in self.pool_after:
            extents = [size // 2 for size in extents]
            if 0 in extents:
                raise ValueError(
                    "`x` is too small: an axis of 1 pixel cannot be pooled."
                )
        return tuple(extents)


_CHOICES = {
    "parameterization": Parameterization,
    "input_scaling": InputScaling,
    "readout": Readout,
    "activation_scale": ActivationScale,
    "normalization": Normalization,
    "padding": Padding,
    "pooling": Pooling,
    "head": Head,
    "pixel_scaling": InputScaling,
}

# Added to the variances by which layer normalization divides.
NORMALIZATION_EPS = 1e-6


def _check_members(name: str, layers: tuple[int, ...], num_layers: int) -> None:
    for layer in layers:
        check_at_least(name, layer, 1)
        if layer > num_layers:
            raise ValueError(
                f"`{name}` must hold layers from 1 to {num_layers}; got {layers}."
            )


def _check_std(name: str, value: float, *, zero_allowed: bool) -> None:
    number = isinstance(value, int | float) and math.isfinite(value)
    if not number or value < 0 or (value == 0 and not zero_allowed):
        expected = "a finite number, zero or" if zero_allowed else "a finite number,"
        raise ValueError(f"`{name}` must be {expected} positive; got {brief(value)}.")
