"""The networks and batches that are measured: sizes, arrays and what computing takes.

NumPy only, so that every peer reads the same description; `networks` has the apply
functions in JAX and the PyTorch peer its own.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import numpy as np

Size = Literal["toy", "full"]
Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A parameter: normal with mean `mean` and standard deviation `std`."""

    shape: tuple[int, ...]
    std: float
    mean: float = 0.0


@dataclasses.dataclass(frozen=True)
class Site:
    """A linear map that a weight takes part in, once per example and position.

    Attributes:
        positions: How often the weight is used in one example.
        d_in: Numbers it reads each time; for a convolution, those of a patch.
        d_out: Numbers it gives.
        is_first: Whether its input is data, through which nothing is propagated back.
        is_pooled: Whether its outputs, after an activation, are averaged over positions.
    """

    positions: int
    d_in: int
    d_out: int
    is_first: bool = False
    is_pooled: bool = False


@dataclasses.dataclass(kw_only=True)
class Workload:
    """A network, a batch size, and the pieces its cost is made of.

    Attributes:
        case: Which network; `networks.APPLY` and the peers have its apply function.
        n: Examples.
        k: Outputs.
        input_shape: Of one example.
        structure: What the apply function needs beyond the arrays' shapes.
        vocabulary: Inputs are tokens below this; 0 means real numbers.
        leaves: The parameters, by name.
        sites: Where the weights meet the data.
        mixing_flops: Forward operations per example without parameters (attention).
    """

    case: str
    n: int
    k: int
    input_shape: tuple[int, ...]
    structure: dict[str, int] = dataclasses.field(default_factory=dict)
    vocabulary: int = 0
    leaves: dict[str, Leaf] = dataclasses.field(default_factory=dict)
    sites: list[Site] = dataclasses.field(default_factory=list)
    mixing_flops: int = 0

    @property
    def num_params(self) -> int:
        """Number of parameters."""
        return sum(math.prod(leaf.shape) for leaf in self.leaves.values())

    def draw(self, seed: int = 0) -> tuple[Arrays, np.ndarray, np.ndarray]:
        """Parameters, inputs and targets in float32 (tokens in int32)."""
        rng = np.random.default_rng(seed)
        params = {
            name: (leaf.mean + leaf.std * rng.standard_normal(leaf.shape)).astype("f4")
            for name, leaf in self.leaves.items()
        }
        shape = (self.n, *self.input_shape)
        if self.vocabulary:
            x = rng.integers(self.vocabulary, size=shape).astype("i4")
        else:
            x = rng.standard_normal(shape).astype("f4")
        y = rng.standard_normal((self.n, self.k)).astype("f4")
        return params, x, y

    # Building blocks: each adds parameters and the site where they are used.

    def _dense(
        self,
        name: str,
        d_in: int,
        d_out: int,
        *,
        positions: int = 1,
        gain: float = 1.0,
        is_first: bool = False,
    ) -> None:
        self.leaves[f"{name}.w"] = Leaf((d_in, d_out), math.sqrt(gain / d_in))
        self.leaves[f"{name}.b"] = Leaf((d_out,), 0.1)
        self.sites.append(Site(positions, d_in, d_out, is_first))

    def _conv(
        self,
        name: str,
        c_in: int,
        c_out: int,
        *,
        side: int,
        window: int = 3,
        gain: float = 2.0,
        is_first: bool = False,
        is_pooled: bool = False,
    ) -> None:
        d_in = window * window * c_in
        std = math.sqrt(gain / d_in)
        self.leaves[f"{name}.w"] = Leaf((window, window, c_in, c_out), std)
        self.leaves[f"{name}.b"] = Leaf((c_out,), 0.1)
        self.sites.append(Site(side * side, d_in, c_out, is_first, is_pooled))

    def _norm(self, name: str, dim: int) -> None:
        self.leaves[f"{name}.g"] = Leaf((dim,), 0.1, mean=1.0)
        self.leaves[f"{name}.b"] = Leaf((dim,), 0.1)

    def _transformer(
        self, *, dim: int, depth: int, positions: int, last: int | None = None
    ) -> None:
        """Pre-norm blocks; of the last one, `last` positions are read at the end."""
        for i in range(depth):
            read = positions if last is None or i < depth - 1 else last
            self._norm(f"{i}.norm1", dim)
            self._dense(f"{i}.qkv", dim, 3 * dim, positions=positions)
            self._dense(f"{i}.out", dim, dim, positions=read, gain=0.5)
            self._norm(f"{i}.norm2", dim)
            self._dense(f"{i}.up", dim, 4 * dim, positions=read)
            self._dense(f"{i}.down", 4 * dim, dim, positions=read, gain=0.5)
            self.mixing_flops += 4 * read * positions * dim  # scores and their use
        self._norm("norm", dim)


