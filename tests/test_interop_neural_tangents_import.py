"""neural-tangents imports and runs on this JAX, and leaves JAX as it was."""

import importlib
import importlib.metadata
import subprocess
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import pytest
import scipy.linalg

from lazyjax.interop import neural_tangents as bridge
from lazyjax.interop.neural_tangents import load_neural_tangents
from tests.helpers.compare import assert_close

# All that it imports from, so that what is imported later is not mistaken for a change.
MODULES = [
    importlib.import_module(name)
    for name in (
        "jax",
        "jax.core",
        "jax.example_libraries.stax",
        "jax.experimental.ode",
        "jax.extend.core",
        "jax.extend.linear_util",
        "jax.interpreters",
        "jax.interpreters.ad",
        "jax.numpy",
        "scipy",
        "scipy.linalg",
    )
]


def snapshot() -> tuple[Any, ...]:
    names = [dict(vars(module)) for module in MODULES]
    others = {
        name: module
        for name, module in sys.modules.items()
        if not name.startswith("neural_tangents")
    }
    return names, list(sys.meta_path), list(sys.path), list(warnings.filters), others


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if neural-tangents had never been imported; what was is put back."""
    load_neural_tangents()
    for name in [name for name in sys.modules if name.startswith("neural_tangents")]:
        monkeypatch.delitem(sys.modules, name)
    yield
    for name in [name for name in sys.modules if name.startswith("neural_tangents")]:
        del sys.modules[name]


def test_nothing_but_the_package_changes(unloaded: None) -> None:
    before = snapshot()
    nt = load_neural_tangents()
    assert snapshot() == before
    assert sys.modules["neural_tangents"] is nt


def test_nothing_at_all_changes_if_the_import_fails(
    unloaded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge, "_replaced", lambda: {"jax.core": {}})
    before = snapshot()
    with pytest.raises(ImportError, match=r"does not import on JAX .*Jaxpr"):
        load_neural_tangents()
    assert snapshot() == before
    assert not [name for name in sys.modules if name.startswith("neural_tangents")]


def test_loading_again_gives_the_same_modules_and_so_does_import() -> None:
    nt = load_neural_tangents()
    assert load_neural_tangents() is nt
    assert importlib.import_module("neural_tangents.stax") is nt.stax
    assert importlib.import_module("neural_tangents.predict") is nt.predict


def test_threads_that_load_at_once_get_one_package(unloaded: None) -> None:
    found: list[types.ModuleType] = []
    threads = [
        threading.Thread(target=lambda: found.append(load_neural_tangents()))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(map(id, found))) == 1


def test_package_that_is_half_imported_is_imported_anew(unloaded: None) -> None:
    with pytest.raises(ImportError):  # without the bridge, the reason for it
        importlib.import_module("neural_tangents.stax")
    nt = load_neural_tangents()
    assert nt.stax.Dense is importlib.import_module("neural_tangents.stax").Dense


def test_package_imported_by_other_means_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = types.ModuleType("neural_tangents")
    monkeypatch.setitem(sys.modules, "neural_tangents", other)
    with pytest.raises(ImportError, match=r"`load_neural_tangents\(\)` first"):
        load_neural_tangents()


def test_fresh_process_loads_it_without_tensorflow() -> None:
    program = (
        "from lazyjax.interop.neural_tangents import load_neural_tangents\n"
        "import sys\n"
        "load_neural_tangents()\n"
        "from neural_tangents import stax\n"
        "print(stax.Dense(1)[2].__name__, 'tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout == "Dense False\n"


def test_tensorflow_part_says_why_it_is_missing() -> None:
    with pytest.raises(AttributeError, match="needs TensorFlow"):
        _ = load_neural_tangents().experimental.empirical_ntk_fn_tf


def test_missing_package_is_named_with_the_ways_to_install_it(
    unloaded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(ImportError, match="not installed") as caught:
        load_neural_tangents()
    assert 'pip install "lazyjax[compare]"' in str(caught.value)
    assert "pip install --no-deps neural-tangents==0.6.5" in str(caught.value)


def test_other_versions_of_the_package_are_refused(
    unloaded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.6.4")
    with pytest.raises(ImportError, match=r"version 0\.6\.5.*got 0\.6\.4"):
        load_neural_tangents()


def test_unknown_jax_is_warned_of(
    unloaded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge, "_KNOWN_JAX", ((0, 8), (0, 9)))
    with pytest.warns(UserWarning, match=r"newer than .* 0\.8 to 0\.9"):
        load_neural_tangents()


def test_scipy_replacement_selects_the_same_eigenvalues(x64: None) -> None:
    a = jnp.diag(jnp.arange(4.0))
    nt = load_neural_tangents()
    largest = nt.predict.max_learning_rate(a, y_train_size=1, eps=0.0)
    assert_close(largest, 2 / 3)
    assert scipy.linalg.eigvalsh is not bridge._eigvalsh


NETWORKS: dict[str, Callable[[Any], Any]] = {
    "dense": lambda stax: stax.serial(
        stax.Dense(5, b_std=0.1), stax.Erf(), stax.Dense(2)
    ),
    "convolution": lambda stax: stax.serial(
        stax.Conv(4, (2, 2), (2, 2), padding="SAME", b_std=0.1),
        stax.Relu(),
        stax.GlobalAvgPool(),
        stax.Dense(2),
    ),
    "residual": lambda stax: stax.serial(
        stax.Dense(3),
        stax.FanOut(2),
        stax.parallel(stax.Identity(), stax.serial(stax.Relu(), stax.Dense(3))),
        stax.FanInSum(),
        stax.LayerNorm(),
    ),
}


def jacobian_product(apply_fn: Any, params: Any, x1: Any, x2: Any) -> jax.Array:
    rows = []
    for x in (x1, x2):
        leaves = jax.tree.leaves(jax.jacfwd(apply_fn)(params, x))
        rows.append(jnp.concatenate([j.reshape(*j.shape[:2], -1) for j in leaves], 2))
    return jnp.einsum("iap,jbp->ijab", *rows)


@pytest.mark.parametrize(
    ("name", "vmap_axes", "implementations"),
    [
        ("dense", None, (0, 1, 2, 3)),
        ("dense", 0, (3,)),
        ("convolution", 0, (3,)),
        ("residual", None, (3,)),
    ],
)
def test_every_implementation_gives_the_jacobian_product(
    name: str, vmap_axes: int | None, implementations: tuple[int, ...], x64: None
) -> None:
    nt = load_neural_tangents()
    init_fn, apply_fn, _ = NETWORKS[name](nt.stax)
    space = (4, 4) if name == "convolution" else ()
    x1, x2 = (jax.random.normal(jax.random.key(n), (n, *space, 3)) for n in (2, 3))
    _, params = init_fn(jax.random.key(0), x1.shape)
    expected = jax.jit(partial(jacobian_product, apply_fn))(params, x1, x2)
    for implementation in map(nt.NtkImplementation, implementations):
        kernel_fn = nt.empirical_ntk_fn(
            apply_fn, trace_axes=(), vmap_axes=vmap_axes, implementation=implementation
        )
        assert_close(jax.jit(kernel_fn)(x1, x2, params), expected)
