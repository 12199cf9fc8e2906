"""Gram matrices by several devices and several workers: the same numbers."""

import os
import pickle
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import jax
import numpy as np
import pytest

import lazyjax
from tests.helpers.compare import assert_close

pytestmark = pytest.mark.once

NET = lazyjax.nets.cnn(width=4, depth=2, num_outputs=2)
X = np.random.default_rng(0).normal(size=(26, 5, 5, 1)).astype(np.float32)
PARAMS = NET.init(jax.random.key(0), X[:2])


class Elsewhere(Executor):
    """Runs tasks at once, of copies such as another process would have."""

    num_tasks = 0

    def submit(self, fn, /, *args, **kwargs):
        self.num_tasks += 1
        fn, args, kwargs = pickle.loads(pickle.dumps((fn, args, kwargs)))
        future = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def gram_of(path, executor=None, **options):
    kernel = NET.apply, PARAMS
    return lazyjax.gram(kernel, X, path=path, tile=4, executor=executor, **options)


@pytest.mark.parametrize("make", [Elsewhere, lambda: ThreadPoolExecutor(3)])
def test_workers_compute_the_same_bits(tmp_path, make):
    expected = gram_of(tmp_path / "here").to_array()
    with make() as executor:
        store = gram_of(tmp_path / "there", executor)
        assert_close(store.to_array(), expected, "exact")
        if isinstance(executor, Elsewhere):
            assert executor.num_tasks > 10
    across = lazyjax.gram(
        NET.architecture,
        X,
        X[:7],
        path=tmp_path / "limit",
        tile=4,
        executor=Elsewhere(),
    )
    limit = lazyjax.infinite_ntk(NET.architecture, X, X[:7])
    assert_close(across.to_array(), limit, "same_algebra")


def test_threads_compute_in_the_precision_of_the_caller(tmp_path, x64):
    x = X.astype(np.float64) + 1e-9
    params = NET.init(jax.random.key(0), x[:2])
    kernel = NET.apply, params
    with ThreadPoolExecutor(2) as executor:
        store = lazyjax.gram(kernel, x, path=tmp_path, tile=9, executor=executor)
    whole = lazyjax.empirical_ntk(NET.apply, params, x)
    assert store.dtype == np.float64
    assert_close(store.to_array(), whole, "same_algebra")


def test_what_a_worker_raises_comes_through_and_tiles_are_kept(tmp_path):
    class Failing(Elsewhere):
        def submit(self, fn, /, *args, **kwargs):
            if self.num_tasks == 5:
                raise RuntimeError("no more workers")
            return super().submit(fn, *args, **kwargs)

    with pytest.raises(RuntimeError, match="no more workers"):
        gram_of(tmp_path, Failing(), memory="300KiB")
    kept = lazyjax.grams.GramStore.open(tmp_path)
    assert 0 < len(kept.missing) < len(kept.files.places)
    expected = gram_of(tmp_path / "here", memory="300KiB").to_array()
    assert_close(gram_of(tmp_path, memory="300KiB").to_array(), expected, "exact")


@pytest.mark.slow
def test_processes_compute_the_same_bits(tmp_path):
    expected = gram_of(tmp_path / "here").to_array()
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        store = gram_of(tmp_path / "there", executor)
    assert_close(store.to_array(), expected, "exact")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Dask, about ports and what it closes
def test_a_worker_of_dask_that_is_killed_loses_its_task_only(tmp_path):
    distributed = pytest.importorskip("distributed")
    expected = gram_of(tmp_path / "here").to_array()
    killed = []
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):

        def kill(share, message):
            if not killed:
                pids = client.run(os.getpid)
                killed.append(next(iter(pids.values())))
                os.kill(killed[0], signal.SIGKILL)

        store = gram_of(tmp_path / "there", client.get_executor(), progress=kill)
    assert killed
    assert_close(store.to_array(), expected, "exact")


_DEVICES = """
import os
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + (
    " --xla_force_host_platform_device_count=8"
)
import sys, tempfile
from concurrent.futures import ThreadPoolExecutor
import jax, numpy as np, lazyjax
from lazyjax.grams import networks
from tests.test_gram_workers import NET, PARAMS, X

assert jax.local_device_count() == 8
expected = np.load(sys.argv[1])

def error(mesh, tile, workers):
    pool = ThreadPoolExecutor(workers) if workers > 1 else None
    path = tempfile.mkdtemp()
    store = lazyjax.gram(
        (NET.apply, PARAMS), X, path=path, tile=tile, executor=pool, mesh=mesh
    )
    return np.abs(store.to_array() - expected).max() / np.abs(expected).max()
"""


def on_eight_devices(tmp_path, code):
    expected = gram_of(tmp_path / "one", mesh=(1, 1)).to_array()
    np.save(tmp_path / "expected.npy", expected)
    found = subprocess.run(
        [
            sys.executable,
            "-c",
            _DEVICES + textwrap.dedent(code),
            tmp_path / "expected.npy",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-2000:]


def test_devices_compute_the_same_numbers_and_each_pair_once(tmp_path):
    on_eight_devices(
        tmp_path,
        """
        assert error(None, 5, 1) <= 1e-6
        # What counts once for each device of a row is noticed.
        kernel = networks.BlockwiseKernel.kernel
        networks.BlockwiseKernel.kernel = lambda self, one, two: (
            kernel(self, one, two) * jax.lax.psum(1, "columns")
        )
        assert error(None, 6, 1) > 0.5
        """,
    )


@pytest.mark.slow
def test_devices_tiles_and_workers_in_all_combinations(tmp_path):
    on_eight_devices(
        tmp_path,
        """
        worst = max(
            error(mesh, tile, workers)
            for mesh in [(1, 8), (2, 4), (8, 1)]
            for tile in (3, 8, 16, 26)
            for workers in (1, 2)
        )
        print(worst)
        assert worst <= 1e-6
        """,
    )