def mlp(size: Size) -> Workload:
    """Fully connected ReLU network: 784-1024x4-10 on 100 examples."""
    full = size == "full"
    d, width, depth, k = (784, 1024, 4, 10) if full else (7, 16, 2, 3)
    work = Workload(case="mlp", n=100 if full else 6, k=k, input_shape=(d,))
    work.structure = {"depth": depth}
    for i in range(depth):
        d_in = width if i else d
        work._dense(f"{i}", d_in, width, gain=2.0, is_first=i == 0)
    work._dense("head", width, k)
    return work


def cnn(size: Size) -> Workload:
    """Four 3x3 convolutions of 64 channels on 16x16x3, average pooling, 10 outputs."""
    full = size == "full"
    side, channels, depth, k = (16, 64, 4, 10) if full else (5, 4, 2, 3)
    n = 24 if full else 4
    work = Workload(case="cnn", n=n, k=k, input_shape=(side, side, 3))
    work.structure = {"depth": depth}
    for i in range(depth):
        c_in = channels if i else 3
        work._conv(
            f"{i}",
            c_in,
            channels,
            side=side,
            is_first=i == 0,
            is_pooled=i == depth - 1,
        )
    work._dense("head", channels, k)
    return work


def resnet(size: Size) -> Workload:
    """Residual network without normalization: 3 stages of 2 blocks, 32 to 128 channels.

    The second and third stage halve the side and have a strided 1x1 shortcut.
    """
    full = size == "full"
    side, widths, num_blocks = (32, (32, 64, 128), 2) if full else (6, (4, 6), 1)
    n, k = (16, 10) if full else (3, 3)
    work = Workload(case="resnet", n=n, k=k, input_shape=(side, side, 3))
    work.structure = {"num_stages": len(widths), "num_blocks": num_blocks}
    work._conv("stem", 3, widths[0], side=side, is_first=True)
    c_in = widths[0]
    for stage, width in enumerate(widths):
        for block in range(num_blocks):
            name = f"{stage}.{block}"
            if stage and not block:
                side = -(-side // 2)
                work._conv(f"{name}.skip", c_in, width, side=side, window=1, gain=1.0)
            work._conv(f"{name}.conv1", c_in, width, side=side)
            is_last = stage == len(widths) - 1 and block == num_blocks - 1
            work._conv(
                f"{name}.conv2",
                width,
                width,
                side=side,
                gain=0.5,
                is_pooled=is_last,
            )
            c_in = width
    work._dense("head", c_in, k)
    return work


def vit(size: Size) -> Workload:
    """Vision transformer: 16 patches, dimension 128, 4 layers, mean pooling."""
    full = size == "full"
    grid, patch, dim, depth, heads = (4, 4, 128, 4, 4) if full else (2, 2, 8, 1, 2)
    n, k = (24, 10) if full else (3, 3)
    side = grid * patch
    work = Workload(case="vit", n=n, k=k, input_shape=(side, side, 3))
    work.structure = {"patch": patch, "depth": depth, "heads": heads}
    positions = grid * grid
    work._dense(
        "patch", 3 * patch * patch, dim, positions=positions, gain=1.0, is_first=True
    )
    work.leaves["position"] = Leaf((positions, dim), 0.1)
    work._transformer(dim=dim, depth=depth, positions=positions)
    work._dense("head", dim, k)
    return work


def gpt(size: Size) -> Workload:
    """Causal transformer: 32 tokens of 4096, dimension 128, 4 layers.

    The outputs are the logits of the first `k` tokens after the last position, through
    the embedding itself: one parameter, looked up at one end and multiplied at the
    other.
    """
    full = size == "full"
    vocabulary, length, dim = (4096, 32, 128) if full else (11, 5, 8)
    depth, heads = (4, 4) if full else (1, 2)
    n, k = (16, 10) if full else (3, 3)
    work = Workload(case="gpt", n=n, k=k, input_shape=(length,), vocabulary=vocabulary)
    work.structure = {"depth": depth, "heads": heads, "num_outputs": k}
    work.leaves["embedding"] = Leaf((vocabulary, dim), 0.1)
    work.leaves["position"] = Leaf((length, dim), 0.1)
    work._transformer(dim=dim, depth=depth, positions=length, last=1)
    work.sites.append(Site(1, dim, k))  # the tied output
    return work


WORKLOADS: dict[str, Callable[[Size], Workload]] = {
    "mlp": mlp,
    "cnn": cnn,
    "resnet": resnet,
    "vit": vit,
    "gpt": gpt,
}
