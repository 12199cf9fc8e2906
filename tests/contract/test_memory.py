"""Kernels within a stated memory: what they hold, and that they are the same."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lazyjax
from lazyjax.jaxpr.held import held_bytes
from lazyjax.ntk.methods import tiles
from lazyjax.ntk.methods.sizes import Tile
from tests.contract.cases import CORE
from tests.helpers import zoo
from tests.helpers.compare import assert_close
from tests.helpers.oracles import reduce_ntk
from tests.helpers.zoo_base import ZOO

pytestmark = pytest.mark.once
slow = pytest.mark.slow

# One of each kind by default, all nightly.
DEFAULT = ("mlp_relu",)
NETWORKS = [
    pytest.param(name, marks=[] if name in DEFAULT else [pytest.mark.slow])
    for name in CORE
]


def within(tile: Tile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes kernels be formed in tiles of a given size."""

    def fitting(found: list[Tile], *_: Any) -> Tile:
        return Tile(*map(min, found[0], tile))

    monkeypatch.setattr(tiles, "fitting", fitting)
    jax.clear_caches()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("paired", [False, True])
def test_tiles_make_up_the_kernel(name, paired, monkeypatch):
    net = ZOO[name]
    expected = zoo.oracle(name, paired=paired)
    x1, x2 = zoo.batches(name)
    num_outputs = expected.shape[-1]
    within(Tile(2, max(1, num_outputs - 1)), monkeypatch)
    for outputs in ("full", "diagonal", "trace"):
        kernel = lazyjax.empirical_ntk(
            net.apply_fn, net.params(), x1, x2 if paired else None, outputs=outputs
        )
        assert_close(kernel, reduce_ntk(expected, outputs), 1e-5)
        if not paired:
            assert_close(kernel, tiles.transposed(kernel), "exact")


def network(p, x):
    return jnp.tanh(jnp.tanh(x @ p["w"]) @ p["u"]) @ p["v"]


def other(p, x):
    return jnp.sin(x @ p["w"])[:, :3]


def problem(n: int, width: int, num_outputs: int):
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape) / 3, jnp.float32)
    params = {
        "w": draw(7, width),
        "u": draw(width, width),
        "v": draw(width, num_outputs),
    }
    return params, draw(n, 7)


def planned_bytes(call: Any, *arguments: Any) -> int:
    """Temporaries and results of a compiled call, as the compiler plans them."""
    plan: Any = jax.jit(call).lower(*arguments).compile().memory_analysis()
    return plan.temp_size_in_bytes + plan.output_size_in_bytes


VERBS = {
    "full": lambda p, x, **o: lazyjax.empirical_ntk(network, p, x, **o),
    "trace": lambda p, x, **o: lazyjax.empirical_ntk(
        network, p, x, outputs="trace", **o
    ),
    "chosen": lambda p, x, **o: lazyjax.empirical_ntk(
        network, p, x, x[:29], outputs=[1, 4, 2], **o
    ),
    "jacobian": lambda p, x, **o: lazyjax.empirical_ntk(
        network, p, x, outputs="diagonal", method="jacobian", **o
    ),
    "vjp": lambda p, x, **o: lazyjax.empirical_ntk(
        network, p, x[:7], method="vjp", **o
    ),
    "layerwise": lambda p, x, **o: lazyjax.layerwise_ntk(
        network, p, x, outputs="trace", **o
    ),
    "nngp": lambda p, x, **o: lazyjax.empirical_nngp(network, p, x, **o),
    "diagonal": lambda p, x, **o: lazyjax.ntk_diagonal(network, p, x, **o),
    "blocks": lambda p, x, **o: (
        lazyjax.ntk_blocks({"f": (network, x[:23]), "g": (other, x)}, p, **o).kernels
    ),
    "between": lambda p, x, **o: lazyjax.empirical_ntk(
        (network, network), p, x, x[:20], outputs="trace", **o
    ),
    "loss": lambda p, x, **o: lazyjax.empirical_ntk_of_loss(
        lambda f, y: jnp.sum((f - y) ** 3), network, p, x, x[:, :5], **o
    ),
    "estimate": lambda p, x, **o: (
        lazyjax.ntk_trace_estimate(
            network, p, x, key=jax.random.key(0), num_probes=6, **o
        ).mean
    ),
}


# Over the size of the result.
LIMITS = {"nngp": 2.0}


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("full", "chosen", "blocks") else pytest.param(name, marks=slow)
        for name in VERBS
    ],
)
def test_kernels_hold_no_more_than_the_memory_stated(name):
    params, x = problem(31, 24, 5)
    verb = VERBS[name]
    kernels = verb(params, x)
    free = planned_bytes(verb, params, x)
    result = sum(leaf.nbytes for leaf in jax.tree.leaves(kernels))
    limit = LIMITS.get(name, 1.5) * result
    limit = int(max(limit, 0.6 * free))
    assert name == "nngp" or free > limit  # or there would be nothing to be kept within
    bounded = jax.jit(lambda p, x: verb(p, x, memory=limit))
    assert planned_bytes(bounded, params, x) <= limit
    together = jax.tree.leaves(kernels), jax.tree.leaves(bounded(params, x))
    for one, two in zip(*together, strict=True):
        assert_close(two, one, "same_algebra")


def test_what_a_program_holds_is_read_from_it():
    x = jnp.ones((100, 10), jnp.float32)

    def of(fn):
        return held_bytes(jax.make_jaxpr(fn)(x))

    assert of(lambda x: x) == 0
    assert of(lambda x: jnp.sin(x)) == 4000
    assert of(lambda x: jnp.sin(x).T @ jnp.cos(x)) == 8000 + 400
    assert of(lambda x: jnp.sum(jnp.sin(jnp.cos(jnp.sin(x))))) == 4000 + 4
    # Terms of a sum are all there before they are added, in one pass.
    square = lambda x: jnp.einsum("ni,nj->ij", x, x)
    assert of(lambda x: square(x) + square(x) + square(x)) == 3 * 400
    assert of(lambda x: jnp.broadcast_to(x[0, 0], (10**6,)).sum()) < 100
    # In a loop, what is made is given back.
    loop = lambda x: jax.lax.map(lambda row: jnp.outer(row, row).sum(), x)
    assert of(loop) <= 400 + 4 * 100 + 100
    kept = lambda x: jax.lax.map(lambda row: jnp.outer(row, row), x)
    assert of(kept) >= 40_000


@pytest.mark.usefixtures("own_errors")
def test_memory_that_is_too_little_is_refused_before_anything_is_computed():
    params, x = problem(31, 24, 5)
    with pytest.raises(ValueError, match=r"must fit into `memory`, which is 9\.77 KiB"):
        lazyjax.empirical_ntk(network, params, x, memory="10KB")
    with pytest.raises(ValueError, match=r"room in `memory`, which is 4\.39 KiB.*vjp"):
        lazyjax.empirical_ntk(
            network, params, x, outputs="trace", method="vjp", memory=4500
        )
    with pytest.raises(ValueError, match="`memory` must be a number with a unit"):
        lazyjax.ntk_diagonal(network, params, x, memory="4 gigs")
    with pytest.raises(TypeError, match="`memory` must be an integer"):
        lazyjax.empirical_nngp(network, params, x, memory=1.5)  # pyright: ignore[reportArgumentType]
