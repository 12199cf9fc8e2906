"""`lazyjax.sweep` beside what else trains networks of many widths, seeds and scales.

    python -m benchmarks.sweep --out FILE.json

Two-layer networks of Du et al. on real digits, full-batch gradient descent, minus their
outputs at the start, times a scale. Each method has a process of its own, and its seconds
are those of the process: imports, data, initialization and compiling included.

- `sweep`: one call of `lazyjax.sweep`.
- `careful`: one jitted loop for each width, reused for every seed and scale.
- `jitted steps`: one jitted step for each width, called in a Python loop.
- `eager steps`: the same, not jitted.
- `processes`: a process for each member, which does as `careful`.

The first two are run whole, and their losses compared. The others are estimates from a
sample, one member of the first, the middle and the last width (and few of its eager
steps): between these, seconds are taken to be linear in the width.
"""

import argparse
import dataclasses
import functools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

import lazyjax
from benchmarks import _harness
from benchmarks.infinite_workloads import Size as SizeName
from lazyjax.certify.widths import du2019
from lazyjax.dynamics import square_loss

TOLERANCE = 1e-4  # of last losses in float32, relative, Frobenius
NUM_EAGER_STEPS = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """How much is trained."""

    widths: tuple[int, ...]
    num_seeds: int
    alphas: tuple[float, ...]
    num_steps: int
    num_train: int

    @property
    def per_width(self) -> int:
        """Members of each width."""
        return self.num_seeds * len(self.alphas)

    @property
    def sampled_widths(self) -> tuple[int, ...]:
        """The first, the middle and the last width."""
        middle = len(self.widths) // 2
        return tuple(sorted({self.widths[i] for i in (0, middle, -1)}))

    def summed(self, sampled: list[float]) -> float:
        """Sum over all widths of what was measured at the sampled ones."""
        return float(np.interp(self.widths, self.sampled_widths, sampled).sum())


SIZES: dict[SizeName, Size] = {
    "full": Size(
        widths=(16, 32, 64, 128, 256, 512, 1024, 2048),
        num_seeds=16,
        alphas=(1.0, 10.0, 100.0, 1000.0),
        num_steps=500,
        num_train=100,
    ),
    "toy": Size(
        widths=(2, 4), num_seeds=2, alphas=(1.0, 10.0), num_steps=20, num_train=10
    ),
}


class Problem:
    """Data and learning rate, and the loss of a network minus its start."""

    def __init__(self, size: Size) -> None:
        self.size = size
        data = lazyjax.data.digits(size.num_train, num_test=0, classes="parity")
        self.x, self.y = data.x_train, data.y_train
        kernel = lazyjax.infinite_ntk(du2019.ARCHITECTURE, self.x)
        self.rate = 1 / float(np.linalg.eigvalsh(kernel)[-1])
        self.key = jax.random.key(0)

    def start(self, width: int, seed: int) -> tuple[Any, Any]:
        """Parameters and outputs of a member at step 0."""
        net = lazyjax.nets.build(du2019.ARCHITECTURE, width=width)
        key = jax.random.fold_in(jax.random.fold_in(self.key, width), seed)
        params = net.init(key, self.x)
        return params, net.apply(params, self.x)

    def step_fn(self, width: int) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
        """One step of gradient descent, of parameters, start and scale."""
        net = lazyjax.nets.build(du2019.ARCHITECTURE, width=width)

        def loss_fn(params: Any, f0: Any, alpha: Any) -> Any:
            f = alpha * (net.apply(params, self.x) - f0)
            return square_loss(f, self.y) / alpha**2

        def step(params: Any, f0: Any, alpha: Any) -> tuple[Any, Any]:
            loss, grads = jax.value_and_grad(loss_fn)(params, f0, alpha)
            params = jax.tree.map(lambda p, g: p - self.rate * g, params, grads)
            return params, loss * alpha**2

        return step


def run_sweep(problem: Problem) -> np.ndarray:
    """Losses before the last step, by width, seed and scale."""
    size = problem.size
    result = lazyjax.sweep(
        du2019.ARCHITECTURE,
        problem.x,
        problem.y,
        widths=size.widths,
        num_seeds=size.num_seeds,
        key=problem.key,
        alphas=size.alphas,
        learning_rates=[problem.rate],
        num_steps=size.num_steps,
        center=True,
    )
    return result.sel(learning_rate=problem.rate).loss[..., -2]


