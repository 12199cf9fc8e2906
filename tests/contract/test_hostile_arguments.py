"""No error of a public verb dumps what it was given, whatever that is."""

import inspect
import operator
import tempfile
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import lazyjax
from tests.test_public_api import FORECASTS, VERBS

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("own_errors")]

LONGEST = 600

NET = lazyjax.nets.mlp(width=4, depth=1, num_outputs=2, b_std=0.1)
X = np.arange(6.0, dtype=np.float32).reshape(3, 2)
PARAMS = NET.init(jax.random.key(0), X)
KEY = jax.random.key(1)

KERNEL = {"apply_fn": NET.apply, "params": PARAMS, "x1": X}
LIFTED = {
    "apply_fn": lambda w, x: x @ w,
    "params": jnp.ones((2, 2)),
    "x1": X,
    "variances": 1.0,
}
LIMIT = {"architecture": NET.architecture, "x1": X}
PROBLEM = {"apply_fn": NET.apply, "params": PARAMS, "x": X, "y": X}

LINEAR = {"ntk": np.eye(3, dtype=np.float32), "y": X, "f0": X}
FORECAST = {"kernel": np.eye(3), "y": X}
SGD = {"optimizer": optax.sgd(0.1), "num_steps": 2}

# A call of each verb that works, before one of its arguments is replaced.
CALLS: dict[str, dict[str, Any]] = {
    "empirical_nngp": KERNEL,
    "empirical_ntk": KERNEL,
    "empirical_ntk_of_loss": KERNEL
    | {"loss_fn": lambda f, y: ((f - y) ** 2).sum(), "y1": X},
    "gradient_flow": PROBLEM | {"times": [0.0, 1.0]},
    "gram": {
        "kernel": (NET.apply, PARAMS),
        "x1": X,
        "path": tempfile.mkdtemp(),
        "progress": False,
    },
    "infinite_nngp": LIMIT,
    "infinite_nngp_of": LIFTED,
    "infinite_ntk": LIMIT,
    "infinite_ntk_of": LIFTED,
    "layerwise_ntk": KERNEL,
    "linear_dynamics": LINEAR,
    "linearize": {"apply_fn": NET.apply, "params": PARAMS},
    "monte_carlo_ntk": {
        "apply_fn": NET.apply,
        "init_fn": NET.init,
        "x1": X,
        "key": KEY,
        "num_seeds": 2,
    },
    "ntk_blocks": {"functionals": {"f": (NET.apply, X)}, "params": PARAMS},
    "ntk_diagonal": {"apply_fn": NET.apply, "params": PARAMS, "x": X},
    "ntk_operator": KERNEL,
    "ntk_plan": KERNEL,
    "ntk_trace_estimate": KERNEL | {"key": KEY},
    "sweep": {
        "network": NET,
        "x": X,
        "y": X,
        "widths": [4],
        "num_seeds": 1,
        "key": KEY,
        "learning_rates": [0.1],
        "num_steps": 2,
    },
    "taylor_expand": {"apply_fn": NET.apply, "params": PARAMS, "order": 2},
    "train": PROBLEM | SGD | {"batch_size": 2, "key": KEY},
    "forecast.calibration": {
        "run": lazyjax.train(lambda w, x: w * x, jnp.ones(()), X, 2 * X, **SGD),
        "linear": lazyjax.linear_dynamics(**LINEAR | {"y": 2 * X}),
        "learning_rate": 0.1,
    },
    "forecast.early_stopping": FORECAST,
    "forecast.learnabilities": {"kernel": np.eye(3), "size": 2},
    "forecast.learning_curve": FORECAST | {"sizes": [2], "nngp": np.eye(3)},
    "forecast.optimal_ridge": FORECAST | {"size": 2},
    "forecast.score": {
        "curve": lazyjax.forecast.learning_curve(**FORECAST, sizes=[2]),
        "measured": np.ones(1),
    },
    "forecast.training_time": FORECAST | {"target": 0.5},
}


