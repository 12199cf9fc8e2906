"""One library's infinite-width kernel in a process of its own, held ready to be timed.

Runs in the project's environment for lazyjax, and in that of `nt_runner` for
neural-tangents.
"""

import argparse
import json
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import _harness
from benchmarks.infinite_workloads import InfiniteWork, infinite_works


def kernel_fn(method: str, work: InfiniteWork) -> tuple[Callable[[Any], Any], str]:
    """`x -> ntk` of a library, and its version; imported here, not with the file."""
    if method.startswith("lazyjax"):
        import lazyjax

        kind: Any = "cnn" if len(work.shape) == 3 else "mlp"
        options: Any = {"head": work.head} if kind == "cnn" else {}
        spec = lazyjax.Architecture(
            kind=kind, depth=work.depth, activation="relu", w_std=2**0.5, **options
        )
        return lambda x: lazyjax.infinite_ntk(spec, x), lazyjax.__version__
    nt = _neural_tangents(through_bridge="(bridge)" in method)
    stax = nt.stax
    layers: list[Any] = []
    for _ in range(work.depth):
        if len(work.shape) == 3:
            layers.append(
                stax.Conv(1, (3, 3), padding="SAME", W_std=2**0.5, b_std=None)
            )
        else:
            layers.append(stax.Dense(1, W_std=2**0.5, b_std=None))
        layers.append(stax.Relu())
    if len(work.shape) == 3:
        flatten = stax.Flatten() if work.head == "flatten" else stax.GlobalAvgPool()
        layers.append(flatten)
    layers.append(stax.Dense(1, W_std=2**0.5, b_std=None))
    _, _, kernel = stax.serial(*layers)
    return lambda x: kernel(x, None, "ntk"), nt.__version__


def _neural_tangents(through_bridge: bool) -> Any:
    if through_bridge:
        from lazyjax.interop.neural_tangents import load_neural_tangents

        return load_neural_tangents()
    sys.modules["neural_tangents.experimental"] = types.ModuleType("experimental")
    import neural_tangents  # pyright: ignore[reportMissingImports]

    return neural_tangents


class Ready:
    """A method with its inputs on the device."""

    def __init__(self, request: dict[str, Any]) -> None:
        work = infinite_works(request["size"])[request["case"]]
        fn, version = kernel_fn(request["method"], work)
        x = jax.device_put(work.draw())
        compile_s, compiled = _harness.timed(lambda: jax.jit(fn).lower(x).compile())
        self._call = lambda: jax.block_until_ready(compiled(x))
        peak_bytes, (first_s, result) = _harness.peak_bytes_of(
            lambda: _harness.timed(self._call)
        )
        np.save(Path(request["folder"]) / "result.npy", np.asarray(result))
        first = jax.devices()[0]
        self.reply = {
            "compile_s": compile_s,
            "first_s": first_s,
            "peak_bytes": peak_bytes,
            "device": "cpu" if first.platform == "cpu" else first.device_kind,
            "versions": {
                request["method"].split(":")[0]: version,
                "jax": jax.__version__,
            },
        }

    def time(self) -> dict[str, Any]:
        """Seconds of one call."""
        return {"seconds": _harness.timed(self._call)[0]}


def main() -> None:
    """Answer requests from standard input until it ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--memory-bytes", type=int, required=True)
    _harness.limit_memory(parser.parse_args().memory_bytes)
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not be read as a reply
    ready: Ready | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["ask"] == "prepare":
                ready = Ready(request)
                reply = ready.reply
            else:
                assert ready is not None
                reply = ready.time()
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
