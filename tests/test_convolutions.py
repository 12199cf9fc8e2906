"""Convolutions as XLA is quick with: the same numbers, in loops too."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from lazyjax import nets
from lazyjax.dynamics import train
from lazyjax.jaxpr.convolutions import with_quick_convolutions
from lazyjax.jaxpr.equations import equations
from tests.helpers.compare import assert_close

QUICK_LABELS = {"b0f_0io->b0f", "b01f_01io->b01f", "b012f_012io->b012f"}

# Shapes of image and kernel, their layout, and further options.
CASES = {
    "images": ((2, 5, 4, 3), (3, 2, 3, 4), "NHWC HWIO NHWC", {}),
    "channels first": ((2, 3, 5, 4), (4, 3, 3, 2), "NCHW OIHW NCHW", {}),
    "gradient by a kernel": ((3, 5, 4, 2), (5, 4, 3, 6), "CHWN HWIO HWNC", {}),
    "image transposed": ((2, 5, 4, 3), (3, 2, 3, 4), "NHWC HWIO NWHC", {}),
    "strides": (
        (2, 7, 6, 3),
        (4, 3, 3, 2),
        "NHWC OIHW NCHW",
        {"window_strides": (2, 3), "rhs_dilation": (1, 2), "padding": [(2, 1), (0, 3)]},
    ),
    "spread image": (
        (2, 3, 4, 3),
        (4, 3, 3, 2),
        "NCHW OIHW NHWC",
        {"lhs_dilation": (2, 3), "padding": [(1, 2), (2, 1)]},
    ),
    "groups of channels": (
        (2, 6, 5, 4),
        (4, 3, 3, 2),
        "NCHW OIHW NCHW",
        {"feature_group_count": 2},
    ),
    "groups of the batch": (
        (6, 5, 4, 2),
        (3, 2, 2, 9),
        "NHWC HWIO NHWC",
        {"batch_group_count": 3},
    ),
    "groups of the batch, channels first": (
        (4, 2, 5, 4),
        (6, 2, 3, 2),
        "NCHW OIHW NCHW",
        {"batch_group_count": 2},
    ),
    "one axis": ((2, 3, 9), (4, 3, 4), "NCH OIH NCH", {"window_strides": (2,)}),
    "three axes": ((2, 3, 4, 3, 5), (2, 3, 2, 2, 3), "NCDHW OIDHW NCDHW", {}),
    "an empty batch": ((0, 3, 5, 4), (4, 3, 3, 2), "NCHW OIHW NCHW", {}),
}


def convolution(image_shape, layout, options):
    num_axes = len(image_shape) - 2
    return functools.partial(
        lax.conv_general_dilated,
        dimension_numbers=tuple(layout.split()),
        **({"window_strides": (1,) * num_axes, "padding": "SAME"} | options),
    )


def by_definition(image, kernel, eqn):
    """The result of a convolution in float64, entry by entry."""
    params = eqn.params
    numbers, out_shape = params["dimension_numbers"], eqn.outvars[0].aval.shape
    image, kernel = np.asarray(image, np.float64), np.asarray(kernel, np.float64)
    image = image.transpose(numbers.lhs_spec)  # batch, channels, space
    kernel = kernel.transpose(numbers.rhs_spec)  # outputs, channels, space
    result = np.zeros([out_shape[axis] for axis in numbers.out_spec])
    num_batch = image.shape[0] // params["batch_group_count"]
    for entry in np.ndindex(*result.shape):
        row, out, *at = entry
        group = out * params["batch_group_count"] // kernel.shape[0]
        row += group * num_batch
        first = out * params["feature_group_count"] // kernel.shape[0] * kernel.shape[1]
        for channel, *tap in np.ndindex(*kernel.shape[1:]):
            place = []
            for axis, (position, offset) in enumerate(zip(at, tap, strict=True)):
                index = position * params["window_strides"][axis]
                index += offset * params["rhs_dilation"][axis]
                index -= params["padding"][axis][0]
                place.append(divmod(index, params["lhs_dilation"][axis]))
            indices = [index for index, rest in place if rest == 0]
            is_inside = len(indices) == len(at) and all(
                0 <= i < size for i, size in zip(indices, image.shape[2:], strict=True)
            )
            if is_inside:
                weight = kernel[(out, channel, *tap)]
                result[entry] += image[(row, first + channel, *indices)] * weight
    return result.transpose(np.argsort(numbers.out_spec))


@pytest.mark.parametrize("case", CASES)
def test_every_form_is_as_defined(case):
    image_shape, kernel_shape, layout, options = CASES[case]
    convolve = convolution(image_shape, layout, options)
    rng = np.random.default_rng(0)
    image, kernel = (
        jnp.asarray(rng.normal(size=shape), jnp.float32)
        for shape in (image_shape, kernel_shape)
    )
    (eqn,) = jax.make_jaxpr(convolve)(image, kernel).eqns
    quick = jax.jit(with_quick_convolutions(convolve))
    found = quick(image, kernel)
    assert_close(found, by_definition(image, kernel, eqn), "same_algebra")
    assert found.dtype == image.dtype
    program = quick.lower(image, kernel).compile().as_text()
    assert labels(program) <= QUICK_LABELS
    assert "batch_group_count" not in str(program)


def labels(program):
    return set(re.findall(r"dim_labels=([^, ]*)", program))


NETWORK = nets.cnn(width=3, depth=2, num_outputs=2)
X = jnp.asarray(np.random.default_rng(1).normal(size=(4, 5, 5, 2)), jnp.float32)
PARAMS = NETWORK.init(jax.random.key(0), X)


def trained(params, x=X, steps=3):
    y = jnp.ones((x.shape[0], 2))
    run = train(NETWORK.apply, params, x, y, optimizer=optax.sgd(0.01), num_steps=steps)
    return run.loss


def by_hand(params, steps=3):
    """Losses of gradient descent, one compiled step after the other."""
    y = jnp.ones((4, 2))
    at = lambda p: jnp.sum((NETWORK.apply(p, X) - y) ** 2) / 2
    step = jax.jit(jax.value_and_grad(at))
    losses = []
    for _ in range(steps + 1):
        loss, grads = step(params)
        losses.append(loss)
        params = jax.tree.map(lambda w, g: w - 0.01 * g, params, grads)
    return jnp.stack(losses)


def test_training_takes_the_steps_of_a_loop_on_the_host():
    assert_close(trained(PARAMS), by_hand(PARAMS), "same_algebra")


def test_no_convolution_of_training_is_slow_in_its_loop():
    program = jax.jit(trained).lower(PARAMS).compile().as_text()
    assert labels(program) == {"b01f_01io->b01f"}
    # Without, XLA leaves those of the loop as they are.
    gradient = jax.grad(lambda p: jnp.sum(NETWORK.apply(p, X)))
    loop = lambda p: lax.fori_loop(0, 3, lambda _, p: gradient(p), p)
    program = jax.jit(loop).lower(PARAMS).compile().as_text()
    assert not labels(program) <= QUICK_LABELS


def test_runs_that_are_mapped_train_as_alone():
    several = [
        jax.tree.map(lambda leaf, scale=scale: scale * leaf, PARAMS)
        for scale in (1.0, 0.5, 1.5)
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *several)
    mapped = jax.jit(jax.vmap(trained))
    alone = jnp.stack([by_hand(params) for params in several])
    assert_close(mapped(stacked), alone, "same_algebra")
    assert labels(mapped.lower(stacked).compile().as_text()) <= QUICK_LABELS


def test_training_is_differentiated_by_its_start():
    last = lambda fn: lambda p: fn(p)[-1]
    found = jax.grad(last(trained))(PARAMS)
    expected = jax.grad(last(by_hand))(PARAMS)
    for leaf1, leaf2 in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        assert_close(leaf1, leaf2, "other_algorithm")


@jax.custom_vjp
def _doubled_gradient(x):
    return jnp.sum(convolve_once(x))


_doubled_gradient.defvjp(
    lambda x: (_doubled_gradient(x), x),
    lambda x, g: (2 * g * jax.grad(lambda x: jnp.sum(convolve_once(x)))(x),),
)


def convolve_once(x):
    convolve = convolution(x.shape, "NCHW OIHW NCHW", {})
    return convolve(x, jnp.ones((3, x.shape[1], 2, 2), x.dtype))


INSIDE = {
    "scan": lambda x: lax.scan(lambda c, _: (convolve_once(c), None), x, length=2)[0],
    "while": lambda x: lax.while_loop(
        lambda c: c[0] < 2, lambda c: (c[0] + 1, convolve_once(c[1])), (0, x)
    )[1],
    "cond": lambda x: lax.cond(
        jnp.sum(x) > 0, convolve_once, lambda x: 2 * convolve_once(x), x
    ),
    "checkpoint": jax.checkpoint(lambda x: convolve_once(jnp.sin(x))),
    "jit": jax.jit(convolve_once),
    "vmap": jax.vmap(lambda x: convolve_once(x[None])[0]),
    "custom_vjp": _doubled_gradient,
    "map": lambda x: lax.map(lambda row: _doubled_gradient(row[None]), x),
}


@pytest.mark.parametrize("inside", INSIDE)
def test_convolutions_are_found_wherever_they_are(inside):
    fn = INSIDE[inside]
    x = jnp.asarray(np.random.default_rng(2).normal(size=(2, 3, 4, 4)), jnp.float32)
    quick = with_quick_convolutions(fn)
    assert_close(jax.jit(quick)(x), jax.jit(fn)(x), "same_algebra")
    assert labels(jax.jit(quick).lower(x).compile().as_text()) <= QUICK_LABELS
    if inside != "while":  # has no derivatives
        gradients = [
            jax.jit(jax.grad(lambda x, f=f: jnp.sum(f(x)))) for f in (quick, fn)
        ]
        assert_close(gradients[0](x), gradients[1](x), "same_algebra")


def test_programs_without_slow_convolutions_stay_as_they_are():
    convolve = convolution((2, 4, 4, 3), "NHWC HWIO NHWC", {})
    dense = lambda x: lax.fori_loop(0, 2, lambda _, x: jnp.tanh(x @ x), x)
    quick_already = lambda x: convolve(x, jnp.ones((3, 3, 3, 2)))
    for fn, shape in ((dense, (3, 3)), (quick_already, (2, 4, 4, 3))):
        programs = [
            jax.make_jaxpr(f)(jnp.ones(shape))
            for f in (fn, with_quick_convolutions(fn))
        ]
        names = [[eqn.primitive.name for eqn in equations(jaxpr)] for jaxpr in programs]
        assert names[0] == names[1]


def test_double_precision_has_no_quick_routine(x64):
    x = jnp.ones((2, 3, 4, 4), jnp.float64)
    jaxpr = jax.make_jaxpr(with_quick_convolutions(convolve_once))(x)
    assert [eqn.primitive.name for eqn in jaxpr.eqns].count("conv_general_dilated") == 1


def test_other_arguments_are_passed_on():
    def fn(x, factor, *, name, extra=None):
        assert name == "it"
        return {"x": factor * x, "extra": extra, "none": None}

    found = with_quick_convolutions(fn)(jnp.ones(2), 3.0, name="it", extra=jnp.ones(1))
    assert found["x"].tolist() == [3.0, 3.0]
    assert found["none"] is None
    assert found["extra"].tolist() == [1.0]
