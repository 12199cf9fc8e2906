"""Kernels of convolutional and residual networks against loops over pixels."""

import itertools
import math
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lazyjax
from lazyjax import Architecture, infinite_nngp, infinite_ntk
from lazyjax.infinite import budget
from lazyjax.typing import Kind
from tests.helpers.compare import assert_close, relative_error
from tests.test_dual import REFERENCE, reference_moment
from tests.test_width_limit import assert_mean_is, samples

pytestmark = pytest.mark.once


def images(n: int, *shape: int, seed: int = 0, dtype: Any = jnp.float64) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, *shape)), dtype)


def moments(name: str, q11: float, q12: float, q22: float) -> tuple[float, float]:
    """Moments of an activation and of its derivative, that of ReLU in closed form."""
    if name == "relu":
        product = math.sqrt(q11 * q22)
        angle = math.acos(max(-1.0, min(1.0, q12 / product)))
        value = math.sin(angle) + (math.pi - angle) * math.cos(angle)
        return product * value / (2 * math.pi), (math.pi - angle) / (2 * math.pi)
    phi, slope = REFERENCE[name]
    return reference_moment(phi, q11, q12, q22), reference_moment(slope, q11, q12, q22)


class Oracle:
    """Kernels over all pairs of pixels of two images of one spatial axis or two.

    Dictionaries from (image, pixel, image', pixel') to numbers, and one loop over taps:
    nothing is shared, skipped or batched, unlike in the library.
    """

    def __init__(self, spec: Architecture, x: np.ndarray, width: float) -> None:
        self.spec, self.width = spec, width
        self.space = x.shape[1:-1]
        channels = 1 if spec.input_scaling == "none" else x.shape[-1]
        pixels = list(itertools.product(range(2), self._pixels(self.space)))
        self.nngp = {
            (p, q): float(x[p[0]][p[1]] @ x[q[0]][q[1]]) / channels
            for p in pixels
            for q in pixels
        }
        self.ntk = dict.fromkeys(self.nngp, 0.0)
        self.mean = dict.fromkeys(pixels, 0.0)
        for layer in range(1, spec.depth + 1):
            self._convolve(layer, channels if layer == 1 else width)
            self._activate(layer)
            if layer in spec.pool_after:
                self._pool()

    @staticmethod
    def _pixels(space: tuple[int, ...]) -> list[tuple[int, ...]]:
        return list(itertools.product(*map(range, space)))

    def _weigh(self, layer: int, sources: dict, fan: float, divisor: float) -> None:
        """Weights that sum units over pairs of sources, and biases."""
        spec, was = self.spec, self.before
        w_sq, b_sq = spec.w_std**2, spec.b_std**2
        own_w, own_b = w_sq / divisor, b_sq
        if spec.parameterization == "standard":
            own_w, own_b = fan, float(b_sq > 0)
        if not spec.is_trained(layer):
            own_w = own_b = 0.0
        self.nngp, self.ntk = {}, {}
        for key, pairs in sources.items():
            total = sum(was[0][pair] for pair in pairs)
            self.nngp[key] = w_sq / divisor * total + b_sq
            from_below = sum(was[1][pair] for pair in pairs)
            self.ntk[key] = w_sq / divisor * from_below + own_w * total + own_b

    def _convolve(self, layer: int, channels: float) -> None:
        spec = self.spec
        self.before = self.nngp, self.ntk
        stride, shape = spec.stride(layer), spec.filter_shape
        starts, space = [], []
        for size, extent in zip(self.space, shape, strict=True):
            out = -(-size // stride)
            low = max((out - 1) * stride + extent - size, 0) // 2
            if spec.padding == "VALID":
                out, low = (size - extent) // stride + 1, 0
            starts.append([stride * i - low for i in range(out)])
            space.append(out)

        def source(pixel: tuple, tap: tuple) -> tuple | None:
            at = []
            for axis, (i, t) in enumerate(zip(pixel, tap, strict=True)):
                where = starts[axis][i] + t
                if spec.padding == "CIRCULAR":
                    where %= self.space[axis]
                if not 0 <= where < self.space[axis]:
                    return None
                at.append(where)
            return tuple(at)

        taps = list(itertools.product(*map(range, shape)))
        outputs = list(itertools.product(range(2), self._pixels(tuple(space))))
        sources = {}
        for (i, p), (j, q) in itertools.product(outputs, outputs):
            found = [(source(p, tap), source(q, tap)) for tap in taps]
            sources[(i, p), (j, q)] = [
                ((i, a), (j, b)) for a, b in found if a is not None and b is not None
            ]
        divisor = len(taps) if spec.pixel_scaling == "fan_in" else 1
        self._weigh(layer, sources, channels, divisor)
        self.space = tuple(space)

    def _activate(self, layer: int) -> None:
        spec = self.spec
        phi = REFERENCE[str(spec.activation)][0]
        was, means = self.before, self.mean
        is_residual = spec.kind == "conv_resnet" and layer > 1
        factor = spec.residual_scale / spec.depth if is_residual else 1.0
        if not is_residual and spec.activation_scale == "unit":
            factor = reference_moment(phi, 1, 1, 1) ** -0.5
        nodes, weights = np.polynomial.legendre.leggauss(100)
        nodes = np.concatenate([5 * (nodes + 1), -5 * (nodes + 1)])  # a kink at 0
        weights = np.tile(5 * weights, 2) * np.exp(-(nodes**2) / 2)
        weights = weights / math.sqrt(2 * math.pi)
        z = self.nngp
        own = {p: z[p, p] for p, q in z if p == q}
        branch = {p: factor * weights @ phi(nodes * v**0.5) for p, v in own.items()}
        nngp, found = {}, {}
        for (p, q), cov in z.items():
            if (q, p) in found:
                found[p, q] = found[q, p]
            else:
                found[p, q] = moments(str(spec.activation), own[p], cov, own[q])
            nngp[p, q] = factor**2 * found[p, q][0]
            self.ntk[p, q] *= factor**2 * found[p, q][1]
            if is_residual:
                nngp[p, q] += was[0][p, q]
                nngp[p, q] += means[p] * branch[q] + branch[p] * means[q]
                self.ntk[p, q] += was[1][p, q]
        self.nngp = nngp
        self.mean = branch
        if is_residual:
            self.mean = {p: means[p] + branch[p] for p in branch}

    def _pool(self) -> None:
        self.space = tuple(size // 2 for size in self.space)
        window = list(itertools.product(*[(0, 1)] * len(self.space)))
        outputs = list(itertools.product(range(2), self._pixels(self.space)))

        def inside(p: tuple) -> list:
            i, at = p
            return [
                (i, tuple(2 * a + b for a, b in zip(at, offset, strict=True)))
                for offset in window
            ]

        for name in ("nngp", "ntk"):
            was = getattr(self, name)
            pooled = {
                (p, q): sum(was[a, b] for a in inside(p) for b in inside(q))
                / len(window) ** 2
                for p in outputs
                for q in outputs
            }
            setattr(self, name, pooled)

    def output(self) -> tuple[float, float]:
        """NNGP and NTK between the two images."""
        pixels = self._pixels(self.space)
        self.before = self.nngp, self.ntk
        divisor, pairs = 1.0, [((0, p), (1, p)) for p in pixels]
        if self.spec.head == "average":
            pairs = [((0, p), (1, q)) for p in pixels for q in pixels]
            divisor = float(len(pairs))
            # The mean over pixels is what weights read: one unit a channel.
            self.before = tuple(
                {key: value / divisor for key, value in d.items()} for d in self.before
            )
            divisor = 1.0
        elif self.spec.pixel_scaling == "fan_in":
            divisor = float(len(pixels))
        out: Any = "out"
        self._weigh(self.spec.num_layers, {out: pairs}, self.width, divisor)
        return self.nngp[out], self.ntk[out]


CASES: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "flatten": ((3, 4, 2), {"b_std": 0.3, "w_std": 1.3}),
    "average": ((3, 3, 2), {"head": "average", "b_std": 0.3, "filter_shape": (3, 2)}),
    "average_standard": (
        (4, 2),
        {
            "head": "average",
            "filter_shape": (3,),
            "parameterization": "standard",
            "b_std": 0.2,
            "padding": "CIRCULAR",
        },
    ),
    "flatten_standard": (
        (4, 3),
        {"filter_shape": (2,), "parameterization": "standard", "w_std": 1.2},
    ),
    "strides_valid": (
        (7, 2),
        {"filter_shape": (3,), "strides": (2, 1), "padding": "VALID"},
    ),
    "strides_same": (
        (6, 2),
        {"filter_shape": (3,), "strides": (2, 1), "head": "average"},
    ),
    "strides_circular": (
        (6, 2),
        {"filter_shape": (3,), "strides": (1, 2), "padding": "CIRCULAR"},
    ),
    "pool_then_flatten": (
        (3, 2),
        {"filter_shape": (2,), "pool_after": (1,), "activation": "erf"},
    ),
    "two_pools_then_average": (
        (6, 1),
        {
            "filter_shape": (3,),
            "pool_after": (1, 2),
            "head": "average",
            "trained": (1, 3),
        },
    ),
    "first": ((3, 2), {"filter_shape": (3,), "trained": "first", "activation": "tanh"}),
    "last": ((4, 2), {"filter_shape": (3,), "trained": "last", "head": "average"}),
    "unscaled": (
        (4, 2),
        {"filter_shape": (3,), "input_scaling": "none", "pixel_scaling": "none"},
    ),
    "residual": (
        (4, 2),
        {"kind": "conv_resnet", "filter_shape": (3,), "b_std": 0.2, "depth": 3},
    ),
    "residual_average": (
        (3, 2),
        {
            "kind": "conv_resnet",
            "filter_shape": (3,),
            "head": "average",
            "activation": "softplus",
            "activation_scale": "unit",
            "padding": "CIRCULAR",
        },
    ),
}


def described(case: str) -> tuple[tuple[int, ...], Architecture]:
    shape, options = CASES[case]
    return shape, Architecture(**{"kind": "cnn", "depth": 2, **options})


@pytest.mark.parametrize("case", CASES)
@pytest.mark.sampled(3)
def test_kernels_agree_with_loops_over_pixels(case: str, x64: None) -> None:
    shape, spec = described(case)
    x = images(2, *shape)
    width = 64 if spec.parameterization == "standard" else None
    nngp, ntk = Oracle(spec, np.asarray(x), width or math.nan).output()
    # Two quadratures, each good to about 1e-12 per layer.
    assert_close(infinite_nngp(spec, x)[0, 1], nngp, 1e-9)
    assert_close(infinite_ntk(spec, x, width=width)[0, 1], ntk, 1e-9)
    apart = infinite_ntk(spec, x[:1], x[1:], width=width)
    assert_close(apart[0, 0], ntk, 1e-9)


def test_comparison_notices_another_padding(x64: None) -> None:
    shape, spec = described("strides_same")
    x = images(2, *shape)
    _, ntk = Oracle(spec, np.asarray(x), math.nan).output()
    other = lazyjax.Architecture(
        kind="cnn", depth=2, filter_shape=(3,), strides=(2, 1), head="average",
        padding="CIRCULAR",
    )  # fmt: skip
    assert relative_error(infinite_ntk(other, x)[0, 1], ntk) > 1e-3


def rho_pair(rho: float) -> jax.Array:
    return jnp.asarray([[1.0, 0.0], [rho, math.sqrt(1 - rho**2)]])


def test_residual_kernel_of_du_et_al_2019b_has_its_known_values(x64: None) -> None:
    x = rho_pair(0.5)
    options: dict[str, Any] = {
        "kind": "resnet", "activation": "softplus", "activation_scale": "unit",
        "input_scaling": "none", "residual_scale": 0.5,
    }  # fmt: skip
    h3 = Architecture(depth=3, trained="last_hidden", **options)
    assert abs(infinite_ntk(h3, x)[0, 1] - 0.008965) < 1e-6
    # K^2 of the network with H = 3: two hidden layers whose branch has c/3, not c/2.
    h2 = Architecture(depth=2, **{**options, "residual_scale": 0.5 * 2 / 3})
    k2 = infinite_nngp(h2, x)
    assert abs(k2[0, 0] - 1.251235) < 1e-6
    assert abs(k2[0, 1] - 1.096765) < 1e-6


@pytest.mark.parametrize(
    ("activation", "diagonal", "off_diagonal"),
    [
        ("softplus", 0.318459, (0.147316, 0.263392, 0.300871)),
        ("tanh", 1.177807, (0.487893, 0.458655, 0.430638)),
    ],
)
def test_last_hidden_kernel_of_du_et_al_2019b_has_its_known_values(
    activation: str, diagonal: float, off_diagonal: tuple[float, ...], x64: None
) -> None:
    for depth, expected in enumerate(off_diagonal, start=1):
        spec = Architecture(
            depth=depth,
            activation=activation,
            activation_scale="unit",
            input_scaling="none",
            trained="last_hidden",
        )
        ntk = infinite_ntk(spec, rho_pair(0.5))
        assert abs(ntk[0, 1] - expected) < 1e-6
        assert abs(ntk[0, 0] - diagonal) < 1e-6


def test_one_pixel_makes_convolutions_fully_connected(x64: None) -> None:
    x = images(4, 1, 1, 3)
    for kind, conv_kind in (("mlp", "cnn"), ("resnet", "conv_resnet")):
        plain = Architecture(kind=kind, depth=3, b_std=0.2)  # pyright: ignore[reportArgumentType]
        for head in ("flatten", "average"):
            conv = Architecture(
                kind=conv_kind,  # pyright: ignore[reportArgumentType]
                depth=3,
                b_std=0.2,
                filter_shape=(1, 1),
                head=head,
            )
            assert_close(infinite_ntk(conv, x), infinite_ntk(plain, x))


@pytest.mark.parametrize("kind", sorted({*get_args(Kind)} - {"block_resnet", "vit"}))
def test_kernels_of_single_layers_add_up_for_every_kind(kind: Any, x64: None) -> None:
    x = images(2, 4, 2)
    fields: dict[str, Any] = {"kind": kind, "depth": 2, "b_std": 0.2}
    if kind in ("cnn", "conv_resnet"):
        fields["filter_shape"] = (3,)

    @jax.jit
    def kernels_of(x: jax.Array) -> list[jax.Array]:
        choices = ["all", (1,), (2,), (3,)]
        return [infinite_ntk(Architecture(trained=t, **fields), x) for t in choices]

    whole, *parts = kernels_of(x)
    assert_close(sum(parts), whole)
    assert all(relative_error(part, whole) > 0.01 for part in parts)


def test_normalized_kernels_see_angles_only_and_are_those_of_unit_inputs(
    x64: None,
) -> None:
    x = images(3, 5)
    unit = x / jnp.linalg.norm(x, axis=1, keepdims=True)
    fields: dict[str, Any] = {"w_std": math.sqrt(2), "input_scaling": "none"}
    normalized = Architecture(normalization="layer", **fields)
    # With ReLU and one hidden layer, scale passes through: the plain kernel of inputs
    # whose pre-activations have variance 1.
    plain = Architecture(**fields)
    expected = infinite_nngp(plain, unit / math.sqrt(2))
    assert_close(infinite_nngp(normalized, 1e3 * unit), expected, 1e-9)
    # At variance 2e6, and 1e-6 added to it, the last digits differ by 1e-12.
    assert_close(
        infinite_ntk(normalized, 1e3 * x), infinite_ntk(normalized, 1e4 * x), 1e-9
    )


@pytest.mark.parametrize("fields", [{}, {"parameterization": "mup"}])
def test_kernels_grow_with_the_square_of_the_output_scale(fields: dict) -> None:
    x = images(3, 5, dtype=jnp.float32)
    plain, scaled = (
        Architecture(depth=2, b_std=0.3, output_scale=scale, **fields)
        for scale in (1.0, 3.0)
    )
    for kernel_fn in (infinite_ntk, infinite_nngp):
        assert_close(kernel_fn(scaled, x), 9 * kernel_fn(plain, x))


FINITE: dict[str, dict[str, Any]] = {
    "cnn_flatten": {"b_std": 0.3, "strides": (2, 1), "activation": "erf"},
    "cnn_average_pooled": {
        "head": "average",
        "pool_after": (1,),
        "padding": "CIRCULAR",
    },
    "cnn_standard": {
        "parameterization": "standard",
        "trained": (1, 3),
        "padding": "VALID",
    },
    "cnn_mup": {"parameterization": "mup", "input_scaling": "none"},
    "cnn_scaled": {"output_scale": 3.0, "b_std": 0.2},
    "conv_resnet": {
        "pixel_scaling": "none",
        "activation_scale": "unit",
        "activation": "softplus",
    },
    "cnn_normalized": {
        "normalization": "layer",
        "b_std": 0.2,
        "head": "average",
        "pool_after": (1,),
    },
    "mlp_normalized": {"normalization": "layer", "b_std": 0.3, "w_std": 1.5},
    "resnet_normalized": {"normalization": "layer", "residual_scale": 1.0},
    "resnet": {"residual_scale": 1.0, "b_std": 0.2, "trained": "last_hidden"},
    "resnet_all": {"residual_scale": 1.0, "activation": "softplus", "w_std": 1.2},
}


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=[pytest.mark.slow] * (c != "conv_resnet")) for c in FINITE],
)
def test_mean_kernel_of_wide_networks_is_the_infinite_one(case: str) -> None:
    options = {"depth": 2, **FINITE[case]}
    kind = case if case == "conv_resnet" else case.split("_")[0]
    if kind in ("cnn", "conv_resnet"):
        options["filter_shape"] = (3,)
    width = 128
    net = getattr(lazyjax.nets, kind)(width=width, **options)
    x = images(2, 6, 2, dtype=jnp.float32)
    is_standard = options.get("parameterization") == "standard"
    truth = infinite_ntk(net.architecture, x, width=width if is_standard else None)
    kernels = samples(net, x, 100, lazyjax.empirical_ntk)
    assert_mean_is(kernels, np.asarray(truth, "f8"))


