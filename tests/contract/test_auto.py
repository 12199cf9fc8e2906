"""`method="auto"` takes the method that its plan names, and each gives the kernel."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import pytest

import lazyjax
from lazyjax.ntk.methods import auto
from tests.helpers import oracles, zoo
from tests.helpers.compare import assert_close
from tests.helpers.zoo_base import ZOO

BRANCHES = {
    "structured": "contract",
    "jacobian": "jacobian_ntk",
    "vjp": "vector_product_ntk",
}


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """Names of the methods that "auto" calls, in order."""
    called: list[str] = []

    def recording(method: str, fn: Callable) -> Callable:
        def call(*args, **kwargs):
            called.append(method)
            return fn(*args, **kwargs)

        return call

    for method, name in BRANCHES.items():
        monkeypatch.setattr(auto, name, recording(method, getattr(auto, name)))
    return called


@pytest.fixture
def forced(monkeypatch) -> Callable[[str], None]:
    """Makes every plan name a given method."""
    build_plan = auto.build_plan

    def force(method: str) -> None:
        # The plan chooses the method that it models to take the least time.
        times = {name: 0.0 if name == method else 1e30 for name in BRANCHES}

        def forced_plan(*args):
            plan = dataclasses.replace(build_plan(*args), times=times)
            assert plan.method == method
            return plan

        monkeypatch.setattr(auto, "build_plan", forced_plan)

    return force


@pytest.mark.parametrize("paired", [False, True], ids=["one batch", "two batches"])
@pytest.mark.parametrize("outputs", ["full", "trace"])
@pytest.mark.parametrize("method", BRANCHES)
def test_every_branch_gives_the_kernel(method, outputs, paired, forced, calls, x64):
    forced(method)
    net = ZOO["mlp_gelu"]
    x1, x2 = zoo.batches(net.name, jnp.float64)
    kernel = lazyjax.empirical_ntk(
        lambda p, x: net.apply_fn(p, x),  # new, so that it is compiled here
        net.params(jnp.float64),
        x1,
        x2 if paired else None,
        outputs=outputs,
    )
    assert calls == [method]
    expected = oracles.reduce_ntk(zoo.oracle(net.name, paired=paired), outputs)
    assert_close(kernel, expected, 1e-12)


def test_a_branch_that_computes_something_else_is_noticed(forced, monkeypatch, x64):
    forced("vjp")
    right = auto.vector_product_ntk
    monkeypatch.setattr(
        auto,
        "vector_product_ntk",
        lambda *args, **kwargs: 1.01 * right(*args, **kwargs),
    )
    net = ZOO["mlp_gelu"]
    kernel = lazyjax.empirical_ntk(
        lambda p, x: net.apply_fn(p, x),
        net.params(jnp.float64),
        zoo.batches(net.name, jnp.float64)[0],
    )
    with pytest.raises(AssertionError, match="relative error"):
        assert_close(kernel, zoo.oracle(net.name, paired=False), 1e-3)


@pytest.mark.parametrize(
    "name", ["custom_vjp_straight_through", "custom_vjp_not_linear_in_the_cotangent"]
)
@pytest.mark.parametrize("method", BRANCHES)
def test_every_branch_takes_networks_that_only_reverse_mode_knows(
    name, method, forced, calls, x64
):
    forced(method)
    net = ZOO[name]
    kernel = lazyjax.empirical_ntk(
        lambda p, x: net.apply_fn(p, x),
        net.params(jnp.float64),
        zoo.batches(name, jnp.float64)[0],
    )
    assert calls[0] == method
    assert_close(kernel, zoo.oracle(name, paired=False), 1e-12)


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("scan_carrying_the_weight", "jacobian"),
        ("cond_on_a_parameter", "jacobian"),
        ("cnn_strided", "structured"),  # whole Jacobians of convolutions are slow
    ],
)
def test_auto_chooses_by_the_plan(name, method, calls, x64):
    net = ZOO[name]
    params, (x, _) = net.params(jnp.float64), zoo.batches(name, jnp.float64)
    kernel = lazyjax.empirical_ntk(lambda p, x: net.apply_fn(p, x), params, x)
    assert calls == [method] == [lazyjax.ntk_plan(net.apply_fn, params, x).method]
    assert_close(kernel, zoo.oracle(name, paired=False), 1e-12)