def run_careful(problem: Problem, size: Size) -> np.ndarray:
    """The same by a loop over seeds and scales, around one program for each width."""
    losses = []
    for width in size.widths:
        step = problem.step_fn(width)

        def train(params: Any, f0: Any, alpha: Any, step: Any = step) -> Any:
            move = lambda params, _: step(params, f0, alpha)
            return jax.lax.scan(move, params, None, length=size.num_steps)[1]

        jitted = jax.jit(train)
        for seed in range(size.num_seeds):
            params, f0 = problem.start(width, seed)
            for alpha in size.alphas:
                losses.append(np.asarray(jitted(params, f0, jnp.float32(alpha)))[-1])
    return np.reshape(losses, (len(size.widths), size.num_seeds, -1))


def time_steps(problem: Problem, width: int, *, is_jitted: bool) -> tuple[float, float]:
    """Seconds until the first step of a width is done, and of each step after it."""
    step = problem.step_fn(width)
    step = jax.jit(step) if is_jitted else step
    num_steps = problem.size.num_steps if is_jitted else NUM_EAGER_STEPS
    alpha = jnp.float32(problem.size.alphas[0])

    def first() -> tuple[Any, Any]:
        params, f0 = problem.start(width, 0)
        return step(params, f0, alpha)[0], f0

    def rest(params: Any, f0: Any) -> list[float]:
        losses = []
        for _ in range(num_steps):
            params, loss = step(params, f0, alpha)
            losses.append(float(loss))
        return losses

    first_s, (params, f0) = _harness.timed(first)
    rest_s, _ = _harness.timed(lambda: rest(params, f0))
    return first_s, rest_s / num_steps


def child(method: str, problem: Problem, width: int, folder: Path) -> None:
    """One method, in a process of its own."""
    size = problem.size
    if method == "sweep":
        np.save(folder / "sweep.npy", run_sweep(problem))
    elif method == "careful":
        np.save(folder / "careful.npy", run_careful(problem, size))
    elif method == "processes":
        one = dataclasses.replace(
            size, widths=(width,), num_seeds=1, alphas=size.alphas[:1]
        )
        run_careful(problem, one)
    else:
        is_jitted = method == "jitted steps"
        sample = [
            time_steps(problem, w, is_jitted=is_jitted) for w in size.sampled_widths
        ]
        (folder / "steps.json").write_text(json.dumps(sample))


def measure(size_name: SizeName) -> tuple[dict[str, float], float]:
    """Seconds of each method, and the relative error of the losses of the sweep.

    Raises:
        WrongAnswerError: If the sweep's losses are not those of the careful loop.
    """
    size = SIZES[size_name]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def process_s(method: str, width: int = 0) -> float:
            command = [sys.executable, "-m", "benchmarks.sweep", "--size", size_name]
            command += ["--child", method, "--width", str(width), "--folder", name]
            run = functools.partial(
                subprocess.run, command, check=True, cwd=_harness.ROOT
            )
            return _harness.timed(run)[0]

        seconds = {method: process_s(method) for method in ("sweep", "careful")}
        found, expected = (np.load(folder / f"{m}.npy") for m in ("sweep", "careful"))
        error = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
        if not error <= TOLERANCE:
            raise _harness.WrongAnswerError(f"sweep: relative error {error:.2g}")
        for method in ("jitted steps", "eager steps"):
            whole_s = process_s(method)
            sample = json.loads((folder / "steps.json").read_text())
            num_steps = size.num_steps if method == "jitted steps" else NUM_EAGER_STEPS
            firsts, steps = (list(column) for column in zip(*sample, strict=True))
            around_s = whole_s - sum(firsts) - num_steps * sum(steps)
            per_step = size.per_width * size.num_steps
            seconds[method] = (
                around_s + size.summed(firsts) + per_step * size.summed(steps)
            )
        alone = [process_s("processes", width) for width in size.sampled_widths]
        seconds["processes"] = size.per_width * size.summed(alone)
    return seconds, error


def main() -> None:
    """Measure, print the table, and write it if asked to."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=get_args(SizeName), default="full")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--width", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        problem = Problem(SIZES[options.size])
        child(options.child, problem, options.width, options.folder)
        return
    seconds, error = measure(options.size)
    size = SIZES[options.size]
    print(f"{size}; relative error of the losses {error:.1e}")
    for method, value in seconds.items():
        is_sampled = method not in ("sweep", "careful")
        print(
            f"{method:<14}{value:>10.1f} s{value / seconds['sweep']:>9.1f} x"
            f"{'  (estimated from a sample)' if is_sampled else ''}"
        )
    if options.out:
        _harness.write_found(
            options.out,
            size=dataclasses.asdict(size),
            rel_error=error,
            seconds=seconds,
            estimated_from_a_sample=["jitted steps", "eager steps", "processes"],
        )


if __name__ == "__main__":
    main()