@pytest.mark.slow
def test_mean_product_of_outputs_is_the_gaussian_process_kernel() -> None:
    x = images(2, 4, 4, 2, dtype=jnp.float32)
    net = lazyjax.nets.conv_resnet(width=32, depth=3, head="average", w_std=1.5)
    truth = np.asarray(infinite_nngp(net.architecture, x), "f8")
    assert_mean_is(samples(net, x, 4000, lazyjax.empirical_nngp), truth)


@pytest.mark.parametrize(
    "case",
    [
        "residual",
        pytest.param("average", marks=pytest.mark.slow),
        pytest.param("pool_then_flatten", marks=pytest.mark.slow),
    ],
)
def test_blocks_do_not_change_the_kernel(
    case: str, x64: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape, spec = described(case)
    x, y = images(5, *shape), images(4, *shape, seed=1)
    whole = [f(spec, *a) for f in (infinite_ntk, infinite_nngp) for a in ((x,), (x, y))]
    monkeypatch.setattr(budget, "BLOCK_ENTRIES", budget.pairs_of_pixels(spec, shape))
    in_blocks = [
        f(spec, *a) for f in (infinite_ntk, infinite_nngp) for a in ((x,), (x, y))
    ]
    for expected, actual in zip(whole, in_blocks, strict=True):
        assert_close(actual, expected)
    assert_close(in_blocks[0], in_blocks[0].T, "exact")


@pytest.mark.parametrize("case", ["average", "flatten"])
@pytest.mark.sampled(2)
def test_gradients_are_finite_at_equal_and_empty_images(
    case: str, dtype: jnp.dtype
) -> None:
    shape, spec = described(case)
    x = images(3, *shape, dtype=dtype).at[0].set(0)
    x = x.at[2].set(x[1])
    value, gradient = jax.value_and_grad(lambda x: infinite_ntk(spec, x).sum())(x)
    assert value.dtype == dtype
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient).all()


