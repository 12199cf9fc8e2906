"""What holds of every public verb, or of those that the table says it holds of."""

import dataclasses
import logging
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lazyjax
from tests.helpers.compare import assert_close
from tests.test_public_api import FORECASTS, VERBS

NET = lazyjax.nets.mlp(width=6, depth=1, num_outputs=2, activation="tanh", b_std=0.5)
NUM_TIMES_TRACED = 0


def counted(params: Any, x: jax.Array) -> jax.Array:
    """The network, which tells how often it is traced."""
    global NUM_TIMES_TRACED
    NUM_TIMES_TRACED += 1
    return NET.apply(params, x)


def twice(params: Any, x: jax.Array) -> jax.Array:
    """Another function of the same parameters."""
    return 2 * NET.apply(params, x) ** 2


def dense(params: Any, x: jax.Array) -> jax.Array:
    """A network that the infinite-width kernels can be read from."""
    return jnp.tanh(x @ params["w"]) @ params["v"]


def targets(x: jax.Array) -> jax.Array:
    return jnp.sin(x[:, :2])


def lifted(verb: Callable) -> Callable:
    def call(params: Any, x: jax.Array) -> jax.Array:
        widths = {
            "w": jnp.zeros((x.shape[1], 6), x.dtype),
            "v": jnp.zeros((6, 2), x.dtype),
        }
        return verb(dense, widths, x, variances=1.0)

    return call


def linear_dynamics(params: Any, x: jax.Array) -> list[jax.Array]:
    gram = x @ x.T + jnp.eye(x.shape[0], dtype=x.dtype)
    f0 = NET.apply(params, x)
    linear = lazyjax.linear_dynamics(gram, targets(x), f0)
    return [
        linear.gradient_flow(jnp.asarray([0.5, 2.0], x.dtype)),
        linear.gradient_descent(jnp.array([1, 7]), 0.05),
        linear.heavy_ball(5, 0.05, 0.5),
    ]


def monte_carlo(params: Any, x: jax.Array) -> list[jax.Array]:
    found = lazyjax.monte_carlo_ntk(
        counted, NET.init, x, key=jax.random.key(0), num_seeds=2
    )
    return [found.mean, found.sem]


