"""What runners on JAX share; works on any JAX since 2023."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import _harness
from benchmarks.peers.worker import Prepared


def prepare(
    fn: Callable[..., Any],
    arguments: Sequence[Any],
    to_numpy: Callable[[Any], np.ndarray] = np.asarray,
) -> Prepared:
    """`fn` compiled for `arguments`, which are put on the device."""
    arguments = jax.block_until_ready(jax.device_put(tuple(arguments)))
    compile_s, compiled = _harness.timed(
        lambda: jax.jit(fn).lower(*arguments).compile()
    )
    return Prepared(
        call=lambda: jax.block_until_ready(compiled(*arguments)),
        to_numpy=to_numpy,
        compile_s=compile_s,
        device_bytes=_device_bytes(),
    )


def prepare_blocks(
    kernel_fn: Callable[[Any, Any, Any], Any],
    params: Any,
    x: np.ndarray,
    block_size: int,
) -> Prepared:
    """The whole kernel from `kernel_fn(params, x1, x2)` on blocks of examples.

    Blocks on the diagonal get `x2=None`; those below it are transposes.
    """
    if block_size == len(x):
        return prepare(lambda p, x1: kernel_fn(p, x1, None), (params, x))
    params = jax.device_put(params)
    blocks = [
        jax.device_put(x[start : start + block_size])
        for start in range(0, len(x), block_size)
    ]

    def compile_both() -> tuple[Any, Any]:
        on_diagonal = jax.jit(lambda p, x1: kernel_fn(p, x1, None))
        return (
            on_diagonal.lower(params, blocks[0]).compile(),
            jax.jit(kernel_fn).lower(params, blocks[0], blocks[1]).compile(),
        )

    compile_s, (on_diagonal, off_diagonal) = _harness.timed(compile_both)

    def call() -> np.ndarray:
        rows: list[list[Any]] = [[None] * len(blocks) for _ in blocks]
        for i, x1 in enumerate(blocks):
            rows[i][i] = np.asarray(on_diagonal(params, x1))
            for j in range(i + 1, len(blocks)):
                rows[i][j] = np.asarray(off_diagonal(params, x1, blocks[j]))
                rows[j][i] = rows[i][j].transpose(1, 0, 3, 2)
        return np.concatenate([np.concatenate(row, axis=1) for row in rows])

    return Prepared(call, np.asarray, compile_s, _device_bytes())


def device() -> str:
    """What JAX computes on."""
    first = jax.devices()[0]
    return "cpu" if first.platform == "cpu" else first.device_kind


def _device_bytes() -> Callable[[], tuple[int, int]] | None:
    first = jax.devices()[0]
    if not first.memory_stats():
        return None

    def read() -> tuple[int, int]:
        stats = first.memory_stats()
        return stats["bytes_in_use"], stats["peak_bytes_in_use"]

    return read