class Talkative:
    """An object whose text is long."""

    def __repr__(self) -> str:
        return "talk " * 10_000


def deep_tree() -> Any:
    tree: Any = jnp.zeros(3)
    for _ in range(60):
        tree = {"deeper and deeper": tree}
    return tree


HOSTILE: dict[str, Any] = {
    "none": None,
    "large dict of arrays": {
        f"layer_{i}": {"kernel": np.zeros((10, 10), np.float32)} for i in range(1000)
    },
    "a million numbers": np.zeros(10**6, np.float32),
    "nested lists": [[[1.0] * 100] * 100] * 10,
    "long text": "text " * 10_000,
    "NNX module": nnx.Linear(300, 300, rngs=nnx.Rngs(0)),
    "huge integer": 10**400,
}
MORE: dict[str, Any] = {
    "large dict": {f"key{i}": i for i in range(10_000)},
    "a million integers": np.arange(10**6),
    "matrix": jnp.zeros((1000, 1000)),
    "ragged lists": [[1.0] * i for i in range(300)],
    "Linen module": nn.Dense(3),
    "class of modules": nn.Dense,
    "Equinox module": eqx.nn.MLP(4, 3, 800, 1, key=KEY),
    "Python module": jax,
    "talkative object": Talkative(),
    "talkative function": lambda *args, **kwargs: "text " * 10_000,
    "class": Talkative,
    "network": NET,
    "architecture": NET.architecture,
    "NaN": float("nan"),
    "complex array": jnp.zeros((3, 2), complex),
    "large set": set(range(100_000)),
    "bytes": bytes(10**6),
    "names": [f"name{i}" for i in range(10_000)],
    "array of text": np.array(["text"] * 10_000),
    "array of objects": np.array([None] * 10_000),
    "keys": jax.random.split(KEY, 1000),
    "no examples": np.zeros((0, 2), np.float32),
    "deep tree": deep_tree(),
    "wrong tree": {"layer_1": {"kernel": np.zeros((2, 4), np.float32)}},
}


# Batches as good as any, but that the functions want another form or number of features.
FITTING = {
    (argument, kind)
    for argument in ("x", "x1")
    for kind in ("large dict of arrays", "wrong tree", "matrix")
} - {("x", "matrix")}


def misfits(name: str, values: dict[str, Any]) -> list[str]:
    """Errors that are too long, or name no argument though no function was called."""
    verb, found = operator.attrgetter(name)(lazyjax), []
    verb(**CALLS[name])
    for argument in inspect.signature(verb).parameters:
        for kind, value in values.items():
            try:
                verb(**CALLS[name] | {argument: value})
            except Exception as error:
                text = str(error)
                # Functions may raise what they like, also of what they are called on.
                is_passed_on = argument == "params" or (argument, kind) in FITTING
                is_ours = not callable(value) and not is_passed_on
                is_named = isinstance(error, TypeError | ValueError) and "`" in text
                if len(text) > LONGEST or (is_ours and not is_named):
                    found.append(f"{argument}: {kind}: {error!r:.300}")
    return found


def test_every_verb_is_called():
    assert sorted(CALLS) == sorted(VERBS + FORECASTS)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.sampled(5)
def test_errors_are_short_and_name_an_argument(name):
    assert misfits(name, HOSTILE) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_errors_are_short_whatever_is_passed(name):
    assert misfits(name, MORE) == []


def test_long_errors_would_be_noticed(monkeypatch):
    def verbose(x: Any) -> None:
        if not isinstance(x, np.ndarray):
            raise TypeError(f"`x` is {x!r}")

    monkeypatch.setattr(lazyjax, "verbose", verbose, raising=False)
    monkeypatch.setitem(CALLS, "verbose", {"x": X})
    kinds = [text.split(": ")[1] for text in misfits("verbose", HOSTILE)]
    assert kinds == ["large dict of arrays", "nested lists", "long text"]
