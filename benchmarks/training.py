"""`train`, `train_on_batches` and `sweep` beside loops of jitted steps on the host.

    python -m benchmarks.training --out FILE.json

Beside `train` is a Python loop of one jitted step with donated buffers, whose losses are
not waited for, also beside `train_on_batches` ("batches"), of NumPy's arrays; beside `sweep` a loop over widths, each of which compiles its step once
for all seeds, compilation included on both sides. Losses are compared before any time
counts. Methods take turns; `ratio` is that of their fastest calls.
"""

import argparse
import dataclasses
import functools
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import lazyjax
from benchmarks import _harness
from benchmarks.networks import apply_fn
from benchmarks.workloads import WORKLOADS
from lazyjax.dynamics import square_loss

TOLERANCE = 1e-4  # of losses in float32, relative, Frobenius
Method = Callable[[], np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A network and how it is trained."""

    apply_fn: Callable[[Any, Any], Any]
    params: Any
    x: Any
    y: Any
    num_steps: int
    optimizer: optax.GradientTransformation = dataclasses.field(
        default_factory=lambda: optax.sgd(1e-5, 0.9)
    )

    def train(self) -> np.ndarray:
        """Losses before each step."""
        run = lazyjax.train(
            self.apply_fn,
            self.params,
            self.x,
            self.y,
            optimizer=self.optimizer,
            num_steps=self.num_steps,
        )
        return np.asarray(run.loss)[:-1]

    def host_loop(self) -> np.ndarray:
        """The same by jitted steps."""
        params = jax.tree.map(jnp.copy, self.params)
        return _host_loop(self._step, params, self.optimizer, self.num_steps)

    @functools.cached_property
    def _step(self) -> Callable[..., Any]:
        loss_fn = lambda params: square_loss(
            self.apply_fn(params, self.x), jnp.asarray(self.y)
        )
        return _jitted_step(loss_fn, self.optimizer)


def _jitted_step(loss_fn: Any, optimizer: optax.GradientTransformation) -> Any:
    step = functools.partial(_updated, loss_fn, optimizer)
    return jax.jit(step, donate_argnums=(0, 1))


def _updated(
    loss_fn: Any, optimizer: optax.GradientTransformation, params: Any, state: Any
) -> Any:
    loss, grads = jax.value_and_grad(loss_fn)(params)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss


def _host_loop(
    step: Any, params: Any, optimizer: optax.GradientTransformation, num_steps: int
) -> np.ndarray:
    state, losses = optimizer.init(params), []
    for _ in range(num_steps):
        params, state, loss = step(params, state)
        losses.append(loss)
    return np.asarray(jnp.stack(losses))


class _SmallCNN(nn.Module):
    """Two convolutions of 16 and 32 channels."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        for channels in (16, 32):
            x = nn.relu(nn.Conv(channels, (3, 3))(x))
        return nn.Dense(10)(jnp.mean(x, axis=(1, 2)))


class _ResNet18(nn.Module):
    """Four stages of two blocks, with a quarter of the channels, normalized in groups."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        norm = functools.partial(nn.GroupNorm, num_groups=4)
        x = nn.relu(norm()(nn.Conv(16, (3, 3), use_bias=False)(x)))
        for stage, channels in enumerate((16, 32, 64, 128)):
            for block in range(2):
                strides = (2, 2) if stage and not block else (1, 1)
                conv = functools.partial(nn.Conv, channels, use_bias=False)
                h = nn.relu(norm()(conv((3, 3), strides)(x)))
                h = norm()(conv((3, 3))(h))
                if h.shape != x.shape:
                    x = norm()(conv((1, 1), strides)(x))
                x = nn.relu(x + h)
        return nn.Dense(10)(jnp.mean(x, axis=(1, 2)))


def _of_flax(module: nn.Module, x: np.ndarray, num_steps: int) -> Case:
    y = np.eye(10, dtype="f4")[np.arange(len(x)) % 10]
    params = jax.jit(module.init)(jax.random.key(0), x)
    return Case(
        apply_fn=lambda p, x: module.apply(p, x),
        params=params,
        x=x,
        y=y,
        num_steps=num_steps,
    )


def _of_workload(name: str, num_steps: int, **changes: Any) -> Case:
    work = dataclasses.replace(WORKLOADS[name]("full"), **changes)
    params, x, y = work.draw()
    return Case(apply_fn=apply_fn(work), params=params, x=x, y=y, num_steps=num_steps)


def _cnn() -> Case:
    network = lazyjax.nets.cnn(width=32, depth=3, num_outputs=10)
    x = np.random.default_rng(0).standard_normal((128, 16, 16, 3)).astype("f4")
    y = np.eye(10, dtype="f4")[np.arange(128) % 10]
    params = network.init(jax.random.key(0), x)
    return Case(apply_fn=network.apply, params=params, x=x, y=y, num_steps=20)


def _digits() -> Case:
    x = lazyjax.data.digits(300, num_test=0).x_train.reshape(-1, 8, 8, 1)
    return _of_flax(_SmallCNN(), np.asarray(x, "f4"), 50)


def _resnet() -> Case:
    x = np.random.default_rng(0).standard_normal((32, 32, 32, 3)).astype("f4")
    return _of_flax(_ResNet18(), x, 10)


CASES: dict[str, Callable[[], Case]] = {
    "cnn": _cnn,
    "digits": _digits,
    "resnet18": _resnet,
    "vit": lambda: _of_workload("vit", 20),
    "mlp": lambda: _of_workload("mlp", 20),
    "small mlp": lambda: _of_flax(
        nn.Sequential([nn.Dense(64), nn.relu, nn.Dense(10)]),
        np.random.default_rng(0).standard_normal((64, 20)).astype("f4"),
        2000,
    ),
}


def batches_methods(num_steps: int) -> dict[str, Method]:
    """Training on batches of 32 digits, and its loop."""
    case = _digits()
    pairs = [(case.x[i : i + 32], case.y[i : i + 32]) for i in range(0, 288, 32)]

    def ours() -> np.ndarray:
        run = lazyjax.dynamics.train_on_batches(
            case.apply_fn,
            case.params,
            itertools.cycle(pairs),
            optimizer=case.optimizer,
            num_steps=num_steps,
        )
        return np.asarray(run.loss)[:-1]

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, x: Any, y: Any) -> Any:
        loss_fn = lambda params: square_loss(case.apply_fn(params, x), jnp.asarray(y))
        return _updated(loss_fn, case.optimizer, params, state)

    def loop() -> np.ndarray:
        params = jax.tree.map(jnp.copy, case.params)
        state, losses = case.optimizer.init(params), []
        for x, y in itertools.islice(itertools.cycle(pairs), num_steps):
            params, state, loss = step(params, state, x, y)
            losses.append(loss)
        return np.asarray(jnp.stack(losses))

    return {"lazyjax": ours, "host loop": loop}


def sweep_methods() -> dict[str, Method]:
    """A sweep of convolutional networks over 4 widths and 4 seeds, and its loop."""
    widths, num_seeds, num_steps, rate = (8, 16, 32, 64), 4, 20, 1e-3
    x = np.random.default_rng(0).standard_normal((32, 16, 16, 3)).astype("f4")
    x = jnp.asarray(x)
    y, key = x[:, 0, 0, :1], jax.random.key(0)
    build = functools.partial(lazyjax.nets.cnn, depth=3)

    def sweep() -> np.ndarray:
        jax.clear_caches()
        found = lazyjax.sweep(
            build,
            x,
            y,
            widths=widths,
            num_seeds=num_seeds,
            learning_rates=[rate],
            num_steps=num_steps,
            key=key,
        )
        return found.loss[:, :, 0, 0, :-1]

    def loop() -> np.ndarray:
        jax.clear_caches()
        optimizer, losses = optax.sgd(rate), []
        for width in widths:
            net = build(width=width)
            loss_fn = lambda p, net=net: square_loss(net.apply(p, x), y)
            step, init = _jitted_step(loss_fn, optimizer), jax.jit(net.init)
            for seed in range(num_seeds):
                of_member = jax.random.fold_in(jax.random.fold_in(key, width), seed)
                start = init(of_member, x)
                losses.append(_host_loop(step, start, optimizer, num_steps))
        return np.reshape(losses, (len(widths), num_seeds, num_steps))

    return {"lazyjax": sweep, "host loop": loop}


def measure(name: str, num_calls: int) -> dict[str, Any]:
    """Seconds of both methods on one case.

    Raises:
        WrongAnswerError: If their losses differ.
    """
    if name == "sweep":
        methods, num_steps = sweep_methods(), 1
    elif name == "batches":
        num_steps = 200
        methods = batches_methods(num_steps)
    else:
        case = CASES[name]()
        methods = {"lazyjax": case.train, "host loop": case.host_loop}
        num_steps = case.num_steps
    firsts = {name: _harness.timed(method) for name, method in methods.items()}
    (first_s, found), (host_first_s, expected) = firsts.values()
    error = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    if not error <= TOLERANCE:
        raise _harness.WrongAnswerError(f"{name}: relative error {error:.2g}")
    clocks = {
        name: lambda method=method: _harness.timed(method)[0]
        for name, method in methods.items()
    }
    samples = _harness.round_robin(clocks, dict.fromkeys(clocks, num_calls))
    ours, host = (min(seconds) / num_steps for seconds in samples.values())
    return {
        "case": name,
        "ratio": ours / host,
        "lazyjax_s": ours,
        "host_loop_s": host,
        "per": "sweep" if name == "sweep" else "step",
        "first_call_s": first_s,
        "first_host_loop_s": host_first_s,
        "rel_error": error,
    }


def main() -> None:
    """Print one row for each case, and write them if asked to."""
    parser = argparse.ArgumentParser()
    names = [*CASES, "batches", "sweep"]
    parser.add_argument("--case", nargs="*", choices=names, default=names)
    parser.add_argument("--calls", type=int, default=7)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    for name in options.case:
        rows.append(measure(name, options.calls))
        print(json.dumps(rows[-1]), flush=True)
    if options.out:
        _harness.write_found(options.out, rows=rows)


if __name__ == "__main__":
    main()
