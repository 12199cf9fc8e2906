"""Infinite-width kernels to compute, their inputs, and their values in float64.

Standard library and NumPy only, so that the environment of every peer can import it.
"""

import dataclasses
import math
from typing import Literal

import numpy as np

Size = Literal["full", "toy"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class InfiniteWork:
    """A ReLU network, weights of variance 2 / fan-in, no biases, 3x3 filters, SAME.

    Attributes:
        case: Name.
        n: Examples.
        shape: Of an example; images have three axes.
        depth: Hidden layers.
        head: "flatten" or "average", of images.
    """

    case: str
    n: int
    shape: tuple[int, ...]
    depth: int
    head: Literal["flatten", "average"] = "flatten"

    def draw(self) -> np.ndarray:
        """Inputs, standard normal."""
        rng = np.random.default_rng(0)
        return rng.standard_normal((self.n, *self.shape)).astype(np.float32)


_WORKS = {
    "full": [
        InfiniteWork(case="fc", n=3000, shape=(784,), depth=3),
        InfiniteWork(
            case="cntk-average", n=20, shape=(16, 16, 3), depth=4, head="average"
        ),
        InfiniteWork(case="cntk-flatten", n=100, shape=(32, 32, 3), depth=4),
    ],
    "toy": [
        InfiniteWork(case="fc", n=40, shape=(5,), depth=3),
        InfiniteWork(
            case="cntk-average", n=3, shape=(4, 4, 3), depth=2, head="average"
        ),
        InfiniteWork(case="cntk-flatten", n=5, shape=(4, 4, 3), depth=2),
    ],
}


def infinite_works(size: Size) -> dict[str, InfiniteWork]:
    """Workloads by case."""
    return {work.case: work for work in _WORKS[size]}


class Entries:
    """Some entries of the kernel in float64, by NumPy over all pairs of pixels."""

    def __init__(self, work: InfiniteWork, x: np.ndarray, num_pairs: int = 6) -> None:
        rng = np.random.default_rng(1)
        rows = rng.integers(0, work.n, num_pairs)
        columns = rng.integers(0, work.n, num_pairs)
        columns[0] = rows[0]  # the diagonal too
        self._at = rows, columns
        images = x.reshape(
            work.n, *(work.shape if len(work.shape) == 3 else (1, 1, -1))
        )
        is_image = len(work.shape) == 3
        self._values = np.array(
            [
                _entry(work, images[i].astype(np.float64), images[j].astype(np.float64), is_image)
                for i, j in zip(rows, columns, strict=True)
            ]
        )  # fmt: skip

    def relative_error(self, result: np.ndarray) -> float:
        """Relative error of these entries of `result`."""
        found = result[self._at].astype(np.float64)
        return float(
            np.linalg.norm(found - self._values) / np.linalg.norm(self._values)
        )


def _entry(work: InfiniteWork, x: np.ndarray, y: np.ndarray, is_image: bool) -> float:
    """Neural tangent kernel of two images; axes h, w, h', w'."""
    first, between, second = (
        np.einsum("hwc,gvc->hwgv", a, b) / x.shape[-1]
        for a, b in ((x, x), (x, y), (y, y))
    )
    ntk = np.zeros_like(between)
    for _ in range(work.depth):
        ntk = 2 * _filter(ntk + between, is_image)
        first, between, second = (
            2 * _filter(k, is_image) for k in (first, between, second)
        )
        std1 = np.sqrt(np.einsum("hwhw->hw", first))[:, :, None, None]
        std2 = np.sqrt(np.einsum("hwhw->hw", second))[None, None]
        slope = _slope(between / (std1 * std2))
        first, between, second = (
            _moment(first, std1, std1[:, :, 0, 0][None, None]),
            _moment(between, std1, std2),
            _moment(second, std2[0, 0][:, :, None, None], std2),
        )
        ntk = ntk * slope
    whole = 2 * (ntk + between)
    if work.head == "average":
        return float(whole.mean())
    return float(np.einsum("hwhw->hw", whole).mean())


def _filter(kernel: np.ndarray, is_image: bool) -> np.ndarray:
    """Mean over 3x3 taps that move both pixels, zeros outside."""
    if not is_image:
        return kernel
    height, width = kernel.shape[:2]
    padded = np.pad(kernel, 1)
    total = np.zeros_like(kernel)
    for a in range(3):
        for b in range(3):
            total += padded[
                a : a + height, b : b + width, a : a + height, b : b + width
            ]
    return total / 9


def _slope(rho: np.ndarray) -> np.ndarray:
    return (math.pi - np.arccos(np.clip(rho, -1, 1))) / (2 * math.pi)


def _moment(q: np.ndarray, std1: np.ndarray, std2: np.ndarray) -> np.ndarray:
    rho = np.clip(q / (std1 * std2), -1, 1)
    angle = np.arccos(rho)
    product = std1 * std2 / (2 * math.pi)
    return product * (np.sin(angle) + (math.pi - angle) * rho)
