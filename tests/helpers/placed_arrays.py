"""Kernels of batches and parameters that are split over a mesh, beside those of whole ones.

Run as a program, for the number of devices is set before JAX starts:
`python -m tests.helpers.placed_arrays CHECK`, with a check of `CHECKS`.
"""

import logging
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

import lazyjax
from lazyjax.ntk.plan import ntk_plan
from lazyjax.ntk.requests import compiled
from tests.helpers.placed_networks import NUM_EXAMPLES, NUM_OUTPUTS, PROBLEMS, mlp

TOLERANCE = {np.float32: 1e-6, np.float64: 1e-10}


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
        "matrix": lambda p, x: lazyjax.ntk_blocks(
            {"f": (network, x), "g": (first_output, x)}, p
        ).matrix(),
        "as_matrix": lambda p, x: lazyjax.ntk_operator(network, p, x).as_matrix(),
        "taylor_expand": lambda p, x: lazyjax.taylor_expand(network, p, order=2)(
            jax.tree.map(lambda leaf: leaf * 1.1, p), x
        ),
    }


# No kernels that lazyjax places: outputs and their like, and matrices, which are whole.
OUTPUTS = ("taylor_expand", "as_matrix")
WHOLE = ("matrix",)


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
    rows = put(x, P("data"))
    yield "data", whole, rows
    yield "model", split, put(x, P())
    yield "both", split, rows
    yield "fully_sharded", jax.tree.map(lambda leaf: put(leaf, _last(leaf)), p), rows


def _last(leaf: np.ndarray) -> P:
    """The last axis that the rows' axis of the mesh divides, split over that."""
    size = jax.device_count() // 2
    axes = [i for i, length in enumerate(leaf.shape) if length % size == 0]
    return P(*[None] * axes[-1], "data") if axes else P()


def assert_alike(what: Any, found: Any, expected: Any, tolerance: float) -> None:
    """Assert that arrays are equal but for rounding, all in all."""
    for one, two in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        one, two = np.asarray(one, np.float64), np.asarray(two, np.float64)
        assert one.shape == two.shape, what
        error = np.linalg.norm(one - two) / np.linalg.norm(two)
        assert error <= tolerance, (what, error)


def assert_split_by_rows(what: Any, found: Any) -> None:
    """Assert that each device holds all columns of its rows, and nothing else."""
    for leaf in jax.tree.leaves(found):
        rows = leaf.shape[0] // (jax.device_count() // 2)
        shapes = {shard.data.shape for shard in leaf.addressable_shards}
        assert shapes == {(rows, *leaf.shape[1:])}, (what, leaf.sharding)
        assert leaf.sharding.spec[0] == "data", (what, leaf.sharding)


def check(
    name: str,
    kinds: tuple[AxisType, ...],
    only: tuple[str, ...] = (),
    where: tuple[str, ...] = (),
    dtype: Any = np.float64,
) -> None:
    """Verbs of one network over a mesh, from outside and inside of `jax.jit`."""
    # In float64, in which no verb is far from its own rounding.
    with jax.enable_x64(dtype == np.float64):
        mesh = mesh_of(*kinds)
        for place in placements(name, mesh, dtype):
            if not where or place[0] in where:
                _check(name, mesh, only, dtype, *place)


