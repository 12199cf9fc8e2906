"""Gram matrices on disk: the numbers of the kernels, whatever the tiles."""

import functools
import json
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zarr

import lazyjax
from lazyjax.grams import GramPlan, GramStore, kernels, networks, strips
from lazyjax.ntk.methods import blockwise
from tests.helpers.compare import assert_close

pytestmark = pytest.mark.once

RNG = np.random.default_rng(0)
NET = lazyjax.nets.mlp(width=8, depth=2, num_outputs=3, b_std=0.1, activation="tanh")
LIMIT = lazyjax.Architecture(depth=2, b_std=0.1)
X = RNG.normal(size=(23, 4)).astype(np.float32)
Y = RNG.normal(size=(9, 4)).astype(np.float32)
PARAMS = NET.init(jax.random.key(0), X)
KERNEL = NET.apply, PARAMS


def tied(params, x):
    """A table that is read by index and multiplied by, beside a scanned weight."""
    hidden = params["table"][x.astype(jnp.int32)].sum(axis=1)
    step = lambda h, _: (jnp.tanh(h @ params["w"]), None)
    hidden, _ = jax.lax.scan(step, hidden, length=2)
    return hidden @ params["table"].T[:, :2]


def rbf(x, y):
    x, y = np.asarray(x), np.asarray(y)
    return np.exp(-np.square(x[:, None] - y).sum(-1))


def reference(x, y):
    """The kernel of `NET` by whole gradients, one example at a time, in float64."""
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), PARAMS)

        def gradients(x):
            jacobian = jax.jacrev(NET.apply)
            rows = [
                [
                    leaf[0].reshape(3, -1)
                    for leaf in jax.tree.leaves(jacobian(params, row))
                ]
                for row in jnp.asarray(x, jnp.float64)[:, None]
            ]
            return np.stack([np.concatenate(row, axis=1) for row in rows])

        return np.einsum("iap,jbp->ijab", gradients(x), gradients(y))


@pytest.fixture(scope="module")
def expected():
    whole, across = reference(X, X), reference(X, Y)
    forms = {
        "full": lambda k: k,
        "diagonal": lambda k: np.einsum("ijaa->ija", k),
        "trace": lambda k: np.einsum("ijaa->ij", k),
        "pseudo": lambda k: k.sum((2, 3)) / 3,
        2: lambda k: k[:, :, 2, 2],
    }
    return {name: (of(whole), of(across)) for name, of in forms.items()}


@pytest.mark.parametrize("outputs", ["full", "diagonal", "trace", "pseudo", 2])
@pytest.mark.parametrize("is_symmetric", [True, False])
@pytest.mark.sampled(3)
def test_entries_are_products_of_gradients(tmp_path, expected, outputs, is_symmetric):
    x2 = None if is_symmetric else Y
    store = lazyjax.gram(KERNEL, X, x2, path=tmp_path, outputs=outputs, tile=5)
    whole = expected[outputs][0 if is_symmetric else 1].astype(np.float32)
    assert_close(store.to_array(), whole, "same_algebra")
    assert store.missing == []
    assert len(store.files.places) == (15 if is_symmetric else 10)
    assert_close(store[3, 4], store.to_array()[3, 4], "exact")
    assert_close(store[-1, 1:9:3], store.to_array()[-1, 1:9:3], "exact")
    assert_close(store.rows(4, 12), store.to_array()[4:12], "exact")
    if is_symmetric:
        axes = (1, 0, 3, 2) if outputs == "full" else (1, 0, 2)
        mirrored = store.to_array().transpose(axes[: len(store.shape)])
        assert_close(mirrored, store.to_array(), "exact")


