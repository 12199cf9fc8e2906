"""VGG-11, ResNet-18 and vision transformers: what they compute, and how they start."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lazyjax
from lazyjax.nets import block_resnet, build, resnet18, vgg11, vit
from tests.helpers.compare import assert_close, relative_error

pytestmark = pytest.mark.once

KEY = jax.random.key(3)
PARAMETERIZATIONS = ("ntk", "standard", "mup")
IMAGES = np.random.default_rng(0).normal(size=(3, 8, 8, 1))
TARGETS = np.array([[1.0], [-1.0], [0.5]])

# Pools of VGG-11 for images of 8 pixels.
POOLS = (4, 6, 8)
small_vgg11 = partial(vgg11, pool_after=POOLS)
small_vit = partial(vit, depth=2, patch_size=2, num_heads=2)
SMALL = {
    "vgg11": small_vgg11,
    "vgg11, average": partial(small_vgg11, pooling="average"),
    "resnet18": resnet18,
    "vit": small_vit,
}


def count(params):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("network", "published", "norms"),
    [
        # Of kuangliu/pytorch-cifar: its BatchNorms have two numbers for each channel;
        # its VGG11 has biases in convolutions, its ResNet18 has not.
        (vgg11(num_outputs=10, b_std=1.0), 9_231_114, 2 * 2_752),
        (resnet18(num_outputs=10), 11_173_962, 2 * 4_800 + 10),
    ],
)
def test_numbers_of_parameters_are_those_published(network, published, norms):
    params = jax.eval_shape(network.init, KEY, jnp.zeros((1, 32, 32, 3)))
    assert count(params) == published - norms


@pytest.mark.parametrize("width", [4, 6])
def test_numbers_of_parameters_are_those_of_the_formulas(width):
    images = jnp.zeros((1, 32, 32, 2))
    vgg = jax.eval_shape(vgg11(width=width, num_outputs=3).init, KEY, images)
    assert count(vgg) == 9 * width * (2 + 250 * width) + 8 * width * 3
    net = vit(width=width, depth=3, patch_size=8, num_heads=2, b_std=1.0, num_outputs=3)
    params = jax.eval_shape(net.init, KEY, images)
    block = 12 * width**2 + 9 * width
    embedding = (2 * 64 + 1 + 16) * width
    assert count(params) == embedding + 3 * block + 3 * (width + 1)


@pytest.mark.parametrize("case", SMALL)
def test_outputs_and_parameters_have_the_dtype_of_inputs(case, dtype):
    net = SMALL[case](width=2, num_outputs=4)
    x = jax.ShapeDtypeStruct((3, 8, 8, 1), dtype)
    params = jax.eval_shape(lambda: net.init(KEY, jnp.zeros((1, 8, 8, 1), dtype)))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {dtype}
    f = jax.eval_shape(net.apply, params, x)
    assert (f.shape, f.dtype) == ((3, 4), dtype)


def numpy_convolution(h, kernel, stride=1):
    """Products over windows of "SAME" padding, one pixel of the output at a time."""
    n, height, width, _ = h.shape
    extent = len(kernel)
    sizes = [-(-size // stride) for size in (height, width)]
    pads = [
        max((out - 1) * stride + extent - size, 0)
        for out, size in zip(sizes, (height, width), strict=True)
    ]
    h = np.pad(h, [(0, 0), *((p // 2, p - p // 2) for p in pads), (0, 0)])
    z = np.zeros((n, *sizes, kernel.shape[-1]))
    for i, j in np.ndindex(*sizes):
        rows, columns = i * stride, j * stride
        window = h[:, rows : rows + extent, columns : columns + extent]
        z[:, i, j] = np.tensordot(window, kernel, 3)
    return z


def numpy_pool(h):
    windows = h.reshape(len(h), h.shape[1] // 2, 2, h.shape[2] // 2, 2, -1)
    return windows.max(axis=(2, 4))


def numpy_vgg11(weights, x):
    h = x
    for layer in range(1, 9):
        h = np.maximum(numpy_convolution(h, weights[f"layer_{layer}"]["kernel"]), 0)
        if layer in POOLS:
            h = numpy_pool(h)
    return h.reshape(len(h), -1) @ weights["layer_9"]["kernel"]


def numpy_resnet18(weights, x):
    kernel = lambda name: weights[name]["kernel"]
    h = np.maximum(numpy_convolution(x, kernel("layer_1")), 0)
    for block in range(8):
        first, second = 2 * block + 2, 2 * block + 3
        stride = 2 if block in (2, 4, 6) else 1
        z = np.maximum(numpy_convolution(h, kernel(f"layer_{first}"), stride), 0)
        z = numpy_convolution(z, kernel(f"layer_{second}"))
        if block in (2, 4, 6):
            h = numpy_convolution(h, kernel(f"shortcut_{second}"), stride)
        h = np.maximum(h + z / math.sqrt(8), 0)
    return h.mean(axis=(1, 2)) @ kernel("layer_18")


def numpy_vit(weights, x, *, depth, patch, heads):
    def normal(h):
        centered = h - h.mean(-1, keepdims=True)
        return centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-6)

    def attended(block, h):
        query, key, value = (h @ block[q]["kernel"] for q in ("query", "key", "value"))
        out, size = np.zeros_like(h), h.shape[1] // heads
        for head in range(heads):
            own = slice(head * size, (head + 1) * size)
            scores = np.exp(query[:, own] @ key[:, own].T / math.sqrt(size))
            out[:, own] = scores / scores.sum(1, keepdims=True) @ value[:, own]
        return out @ block["attended"]["kernel"]

    def gelu(u):
        return u / 2 * (1 + np.vectorize(math.erf)(u / math.sqrt(2)))

    outputs = []
    for image in x:
        tokens = []
        for i in range(0, image.shape[0], patch):
            for j in range(0, image.shape[1], patch):
                tokens.append(image[i : i + patch, j : j + patch].ravel())
        h = np.array(tokens) @ weights["layer_1"]["kernel"]
        h += weights["positions"]["kernel"]
        for layer in range(2, depth + 2):
            block = weights[f"layer_{layer}"]
            h = h + attended(block, normal(h))
            z = gelu(normal(h) @ block["hidden"]["kernel"])
            h = h + z @ block["output"]["kernel"]
        outputs.append(normal(h).mean(0) @ weights[f"layer_{depth + 2}"]["kernel"])
    return np.array(outputs)


@pytest.mark.parametrize("case", ["vgg11", "resnet18", "vit"])
@pytest.mark.sampled(2)
def test_networks_compute_their_formulas(x64, case):
    numpy_forward = {
        "vgg11": numpy_vgg11,
        "resnet18": numpy_resnet18,
        "vit": partial(numpy_vit, depth=2, patch=2, heads=2),
    }[case]
    net = SMALL[case](width=4, num_outputs=2, parameterization="standard")
    params = net.init(KEY, IMAGES)
    weights = jax.tree.map(np.asarray, params)
    assert_close(net.apply(params, IMAGES), numpy_forward(weights, IMAGES), 1e-12)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=() if case == "vgg11" else pytest.mark.slow)
        for case in SMALL
    ],
)
@pytest.mark.slow
def test_parameterizations_are_one_function_at_the_start(x64, case):
    """Keys are the same, so that the weights are, but for the root of mup's width."""
    outputs = {}
    for parameterization in PARAMETERIZATIONS:
        # One head of one feature, so that both divisions of attention are the same.
        options = {"num_heads": 4} if case == "vit" else {}
        net = SMALL[case](width=4, parameterization=parameterization, **options)
        output = jax.jit(lambda key, net=net: net.apply(net.init(key, IMAGES), IMAGES))
        outputs[parameterization] = output(KEY)
    assert_close(outputs["ntk"], outputs["standard"], 1e-12)
    assert_close(2 * outputs["mup"], outputs["standard"], 1e-12)