def half_square(f: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.sum((f - y) ** 2) / 2


def probed(params: Any, x: jax.Array) -> list[jax.Array]:
    found = lazyjax.ntk_trace_estimate(
        counted, params, x, key=jax.random.key(0), num_probes=3
    )
    return [found.mean, found.sem]


def trained(params: Any, x: jax.Array) -> list[Any]:
    run = lazyjax.train(counted, params, x, targets(x), optimizer=SGD, num_steps=3)
    return [run.params, run.loss]


def flowed(params: Any, x: jax.Array) -> list[Any]:
    flow = lazyjax.gradient_flow(counted, params, x, targets(x), TIMES)
    return [flow.params, flow.loss]


SGD = optax.sgd(0.05)
TIMES = np.array([0.0, 0.5])


def moved(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf + 0.1, params)


@dataclasses.dataclass(frozen=True)
class Verb:
    """A call of a public verb, and what holds of it.

    Attributes:
        call: The call, a function of parameters and a batch.
        of: What it depends on, and so what `vmap` may run over: "params", "x" or both.
        is_kernel: Whether it is a kernel of a batch with itself, symmetric to the bit
            and positive semidefinite: `(n, n, k, k)` or `(n, n)`.
        compiles: Whether it compiles what it runs; else that is left to the caller.
    """

    call: Callable
    of: tuple[str, ...] = ("params", "x")
    is_kernel: bool = False
    compiles: bool = True


TABLE = {
    "empirical_ntk": Verb(
        lambda p, x: lazyjax.empirical_ntk(counted, p, x), is_kernel=True
    ),
    "empirical_nngp": Verb(
        lambda p, x: lazyjax.empirical_nngp(counted, p, x), is_kernel=True
    ),
    "empirical_ntk_of_loss": Verb(
        lambda p, x: lazyjax.empirical_ntk_of_loss(
            half_square, counted, p, x, targets(x)
        ),
        is_kernel=True,
    ),
    "ntk_trace_estimate": Verb(probed),
    "layerwise_ntk": Verb(
        lambda p, x: lazyjax.layerwise_ntk(counted, p, x), is_kernel=True
    ),
    "ntk_blocks": Verb(
        lambda p, x: lazyjax.ntk_blocks(
            {"f": (counted, x), "g": (twice, x)}, p
        ).matrix(),
        is_kernel=True,
    ),
    "ntk_diagonal": Verb(lambda p, x: lazyjax.ntk_diagonal(counted, p, x)),
    "ntk_operator": Verb(lambda p, x: lazyjax.ntk_operator(counted, p, x)(targets(x))),
    "linearize": Verb(
        lambda p, x: lazyjax.linearize(counted, p)(moved(p), x), compiles=False
    ),
    "taylor_expand": Verb(
        lambda p, x: lazyjax.taylor_expand(counted, p, order=2)(moved(p), x),
        compiles=False,
    ),
    "infinite_ntk": Verb(
        lambda p, x: lazyjax.infinite_ntk(NET.architecture, x),
        of=("x",),
        is_kernel=True,
    ),
    "infinite_nngp": Verb(
        lambda p, x: lazyjax.infinite_nngp(NET.architecture, x),
        of=("x",),
        is_kernel=True,
    ),
    "infinite_ntk_of": Verb(lifted(lazyjax.infinite_ntk_of), of=("x",), is_kernel=True),
    "infinite_nngp_of": Verb(
        lifted(lazyjax.infinite_nngp_of), of=("x",), is_kernel=True
    ),
    "monte_carlo_ntk": Verb(monte_carlo, of=("x",)),
    "linear_dynamics": Verb(linear_dynamics),
    "train": Verb(trained),
    "gradient_flow": Verb(flowed),
}
# `ntk_plan` looks at shapes only; `sweep` and `gram` compile programs of their own, from
# the host, and what `gram` returns is on disk. Forecasts are of NumPy, in float64.
ON_THE_HOST = {"gram", "ntk_plan", "sweep", *FORECASTS}

EVERY_VERB = pytest.mark.parametrize("name", TABLE)


def problem(seed: int = 0, dtype: Any = jnp.float32) -> tuple[Any, jax.Array]:
    x = jnp.asarray(np.random.default_rng(seed).normal(size=(4, 3)), dtype)
    params = NET.init(jax.random.key(seed), x)
    return params, x


def assert_all_close(actual: Any, expected: Any, level: Any) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    for one, other in pairs:
        assert_close(one, other, level)


@pytest.fixture
def compiled(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """Names of the programs that were compiled since it was last asked."""

    def names() -> list[str]:
        messages = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return [message for message in messages if message.startswith("Compiling ")]

    with caplog.at_level(logging.WARNING, logger="jax"), jax.log_compiles():
        yield names


def test_the_table_has_every_public_verb():
    assert {*TABLE} | ON_THE_HOST == {*VERBS, *FORECASTS}


@pytest.mark.compiler
@EVERY_VERB
@pytest.mark.sampled(5)
def test_jit_is_eager(name, x64):
    verb = TABLE[name]
    params, x = problem(dtype=jnp.float64)
    assert_all_close(
        jax.jit(verb.call)(params, x), verb.call(params, x), "same_algebra"
    )


@pytest.mark.once
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * name.endswith("_of"))
        for name in TABLE
    ],
)
@pytest.mark.sampled(5)
def test_vmap_is_a_loop(name, x64):
    verb = TABLE[name]
    problems = [problem(seed, jnp.float64) for seed in (0, 1)]
    common = problems[0]
    members = [
        (
            params if "params" in verb.of else common[0],
            x if "x" in verb.of else common[1],
        )
        for params, x in problems
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    together = jax.vmap(verb.call)(*stacked)
    alone = [verb.call(*member) for member in members]
    apart = jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone)
    # Steps of adaptive size are chosen by sums whose last bits differ.
    level = 1e-9 if name == "gradient_flow" else "same_algebra"
    assert_all_close(together, apart, level)
    assert not np.allclose(*(np.asarray(jax.tree.leaves(apart)[0])))


@pytest.mark.once
@EVERY_VERB
@pytest.mark.sampled(9)
def test_dtype_is_kept(name, dtype):
    for leaf in jax.tree.leaves(TABLE[name].call(*problem(dtype=dtype))):
        assert leaf.dtype == dtype


@pytest.mark.parametrize("name", [name for name in TABLE if TABLE[name].is_kernel])
def test_kernels_are_symmetric_to_the_bit_and_positive_semidefinite(name):
    for kernel in jax.tree.leaves(TABLE[name].call(*problem())):
        kernel = np.asarray(kernel)
        axes = (1, 0, 3, 2) if kernel.ndim == 4 else (1, 0)
        assert_close(kernel.transpose(axes), kernel, "exact")
        n = kernel.shape[0]
        size = n * (kernel.shape[2] if kernel.ndim == 4 else 1)
        order = (0, 2, 1, 3) if kernel.ndim == 4 else (0, 1)
        gram = kernel.transpose(order).reshape(size, size)
        eigenvalues = np.linalg.eigvalsh(gram.astype(np.float64))
        assert eigenvalues[0] >= -1e-6 * eigenvalues[-1]


@pytest.mark.parametrize("name", [name for name in TABLE if TABLE[name].compiles])
@pytest.mark.sampled(5)
def test_second_call_neither_traces_nor_compiles(name, compiled):
    verb = TABLE[name]
    jax.clear_caches()
    verb.call(*problem(0))
    assert compiled()  # or nothing would be seen
    before = NUM_TIMES_TRACED
    verb.call(*problem(1))
    assert compiled() == []
    traced = NUM_TIMES_TRACED - before
    assert traced == 0, f"traced {traced} times"
