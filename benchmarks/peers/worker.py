"""Requests to a method in a process of its own, and the process that answers them.

The parent asks on the worker's standard input, one JSON object per line, and reads
replies the same way, so that it can time methods of different environments in turn.
Standard library and NumPy only.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks import _harness
from benchmarks.workloads import WORKLOADS, Arrays, Size, Workload

# A Jacobian larger than this is built and contracted for blocks of examples, as
# someone would for whom it does not fit.
JACOBIAN_BYTES = 2 * 2**30


class MethodFailedError(Exception):
    """A method that could not run: the message says why."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """A workload with its arrays."""

    work: Workload
    params: Arrays
    x: np.ndarray
    y: np.ndarray


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A method ready to be called: blocks until done and returns what it computed.

    Attributes:
        call: Computes, on arrays that are on the device already.
        to_numpy: Result of `call` in the common layout.
        compile_s: Tracing and compiling; None if the library does not.
        device_bytes: Bytes in use on an accelerator, now and at most so far; None for
            computations in host memory.
    """

    call: Callable[[], Any]
    to_numpy: Callable[[Any], np.ndarray]
    compile_s: float | None = None
    device_bytes: Callable[[], tuple[int, int]] | None = None


class Runner(Protocol):
    """A library in its environment."""

    @property
    def methods(self) -> Sequence[str]:
        """What it can do, each name beginning with the library's."""
        ...

    def versions(self) -> dict[str, str]:
        """Of the libraries at work."""
        ...

    def device(self) -> str:
        """What it computes on."""
        ...

    def prepare(self, method: str, problem: Problem) -> Prepared:
        """`method` compiled for `problem`, its arrays on the device."""
        ...


def block_size(work: Workload) -> int:
    """Largest divisor of the batch whose Jacobian is at most `JACOBIAN_BYTES`."""
    per_example = 4 * work.k * work.num_params
    sizes = [b for b in range(1, work.n + 1) if work.n % b == 0]
    return max((b for b in sizes if b * per_example <= JACOBIAN_BYTES), default=1)


class Answerer:
    """The worker's side: one method of one runner, held ready."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._prepared: Prepared | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Reply to one request; what fails is reported, not raised."""
        try:
            if request["ask"] == "time":
                return self._time()
            return self._prepare(request)
        except Exception as error:
            first_line = str(error).strip().split("\n")[0][:300]
            return {"error": f"{type(error).__name__}: {first_line}"}

    def _prepare(self, request: dict[str, Any]) -> dict[str, Any]:
        folder = Path(request["folder"])
        problem = load_problem(request["case"], request["size"], folder)
        prepared = self._runner.prepare(request["method"], problem)
        used_before = prepared.device_bytes()[0] if prepared.device_bytes else 0
        peak_bytes, (seconds, result) = _harness.peak_bytes_of(
            lambda: _harness.timed(prepared.call)
        )
        if prepared.device_bytes:
            peak_bytes = prepared.device_bytes()[1] - used_before
        np.save(folder / "result.npy", prepared.to_numpy(result))
        self._prepared = prepared
        return {
            "compile_s": prepared.compile_s,
            "first_s": seconds,
            "peak_bytes": peak_bytes,
            "device": self._runner.device(),
            "versions": self._runner.versions(),
        }

    def _time(self) -> dict[str, Any]:
        if self._prepared is None:
            raise MethodFailedError("asked for a time before it was prepared")
        return {"seconds": _harness.timed(self._prepared.call)[0]}


def serve(runner: Runner) -> None:
    """Answer requests from standard input until it ends, as the command line says.

    `--methods` prints the methods instead; `--memory-bytes` limits this process.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--methods", action="store_true")
    parser.add_argument("--memory-bytes", type=int)
    options = parser.parse_args()
    if options.methods:
        print(json.dumps(runner.methods))
        return
    if options.memory_bytes:
        _harness.limit_memory(options.memory_bytes)
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not be read as a reply
    answerer = Answerer(runner)
    for line in sys.stdin:
        replies.write(json.dumps(answerer.answer(json.loads(line))) + "\n")
        replies.flush()


class Worker:
    """The parent's side: a process that serves one runner.

    Args:
        command: What starts it.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - until `close`
        self._process = subprocess.Popen(
            command,
            cwd=_harness.ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """Reply to one request.

        Raises:
            MethodFailedError: If the method failed, or its process ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise MethodFailedError(f"its process ended: {self._last_words()}")
        reply = json.loads(line)
        if "error" in reply:
            raise MethodFailedError(reply["error"])
        return reply

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # a request it never read
                    pipe.close()
        self._errors.close()

    def _last_words(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().split("\n")
        return f"exit {code}; {lines[-1][:300]}"


def save_problem(problem: Problem, folder: Path) -> None:
    """Write the arrays of `problem` for workers to load."""
    params = {f"params/{name}": array for name, array in problem.params.items()}
    np.savez(
        folder / "problem.npz", allow_pickle=False, x=problem.x, y=problem.y, **params
    )


def load_problem(case: str, size: Size, folder: Path) -> Problem:
    """The problem written to `folder`."""
    with np.load(folder / "problem.npz") as arrays:
        params = {
            name.removeprefix("params/"): arrays[name]
            for name in arrays.files
            if name.startswith("params/")
        }
        return Problem(WORKLOADS[case](size), params, arrays["x"], arrays["y"])
