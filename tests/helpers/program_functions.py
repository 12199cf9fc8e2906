"""A function for each rule of bounds of derivatives, and what is sampled of it."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from lazyjax.certify.bounds.program.start import ProgramStart, program_start
from tests.helpers.program_problems import _norm

RADIUS = 0.05


def _conv(p, x, strides=(1, 1), dilation=(1, 1), groups=1):
    image = x.reshape(x.shape[0], 2, 2, 1) * p["scale"].reshape(1, 1, 1, -1)
    return jax.lax.conv_general_dilated(
        image,
        p["filters"],
        strides,
        "SAME",
        rhs_dilation=dilation,
        feature_group_count=groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    ).reshape(x.shape[0], -1)


def _pooled(p, x):
    z = (x * jnp.square(p["u"])[None]).reshape(x.shape[0], 4)
    zero = np.zeros((), z.dtype)
    return jax.lax.reduce_window(z, zero, jax.lax.add, (1, 2), (1, 1), "VALID")


def _max_pool(z: Any, stride: int) -> Any:
    least = np.full((), -np.inf, z.dtype)
    window, strides = (1, 2), (1, stride)
    return jax.lax.reduce_window(z, least, jax.lax.max, window, strides, "VALID")


def _row(p):
    return p["u"][None]


def _entrywise(fn):
    return lambda p, x: fn(_row(p) * x + 0.1)


# A function for each rule, of parameters u (4,), v (4,), m (4, 3), and of x (n, 4).
# Those of one number have bounds that are nearly attained.
FUNCTIONS = {
    "tanh": _entrywise(jnp.tanh),
    "logistic": _entrywise(jax.nn.sigmoid),
    "exp": _entrywise(jnp.exp),
    "expm1": _entrywise(jnp.expm1),
    "log": _entrywise(lambda z: jnp.log(2.0 + z)),
    "log1p": _entrywise(lambda z: jnp.log1p(2.5 + z)),
    "sqrt": _entrywise(lambda z: jnp.sqrt(3.0 + z)),
    "rsqrt": _entrywise(lambda z: jax.lax.rsqrt(3.0 + z)),
    "square": _entrywise(jnp.square),
    "integer_pow": _entrywise(lambda z: z**3),
    "negative power": _entrywise(lambda z: (3.0 + z) ** -2),
    "pow": _entrywise(lambda z: (3.0 + z) ** 1.7),
    "sin": _entrywise(jnp.sin),
    "cos": _entrywise(jnp.cos),
    "erf": _entrywise(jax.lax.erf),
    "erfc": _entrywise(jax.lax.erfc),
    "atan": _entrywise(jnp.arctan),
    "asinh": _entrywise(jnp.arcsinh),
    "softplus": _entrywise(jax.nn.softplus),
    "elu": _entrywise(jax.nn.elu),
    "silu": _entrywise(jax.nn.silu),
    "gelu": _entrywise(functools.partial(jax.nn.gelu, approximate=False)),
    "relu": _entrywise(jax.nn.relu),
    "relu6": _entrywise(lambda z: jax.nn.relu6(5 * z)),
    "abs": _entrywise(jnp.abs),
    "maximum": lambda p, x: jnp.maximum(_row(p) * x, p["v"][None] * x),
    "minimum": lambda p, x: jnp.minimum(_row(p) * x, p["v"][None] * x),
    "clip": _entrywise(
        lambda z: jax.lax.clamp(
            np.full((), -0.3, z.dtype), z, np.full((), 0.4, z.dtype)
        )
    ),
    "where": _entrywise(lambda z: jnp.where(z > 0, z * z, 2 * z)),
    "logaddexp": lambda p, x: jnp.logaddexp(_row(p) * x, p["v"][None] * x),
    "mul": lambda p, x: _row(p) * p["v"][None] * x,
    "mul by itself": lambda p, x: (_row(p) * _row(p)) * x,
    "mul broadcast": lambda p, x: (x * _row(p)) * jnp.sum(p["v"]).reshape(1, 1),
    "div": lambda p, x: _row(p) * x / (3.0 + p["v"][None]),
    "div by a sum": lambda p, x: (
        _row(p) / (9.0 + jnp.sum(p["v"][None] * x, 1)[:, None])
    ),
    "sum": lambda p, x: jnp.sum(_row(p) * x * p["v"][None], axis=1, keepdims=True),
    "cumsum": lambda p, x: jnp.cumsum(_row(p) * x * p["v"][None], axis=1),
    "pooled": _pooled,
    "dot": lambda p, x: (x * jnp.square(_row(p))) @ p["m"],
    "low rank": lambda p, x: (x @ p["m"]) @ p["m"].T,
    "batched dot": lambda p, x: jnp.einsum(
        "nij,njk->nik",
        (_row(p) * x).reshape(-1, 2, 2),
        (x * p["v"][None]).reshape(-1, 2, 2),
    ).reshape(-1, 4),
    "concatenate": lambda p, x: jnp.concatenate(
        [x * jnp.square(_row(p)), x * jnp.square(p["v"][None])], 1
    ),
    "slice and pad": lambda p, x: jnp.pad(
        (x * jnp.square(_row(p)))[:, 1:3], ((0, 0), (1, 0))
    ),
    "split": lambda p, x: jnp.split(x * jnp.square(_row(p)), 2, axis=1)[1],
    "gather": lambda p, x: jnp.square(p["u"])[jnp.array([0, 0, 0, 1])][None] * x,
    "transpose": lambda p, x: (x.T * jnp.square(p["u"])[:, None]).T,
    "difference": lambda p, x: 3 - jnp.square(_row(p)) * x,
    "negative": lambda p, x: -jnp.square(_row(p)) * x,
    "reshape": lambda p, x: jnp.square(p["u"]).reshape(2, 2).reshape(1, 4) * x,
    "squeeze": lambda p, x: (
        x * jax.lax.expand_dims(jax.lax.squeeze(jnp.square(_row(p)), (0,)), (0,))
    ),
    "reversed": lambda p, x: jnp.flip(jnp.square(_row(p)), 1) * x,
    "dynamic slice": lambda p, x: (
        jax.lax.dynamic_slice(jnp.square(p["u"]), (jnp.array(1),), (3,))[None]
        * x[:, :3]
    ),
    "copy": lambda p, x: jnp.array(jnp.square(_row(p)), copy=True) * x,
    "name": lambda p, x: checkpoint_name(jnp.square(_row(p)), "a") * x,
    "cast": lambda p, x: jnp.square(_row(p)).astype(jnp.float32).astype(x.dtype) * x,
    "broadcast": lambda p, x: (
        jnp.broadcast_to(jnp.square(p["u"])[:, None], (4, 2)).reshape(1, 8)
        * jnp.concatenate([x, x], 1)
    ),
    "update slice": lambda p, x: (
        jax.lax.dynamic_update_slice(
            jnp.square(p["u"]), jnp.square(p["v"][:2]), (jnp.array(1),)
        )[None]
        * x
    ),
    "scatter": lambda p, x: (
        jnp.square(p["u"]).at[jnp.array([1])].set(jnp.square(p["v"][:1]))[None] * x
    ),
    "scatter-add": lambda p, x: (
        jnp.square(p["u"]).at[jnp.array([1, 1])].add(jnp.square(p["v"][:1]))[None] * x
    ),
    "jump up": _entrywise(lambda z: jnp.where(z > 0, 3 * z, -2 * z)),
    "jump down": _entrywise(lambda z: jnp.where(z < 0, 3 * z, -2 * z)),
    "sign": lambda p, x: jnp.sign(_row(p) * x) * _row(p),
    "finite": lambda p, x: (
        jnp.where(jnp.isfinite(1 / (_row(p) * x)), x, 0 * x) * _row(p)
    ),
    "add a number": lambda p, x: x * _row(p) + jnp.sum(p["v"] ** 2),
    "logaddexp of a number": lambda p, x: jax.vmap(
        lambda row: jnp.logaddexp(jnp.sum(p["u"] * row), p["v"] * row)
    )(x),
    "moving exponent": lambda p, x: (3.0 + _row(p) * x) ** (p["v"][None] * x),
    "exponents": _entrywise(lambda z: (3.0 + z) ** np.arange(4.0)[None] + z),
    "stack": lambda p, x: (
        jnp.stack([jnp.square(p["u"]), jnp.square(p["v"])]).reshape(1, 8)
        * jnp.concatenate([x, x], 1)
    ),
    "log-softmax": lambda p, x: jax.nn.log_softmax(3 * _row(p) * x),
    "log-softmax, rows": lambda p, x: jax.nn.log_softmax(
        (3 * _row(p) * x).reshape(-1, 2, 2), axis=1
    ).reshape(-1, 4),
    "logsumexp": lambda p, x: jax.nn.logsumexp(2 * _row(p) * x, axis=1)[:, None],
    "logsumexp, kept": lambda p, x: jax.nn.logsumexp(
        2 * _row(p) * x, axis=1, keepdims=True
    ),
    "log of sums": lambda p, x: jnp.log(jnp.sum(jnp.exp(2 * _row(p) * x), 1))[:, None],
    "log of sums, repeated": lambda p, x: jnp.log(
        jnp.broadcast_to(jnp.sum(jnp.exp(_row(p) * x), 1, keepdims=True), x.shape)
    ),
    "largest": lambda p, x: jnp.max(_row(p) * x, 1, keepdims=True),
    "smallest": lambda p, x: jnp.min(_row(p) * x, 1, keepdims=True),
    "max pool": lambda p, x: _max_pool(jnp.square(_row(p)) * x, 2),
    "max pool, overlapping": lambda p, x: _max_pool(jnp.square(_row(p)) * x, 1),
    "softmax": lambda p, x: jax.nn.softmax(3 * _row(p) * x),
    "centering": lambda p, x: (lambda z: z - jnp.mean(z, axis=1, keepdims=True))(
        _row(p) * x
    ),
    "normalization": lambda p, x: _norm(_row(p) * x, 0.01),
    "root mean square": lambda p, x: (
        lambda z: z * jax.lax.rsqrt(jnp.mean(z * z, -1, keepdims=True) + 0.01)
    )(_row(p) * x),
    "conv": _conv,
    "conv, strides": functools.partial(_conv, strides=(2, 1)),
    "conv, dilation": functools.partial(_conv, dilation=(2, 1)),
    "conv, groups": functools.partial(_conv, groups=2),
}

EXTREMES = ("largest", "smallest", "max pool", "max pool, overlapping")

# Seeds for which no unit is near its kink.
SEEDS = {"relu6": 2, "maximum": 8, "minimum": 8, "clip": 1} | dict.fromkeys(EXTREMES, 1)


def problem(name: str, *, is_even: bool = False) -> tuple[dict[str, np.ndarray], Any]:
    """Parameters and inputs: random, or alike in all entries, of which rules are tight."""
    rng = np.random.default_rng(SEEDS.get(name, 0))
    params = {
        "u": rng.uniform(0.5, 1.5, 4) * rng.choice([-1.0, 1.0], 4),
        "v": rng.uniform(-1.5, 1.5, 4),
        "m": rng.standard_normal((4, 3)),
    }
    if name.startswith("conv"):
        inputs = 1 if "groups" in name else 2
        params = {
            "scale": rng.standard_normal(2),
            "filters": rng.standard_normal((3, 2, inputs, 2)),
        }
    if name == "cast":  # of numbers whose squares are exact in float32
        params = {key: np.round(16 * value) / 16 for key, value in params.items()}
    if not is_even:
        return params, rng.uniform(-1.5, 1.5, (3, 4))
    sizes = {"u": 0.75, "v": 0.9, "m": 1.0, "scale": 1.0, "filters": 1.0}
    even = {key: np.full(value.shape, sizes[key]) for key, value in params.items()}
    if name in EXTREMES:  # of which none are alike
        even["u"] = np.array([0.7, 1.2, 1.7, 2.2])
    return even, np.ones((3, 4))


@dataclasses.dataclass(frozen=True)
class Sampled:
    """A function at points of a ball.

    Attributes:
        start: The function at the centre.
        distances: Of points from the centre.
        moves: How far outputs are from those at the centre, by points and examples.
        first: Norms of derivatives, by points, examples and leaves.
        second: Lower bounds of norms of second derivatives, and pairs of leaves.
        changes: Norms of changes of the Jacobian on all examples, by points.
        rounding: Of what is sampled.
    """

    start: ProgramStart
    distances: np.ndarray
    moves: np.ndarray
    first: np.ndarray
    second: np.ndarray
    changes: np.ndarray
    rounding: float

    def violations(self, radius: float) -> set[str]:
        """What these points break of the bounds that rules give now."""
        lipschitz = dataclasses.replace(self.start.lipschitz, _found={})
        growth = lipschitz.growth(radius)
        if growth is None:
            return {"moving"}
        up, least = 1 + self.rounding, 1e-12
        with np.errstate(invalid="ignore"):
            drift = self.distances[:, None] * np.linalg.norm(growth.first, axis=1)
            total = lipschitz(radius) * self.distances
        found = {
            "value": np.any(self.moves > drift * up + least),
            "first": np.any(self.first > growth.first * up + least),
            "second": np.any(self.second > growth.second * up + least),
            "change": np.any(self.changes > total * up + least),
        }
        return {name for name, is_broken in found.items() if is_broken}


def start_of(fn: Any, params: Any, x: Any) -> ProgramStart:
    """A function at its parameters."""
    with jax.enable_x64(True):
        k = jax.eval_shape(fn, params, x).shape[1]
    return program_start(fn, params, x, np.zeros((len(x), k)), "proof")


@functools.cache
def _derivatives(name: str) -> Any:
    """Values and two derivatives by leaves that move, at many points at once."""
    fn = FUNCTIONS[name]

    def of_one(trained: Any, frozen: Any, row: Any) -> Any:
        def run(p: Any) -> Any:
            return fn({**p, **frozen}, row[None])[0]

        return run(trained), jax.jacfwd(run)(trained), jax.hessian(run)(trained)

    return jax.jit(jax.vmap(jax.vmap(of_one, (None, None, 0)), (0, None, None)))


@functools.cache
def sampled(name: str, *, is_even: bool = False, radius: float = RADIUS) -> Sampled:
    """A function at random points of a ball, and at its ends along axes."""
    params, x = problem(name, is_even=is_even)
    fn, rng = FUNCTIONS[name], np.random.default_rng(1)
    start = start_of(fn, params, x)
    with jax.enable_x64(True):
        names = [sorted(params)[number] for number in start.program.trained]
        sizes = [params[key].size for key in names]
        random = rng.standard_normal((11, sum(sizes)))
        random *= np.linspace(0.1, 1, 11)[:, None] / np.linalg.norm(
            random, axis=1, keepdims=True
        )
        moves = [0 * random[:1], random, np.eye(sum(sizes)), -np.eye(sum(sizes))]
        flat = radius * np.concatenate(moves)
        pieces = np.split(flat, np.cumsum(sizes)[:-1], axis=1)
        points = {
            key: params[key] + piece.reshape(-1, *params[key].shape)
            for key, piece in zip(names, pieces, strict=True)
        }
        frozen = {key: value for key, value in params.items() if key not in names}
        value, first, second = _derivatives(name)(points, frozen, x)
    value = np.asarray(value)
    shape = value.shape
    by_leaf = [np.asarray(first[key]).reshape(*shape, -1) for key in names]
    whole = np.concatenate(by_leaf, axis=3)
    whole = whole.reshape(len(whole), -1, whole.shape[3])
    pairs = [
        [
            np.asarray(second[a][b]).reshape(*shape, m, n)
            for b, n in zip(names, sizes, strict=True)
        ]
        for a, m in zip(names, sizes, strict=True)
    ]
    return Sampled(
        start=start,
        distances=np.linalg.norm(flat, axis=1),
        moves=np.linalg.norm(value - value[0], axis=2),
        first=np.stack([np.linalg.norm(part, 2, (2, 3)) for part in by_leaf], 2),
        second=np.stack(
            [np.stack([_bilinear_norms(h) for h in row], 2) for row in pairs], 2
        ),
        changes=np.linalg.norm(whole - whole[0], 2, (1, 2)),
        rounding=1e-6 if name == "cast" else 1e-9,
    )


def _bilinear_norms(h: np.ndarray) -> np.ndarray:
    """Lower bounds of norms of bilinear maps `(..., k, p, q)`, by alternation."""
    best = np.max(np.linalg.norm(h, axis=-3), axis=(-1, -2))
    for first in (np.eye(h.shape[-2])[0], np.ones(h.shape[-2])):
        u = np.broadcast_to(first, (*h.shape[:-3], h.shape[-2]))
        for _ in range(4):
            image = np.einsum("...kab,...a->...kb", h, u)
            v = np.linalg.svd(image)[2][..., 0, :]
            image = np.einsum("...kab,...b->...ka", h, v)
            _, size, rows = np.linalg.svd(image)
            best, u = np.maximum(best, size[..., 0] / 1.0), rows[..., 0, :]
    return best
