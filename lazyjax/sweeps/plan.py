"""How a sweep is cut into programs and calls: widths into buckets, members into chunks."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from lazyjax.nets import Network


@dataclasses.dataclass(frozen=True, kw_only=True)
class CostModel:
    """What programs cost, roughly; a plan needs no more than the right order.

    The defaults were measured on two cores of a server, for float32.

    Attributes:
        compile_seconds: To trace and compile one program.
        flops_per_second: In steps of training.
        step_seconds: Of a step in which nothing is computed.
        batch_bytes: What the arrays of the members that one program trains side by side
            may occupy: the cache of a core. `None` means as much as memory allows.
        chunk_seconds: Length of one call, after which its results are kept.
    """

    compile_seconds: float = 0.5
    flops_per_second: float = 1e11
    step_seconds: float = 5e-6
    batch_bytes: int | None = 2**19
    chunk_seconds: float = 1.0

    @classmethod
    def of_platform(cls, platform: str) -> "CostModel":
        """The model for "cpu", or for accelerators, which want large batches.

        Args:
            platform: As a JAX device names it.

        Returns:
            The model. That of accelerators is a guess: nothing was measured on one.
        """
        if platform == "cpu":
            return cls()
        return cls(
            compile_seconds=2.0,
            flops_per_second=5e12,
            step_seconds=5e-5,
            batch_bytes=None,
            chunk_seconds=5.0,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemberCost:
    """Cost of one member at the width of its program.

    Attributes:
        flops: Of one step.
        num_bytes: Of the arrays that a step works with, and of what is recorded.
    """

    flops: float
    num_bytes: int


def member_cost(
    network: Network, x: Any, *, num_losses: int, keep_params: bool
) -> MemberCost:
    """Cost of one member by the shapes of its parameters.

    A weight costs 2 operations for each example, and each position of images, forward
    and 4 backward. Memory is counted for parameters, gradient, and two moments, and
    for four arrays of the size of each layer's output.

    Args:
        network: Network of the program.
        x: Training inputs.
        num_losses: Number of losses that are recorded.
        keep_params: Whether trained parameters are.

    Returns:
        The cost.
    """
    shapes = jax.eval_shape(network.init, jax.random.key(0), x)
    leaves = [leaf for leaf in jax.tree.leaves(shapes) if leaf.shape]
    architecture = getattr(network, "architecture", None)
    is_convolutional = architecture is not None and architecture.is_convolutional
    positions = math.prod(x.shape[1:-1]) if is_convolutional else 1
    size = sum(leaf.size for leaf in leaves)
    rows = x.shape[0] * positions
    outputs = sum(leaf.shape[-1] for leaf in leaves if len(leaf.shape) > 1)
    itemsize = max(leaf.dtype.itemsize for leaf in leaves)
    numbers = (4 + keep_params) * size + 4 * rows * outputs + num_losses
    return MemberCost(flops=6.0 * rows * size, num_bytes=numbers * itemsize)


def choose_buckets(
    widths: Sequence[int],
    seconds: Sequence[float],
    compile_seconds: float,
) -> list[tuple[int, ...]]:
    """Widths that share a program, so that compiling and training take least together.

    Args:
        widths: Increasing widths.
        seconds: To train all members of each width, at that width.
        compile_seconds: For each program.

    Returns:
        The buckets, of neighbouring widths, increasing.

    Example:
        >>> choose_buckets([16, 32, 64, 2048], [0.1, 0.2, 0.4, 10.0], 1.0)
        [(16, 32, 64), (2048,)]
    """
    # best[i]: least seconds for the first i widths, and where their last bucket starts.
    best = [(0.0, 0)]
    for end in range(1, len(widths) + 1):
        costs = [
            (best[start][0] + compile_seconds + (end - start) * seconds[end - 1], start)
            for start in range(end)
        ]
        best.append(min(costs))
    buckets = []
    end = len(widths)
    while end:
        start = best[end][1]
        buckets.append(tuple(widths[start:end]))
        end = start
    return buckets[::-1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calls:
    """How the members of a bucket are spread over calls of its program.

    Attributes:
        batch: Members side by side on each device.
        num_batches: Batches after one another, in one call.
        num_devices: Devices at work in each call.
    """

    batch: int
    num_batches: int
    num_devices: int = 1

    @property
    def size(self) -> int:
        """Members of one call."""
        return self.batch * self.num_batches * self.num_devices

    def smaller(self, share: float) -> "Calls | None":
        """Calls that need a share of the memory, below 1; `None` if there are none."""
        if self.batch > 1:
            batch = min(self.batch - 1, max(1, int(self.batch * share)))
            return dataclasses.replace(self, batch=batch, num_batches=1)
        if self.num_batches > 1:
            return dataclasses.replace(self, num_batches=1)
        return None

    def split(self, members: np.ndarray) -> list[np.ndarray]:
        """Members of each call; the last repeats one where it would fall short.

        Args:
            members: Their indices.

        Returns:
            Arrays of `size` indices.
        """
        short = -len(members) % self.size
        whole = np.concatenate([members, np.repeat(members[-1:], short)])
        return list(whole.reshape(-1, self.size))


def plan_calls(
    num_members: int,
    cost: MemberCost,
    *,
    num_steps: int,
    model: CostModel,
    memory: int,
    num_devices: int,
    num_workers: int,
) -> Calls:
    """Sizes of calls that keep all devices and workers busy, within memory.

    Sizes are evened out: 10 members with room for 8 are two calls of 5.

    Args:
        num_members: Members of the bucket.
        cost: Of each.
        num_steps: Steps of training.
        model: What programs cost.
        memory: Bytes for one call, on each device.
        num_devices: Devices that share a call.
        num_workers: Calls that run at the same time.

    Returns:
        The sizes.
    """
    share = math.ceil(num_members / num_devices)
    room = memory // 2 if model.batch_bytes is None else min(model.batch_bytes, memory)
    largest = max(1, room // max(1, cost.num_bytes))
    batch = _evened(share, min(largest, math.ceil(share / num_workers)))
    seconds = num_steps * (
        model.step_seconds + batch * cost.flops / model.flops_per_second
    )
    longest = max(1, int(model.chunk_seconds / max(seconds, 1e-9)))
    total = math.ceil(share / batch)
    longest = min(longest, math.ceil(total / num_workers))
    return Calls(
        batch=batch, num_batches=_evened(total, longest), num_devices=num_devices
    )


def _evened(total: int, largest: int) -> int:
    """Largest of equal parts of `total`, none larger than `largest`."""
    return math.ceil(total / math.ceil(total / min(total, largest)))


def grouped(
    widths: Sequence[int], groups: Sequence[Sequence[int]]
) -> list[tuple[int, ...]]:
    """Buckets as a caller gave them, checked.

    Args:
        widths: Increasing widths of the sweep.
        groups: The buckets.

    Returns:
        The buckets, each increasing.

    Raises:
        ValueError: If they do not hold each width once.
    """
    buckets = [tuple(sorted(group)) for group in groups]
    if sorted(itertools.chain(*buckets)) != list(widths) or not all(buckets):
        raise ValueError(
            f"`buckets` must hold each of the widths {tuple(widths)} once; got {groups}."
        )
    return buckets


def parse_memory(memory: str | int) -> int:
    """Bytes that `memory` says, such as "4GiB".

    Args:
        memory: A number of bytes, or a number with a unit: B, KiB, MiB, GiB, TiB, KB,
            MB, GB or TB.

    Returns:
        The number of bytes.

    Raises:
        ValueError: If it says nothing of the kind, or is not positive.

    Example:
        >>> parse_memory("1.5KiB")
        1536
    """
    number = memory
    if isinstance(memory, str):
        digits = memory.strip().rstrip("KMGTiB ")
        unit = memory.strip()[len(digits) :].strip()
        try:
            number = float(digits) * _UNITS[unit]
        except (KeyError, ValueError):
            number = None
    if isinstance(number, bool) or not isinstance(number, int | float) or number < 1:
        raise ValueError(
            "`memory` must be a positive number of bytes, or a text such as '4GiB'; got "
            f"{memory!r}."
        )
    return int(number)


_UNITS = {"B": 1} | {
    f"{prefix}{infix}B": (1024 if infix else 1000) ** power
    for power, prefix in enumerate("KMGT", 1)
    for infix in ("i", "")
}
