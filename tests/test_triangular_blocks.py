"""Large symmetric kernels, made block by block, at the sizes where blocks begin."""

import jax.numpy as jnp
import numpy as np
import pytest

import lazyjax
from lazyjax.ntk.contract import accumulator as contract_kernel
from lazyjax.ntk.contract.accumulator import Contraction
from tests.helpers.compare import assert_close

WIDTH, INPUTS = 48, 12


def apply_fn(p, x):
    return jnp.sin(x @ p["w"]) @ p["v"]


def problem(n, num_outputs):
    generator = np.random.default_rng(n)
    params = {
        "w": generator.normal(size=(INPUTS, WIDTH)) / INPUTS**0.5,
        "v": generator.normal(size=(WIDTH, num_outputs)) / WIDTH**0.5,
    }
    return params, generator.normal(size=(n, INPUTS))


def kernel_by_hand(p, x):
    """Kernel `(n, n, k, k)` in NumPy: what `v` adds, and what `w` does."""
    z = x @ p["w"]
    hidden, slopes = np.sin(z), np.cos(z)
    of_v = np.einsum("ij,ab->ijab", hidden @ hidden.T, np.eye(p["v"].shape[1]))
    backward = slopes[:, None] * p["v"].T[None]  # (n, k, width)
    return of_v + np.einsum(
        "ij,iam,jbm->ijab", x @ x.T, backward, backward, optimize=True
    )


def num_blocks(n, num_outputs):
    return Contraction(
        arrangement="pairs",
        is_symmetric=True,
        precision="highest",
        num_rows=n,
        num_columns=n,
        num_cotangents=num_outputs,
    ).num_blocks


@pytest.mark.parametrize("dtype", ["float32", "float64"], indirect=True)
@pytest.mark.parametrize(
    ("n", "num_outputs", "blocks"),
    [(479, 1, 1), (480, 1, 2), (161, 3, 2), (960, 1, 4), (321, 3, 4)],
)
def test_blocks_at_their_true_sizes_give_the_kernel(
    n, num_outputs, blocks, dtype, monkeypatch
):
    # Networks small enough for a test would make one product instead.
    monkeypatch.setattr(contract_kernel, "_SMALL_PRODUCT", 0)
    assert num_blocks(n, num_outputs) == blocks
    params, x = problem(n, num_outputs)
    kernel = lazyjax.empirical_ntk(
        lambda p, x: apply_fn(p, x),
        {name: jnp.asarray(leaf, dtype) for name, leaf in params.items()},
        jnp.asarray(x, dtype),
        method="structured",
    )
    kernel = np.asarray(kernel)
    assert_close(
        kernel, kernel_by_hand(params, x), 1e-5 if dtype == "float32" else 1e-12
    )
    assert_close(kernel.transpose(1, 0, 3, 2), kernel, "exact")


@pytest.mark.parametrize("outputs", ["trace", "diagonal"])
def test_blocks_of_reduced_kernels_give_the_kernel(outputs, x64, monkeypatch):
    monkeypatch.setattr(contract_kernel, "_SMALL_PRODUCT", 0)
    params, x = problem(481, 2)
    kernel = lazyjax.empirical_ntk(
        apply_fn,
        {name: jnp.asarray(leaf) for name, leaf in params.items()},
        jnp.asarray(x),
        outputs=outputs,
        method="structured",
    )
    full = kernel_by_hand(params, x)
    expected = np.einsum("ijaa->ija", full)
    assert_close(kernel, expected.sum(-1) if outputs == "trace" else expected, 1e-12)


def test_a_block_that_is_left_out_is_noticed(x64, monkeypatch):
    monkeypatch.setattr(contract_kernel, "_SMALL_PRODUCT", 0)
    pairs = contract_kernel.itertools.combinations_with_replacement
    monkeypatch.setattr(
        contract_kernel.itertools,
        "combinations_with_replacement",
        lambda *args: list(pairs(*args))[:-1],
    )
    params, x = problem(482, 1)
    kernel = lazyjax.empirical_ntk(
        lambda p, x: apply_fn(p, x),
        {name: jnp.asarray(leaf) for name, leaf in params.items()},
        jnp.asarray(x),
        method="structured",
    )
    with pytest.raises(AssertionError, match="relative error"):
        assert_close(kernel, kernel_by_hand(params, x), 1e-3)
