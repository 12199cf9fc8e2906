"""Every order of contraction gives the kernel that its definition spells out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lazyjax.ntk.contract import (
    accumulator as contract_kernel,
    gradients as contract_gradients,
    positions as contract_positions,
)
from lazyjax.ntk.contract.accumulator import Contraction
from lazyjax.ntk.contract.contract import factor_kernel
from lazyjax.ntk.contract.factors import Factor
from lazyjax.ntk.contract.layout import Shape
from lazyjax.ntk.contract.orders import (
    Sizes,
    best_order,
    order_cost,
)
from tests.helpers.compare import assert_close

SEEDS, POSITIONS, OUTPUTS, INPUTS = 3, 4, 6, 5
ARRANGEMENTS = {
    "pairs": "nsx,mtx->nmst",
    "equal": "nsx,msx->nms",
    "summed": "nsx,msx->nm",
}


def factor(rng, n, kind):
    groups = 2 if kind == "groups" else 1
    shape = Shape(groups, POSITIONS, OUTPUTS, INPUTS, is_index=kind == "index")
    delta = jnp.asarray(rng.normal(size=(n, SEEDS, groups, POSITIONS, OUTPUTS)))
    if kind == "index":
        act = jnp.asarray(rng.integers(INPUTS, size=(n, POSITIONS)), jnp.int32)
    else:
        act = jnp.asarray(rng.normal(size=(n, groups, POSITIONS, INPUTS)))
    return Factor(shape, delta, act)


def kernel_by_definition(first, second, arrangement):
    def gradients(given):
        act = np.asarray(given.act)
        if given.shape.is_index:
            act = np.eye(INPUTS)[act][:, None]
        formed = np.einsum("nsgpo,ngpi->nsgoi", np.asarray(given.delta), act)
        return formed.reshape(*formed.shape[:2], -1)

    return np.einsum(ARRANGEMENTS[arrangement], gradients(first), gradients(second))


@pytest.mark.parametrize("num_columns", [None, 4], ids=["one batch", "two batches"])
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize(
    ("order", "kind"),
    [
        ("gradient", "dense"),
        ("gradient", "groups"),
        ("gradient", "index"),
        ("kronecker", "dense"),
        ("kronecker", "groups"),
        ("kronecker", "index"),
        ("chain", "dense"),
        ("chain", "index"),
    ],
)
@pytest.mark.sampled(14)
def test_order_gives_the_kernel_by_definition(
    order, kind, arrangement, num_columns, monkeypatch, x64
):
    # Limits so low that there are several blocks (the last not full) and slices.
    monkeypatch.setattr(contract_kernel, "_TWO_BLOCKS", 6)
    monkeypatch.setattr(contract_kernel, "_FOUR_BLOCKS", 14)
    monkeypatch.setattr(contract_kernel, "_SMALL_PRODUCT", 0)
    monkeypatch.setattr(contract_positions, "_BLOCK_COLUMNS", 2)
    monkeypatch.setattr(contract_gradients, "_SLICE_INPUTS", 2)
    monkeypatch.setitem(contract_positions._CHAIN_BYTES, "cpu", 1000)
    monkeypatch.setitem(contract_gradients._SLICE_BYTES, "cpu", 1000)
    rng = np.random.default_rng(0)
    first = factor(rng, 7, kind)
    second = first if num_columns is None else factor(rng, num_columns, kind)
    contraction = Contraction(
        arrangement=arrangement,
        is_symmetric=num_columns is None,
        precision="highest",
        num_rows=7,
        num_columns=second.delta.shape[0],
        num_cotangents=SEEDS,
    )
    paired = () if num_columns is None else (second.delta, second.act)

    @jax.jit
    def compute(delta, act, *paired):
        left = Factor(first.shape, delta, act)
        right = Factor(first.shape, *paired) if paired else left
        kernel = factor_kernel(contraction, left, right, order)
        whole = contraction.add(contraction.zeros(kernel.dtype), kernel)
        return contraction.finalize(whole)

    kernel = compute(first.delta, first.act, *paired)
    expected = kernel_by_definition(first, second, arrangement)
    assert_close(kernel, expected, "same_algebra")


sizes = functools.partial(Sizes, is_full=True, is_symmetric=True)


@pytest.mark.parametrize(
    ("shape", "order"),
    [
        (Shape(1, 1, 1024, 1024), "kronecker"),  # one position
        (Shape(1, 16, 512, 128), "chain"),  # few, and wide layers
        (Shape(1, 1024, 32, 288), "gradient"),  # many, and a small weight
        (Shape(1, 32, 128, 4096, is_index=True), "chain"),  # tokens of a vocabulary
        (Shape(128, 16, 1, 1), "gradient"),  # gains
    ],
)
def test_the_shape_of_a_layer_decides_the_order(shape, order):
    assert best_order(sizes(24, 24, 10), shape) == order


def test_a_chain_is_cheaper_than_its_parts_suggest():
    """It needs neither all gradients nor all pairs of positions and cotangents."""
    asked, shape = sizes(24, 24, 10), Shape(1, 16, 512, 128)
    chain = order_cost(asked, shape, "chain").flops
    for other in ("gradient", "kronecker"):
        assert 2 * chain < order_cost(asked, shape, other).flops
