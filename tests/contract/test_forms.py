"""Kernels of trees of inputs and outputs and of complex numbers equal a Jacobian oracle."""

import jax
import numpy as np
import pytest

import lazyjax
from lazyjax.typing import Outputs
from tests.contract.cases import METHODS, TOLERANCE, Call
from tests.helpers.compare import assert_close, assert_trees_close
from tests.helpers.zoo_forms import FORMS, batches, expected_form, kernel_oracle

OUTPUTS: tuple[Outputs, ...] = ("full", "diagonal", "trace", "pseudo", 1, "flat")


class FormCase(Call):
    """One call for a network of trees or complex numbers."""

    def check(self) -> None:
        """Assert that the kernel is the oracle's, in every leaf and in its dtype."""
        flat, f = kernel_oracle(self.name)
        columns = slice(3, None) if self.paired else slice(None, 3)
        index = self.outputs if self.outputs != 1 else _last_output(f)
        expected = expected_form(flat[:3, columns], f, index)
        with jax.enable_x64(self.dtype == "float64"):
            net = FORMS[self.name]
            x1, x2 = batches(self.name, self.dtype)

            def ntk(params, x1, x2):
                return lazyjax.empirical_ntk(
                    net.apply_fn, params, x1, x2, outputs=index, method=self.method
                )

            call = jax.jit(ntk) if self.jit else ntk
            kernel = call(net.params(self.dtype), x1, x2 if self.paired else None)
        assert jax.tree.structure(kernel) == jax.tree.structure(expected)
        assert_trees_close(kernel, expected, TOLERANCE[self.dtype])
        for leaf, other in zip(*map(jax.tree.leaves, (kernel, expected)), strict=True):
            assert leaf.dtype.kind == other.dtype.kind
            assert np.finfo(leaf.dtype).dtype == self.dtype
            if not self.paired and leaf.ndim == 2:
                assert_close(leaf.conj().T, leaf, "exact")  # Hermitian to the bit


def _last_output(f: object) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(f)) - 1


def _rotation() -> list:
    """All methods on all networks; by default the first on each, others on some."""
    cases = []
    for turn, method in enumerate(METHODS):
        for i, name in enumerate(FORMS):
            dtype = ("float32", "float64")[(i + turn) % 2]
            outputs = "full" if turn == 0 else OUTPUTS[(i + turn) % len(OUTPUTS)]
            case = FormCase(
                name, method, dtype, outputs, i % 3 == 0, (i + turn) % 4 == 0
            )
            is_default = turn == 0 or (method != "auto" and i % 6 == turn)
            cases.append(
                pytest.param(case, marks=() if is_default else pytest.mark.slow)
            )
    return cases


PRODUCT = [
    FormCase(name, method, dtype, outputs, paired, jit)
    for name in FORMS
    for method in METHODS
    for dtype in TOLERANCE
    for outputs in OUTPUTS
    for paired in (False, True)
    for jit in (False, True)
    if jit == (dtype == "float32")
]


@pytest.mark.parametrize("case", _rotation(), ids=str)
@pytest.mark.sampled(6)
def test_kernel_equals_the_oracle(case):
    case.check()


@pytest.mark.slow
@pytest.mark.parametrize("case", PRODUCT, ids=str)
def test_kernel_equals_the_oracle_in_every_mode(case):
    case.check()


@pytest.mark.once
@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("name", ["three_heads", "amplitude_and_spectrum"])
def test_every_form_of_trees_of_outputs(name, outputs):
    FormCase(name, "jacobian", "float64", outputs, paired=True, jit=False).check()


@pytest.mark.once
@pytest.mark.parametrize("name", ["complex_boltzmann_machine", "three_heads"])
def test_a_network_that_is_slightly_other_is_caught(name):
    flat, f = kernel_oracle(name)
    net = FORMS[name]
    moved = jax.tree.map(lambda leaf: leaf * leaf.dtype.type(1.001), net.params())
    kernel = lazyjax.empirical_ntk(net.apply_fn, moved, batches(name, np.float32)[0])
    with pytest.raises(AssertionError, match="relative error"):
        assert_trees_close(kernel, expected_form(flat[:3, :3], f, "full"), 1e-5)


def test_zoo_is_as_large_as_it_claims():
    assert len(FORMS) >= 15