def _check(
    name: str,
    mesh: jax.sharding.Mesh,
    only: tuple[str, ...],
    dtype: Any,
    where: str,
    params: Any,
    batch: Any,
) -> None:
    network, p, _, x = PROBLEMS[name]
    p, x = cast((p, x), dtype)
    for verb, call in verbs(network).items():
        if only and verb not in only:
            continue
        found = {"eager": call(params, batch)}
        # `jax.set_mesh` and `in_shardings`; automatic axes are no part of types, so that
        # there `out_shardings` says how results are split.
        at = jax.tree.map(lambda leaf: leaf.sharding, (params, batch))
        is_split = where != "model" and verb not in WHOLE
        is_typed = mesh.axis_types[0] == AxisType.Explicit
        rows = NamedSharding(mesh, P("data"))
        out: Any = {"out_shardings": rows} if is_split and not is_typed else {}
        with jax.set_mesh(mesh):
            found["jit"] = jax.jit(call, in_shardings=at, **out)(params, batch)
            if where == "both":
                found["mesh"] = call(params, batch)
        expected = call(p, x)
        for mode, kernels in found.items():
            what = name, mesh.axis_types, verb, where, mode
            assert_alike(what, kernels, expected, TOLERANCE[dtype])
            # The compiler splits other axes of what is no kernel as it likes.
            if is_split and (verb not in OUTPUTS or is_typed):
                assert_split_by_rows(what, kernels)


@contextmanager
def compilations() -> Iterator[list[str]]:
    """What is compiled, by name."""
    found: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())
    handler.addFilter(lambda record: record.getMessage().startswith("Compiling"))
    logger = logging.getLogger("jax")
    logger.addHandler(handler)
    try:
        with jax.log_compiles():
            yield found
    finally:
        logger.removeHandler(handler)


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
    """No device holds a whole kernel, nor more than `memory` says."""
    rng = np.random.default_rng(1)
    draw = lambda *shape: (rng.normal(size=shape) / shape[0] ** 0.5).astype(np.float32)
    p = {"w": draw(7, 24), "u": draw(24, 24), "v": draw(24, 5)}
    x = draw(24 * jax.device_count(), 7)
    verb = lambda p, x, **o: lazyjax.empirical_ntk(mlp, p, x, **o)
    expected = verb(p, x)
    with planned_bytes() as whole:
        verb(p, x)
    limit = int(3.5 * expected.nbytes)
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = mesh_of(kind)
        put = lambda leaf, spec, mesh=mesh: jax.device_put(
            leaf, NamedSharding(mesh, spec)
        )
        rows = put(x, P(("data", "model")))
        wholes = jax.tree.map(lambda leaf, put=put: put(leaf, P()), p)
        split = {"w": P(None, "model"), "u": P("model"), "v": P()}
        with planned_bytes() as planned:
            for params in (wholes, jax.tree.map(put, p, split)):
                kernel = verb(params, rows)
                assert_alike(kind, kernel, expected, 1e-6)
                shapes = {shard.data.shape for shard in kernel.addressable_shards}
                assert shapes == {(24, *kernel.shape[1:])}
                assert_alike(kind, verb(params, rows, memory=limit), expected, 1e-6)
        of_wholes, within, of_split, split_within = planned
        assert of_wholes < 1.5 * whole[0] / jax.device_count(), (whole, planned)
        assert of_wholes < expected.nbytes or jax.device_count() < 8, planned
        assert of_split < 0.6 * whole[0], (whole, planned)
        assert max(within, split_within) <= limit < whole[0], (whole, planned, limit)


def check_compilations() -> None:
    """Calls that are alike compile once; what is on one device is not spread."""
    network, p, _, x = PROBLEMS["mlp"]
    p, x = cast((p, x), np.float32)
    lone = jax.sharding.Mesh(
        np.array(jax.devices()[:1]), ("data",), axis_types=(AxisType.Explicit,)
    )
    kernel = lazyjax.empirical_ntk(
        network, p, jax.device_put(x, NamedSharding(lone, P("data")))
    )
    assert kernel.sharding.spec[0] == "data"
    assert (np.asarray(kernel) == lazyjax.empirical_ntk(network, p, x)).all()  # bits
    for kind in (AxisType.Auto, AxisType.Explicit):
        for where, params, batch in placements("mlp", mesh_of(kind)):
            call = lambda p, x: (
                lazyjax.empirical_ntk(network, p, x),
                lazyjax.ntk_operator(network, p, x) @ np.ones(16, np.float32),
                lazyjax.ntk_blocks({"f": (network, x), "g": (network, x)}, p).kernels,
            )
            with jax.set_mesh(mesh_of(kind)):
                with compilations() as first:
                    call(params, batch)
                with compilations() as again:
                    call(params, batch)
            assert first, "nothing is seen"
            assert not again, (kind, where, again)