@pytest.mark.parametrize(
    "tile", [7, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 23, 100))]
)
@pytest.mark.parametrize("keeps_gradients", [True, False])
def test_any_tiles_and_any_memory_give_the_same_matrix(
    tmp_path, expected, tile, keeps_gradients, monkeypatch
):
    if not keeps_gradients:
        monkeypatch.setattr(networks, "_FEWEST_EXAMPLES", 10**9)
    with pytest.raises(ValueError, match="must be at least") as error:
        lazyjax.gram(KERNEL, X, path=tmp_path, tile=tile, memory=64)
    least = re.search(r"at least ([0-9.]+ [KM]?i?B)", str(error.value))
    assert least is not None
    number, unit = least[1].split()
    memory = f"{1.01 * float(number):.3f}{unit}"  # for one block row at a time
    few = lazyjax.gram(
        KERNEL, X, path=tmp_path, tile=tile, memory=memory, plan_only=True
    )
    assert isinstance(few, GramPlan)
    assert few.num_rows_held == 1
    whole = expected["full"][0].astype(np.float32)
    for name, some in {"little": memory, "much": "1GiB"}.items():
        store = lazyjax.gram(KERNEL, X, path=tmp_path / name, tile=tile, memory=some)
        assert_close(store.to_array(), whole, "same_algebra")


def test_products_in_slices_are_whole(tmp_path, monkeypatch):
    net = lazyjax.nets.cnn(width=4, depth=2, num_outputs=2)
    x = RNG.normal(size=(7, 5, 5, 1)).astype(np.float32)
    params = net.init(jax.random.key(0), x)
    monkeypatch.setattr(blockwise, "_SLICE_BYTES", {"cpu": 200, "other": 200})
    store = lazyjax.gram((net.apply, params), x, path=tmp_path, tile=4)
    whole = lazyjax.empirical_ntk(net.apply, params, x, method="jacobian")
    assert_close(store.to_array(), whole, "same_algebra")


def test_what_is_shared_between_uses_of_a_leaf_counts_once(tmp_path):
    rng = np.random.default_rng(1)
    params = {
        "table": jnp.asarray(rng.normal(size=(11, 4)), jnp.float32),
        "w": jnp.asarray(rng.normal(size=(4, 4)), jnp.float32),
    }
    x = rng.integers(0, 11, size=(9, 3))
    store = lazyjax.gram((tied, params), x, path=tmp_path, tile=4)
    whole = lazyjax.empirical_ntk(tied, params, x, method="jacobian")
    assert_close(store.to_array(), whole, "other_algorithm")
    assert store.audit(4, jax.random.key(0)).largest_error < 1e-5


def test_images_in_half_precision_keep_their_dtype(tmp_path):
    net = lazyjax.nets.cnn(width=4, depth=2, num_outputs=2)
    x = jnp.asarray(RNG.normal(size=(7, 5, 5, 1)), jnp.float16)
    params = net.init(jax.random.key(0), x)
    store = lazyjax.gram((net.apply, params), x, path=tmp_path, outputs="trace", tile=3)
    assert store.dtype == np.float16
    whole = lazyjax.empirical_ntk(net.apply, params, x, outputs="trace")
    assert_close(store.to_array(), whole, "other_algorithm")


def test_limits_and_functions_of_two_batches_too(tmp_path):
    limit = lazyjax.gram(LIMIT, X, path=tmp_path / "limit", tile=6)
    whole = lazyjax.infinite_ntk(LIMIT, X)
    assert_close(limit.to_array(), whole, "same_algebra")
    assert_close(np.diag(limit.to_array()), np.diag(whole), "same_algebra")
    nngp = functools.partial(lazyjax.infinite_nngp, LIMIT)
    store = lazyjax.gram(nngp, X, Y, path=tmp_path / "nngp", tile=6)
    assert_close(store.to_array(), nngp(X, Y), "same_algebra")
    store = lazyjax.gram(rbf, X, path=tmp_path / "plain", tile=6)
    assert_close(store.to_array(), rbf(X, X), "same_algebra")
    assert store.audit(3, jax.random.key(0)).largest_error < 1e-6


