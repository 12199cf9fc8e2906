"""Data sets of images by their sizes, and what networks for them cost at any width."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lazyjax.architecture import Architecture
from lazyjax.certify.widths import du2019b
from lazyjax.nets import build
from lazyjax.trees import tree_size


@dataclasses.dataclass(frozen=True)
class Images:
    """Sizes of a data set of images whose pixels lie along one axis.

    Attributes:
        number: Of images.
        num_pixels: Of each.
        num_channels: Of a pixel.
        num_classes: Of labels.
    """

    number: int
    num_pixels: int
    num_channels: int
    num_classes: int

    @property
    def numbers(self) -> int:
        """Numbers to be fitted: one for each class of each image."""
        return self.number * self.num_classes

    def random(self, key: Array) -> tuple[Float[Array, "n p c"], Float[Array, "n k"]]:
        """Images of Gaussian noise of norm 1, with random labels: 1 less its mean."""
        key_x, key_y = jax.random.split(key)
        shape = (self.number, self.num_pixels, self.num_channels)
        x = jax.random.normal(key_x, shape)
        x = x / jnp.linalg.norm(x, axis=(1, 2), keepdims=True)
        labels = jax.random.randint(key_y, (self.number,), 0, self.num_classes)
        return x, jax.nn.one_hot(labels, self.num_classes) - 1 / self.num_classes


@dataclasses.dataclass(frozen=True)
class Capacity:
    """Parameters of a network of Du et al. (2019b), and their uses, by its width.

    Both are polynomials of the width, so that no network need be built.

    Attributes:
        architecture: Of the network, all of whose layers are trained.
        images: What it reads.
        params: Coefficients of the width's powers 2, 1 and 0 in the parameters.
        uses: The same of multiplications for one image: filters are used at each pixel.
    """

    architecture: Architecture
    images: Images
    params: Float[np.ndarray, "3"]
    uses: Float[np.ndarray, "3"]

    @classmethod
    def of(cls, kind: du2019b.NetworkKind, images: Images, *, depth: int) -> "Capacity":
        """Of one kind of network, of tanh, for some images.

        Args:
            kind: Of the network.
            images: What it reads.
            depth: Number of hidden layers.

        Returns:
            Its counts at any width.
        """
        described = du2019b.architecture(kind, depth=depth, activation="tanh")
        spec = dataclasses.replace(
            described, trained="all", num_outputs=images.num_classes
        )
        widths = (1, 2, 3)
        counts = np.array([_counts(spec, images, width) for width in widths], float)
        params, uses = np.rint(np.linalg.solve(np.vander(widths), counts)).T
        return cls(architecture=spec, images=images, params=params, uses=uses)

    def num_params(self, width: int | float) -> float:
        """Parameters at a width, which need be no integer."""
        return _at(self.params, width)

    def width(self, num_params: int | float) -> float:
        """Width of so many parameters, but enough for outputs of all classes.

        Outputs are linear in the last hidden layer, and those of k classes have rank
        k - 1.

        Args:
            num_params: Parameters that are wanted.

        Returns:
            The width, at least 1, which need be no integer.
        """
        if not num_params < np.inf:
            return float(num_params)
        square, linear, constant = self.params
        known = np.roots([square, linear, constant - num_params])
        is_conv = self.architecture.kind == "conv_resnet"
        of_a_unit = self.images.num_pixels if is_conv else 1
        return max(1.0, float(known.max()), (self.images.num_classes - 1) / of_a_unit)

    def operations(self, width: int | float) -> float:
        """Multiplications and additions of an epoch, of which four are backwards."""
        return 6 * self.images.number * _at(self.uses, width)


def _at(coefficients: Float[np.ndarray, "3"], width: int | float) -> float:
    """A polynomial at a width; what is not finite is left as it is."""
    return float(np.polyval(coefficients, width) if np.isfinite(width) else width)


def _counts(spec: Architecture, images: Images, width: int) -> tuple[int, int]:
    """Parameters of a network, and how often they are used for one image."""
    shape = (1, images.num_pixels, images.num_channels)
    image = jax.ShapeDtypeStruct(shape, jnp.result_type(float))
    params = jax.eval_shape(build(spec, width=width).init, jax.random.key(0), image)
    # Filters have three axes: their extent, and channels before and after.
    uses = [
        leaf.size * (images.num_pixels if leaf.ndim == 3 else 1)
        for leaf in jax.tree.leaves(params)
    ]
    return tree_size(params), sum(uses)
