"""Networks whose inputs or outputs are trees, or whose numbers are complex.

Each is `apply_fn(params, x)` with independent rows. Values are float32 numbers drawn from a
seed that is the network's name, and then cast, so that both precisions share one oracle.
"""

import dataclasses
import functools
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


@dataclasses.dataclass(frozen=True)
class Form:
    """One network: parameters and a batch, both drawn by functions of a generator."""

    apply_fn: Callable
    draw_params: Callable[[np.random.Generator], Any]
    draw_x: Callable[[np.random.Generator, int], Any]

    @property
    def name(self) -> str:
        """Name of the function."""
        return self.apply_fn.__name__

    def params(self, dtype: Any = np.float32) -> Any:
        """Parameters, always the same numbers."""
        generator = np.random.default_rng(zlib.crc32(self.name.encode()))
        return _cast(self.draw_params(generator), dtype)

    def x(self, n: int, seed: int, dtype: Any = np.float32) -> Any:
        """A batch of `n` examples."""
        generator = np.random.default_rng([seed, zlib.crc32(self.name.encode())])
        return _cast(self.draw_x(generator, n), dtype)


FORMS: dict[str, Form] = {}


def register(
    params: Any, x: Callable | tuple[int, ...]
) -> Callable[[Callable], Callable]:
    """Decorator that enters an `apply_fn`, of parameters by shape, under its name.

    Shapes are tuples, those of complex parameters lists; `x` is a shape of floats, or
    draws a batch.
    """

    def draw_params(generator: np.random.Generator) -> Any:
        def draw(shape: tuple | list) -> np.ndarray:
            values = 0.5 * generator.normal(size=shape)
            if isinstance(shape, list):
                return values + 0.5j * generator.normal(size=shape)
            return values

        is_shape = lambda node: isinstance(node, tuple | list)
        return jax.tree.map(draw, params, is_leaf=is_shape)

    def draw_x(generator: np.random.Generator, n: int) -> Any:
        if isinstance(x, tuple):
            return generator.normal(size=(n, *x))
        return x(generator, n)

    def enter(apply_fn: Callable) -> Callable:
        assert apply_fn.__name__ not in FORMS
        FORMS[apply_fn.__name__] = Form(apply_fn, draw_params, draw_x)
        return apply_fn

    return enter


def _cast(tree: Any, dtype: Any) -> Any:
    def cast(leaf: np.ndarray) -> jax.Array:
        if leaf.dtype.kind == "c":
            wide = {"float32": "complex64", "float64": "complex128"}
            return jnp.asarray(leaf.astype(np.complex64), wide[np.dtype(dtype).name])
        if leaf.dtype.kind == "f":
            return jnp.asarray(leaf.astype(np.float32), dtype)
        return jnp.asarray(leaf.astype(np.int32) if leaf.dtype.kind in "iu" else leaf)

    return jax.tree.map(cast, tree)


def complexed(array: jax.Array) -> jax.Array:
    """Real numbers as complex ones of the same precision."""
    return lax.complex(array, jnp.zeros_like(array))


def spins(size: int) -> Callable:
    """Draws configurations of so many spins, 1 or -1."""
    return lambda generator, n: generator.choice([-1.0, 1.0], size=(n, size))


def log_cosh(z: jax.Array) -> jax.Array:
    """Logarithm of cosh, of complex numbers too."""
    return jnp.log(jnp.cosh(z))


# Trees of inputs.


