"""What kernels hold at once, beside what was allowed."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lazyjax import Architecture, infinite_nngp, infinite_ntk
from lazyjax._checks import checked_bytes
from tests.helpers.compare import assert_close

pytestmark = pytest.mark.once


def inputs(n: int, *shape: int, seed: int = 0) -> jax.Array:
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(n, *shape)), jnp.float32)


def held_bytes(spec: Architecture, memory: str | None, *x: jax.Array) -> int:
    """Temporaries and result of the compiled kernel, as the compiler plans them."""

    def kernel(*x: jax.Array) -> jax.Array:
        return infinite_ntk(spec, *x, memory=memory)

    plan: Any = jax.jit(kernel).lower(*x).compile().memory_analysis()
    return plan.temp_size_in_bytes + plan.output_size_in_bytes


CASES: dict[str, tuple[dict[str, Any], tuple[jax.Array, ...], str]] = {
    "average": (
        {"kind": "cnn", "depth": 3, "head": "average"},
        (inputs(12, 8, 8, 3),),
        "1.4MB",
    ),
    "average_of_two_batches": (
        {"kind": "cnn", "depth": 2, "head": "average", "b_std": 0.1},
        (inputs(7, 8, 8, 3), inputs(6, 8, 8, 3, seed=1)),
        "2MB",
    ),
    "pool": (
        {"kind": "cnn", "depth": 2, "pool_after": (1,), "head": "average"},
        (inputs(12, 8, 8, 3),),
        "2.5MB",
    ),
    "series": (
        {
            "kind": "cnn",
            "depth": 2,
            "filter_shape": (3,),
            "activation": "tanh",
            "head": "average",
        },
        (inputs(40, 32, 3),),
        "2MB",
    ),
    "flatten": (
        {"kind": "cnn", "depth": 3},
        (inputs(50, 16, 16, 3),),
        "1MiB",
    ),
    "vectors": ({"depth": 3}, (inputs(400, 5),), "3MB"),
}


@pytest.mark.parametrize("case", CASES)
def test_kernels_hold_no_more_than_the_memory_stated(case: str) -> None:
    fields, x, memory = CASES[case]
    spec = Architecture(**fields)
    assert held_bytes(spec, memory, *x) <= checked_bytes("memory", memory)


@pytest.mark.parametrize("case", ["average", "flatten", "series"])
def test_kernels_hold_more_where_no_memory_is_stated(case: str) -> None:
    fields, x, memory = CASES[case]
    assert held_bytes(Architecture(**fields), None, *x) > checked_bytes("", memory)


def test_kernels_do_not_depend_on_the_memory_stated() -> None:
    fields, x, memory = CASES["average_of_two_batches"]
    spec = Architecture(**fields)
    for kernel_fn in (infinite_ntk, infinite_nngp):
        assert_close(kernel_fn(spec, *x, memory=memory), kernel_fn(spec, *x))


def test_memory_that_is_too_little_or_unclear_is_refused(own_errors: None) -> None:
    spec = Architecture(kind="cnn", head="average")
    x = inputs(3, 8, 8, 3)
    with pytest.raises(ValueError, match=r"`memory` must be at least .* pair") as error:
        infinite_ntk(spec, x, memory="100KB")
    least = int(str(error.value).split("at least ")[1].split()[0])
    assert infinite_ntk(spec, x, memory=least).shape == (3, 3)
    with pytest.raises(ValueError, match=f"at least {least}"):
        infinite_nngp(spec, x, memory=least - 1)
    for wrong in ("4", "4 gigabytes", "GiB", 0):
        with pytest.raises(ValueError, match="`memory` must be"):
            infinite_ntk(spec, x, memory=wrong)
    with pytest.raises(TypeError, match=r"`memory` must be an integer; got 1\.5"):
        infinite_ntk(spec, x, memory=1.5)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4GiB", 4 * 2**30),
        ("1.5 MB", 1_500_000),
        ("64KiB", 65536),
        ("10B", 10),
        (7, 7),
    ],
)
def test_texts_are_read_as_bytes(text: str | int, expected: int) -> None:
    assert checked_bytes("memory", text) == expected