def test_other_libraries_read_it(tmp_path):
    store = lazyjax.gram(KERNEL, X, path=tmp_path, outputs="trace", tile=5)
    array: Any = zarr.open_array(tmp_path, mode="r")
    upper = np.triu_indices(len(X))
    assert_close(array[:][upper], store.to_array()[upper], "exact")
    assert array.chunks == (5, 5)
    found = array.attrs["lazyjax"]["fingerprint"]
    assert {"versions", "kernel", "params", "x1", "precision"} <= {*found}
    assert store.to_xarray().dims == ("row", "column")


def test_each_example_is_evaluated_once_if_memory_holds_all(monkeypatch):
    kernel = networks.NetworkKernel(*KERNEL, "trace", "highest")
    shape = kernels.GramShape(23, 23, True, (4, 4))
    program = kernel.program(X, shape, 2**30)
    evaluated = []
    parts = program.parts

    def counted(x, axis):
        evaluated.append(axis)
        return parts(x, axis)

    monkeypatch.setattr(program, "parts", counted)
    blocks = strips.BlocksOf(X, 4), strips.BlocksOf(X, 4)
    all_of_it = [(i, j) for i in range(6) for j in range(i, 6)]
    for held, most in ((6, 6), (2, 6 + 4 + 2), (1, 21)):
        found = strips.strips(all_of_it, held)
        for strip in found:
            list(strips.tiles_of(kernel, program, shape, blocks, strip, 2**30))
        assert len(evaluated) == most == strips.num_evaluated(found, True)
        evaluated.clear()


@pytest.mark.parametrize("most", [4, 2, 1])
def test_out_of_memory_means_less_at_a_time(tmp_path, most):
    sizes = []

    def kernel(x, y):
        sizes.append(max(len(x), len(y)))
        if sizes[-1] > most:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return rbf(x, y)

    store = lazyjax.gram(kernel, X, path=tmp_path, tile=7)
    assert_close(store.to_array(), rbf(X, X), "same_algebra")
    assert max(sizes) > most
    assert store.files.tile == (7, 7)


def test_other_errors_of_the_kernel_come_through(tmp_path):
    def broken(x, y):
        if len(x) > 1:
            raise RuntimeError("broken")
        return np.ones((1, 1), np.float32)

    with pytest.raises(RuntimeError, match="broken"):
        lazyjax.gram(broken, X, path=tmp_path, tile=4)


def test_the_plan_is_what_is_done(tmp_path):
    told = []
    plan = lazyjax.gram(
        KERNEL, X, path=tmp_path / "k", outputs="trace", tile=5, plan_only=True
    )
    assert not (tmp_path / "k").exists()
    store = lazyjax.gram(
        KERNEL,
        X,
        path=tmp_path / "k",
        outputs="trace",
        tile=5,
        progress=lambda share, message: told.append((share, message)),
    )
    assert plan.num_tiles == len(told) == 15
    assert plan.shape == store.shape
    assert told[-1][0] == 1.0
    assert told[-1][1].startswith("tile 15 of 15, ")
    kept = sum(
        file.stat().st_size
        for file in (tmp_path / "k" / "c").rglob("*")
        if file.is_file()
    )
    assert kept == plan.gigabytes * 1e9 + 4 * 15  # and checksums
    assert plan.seconds is not None
    assert plan.seconds > 0
    assert plan.gflop is not None
    assert "15 of 5 x 5 examples" in str(plan)
    assert GramPlan.from_json(plan.to_json()) == plan