def refusal(call: Callable[[], Any]) -> str:
    """What the error of a call says; nothing if there is none."""
    try:
        call()
    except ValueError as error:
        return str(error)
    return ""


def check_refused() -> None:
    """What cannot be, is told: networks that hold or name explicit axes, and other verbs."""
    network, *_ = PROBLEMS["mlp"]
    mesh = mesh_of(AxisType.Explicit)
    by_name = {where: arrays for where, *arrays in placements("mlp", mesh)}
    params, batch = by_name["both"]

    def holds(p, x):
        return network({**p, "w": params["w"]}, x)

    def names(p, x):
        return jnp.einsum("nd,dk->nk", x, p["w"], out_sharding=P("data", "model"))

    for bad, context in ((holds, nullcontext()), (names, jax.set_mesh(mesh))):
        with context:
            said = refusal(lambda bad=bad: lazyjax.empirical_ntk(bad, params, batch))
        assert "`apply_fn` must neither hold arrays" in said, said
        assert "AxisType.Auto" in said, said
    mixed = lambda p, x: network(p, x - jnp.mean(x, axis=0, keepdims=True))
    said = refusal(lambda: lazyjax.empirical_ntk(mixed, params, batch))
    assert "must treat the rows of `x` independently" in said, said
    other = jax.make_mesh((jax.device_count(),), ("rows",), axis_types=(AxisType.Auto,))
    moved = jax.device_put(batch, NamedSharding(other, P("rows")))
    said = refusal(lambda: lazyjax.empirical_ntk(network, params, moved))
    assert (
        f"on one mesh where its axes are explicit; they are on {dict(mesh.shape)}"
        in (said)
    ), said
    train = lambda: lazyjax.train(
        network, params, batch, jnp.zeros((8, 2)), optimizer=optax.sgd(0.1), num_steps=1
    )
    gram = lambda: lazyjax.gram((network, params), batch, path="nowhere")
    for refused in (
        lambda: ntk_plan(network, params, batch),
        train,
        gram,
    ):
        said = refusal(refused)
        assert "must not be split over explicit mesh axes; it is over" in said, said


def check_gram() -> None:
    """Tiles on disk are those of batches and parameters that are split."""
    network, p, _, x = PROBLEMS["mlp"]
    p, x = cast((p, x), np.float32)
    expected = lazyjax.empirical_ntk(network, p, x, outputs="trace")
    for where, params, batch in placements("mlp", mesh_of(AxisType.Auto)):
        with tempfile.TemporaryDirectory() as folder:
            store = lazyjax.gram(
                (network, params), batch, path=folder, outputs="trace", tile=4
            )
            assert_alike(where, store[:, :], expected, 1e-6)


def check_quick() -> None:
    """What is most likely to break."""
    explicit = (AxisType.Explicit,)
    check("mlp", explicit, ("empirical_ntk",), ("both",), np.float32)


def check_single() -> None:
    """All networks and kinds of axes, in float32."""
    for name in PROBLEMS:
        for kind in (AxisType.Auto, AxisType.Explicit):
            check(name, (kind,), ("empirical_ntk",), dtype=np.float32)


CHECKS: dict[str, Callable[[], None]] = {
    "quick": check_quick,
    "refused": check_refused,
    "single": check_single,
    "memory": check_memory,
    "compilations": check_compilations,
    "gram": check_gram,
    **{
        f"{name}_{kind.name}".lower(): lambda name=name, kind=kind: check(name, (kind,))
        for name in PROBLEMS
        for kind in (AxisType.Auto, AxisType.Explicit)
    },
    "mixed": lambda: check("mlp", (AxisType.Explicit, AxisType.Auto)),
}

if __name__ == "__main__":
    CHECKS[sys.argv[1]]()
