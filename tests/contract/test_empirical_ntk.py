"""Every method equals the naive float64 oracle on every network of the zoo."""

import jax
import numpy as np
import pytest

from tests.contract import cases
from tests.helpers import oracles, zoo
from tests.helpers.compare import assert_close
from tests.helpers.zoo_base import ZOO

ALL = [case for method in cases.METHODS for case in cases.rotation(method)]


def marked(case, slow=False):
    """The case; what JAX's version and the compiler do to it matters in our own method."""
    marks = [pytest.mark.compiler if case.method == "structured" else pytest.mark.once]
    # "auto" and "vjp" take turns over the core.
    turn = cases.METHODS.index(case.method) // 2
    is_turn = case.method in ("structured", "jacobian") or (
        case.name in cases.CORE and cases.CORE.index(case.name) % 2 == turn
    )
    if slow or case.name not in cases.CORE or not is_turn:
        marks.append(pytest.mark.slow)
    return pytest.param(case, marks=marks)


ROTATION = [marked(case) for case in ALL]
ONE_BATCH = [
    marked(case, slow=case.method != "structured" and "cnn" not in case.name)
    for case in ALL
    if not case.paired and case.name in cases.CORE
]
PRODUCT = [case for method in cases.METHODS for case in cases.product(method)]
FINITE_DIFFERENCES = [
    "mlp_gelu",
    "gpt_tied_embeddings",
    "cnn_strided",
    "rnn",
    "tied_autoencoder",
    "scan_carrying_the_weight",
    "overlapping_slices",
    "cond_on_the_data",
]


@pytest.mark.parametrize("case", ROTATION, ids=str)
@pytest.mark.sampled(18)
def test_kernel_equals_the_oracle(case):
    _check(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", PRODUCT, ids=str)
def test_kernel_equals_the_oracle_in_every_mode(case):
    _check(case)


@pytest.mark.parametrize("case", ONE_BATCH, ids=str)
def test_kernel_of_one_batch_is_symmetric_to_the_bit(case):
    kernel = case.kernel()
    axes = (1, 0, 3, 2) if kernel.ndim == 4 else (1, 0, 2)[: kernel.ndim]
    assert_close(kernel.transpose(axes), kernel, "exact")


@pytest.mark.once
@pytest.mark.parametrize("case", ONE_BATCH, ids=str)
def test_kernel_of_one_batch_is_positive_semidefinite(case):
    kernel = case.kernel()
    if case.outputs == "full":
        n, _, k, _ = kernel.shape
        grams = kernel.transpose(0, 2, 1, 3).reshape(1, n * k, n * k)
    elif case.outputs == "diagonal":
        grams = np.moveaxis(kernel, -1, 0)
    else:
        grams = kernel[None]
    for gram in grams.astype(np.float64):
        eigenvalues = np.linalg.eigvalsh(gram)
        assert eigenvalues[0] >= -cases.TOLERANCE[case.dtype] * eigenvalues[-1]


@pytest.mark.parametrize("name", FINITE_DIFFERENCES)
def test_oracle_equals_finite_differences_on_the_zoo(name):
    net = ZOO[name]
    expected = oracles.finite_difference_ntk(
        net.apply_fn, net.params(), *zoo.batches(name)
    )
    assert_close(zoo.oracle(name, paired=True), expected, 1e-7)


@pytest.mark.parametrize("name", cases.LAWS)
def test_a_network_that_is_slightly_other_is_caught(name):
    """Parameters moved by a millesimal move the kernel beyond the tolerance."""
    net = ZOO[name]
    moved = jax.tree.map(lambda leaf: 1.001 * leaf, net.params())
    kernel = oracles.naive_ntk(net.apply_fn, moved, zoo.batches(name)[0])
    with pytest.raises(AssertionError, match="relative error"):
        assert_close(kernel, zoo.oracle(name, paired=False), cases.TOLERANCE["float32"])


def test_zoo_is_as_large_as_it_claims_and_its_rooms_are_all_open():
    assert len(ZOO) >= 100
    assert set(cases.CORE) | set(cases.LAWS) <= set(ZOO)
    assert len(cases.CORE) >= 25


def _check(case):
    kernel = case.kernel()
    assert kernel.dtype == case.dtype
    assert_close(kernel, case.expected(), cases.TOLERANCE[case.dtype])
