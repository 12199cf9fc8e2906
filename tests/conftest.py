"""How the whole suite runs JAX, and the fixtures that every test file may use."""

import gc
import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import pytest

# The suite spends its time compiling thousands of programs that run once. So LLVM's
# passes are left out; and JAX 0.10 emits kernels by its older emitters, which need half
# the time (later ones have no others). What users run is neither: `compiler` marks the
# tests that .ci/run repeats with XLA_FLAGS=, and nightly every test is run so.
FAST_COMPILATION = ["--xla_backend_optimization_level=0"]
if jax.__version_info__ < (0, 11):
    FAST_COMPILATION.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(FAST_COMPILATION))

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# Tracing makes many objects that live: looking through them took a sixth of all time.
gc.set_threshold(100_000, 50, 50)

_tests_done = itertools.count(1)


def pytest_configure(config: pytest.Config) -> None:
    """Keep programs from one run to the next, until `pytest --cache-clear`.

    Their keys hold the whole program, the compiler's options and JAX's version.
    """
    if (
        hasattr(config, "cache")
        and getattr(jax.config, "jax_compilation_cache_dir", None) is None
    ):
        folder = config.cache.mkdir("jax_programs")
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow all cases of a `sampled` test but its number, evenly spread."""
    cases: dict[tuple[Any, str, int], list[pytest.Item]] = {}
    for item in items:
        marker = item.get_closest_marker("sampled")
        if marker and not item.get_closest_marker("slow"):
            name = getattr(item, "originalname", item.name)
            cases.setdefault((item.path, name, marker.args[0]), []).append(item)
    for (_, _, num_kept), plain in cases.items():
        kept = {i * len(plain) // num_kept for i in range(num_kept)}
        for i, item in enumerate(plain):
            if i not in kept:
                item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True, scope="module")
def bounded_memory() -> Iterator[None]:
    """Let go of a file's programs after it: they came to 4 GiB in each worker."""
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def bounded_mappings() -> Iterator[None]:
    """Let go of programs within a long file too.

    Each program maps memory, and Linux allows a process 65530 maps: after some 1300
    tests of the whole product of modes, the next program to be compiled crashed.
    """
    yield
    if next(_tests_done) % 500 == 0:
        jax.clear_caches()


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> Iterator[jnp.dtype]:
    """Both precisions; 64-bit types are enabled for the length of the test only."""
    with jax.enable_x64(request.param == "float64"):
        yield jnp.dtype(request.param)


@pytest.fixture
def x64() -> Iterator[None]:
    """64-bit types for the length of the test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=["eager", "jit"])
def mode(request: pytest.FixtureRequest) -> Callable:
    """Decorator under which a function is called: nothing, or `jax.jit`."""
    return jax.jit if request.param == "jit" else lambda f: f


@pytest.fixture
def own_errors() -> Iterator[None]:
    """Our own messages: runtime type checks would otherwise come first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
