"""What a convolution reads of an image: all patches, or those of one kernel entry."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Shaped


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
    """Where the entries ("taps") of a kernel are put on an image."""

    # Brings the image of one example to `(batch, *size, channels)`, padded.
    lay_out: Callable[[Array], Array]
    taps: tuple[int, ...]  # sizes of the kernel
    places: tuple[int, ...]  # numbers of its places in the image
    strides: tuple[int, ...]  # steps from one place to the next
    dilation: tuple[int, ...]  # steps from one tap to the next

    def patches(
        self, image: Shaped[Array, "batch *size channels"]
    ) -> Shaped[Array, "batch places taps channels"]:
        """All that the kernel is multiplied by."""
        indices = _pixel_indices(
            image.shape[1:-1], self.taps, self.places, self.dilation, self.strides
        )
        flat = image.reshape(image.shape[0], -1, image.shape[-1])
        patches = flat.at[:, indices].get(mode="promise_in_bounds")
        num_taps = math.prod(self.taps)
        return patches.reshape(image.shape[0], -1, num_taps, image.shape[-1])

    @property
    def offsets(self) -> Int[np.ndarray, "taps axes"]:
        """Where in the image each tap is when the kernel is at its first place."""
        taps = np.indices(self.taps).reshape(len(self.taps), -1).T
        return (taps * np.asarray(self.dilation)).astype(np.int32)

    def pixels_of_tap(
        self,
        images: Float[Array, "n *size channels"],
        start: Int[Array, " axes"],
        width: int,
    ) -> Float[Array, "n places width"]:
        """Images where one tap meets them: `width` channels, all from `start` on."""
        extent = [
            (place - 1) * stride + 1
            for place, stride in zip(self.places, self.strides, strict=True)
        ]
        n = images.shape[0]
        box = lax.dynamic_slice(
            images, list(start), (n, *extent, width), allow_negative_indices=False
        )
        box = lax.slice(box, [0] * box.ndim, box.shape, (1, *self.strides, 1))
        return box.reshape(n, -1, width)


def _pixel_indices(
    size: Sequence[int],
    taps: Sequence[int],
    places: Sequence[int],
    dilation: Sequence[int],
    strides: Sequence[int],
) -> np.ndarray:
    """Pixel of a raveled image that each tap is multiplied by, at each place."""
    # One gather runs a little slower than a stack of slices; it compiles 15 times faster.
    axes = [
        stride * np.arange(place)[:, None] + step * np.arange(tap)[None]
        for place, tap, step, stride in zip(
            places, taps, dilation, strides, strict=True
        )
    ]
    indices = np.zeros((1, 1), np.int32)
    for length, axis in zip(size, axes, strict=True):
        indices = indices[:, None, :, None] * length + axis[None, :, None, :]
        indices = indices.reshape(indices.shape[0] * indices.shape[1], -1)
    return indices.ravel()