def _sentences(generator: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    lengths = generator.integers(2, 6, size=n)
    return {
        "tokens": generator.integers(0, 7, size=(n, 5)),
        "mask": np.arange(5)[None] < lengths[:, None],
    }


def _masked_attention(p: Any, h: jax.Array, mask: jax.Array) -> jax.Array:
    q, k, v = (h @ p[name] for name in "qkv")
    scores = jnp.einsum("ntd,nsd->nts", q, k) / 2.0
    scores = jnp.where(mask[:, None, :], scores, -1e9)
    return h + jax.nn.softmax(scores, axis=-1) @ v


_ATTENTION = dict.fromkeys("qkv", (4, 4))


@register({"embed": (7, 4), "at": _ATTENTION, "head": (4, 3)}, _sentences)
def transformer_of_masked_sentences(p, x):
    h = _masked_attention(p["at"], p["embed"][x["tokens"]], x["mask"])
    weights = x["mask"][..., None].astype(h.dtype)
    return (jnp.tanh(h) * weights).sum(1) / weights.sum(1) @ p["head"]


def _graphs(generator: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    return {
        "nodes": generator.normal(size=(n, 4, 3)),
        "edges": generator.integers(0, 4, size=(n, 6, 2)),
        "is_edge": generator.random((n, 6)) < 0.7,
    }


@register({"message": (3, 5), "own": (3, 5), "b": (5,), "out": (5, 2)}, _graphs)
def message_passing_on_padded_graphs(p, x):
    def of_graph(nodes, edges, is_edge):
        sent = jnp.where(is_edge[:, None], (nodes @ p["message"])[edges[:, 0]], 0)
        received = jax.ops.segment_sum(sent, edges[:, 1], num_segments=4)
        return jnp.tanh(received + nodes @ p["own"] + p["b"][None]).sum(0)

    return jax.vmap(of_graph)(x["nodes"], x["edges"], x["is_edge"]) @ p["out"]


def _image_and_number(generator: np.random.Generator, n: int) -> tuple:
    return generator.normal(size=(n, 4, 4, 2)), generator.normal(size=n)


@register({"w": (3, 3, 2, 3), "of_number": (1, 3), "head": (3, 2)}, _image_and_number)
def convolution_with_a_number(p, x):
    image, number = x
    h = lax.conv_general_dilated(
        image, p["w"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jnp.tanh(h.mean((1, 2)) + number[:, None] @ p["of_number"]) @ p["head"]


def _nested(generator: np.random.Generator, n: int) -> dict:
    pair = [generator.normal(size=(n, 3)), None, generator.integers(0, 5, size=n)]
    return {"pair": pair, "scale": generator.random(n) + 0.5}


@register({"w": (3, 4), "embed": (5, 4), "v": (4,)}, _nested)
def nested_inputs_and_one_number_out(p, x):
    dense, _, index = x["pair"]
    return x["scale"] * (jnp.tanh(dense @ p["w"] + p["embed"][index]) @ p["v"])


# Trees of outputs.


@register({"w": (3, 5), "logits": (5, 3), "field": (5, 2, 2)}, (3,))
def three_heads(p, x):
    h = jnp.tanh(x @ p["w"])
    field = jnp.einsum("nh,hab->nab", h, p["field"])
    return {"logits": h @ p["logits"], "value": h[:, 0], "field": [field]}


@register({"embed": (7, 4), "at": _ATTENTION, "head": (4, 3)}, _sentences)
def logits_of_all_positions(p, x):
    h = _masked_attention(p["at"], p["embed"][x["tokens"]], x["mask"])
    return jnp.tanh(h)[:, :2] @ p["head"]


@register({"w": (4, 5), "mean": (5, 2), "spread": (5, 2)}, (4,))
def mean_and_spread(p, x):
    h = jax.nn.gelu(x @ p["w"])
    return h @ p["mean"], jax.nn.softplus(h @ p["spread"])


# Complex numbers.


@register({"w": [4, 5], "b": [5], "a": [4]}, spins(4))
def complex_boltzmann_machine(p, x):
    x = complexed(x)
    return log_cosh(x @ p["w"] + p["b"][None]).sum(-1) + x @ p["a"]


@register({"w": (2, 4, 5), "b": (2, 5), "a": (2, 4)}, spins(4))
def boltzmann_machine_of_real_parts(p, x):
    w, b, a = (lax.complex(p[name][0], p[name][1]) for name in "wba")
    x = complexed(x)
    return log_cosh(x @ w + b[None]).sum(-1) + x @ a


@register({"w": (4, 5), "b": (5,)}, spins(4))
def real_boltzmann_machine_as_complex(p, x):
    h = complexed(x) * (1 + 0.5j) @ complexed(p["w"]) + complexed(p["b"])[None] * 0.3j
    return log_cosh(h).sum(-1)


@register(
    {"modulus": {"w": (4, 5), "v": (5,)}, "phase": {"w": (4, 3), "v": (3,)}}, spins(4)
)
def modulus_and_phase(p, x):
    parts = [jnp.tanh(x @ p[name]["w"]) @ p[name]["v"] for name in ("modulus", "phase")]
    return lax.complex(*parts)


@register({"w": [4, 5], "v": [5, 2]}, spins(4))
def not_holomorphic(p, x):
    h = complexed(x) @ p["w"]
    return (jnp.conj(jnp.tanh(h)) * complexed(jnp.abs(h))) @ p["v"]


@register({"w1": [4, 5], "gain": (5,), "w2": [5, 5], "v": [5]}, (4,))
def deep_complex_network_with_a_real_gain(p, x):
    h = jnp.tanh(complexed(x) @ p["w1"]) * complexed(p["gain"])[None]
    h = jnp.tanh(h @ p["w2"]) @ p["w2"].T  # used twice
    return h @ p["v"]


@register({"w": (4, 6), "filter": [6]}, (4,))
def amplitude_and_spectrum(p, x):
    """A real and a complex output."""
    h = jnp.tanh(x @ p["w"])
    return {"amplitude": h.sum(-1), "spectrum": jnp.fft.fft(h) * p["filter"][None]}


@register(
    {"in": [2, 3], "hidden": [3, 3], "out": [3]}, lambda g, n: g.choice([0, 1], (n, 4))
)
def recurrent_wave_function(p, x):
    def step(h, spin):
        h = jnp.tanh(p["in"][spin] + h @ p["hidden"])
        return h, h @ p["out"]

    start = jnp.zeros((x.shape[0], 3), p["in"].dtype)
    return lax.scan(step, start, x.T)[1].sum(0)


@register({"w": [3, 1, 2], "v": [2, 2]}, (6, 1))
def complex_convolution(p, x):
    h = lax.conv_general_dilated(
        complexed(x), p["w"], (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC")
    )
    return log_cosh(h).sum(1) @ p["v"]


@functools.cache
def kernel_oracle(name: str, num_rows: int = 5) -> tuple[np.ndarray, Any]:
    """Kernel `(n, n, K, K)` of all real numbers that outputs consist of; outputs of a row.

    By reverse mode, row by row, in double precision. Complex parameters are taken apart
    into two arrays here, and complex outputs, after all others of their array.
    """
    net = FORMS[name]
    with jax.enable_x64(True):
        params, x = net.params(np.float64), rows_of_both(name, num_rows)
        leaves, structure = jax.tree.flatten(params)
        parts = [
            [leaf.real, leaf.imag] if leaf.dtype.kind == "c" else [leaf]
            for leaf in leaves
        ]

        def numbers(parts, row):
            leaves = [lax.complex(p[0], p[1]) if len(p) == 2 else p[0] for p in parts]
            f = net.apply_fn(
                structure.unflatten(leaves), jax.tree.map(lambda a: a[None], row)
            )
            flat = [out.ravel() for out in jax.tree.leaves(f)]
            flat = [
                jnp.concatenate([o.real, o.imag]) if o.dtype.kind == "c" else o
                for o in flat
            ]
            return jnp.concatenate(flat)

        jacobian_fn = jax.jit(jax.jacrev(numbers))
        rows = [jax.tree.map(lambda a, i=i: a[i], x) for i in range(num_rows)]
        jacobians = []
        for row in rows:
            leaves = jax.tree.leaves(jacobian_fn(parts, row))
            jacobians.append(
                np.concatenate([np.asarray(j).reshape(len(j), -1) for j in leaves], 1)
            )
        f = jax.eval_shape(net.apply_fn, params, jax.tree.map(lambda a: a[:1], x))
    jacobian = np.stack(jacobians)
    return np.einsum("iap,jbp->ijab", jacobian, jacobian), f


def rows_of_both(name: str, num_rows: int = 5, dtype: Any = np.float64) -> Any:
    """The two batches, of three rows and the rest, as one."""
    first, second = batches(name, dtype, num_rows)
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second)


def batches(name: str, dtype: Any, num_rows: int = 5) -> tuple[Any, Any]:
    """Two batches, of three rows and of the rest."""
    return FORMS[name].x(3, 0, dtype), FORMS[name].x(num_rows - 3, 1, dtype)


def expected_form(flat: np.ndarray, f: Any, outputs: Any) -> Any:
    """What `outputs` names, entry by entry, of the kernel of real numbers of outputs `f`."""
    if outputs == "flat":
        return flat
    leaves, structure = jax.tree.flatten(f)
    # For each array, for each of its outputs, its numbers with their unit, 1 or i.
    places, start = [], 0
    for leaf in leaves:
        units = (1, 1j) if leaf.dtype.kind == "c" else (1,)
        places.append(
            [
                [
                    (start + part * leaf.size + a, unit)
                    for part, unit in enumerate(units)
                ]
                for a in range(leaf.size)
            ]
        )
        start += leaf.size * len(units)

    def entry(one: list, two: list) -> np.ndarray:
        terms = [u * np.conj(v) * flat[..., a, b] for a, u in one for b, v in two]
        total = np.sum(terms, axis=0)
        return total if len(one) + len(two) > 2 else total.real

    each = [place for of_leaf in places for place in of_leaf]
    if outputs == "trace":
        return sum(entry(one, one) for one in each)
    if outputs == "pseudo":
        return sum(entry(one, two) for one in each for two in each) / len(each)
    if isinstance(outputs, int):
        return entry(each[outputs], each[outputs])
    lead, shapes = flat.shape[:2], [leaf.shape[1:] for leaf in leaves]
    if outputs == "diagonal":
        return structure.unflatten(
            np.stack([entry(one, one) for one in own], -1).reshape(*lead, *shape)
            for own, shape in zip(places, shapes, strict=True)
        )

    def block(i: int, j: int) -> np.ndarray:
        rows = [np.stack([entry(a, b) for b in places[j]], -1) for a in places[i]]
        return np.stack(rows, -2).reshape(*lead, *shapes[i], *shapes[j])

    numbers = range(len(leaves))
    return structure.unflatten(
        structure.unflatten(block(i, j) for j in numbers) for i in numbers
    )
