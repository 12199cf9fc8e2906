"""Strict JAX for the whole suite, and the fixtures that every test file may use."""

import os
from collections.abc import Callable, Iterator

# The suite spends its time compiling small programs: a third less without LLVM's passes.
# To test the code that users run: XLA_FLAGS= pytest
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax
import jax.numpy as jnp
import jaxtyping
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


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
