"""Stores and operators say what matrices say, and are never read whole."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lazyjax
from lazyjax import spectrum

pytestmark = pytest.mark.once

KEY = jax.random.key(0)
NET = lazyjax.nets.mlp(width=16, activation="tanh", num_outputs=2, b_std=0.3)


class Spy:
    """A matrix on disk that tells how many entries were read at once."""

    def __init__(self, store):
        self.store, self.largest = store, 0

    def __getattr__(self, name):
        return getattr(self.store, name)

    # A protocol is looked for on the class.
    shape = property(lambda self: self.store.shape)
    flat_shape = property(lambda self: self.store.flat_shape)
    dtype = property(lambda self: self.store.dtype)
    is_symmetric = property(lambda self: self.store.is_symmetric)
    tile = property(lambda self: self.store.tile)

    def __getitem__(self, index):
        found = self.store[index]
        self.largest = max(self.largest, found.shape[0] * found.shape[1])
        return found

    def __matmul__(self, right):
        return self.store @ right


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """A network's kernel of two outputs as an array, a store and an operator, and y."""
    pytest.importorskip("tensorstore")
    x = jax.random.normal(KEY, (11, 3))
    params = NET.init(KEY, x)
    path = tmp_path_factory.mktemp("gram") / "ntk"
    store = lazyjax.gram(
        (NET.apply, params), np.asarray(x), path=path, tile=4, progress=False
    )
    array = np.asarray(lazyjax.empirical_ntk(NET.apply, params, x), np.float64)
    operator = lazyjax.ntk_operator(NET.apply, params, x)
    return array, store, operator, np.asarray(jnp.sin(x[:, :2]))


def flat(kernel):
    n, _, k, _ = kernel.shape
    return kernel.transpose(0, 2, 1, 3).reshape(n * k, n * k)


def naive_alignment(first, second, centered):
    n = len(first)
    centre = np.eye(n) - centered / n
    first, second = centre @ first @ centre, centre @ second @ centre
    return np.sum(first * second) / np.linalg.norm(first) / np.linalg.norm(second)


@pytest.mark.parametrize("max_dense", [0, 100])
@pytest.mark.parametrize("kind", ["store", "operator"])
def test_alignments_and_angles_are_those_of_the_matrix(kernels, kind, max_dense):
    array, store, operator, y = kernels
    kernel: Any = Spy(store) if kind == "store" else operator
    pairs = np.trace(array, axis1=2, axis2=3)
    other = (pairs**2 / np.max(pairs)).astype(np.float32)
    options = {"max_dense": max_dense}
    for centered in (True, False):
        np.testing.assert_allclose(
            [
                spectrum.alignment(kernel, other, centered=centered, **options),
                spectrum.target_alignment(kernel, y, centered=centered, **options),
            ],
            [
                naive_alignment(pairs, other.astype(np.float64), centered),
                naive_alignment(pairs, y @ y.T.astype(np.float64), centered),
            ],
            rtol=1e-5,
        )
    angles = spectrum.subspace_angles(kernel, other, 2, key=KEY, **options)
    spaces = [np.linalg.eigh(of)[1][:, -2:] for of in (pairs, other)]
    cosines = np.linalg.svd(spaces[0].T @ spaces[1], compute_uv=False)
    np.testing.assert_allclose(np.cos(angles), cosines, atol=1e-5)
    if kind == "store" and max_dense == 0:
        assert kernel.largest == 16
    centred = spectrum.center(kernel)
    v = np.random.default_rng(0).normal(size=22).astype(np.float32)
    centre = np.kron(np.eye(11) - 1 / 11, np.eye(2))
    expected = centre @ flat(array) @ centre @ v
    np.testing.assert_allclose(centred.mv(v), expected, rtol=1e-3, atol=1e-4)
    of_array = spectrum.center(array.astype(np.float32))
    np.testing.assert_allclose(flat(of_array) @ v, expected, rtol=1e-3, atol=1e-4)


def test_sums_over_a_store_are_exact_and_tiles_are_read_one_by_one(kernels):
    array, store, _, _ = kernels
    spy: Any = Spy(store)
    matrix = flat(array)
    trace, norm = np.trace(matrix), np.linalg.norm(matrix)
    found = [
        spectrum.trace(spy, max_dense=0),
        spectrum.frobenius(spy, max_dense=0),
        spectrum.effective_rank(spy, max_dense=0),
    ]
    expected = [trace, norm, (trace / norm) ** 2]
    np.testing.assert_allclose([f.value for f in found], expected, rtol=1e-6)
    assert all(f.standard_error == 0 for f in found)
    assert spy.largest == 16
    values = np.linalg.eigvalsh(matrix)
    ends = spectrum.extremes(spy, key=KEY, max_dense=0)
    np.testing.assert_allclose(ends.largest.value, values[-1], rtol=1e-5)
    # As many steps as rows: quadrature is exact, and so is the mean over vectors nearly.
    logdet = spectrum.logdet(spy, ridge=1.0, key=KEY, num_samples=30, max_dense=0)
    low, high = logdet.interval(0.999)
    assert low <= np.sum(np.log(values + 1)) <= high
    assert spy.largest == 16
    np.testing.assert_allclose(spectrum.eigh(spy).values, values, atol=1e-4)
    assert spy.largest == 11**2


def test_kernels_of_two_batches_are_refused(tmp_path):
    pytest.importorskip("tensorstore")
    x = np.asarray(jax.random.normal(KEY, (4, 3)))
    store = lazyjax.gram(
        lambda a, b: a @ b.T, x, x + 1, path=tmp_path / "g", progress=False
    )
    with pytest.raises(ValueError, match="`kernel` must be of one batch with itself"):
        spectrum.trace(store)
    with pytest.raises(ValueError, match="`second` must be of one batch with itself"):
        spectrum.alignment(np.eye(4), store)


@pytest.mark.once
def test_spaces_that_steps_do_not_show_are_refused():
    class Diagonal:
        shape, dtype = (50, 50), jnp.float32

        def mv(self, v):
            return jnp.linspace(1, 1.1, 50) * v

    with pytest.raises(ValueError, match="`num_steps` must be larger: 5 products"):
        spectrum.subspace_angles(
            Diagonal(), np.eye(50), 2, key=KEY, num_steps=5, max_dense=0
        )
    with pytest.raises(ValueError, match="entries are not known by examples"):
        spectrum.alignment(Diagonal(), np.eye(50), max_dense=0)