def test_kernels_are_symmetric_positive_semidefinite_and_jit_is_eager() -> None:
    _, spec = described("average")
    x = images(20, 6, 6, 2, dtype=jnp.float32)
    gram = infinite_ntk(spec, x)
    assert_close(gram, gram.T, "exact")
    eigenvalues = np.linalg.eigvalsh(np.asarray(gram, np.float64))
    assert eigenvalues[0] >= -20 * jnp.finfo(jnp.float32).eps * eigenvalues[-1]
    assert_close(jax.jit(lambda x: infinite_ntk(spec, x))(x), gram)


def test_circular_kernel_does_not_see_a_common_shift(x64: None) -> None:
    spec = Architecture(kind="cnn", depth=2, padding="CIRCULAR")
    x = images(3, 4, 5, 2)
    shifted = jnp.roll(x, (1, 2), (1, 2))
    assert_close(infinite_ntk(spec, shifted), infinite_ntk(spec, x))
    average = Architecture(kind="cnn", depth=2, padding="CIRCULAR", head="average")
    assert_close(infinite_ntk(average, shifted, x), infinite_ntk(average, x, x), 1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "mlp", "head": "average"}, "`head` has no meaning for kind 'mlp'"),
        ({"kind": "cnn", "residual_scale": 1.0}, "`residual_scale` has no meaning"),
        ({"kind": "cnn", "depth": 0}, "`depth` must be at least 1"),
        ({"kind": "cnn", "strides": (1, 2)}, "`strides` must have one entry for each"),
        ({"kind": "cnn", "pool_after": (2,)}, "`pool_after` must hold layers from 1 to 1"),
        ({"kind": "cnn", "filter_shape": ()}, "`filter_shape` must have 1 or 2"),
        ({"kind": "conv_resnet", "padding": "VALID"}, "must keep the size"),
        ({"trained": (3,)}, "`trained` must hold layers from 1 to 2"),
    ],
)  # fmt: skip
def test_fields_that_do_not_fit_are_refused(
    options: dict[str, Any], message: str, own_errors: None
) -> None:
    with pytest.raises(ValueError, match=message):
        Architecture(**options)


def test_images_that_do_not_fit_are_refused(own_errors: None) -> None:
    spec = Architecture(kind="cnn", padding="VALID")
    with pytest.raises(ValueError, match="`x1` must have 2 spatial axes"):
        infinite_ntk(spec, jnp.ones((2, 5, 3)))
    with pytest.raises(ValueError, match="a filter of 3 pixels does not fit"):
        infinite_ntk(spec, jnp.ones((2, 5, 2, 3)))
    net = lazyjax.nets.cnn(width=4)
    params = net.init(jax.random.key(0), jnp.ones((1, 4, 4, 3)))
    with pytest.raises(ValueError, match="`x` must have 2 spatial axes and 3 channels"):
        net.apply(params, jnp.ones((1, 4, 4, 2)))
