"""What a Gram matrix is of, part by part, so that another is told from it."""

import hashlib
from typing import Any

import jax
import numpy as np

from lazyjax.dynamics.training.fingerprint import versions
from lazyjax.grams.kernels import GramKernel

_BYTES_AT_ONCE = 2**24


def fingerprint(
    kernel: GramKernel, x1: np.ndarray, x2: np.ndarray | None
) -> dict[str, Any]:
    """Everything that its numbers depend on, by argument."""
    return {
        "versions": versions(),
        "platform": jax.default_backend(),
        **kernel.fingerprint(x1),
        "x1": batch_digest(x1),
        "x2": None if x2 is None else batch_digest(x2),
    }


def batch_digest(x: np.ndarray) -> str:
    """Digest of a batch that need not fit into memory."""
    digest = hashlib.sha256(f"{x.dtype.name} {x.shape}".encode())
    rows = max(1, _BYTES_AT_ONCE // max(1, x[:1].nbytes))
    for start in range(0, len(x), rows):
        digest.update(np.ascontiguousarray(x[start : start + rows]).data)
    return digest.hexdigest()
