"""Kernels of batches and parameters that are split over a mesh, beside those of whole ones.

Run as a program, for the number of devices is set before JAX starts:
`python -m tests.helpers.placed_arrays CHECK`, with a check of `CHECKS`.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import lazyjax
from lazyjax.ntk.requests import compiled

TOLERANCE = {np.float32: 1e-6, np.float64: 1e-10}
NUM_EXAMPLES = 8


def mlp(p, x):
    return jnp.tanh(jnp.tanh(x @ p["w"]) @ p["u"]) @ p["v"]


def cnn(p, x):
    h = x
    for name in ("w", "u"):
        h = lax.conv_general_dilated(
            h, p[name], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        h = jnp.tanh(h)
    return h.mean((1, 2)) @ p["v"]


def gpt(p, tokens):
    """Two blocks, scanned over and rematerialized; embeddings are tied to the head."""

    def block(h, p):
        scale = lax.rsqrt(jnp.mean(h**2, -1, keepdims=True) + 1e-5)
        q, k, v = jnp.split(h * scale @ p["qkv"], 3, axis=-1)
        scores = jnp.einsum("ntd,nsd->nts", q, k) / h.shape[-1] ** 0.5
        causal = jnp.tril(jnp.ones(scores.shape[1:], bool))[None]
        h = h + jax.nn.softmax(jnp.where(causal, scores, -1e9)) @ v @ p["out"]
        return h + jax.nn.gelu(h @ p["up"]) @ p["down"], None

    h, _ = lax.scan(jax.checkpoint(block), p["embed"][tokens], p["blocks"])
    return h[:, -1] @ p["embed"].T


_rng = np.random.default_rng(0)


def draw(*shape: int) -> np.ndarray:
    """Numbers of about the size of weights."""
    fan_in = shape[-2] if len(shape) > 1 else 1
    return _rng.normal(size=shape) / fan_in**0.5


# Of each network: parameters, how they are split over "model", and a batch.
PROBLEMS: dict[str, tuple[Callable, Any, Any, Any]] = {
    "mlp": (
        mlp,
        {"w": draw(3, 8), "u": draw(8, 8), "v": draw(8, 2)},
        {"w": P(None, "model"), "u": P("model"), "v": P("model")},
        draw(NUM_EXAMPLES, 3),
    ),
    "cnn": (
        cnn,
        {"w": draw(3, 3, 2, 4), "u": draw(3, 3, 4, 4), "v": draw(4, 3)},
        {"w": P(None, None, None, "model"), "u": P(None, None, "model"), "v": P()},
        draw(NUM_EXAMPLES, 6, 6, 2),
    ),
    "gpt": (
        gpt,
        {
            "embed": draw(6, 4),
            "blocks": {
                "qkv": draw(2, 4, 12),
                "out": draw(2, 4, 4),
                "up": draw(2, 4, 8),
                "down": draw(2, 8, 4),
            },
        },
        {
            "embed": P("model"),
            "blocks": {
                "qkv": P(None, None, "model"),
                "out": P(None, "model"),
                "up": P(None, None, "model"),
                "down": P(None, "model"),
            },
        },
        _rng.integers(0, 6, (NUM_EXAMPLES, 5)).astype(np.int32),
    ),
}

NUM_OUTPUTS = {mlp: 2, cnn: 3, gpt: 6}


def verbs(network: Callable) -> dict[str, Callable]:
    """Verbs of kernels and their like: functions of parameters and a batch."""

    def loss(f, y):
        return jnp.sum((f - y) ** 2)

    def first_output(p, x):
        return jnp.tanh(network(p, x))[:, :1]

    functions = {"f": network, "g": first_output}
    few = lambda x: cast(PROBLEMS[network.__name__][-1][:4], x.dtype)
    return {
        "empirical_ntk": lambda p, x: lazyjax.empirical_ntk(network, p, x),
        "trace": lambda p, x: lazyjax.empirical_ntk(network, p, x, outputs="trace"),
        "chosen": lambda p, x: lazyjax.empirical_ntk(network, p, x, outputs=[1]),
        "two_batches": lambda p, x: lazyjax.empirical_ntk(network, p, x, few(x)),
        "jacobian": lambda p, x: lazyjax.empirical_ntk(
            network, p, x, method="jacobian"
        ),
        "vjp": lambda p, x: lazyjax.empirical_ntk(network, p, x, method="vjp"),
        "layerwise_ntk": lambda p, x: lazyjax.layerwise_ntk(network, p, x),
        "ntk_diagonal": lambda p, x: lazyjax.ntk_diagonal(network, p, x),
        "ntk_operator": lambda p, x: lazyjax.ntk_operator(network, p, x)(
            np.ones((NUM_EXAMPLES, NUM_OUTPUTS[network]))
        ),
        "empirical_nngp": lambda p, x: lazyjax.empirical_nngp(network, p, x),
        "of_loss": lambda p, x: lazyjax.empirical_ntk_of_loss(
            loss, network, p, x, np.ones(NUM_EXAMPLES, jax.tree.leaves(p)[0].dtype)
        ),
        "estimate": lambda p, x: (
            lazyjax.ntk_trace_estimate(
                network, p, x, key=jax.random.key(0), num_probes=2
            ).mean
        ),
        "ntk_blocks": lambda p, x: (
            lazyjax.ntk_blocks({n: (f, x) for n, f in functions.items()}, p).kernels
        ),
        "between": lambda p, x: lazyjax.empirical_ntk((network, first_output), p, x),
        "linearize": lambda p, x: lazyjax.linearize(network, p)(
            jax.tree.map(lambda leaf: leaf * 1.1, p), x
        ),
    }


def mesh_of(kind: AxisType, second: AxisType | None = None) -> jax.sharding.Mesh:
    """A mesh of all devices, two of them along "model"."""
    shape = jax.device_count() // 2, 2
    kinds = kind, kind if second is None else second
    return jax.make_mesh(shape, ("data", "model"), axis_types=kinds)


def cast(tree: Any, dtype: Any) -> Any:
    """A tree whose floating-point numbers are of one type."""
    to = lambda leaf: leaf.astype(dtype) if leaf.dtype.kind == "f" else leaf
    return jax.tree.map(to, tree)


def placements(
    name: str, mesh: jax.sharding.Mesh, dtype: Any = np.float32
) -> Iterator[tuple[str, Any, Any]]:
    """Parameters and batch of a network: one of them is split, or both are."""
    _, p, specs, x = PROBLEMS[name]
    p, x = cast((p, x), dtype)

    def put(array, spec):
        return jax.device_put(array, NamedSharding(mesh, spec))

    whole = jax.tree.map(lambda leaf: put(leaf, P()), p)
    split = jax.tree.map(put, p, specs)
    yield "data", whole, put(x, P("data"))
    yield "model", split, put(x, P())
    yield "both", split, put(x, P("data"))


def assert_alike(what: Any, found: Any, expected: Any, tolerance: float) -> None:
    """Assert that arrays are equal but for rounding, all in all."""
    for one, two in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        one, two = np.asarray(one, np.float64), np.asarray(two, np.float64)
        assert one.shape == two.shape, what
        error = np.linalg.norm(one - two) / np.linalg.norm(two)
        assert error <= tolerance, (what, error)


def assert_split_by_rows(what: Any, found: Any) -> None:
    """Assert that each device holds all columns of its rows."""
    for leaf in jax.tree.leaves(found):
        spec = leaf.sharding.spec
        assert spec[0] == "data" and not any(spec[1:]), (what, spec)


def check(
    name: str,
    kinds: tuple[AxisType, ...],
    only: str | None = None,
    dtype: Any = np.float64,
) -> None:
    """Verbs of one network over a mesh, from outside and inside of `jax.jit`."""
    # In float64, in which no verb is far from its own rounding.
    with jax.enable_x64(dtype == np.float64):
        _check(name, kinds, only, dtype)


def _check(
    name: str, kinds: tuple[AxisType, ...], only: str | None, dtype: Any
) -> None:
    network, p, _, x = PROBLEMS[name]
    p, x = cast((p, x), dtype)
    mesh = mesh_of(*kinds)
    is_typed = kinds[0] == AxisType.Explicit
    for verb, call in verbs(network).items():
        if only not in (None, verb):
            continue
        expected = call(p, x)
        for where, params, batch in placements(name, mesh, dtype):
            found = {"eager": call(params, batch)}
            # `jax.set_mesh` and `in_shardings`; automatic axes are no part of types, so
            # that there `out_shardings` says how results are split.
            at = jax.tree.map(lambda leaf: leaf.sharding, (params, batch))
            rows = NamedSharding(mesh, P("data"))
            out = {} if is_typed else {"out_shardings": rows}
            with jax.set_mesh(mesh):
                found["jit"] = jax.jit(call, in_shardings=at, **out)(params, batch)
                found["mesh"] = call(params, batch)
            for mode, kernels in found.items():
                what = name, kinds, verb, where, mode
                assert_alike(what, kernels, expected, TOLERANCE[dtype])
                if where != "model":
                    assert_split_by_rows(what, kernels)


@contextmanager
def planned_bytes() -> Iterator[list[int]]:
    """Bytes on each device that compilers plan for kernels, beside arguments."""
    found, run = [], compiled._compiled

    def planned(*arguments):
        plan: Any = run.lower(*arguments).compile().memory_analysis()
        found.append(plan.temp_size_in_bytes + plan.output_size_in_bytes)
        return run(*arguments)

    compiled._compiled = planned
    try:
        yield found
    finally:
        compiled._compiled = run


def check_memory() -> None:
    """Kernels hold no more on any device than `memory` says; and less by themselves."""
    rng = np.random.default_rng(1)
    draw = lambda *shape: (rng.normal(size=shape) / shape[0] ** 0.5).astype(np.float32)
    p = {"w": draw(7, 24), "u": draw(24, 24), "v": draw(24, 5)}
    x = draw(8 * jax.device_count(), 7)
    verb = lambda p, x, **o: lazyjax.empirical_ntk(mlp, p, x, **o)
    expected = verb(p, x)
    with planned_bytes() as whole:
        verb(p, x)
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = mesh_of(kind)
        split = jax.device_put(x, NamedSharding(mesh, P("data")))
        at = jax.tree.map(
            jax.device_put,
            p,
            {
                "w": NamedSharding(mesh, P(None, "model")),
                "u": NamedSharding(mesh, P("model")),
                "v": NamedSharding(mesh, P()),
            },
        )
        limit = int(3.5 * expected.nbytes)
        with planned_bytes() as planned:
            assert_alike(kind, verb(at, split), expected, 1e-6)
            assert_alike(kind, verb(at, split, memory=limit), expected, 1e-6)
        assert planned[0] < 0.75 * whole[0], (whole, planned)
        assert planned[1] <= limit < whole[0], (whole, planned, limit)


def refusal(call: Callable[[], Any]) -> str:
    """What the error of a call says; nothing if there is none."""
    try:
        call()
    except ValueError as error:
        return str(error)
    return ""


def check_refused() -> None:
    """What cannot be, is told: networks that hold or name explicit axes, and plans."""
    network, *_ = PROBLEMS["mlp"]
    mesh = mesh_of(AxisType.Explicit)
    *_, (_, params, batch) = placements("mlp", mesh)

    def holds(p, x):
        return network({**p, "w": params["w"]}, x)

    def names(p, x):
        return jnp.einsum("nd,dk->nk", x, p["w"], out_sharding=P("data", "model"))

    for bad in (holds, names):
        for context in (nullcontext(), jax.set_mesh(mesh)):
            with context:
                said = refusal(
                    lambda bad=bad: lazyjax.empirical_ntk(bad, params, batch)
                )
            assert "`apply_fn` must neither hold arrays" in said, said
            assert "AxisType.Auto" in said, said
    said = refusal(lambda: lazyjax.ntk.ntk_plan(network, params, batch))
    assert "must not be split over explicit mesh axes; it is over" in said, said


def check_quick() -> None:
    """What is most likely to break."""
    check("mlp", (AxisType.Explicit,), "empirical_ntk", np.float32)
    check_refused()


def check_single() -> None:
    """All networks and kinds of axes, in float32."""
    for name in PROBLEMS:
        for kind in (AxisType.Auto, AxisType.Explicit):
            check(name, (kind,), "empirical_ntk", np.float32)


CHECKS: dict[str, Callable[[], None]] = {
    "quick": check_quick,
    "single": check_single,
    "memory": check_memory,
    **{
        f"{name}_{kind.name}".lower(): lambda name=name, kind=kind: check(name, (kind,))
        for name in PROBLEMS
        for kind in (AxisType.Auto, AxisType.Explicit)
    },
    "mixed": lambda: check("mlp", (AxisType.Explicit, AxisType.Auto)),
}

if __name__ == "__main__":
    CHECKS[sys.argv[1]]()