@pytest.mark.parametrize("network", [vgg11, resnet18])
@pytest.mark.sampled(1)
def test_start_is_that_of_he(network):
    """Every kernel has mean 0 and variance 2 / fan-in."""
    net = network(width=8, parameterization="standard")
    params = net.init(KEY, jnp.zeros((1, 32, 32, 3)))
    for name, layer in params.items():
        kernel = np.asarray(layer["kernel"], np.float64)
        fan_in = math.prod(kernel.shape[:-1])
        assert abs(kernel.mean()) <= 5 * math.sqrt(2 / fan_in / kernel.size), name
        spread = kernel.var() * fan_in / 2
        assert abs(spread - 1) <= 5 * math.sqrt(2 / kernel.size), name


@pytest.mark.parametrize("case", SMALL)
@pytest.mark.sampled(1)
def test_outputs_and_gradients_at_the_start_are_of_order_one(case):
    net = SMALL[case](width=8)
    data = lazyjax.data.digits(8, classes="parity")
    x = 8 * data.x_train.reshape(-1, 8, 8, 1)  # pixels of mean square 1

    def squares(key):
        params = net.init(key, x)
        output = lambda params: net.apply(params, x)
        gradient = jax.grad(lambda params: output(params)[0, 0])(params)
        leaves = jax.tree.map(lambda g: jnp.sum(g**2), gradient)
        return jnp.mean(output(params) ** 2), leaves

    f_sq, leaves = jax.lax.map(squares, jax.random.split(KEY, 8))
    gradients = [float(leaf.mean()) for leaf in jax.tree.leaves(leaves)]
    assert 0.03 < float(f_sq.mean()) < 30
    assert 0.1 < sum(gradients) < 100
    assert all(gradient > 0 for gradient in gradients)