def test_checks_find_what_is_wrong(tmp_path):
    store = lazyjax.gram(KERNEL, X, path=tmp_path / "good", tile=5, outputs="trace")
    assert store.verify().holds
    exact = np.linalg.eigvalsh(store.to_array().astype(np.float64))
    eig_min = store.verify().eig_min
    assert eig_min is not None
    assert np.isclose(eig_min, exact[0], atol=1e-9 * exact[-1])
    negative = lambda x, y: -(x @ y.T)
    assert (
        lazyjax.gram(negative, X, path=tmp_path / "bad", tile=5).verify().is_indefinite
    )
    nan = lambda x, y: np.where(np.asarray(x)[:, :1] > 1, np.nan, rbf(x, y))
    found = lazyjax.gram(nan, X, Y, path=tmp_path / "nan", tile=5).verify()
    assert found.not_finite
    assert not found.holds
    assert not found.missing
    assert "not finite" in found.explain()
    # An audit of a kernel that was computed of something else fails.
    larger = jax.tree.map(lambda p: 1.1 * p, PARAMS)
    other = networks.NetworkKernel(NET.apply, larger, "trace", "highest")
    wrong = GramStore(store.files, (other, X, X))
    assert store.audit(5, jax.random.key(0)).largest_error < 1e-6
    assert wrong.audit(5, jax.random.key(0)).largest_error > 1e-2


REFUSED = {
    "another `x1`": {"x1": X + 1},
    "another `params`": {"kernel": (NET.apply, jax.tree.map(lambda p: p + 1, PARAMS))},
    "another `kernel`": {"kernel": (lambda p, x: 2 * NET.apply(p, x), PARAMS)},
    "another `outputs`": {"outputs": "full"},
    "another `precision`": {"precision": "high"},
    "another `x2`": {"x2": X},
    "already": {"resume": False},
    "at least": {"memory": "1KB"},
    "at most 1 devices": {"mesh": (2, 1)},
    "`tile` must be": {"tile": 0},
    "other kernels have one form": {"kernel": NET.architecture},
}


def test_what_cannot_be_is_refused(tmp_path, own_errors):
    call = {"kernel": KERNEL, "x1": X, "path": tmp_path, "outputs": "trace", "tile": 8}
    before = lazyjax.gram(**call).to_array()
    for message, changes in REFUSED.items():
        with pytest.raises(ValueError, match=message):
            lazyjax.gram(**call | changes)
    assert_close(GramStore.open(tmp_path).to_array(), before, "exact")


class Scaled:
    """A function with a state that JAX cannot trace."""

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, x, y):
        return np.float32(self.scale) * rbf(x, y)


def test_functions_that_cannot_be_traced_are_told_apart_too(tmp_path):
    lazyjax.gram(Scaled(2), X, path=tmp_path, tile=8)
    with pytest.raises(ValueError, match="another `kernel`"):
        lazyjax.gram(Scaled(3), X, path=tmp_path)
    store = lazyjax.gram(Scaled(3), X, path=tmp_path / "other", tile=8)
    assert_close(store.to_array(), np.float32(3) * rbf(X, X), "same_algebra")


def test_versions_are_told_apart(tmp_path, monkeypatch):
    lazyjax.gram(KERNEL, X, path=tmp_path, outputs="trace")
    file = tmp_path / "zarr.json"
    written = json.loads(file.read_text())
    written["attributes"]["lazyjax"]["fingerprint"]["versions"]["JAX"] = "0.0.1"
    file.write_text(json.dumps(written))
    with pytest.raises(ValueError, match="not what was written"):
        lazyjax.gram(KERNEL, X, path=tmp_path, outputs="trace")
    monkeypatch.setattr("lazyjax.grams.kernels.versions", lambda: {"JAX": "0.0.2"})
    path = tmp_path / "other"
    lazyjax.gram(KERNEL, X, path=path, outputs="trace")
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"version of JAX \(0.0.2; this is"):
        lazyjax.gram(KERNEL, X, path=path, outputs="trace")


def test_functions_must_be_symmetric_where_one_batch_is_given(tmp_path):
    with pytest.raises(ValueError, match="must be symmetric"):
        lazyjax.gram(lambda x, y: x[:, :1] - y[:, :1].T, X, path=tmp_path)


def test_rows_that_interact_are_refused(tmp_path):
    normed = lambda p, x: NET.apply(p, x - x.mean(axis=0, keepdims=True))
    with pytest.raises(ValueError, match="independently"):
        lazyjax.gram((normed, PARAMS), X, path=tmp_path)