@pytest.mark.parametrize("case", SMALL)
@pytest.mark.sampled(1)
def test_symmetrized_networks_start_at_zero(case):
    net = SMALL[case](width=4, symmetrized=True, num_outputs=2)
    x = jnp.asarray(IMAGES, jnp.float32)
    f = net.apply(net.init(KEY, x), x)
    assert_close(f, np.zeros((3, 2), np.float32), "exact")


@pytest.mark.parametrize(
    "case",
    [*SMALL][:1]
    + [pytest.param(case, marks=pytest.mark.slow) for case in [*SMALL][1:]],
)
def test_kernel_by_structure_is_that_of_the_jacobian(x64, case):
    net = SMALL[case](width=2, num_outputs=2, b_std=0.3)
    x = jnp.asarray(IMAGES)
    params = net.init(KEY, x)
    structured, jacobian = (
        lazyjax.empirical_ntk(net.apply, params, x, method=method)
        for method in ("structured", "jacobian")
    )
    assert_close(structured, jacobian, 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("case", SMALL)
def test_vmap_over_keys_is_a_loop(x64, case):
    net = SMALL[case](width=2)
    keys = jax.random.split(KEY, 2)
    output = jax.jit(lambda key: net.apply(net.init(key, IMAGES), IMAGES))
    together = jax.jit(jax.vmap(output))(keys)
    assert_close(together, jnp.stack([output(key) for key in keys]), 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("case", SMALL)
def test_sweeps_train_them_as_they_are_trained_alone(x64, case):
    made = SMALL[case]
    rate = 1e-3
    result = lazyjax.sweep(
        made,
        IMAGES,
        TARGETS,
        widths=[2, 4],
        num_seeds=1,
        key=KEY,
        learning_rates=[rate],
        num_steps=3,
    )
    for index, width in enumerate((2, 4)):
        net = made(width=width)
        key = jax.random.fold_in(jax.random.fold_in(KEY, width), 0)
        params = net.init(key, IMAGES)
        alone = lazyjax.train(
            net.apply, params, IMAGES, TARGETS, optimizer=optax.sgd(rate), num_steps=3
        )
        loss = np.asarray(result.loss)[index].reshape(-1)
        assert_close(loss, np.asarray(alone.loss), 1e-10)
        assert loss[-1] < loss[0]


@pytest.mark.parametrize("case", SMALL)
def test_description_builds_the_network_again(case):
    net = SMALL[case](width=4, num_outputs=3)
    assert build(net.architecture, width=4) == net


@pytest.mark.slow
@pytest.mark.parametrize("parameterization", ["ntk", "standard"])
def test_wide_vgg11_with_means_has_the_kernel_of_its_limit(x64, parameterization):
    """Widths of layers differ: each counts with its own in "standard"."""
    width, num_seeds = 12, 12
    net = SMALL["vgg11, average"](width=width, parameterization=parameterization)
    x = IMAGES[:2]
    limit = lazyjax.infinite_ntk(
        net.architecture, x, width=width if parameterization == "standard" else None
    )
    kernels = jax.lax.map(
        lambda key: lazyjax.empirical_ntk(net.apply, net.init(key, x), x)[..., 0, 0],
        jax.random.split(KEY, num_seeds),
    )
    sem = kernels.std(0) / math.sqrt(num_seeds)
    assert jnp.all(jnp.abs(kernels.mean(0) - limit) <= 5 * sem)
    assert float(jnp.max(sem / limit)) < 0.15


@pytest.mark.slow
def test_uniform_channels_would_have_another_kernel():
    net = SMALL["vgg11, average"](width=12, parameterization="standard")
    uniform = lazyjax.Architecture(
        kind="cnn",
        depth=8,
        pool_after=POOLS,
        w_std=2**0.5,
        parameterization="standard",
    )
    x = jnp.asarray(IMAGES[:1], jnp.float32)
    ntk = lazyjax.infinite_ntk(net.architecture, x, width=12)
    assert relative_error(lazyjax.infinite_ntk(uniform, x, width=12), ntk) > 0.5


@pytest.mark.parametrize("infinite", [lazyjax.infinite_ntk, lazyjax.infinite_nngp])
@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("vgg11", "maximum over pixels"),
        ("resnet18", "the activation of a sum"),
        ("vit", "attention multiplies hidden values"),
    ],
)
@pytest.mark.usefixtures("own_errors")
def test_networks_without_a_known_limit_are_refused(infinite, case, message):
    net = SMALL[case](width=4)
    with pytest.raises(ValueError, match=f"no infinite-width kernel here: .*{message}"):
        infinite(net.architecture, jnp.zeros((1, 8, 8, 1)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(vgg11, width=0), "`width` must be at least 1"),
        (partial(vgg11, **{"width": 2.5}), "`width` must be an integer; got 2.5"),
        (partial(vgg11, pooling="mean"), "`pooling` must be one of 'average', 'max'"),
        (partial(vgg11, width_factors=(1, 2)), "`width_factors` must have one entry"),
        (partial(vgg11, num_heads=2), "`num_heads` has no meaning for kind 'cnn'"),
        (
            partial(block_resnet, width=2, depth=2),
            "`depth` of a 'block_resnet' must be odd",
        ),
        (partial(resnet18, pool_after=(1,)), "`pool_after` and `padding` of a 'block"),
        (partial(resnet18, normalization="layer"), "`normalization` has no meaning"),
        (partial(vit, width=6), "`width` must be a multiple of `num_heads`, 4; got 6"),
        (partial(vit, width=8, patch_size=0), "`patch_size` must be at least 1; got 0"),
        (
            partial(vit, width=8, strides=(2,) * 4),
            "`strides` has no meaning for kind 'vit'",
        ),
        (partial(lazyjax.Architecture, width_factors=(2,)), "`width_factors` has no"),
    ],
)
@pytest.mark.usefixtures("own_errors")
def test_bad_options_are_named(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


@pytest.mark.parametrize(
    ("net", "made_of", "given", "message"),
    [
        (vgg11(width=2), (8, 8, 1), None, "`x` is too small: an axis of 1 pixel"),
        (vgg11(width=2), (31, 32, 1), None, "`x` is too small"),
        (small_vgg11(width=2), (8, 8, 1), (8, 8, 3), "`x` must have 2 spatial axes"),
        (resnet18(width=2), (8, 8, 1), (64,), "`x` must have 2 spatial axes"),
        (
            small_vit(width=4),
            (9, 8, 1),
            None,
            "multiples of `patch_size`, 2; got shape",
        ),
        (
            small_vit(width=4),
            (8, 8),
            None,
            r"`x` must be a batch of images \(n, height",
        ),
        (small_vit(width=4), (8, 8, 1), (4, 8, 1), "`x` must have 16 patches of 4"),
        (small_vit(width=4), (8, 8, 1), (8, 8, 3), "got 16 of 12"),
    ],
)
@pytest.mark.usefixtures("own_errors")
def test_bad_inputs_are_named(net, made_of, given, message):
    def run():
        params = jax.eval_shape(net.init, KEY, jnp.zeros((1, *made_of)))
        jax.eval_shape(net.apply, params, jnp.zeros((1, *(given or made_of))))

    with pytest.raises(ValueError, match=message):
        run()
