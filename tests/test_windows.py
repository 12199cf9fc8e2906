"""What a convolution reads, tap by tap: as its patches, and in kernels of all kinds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from lazyjax.ntk.contract import gradients as contract_gradients
from lazyjax.ntk.trace.rules import form_of
from tests.helpers import zoo
from tests.helpers.compare import assert_close
from tests.helpers.methods import structured_ntk

# Image and kernel of a convolution, its strides and further options.
CASES = {
    "plain": ((1, 5, 4, 2), (3, 3, 2, 4), (1, 1), {}),
    "strided": ((1, 7, 6, 2), (3, 2, 2, 4), (2, 3), {}),
    "dilated": ((1, 7, 6, 2), (2, 3, 2, 4), (1, 1), {"rhs_dilation": (3, 2)}),
    "both": ((1, 9, 8, 2), (2, 3, 2, 4), (2, 1), {"rhs_dilation": (2, 3)}),
    "of a spread image": (
        (1, 4, 3, 2),
        (3, 2, 2, 4),
        (1, 1),
        {"lhs_dilation": (2, 3), "padding": [(1, 2), (2, 1)]},
    ),
    "of two images": ((2, 4, 4, 3), (2, 2, 3, 4), (1, 1), {}),
    "one axis": ((1, 9, 2), (4, 2, 3), (2,), {"padding": [(3, 0)]}),
    "three axes": ((1, 4, 3, 5, 2), (2, 2, 3, 2, 3), (1, 2, 1), {}),
    "cropped": ((1, 6, 6, 2), (3, 3, 2, 4), (1, 1), {"padding": [(-1, 0), (2, -1)]}),
}


@pytest.mark.parametrize("case", CASES)
def test_taps_together_are_the_patches(case):
    image, kernel, strides, options = CASES[case]
    places = "DHW"[-len(strides) :]
    layout = (f"N{places}C", f"{places}IO", f"N{places}C")
    convolve = functools.partial(
        lax.conv_general_dilated,
        window_strides=strides,
        dimension_numbers=layout,
        **({"padding": "SAME"} | options),
    )
    (eqn,) = jax.make_jaxpr(convolve)(jnp.ones(image), jnp.ones(kernel)).eqns
    form = form_of(eqn, 1)
    assert form is not None
    windows = form.windows
    assert windows is not None
    x = jnp.asarray(np.random.default_rng(0).normal(size=image), jnp.float32)
    laid_out = windows.lay_out(x)
    patches = windows.patches(laid_out)
    assert windows.offsets.shape == (np.prod(kernel[:-2]), len(strides))
    for tap, offset in enumerate(windows.offsets):
        for channel in range(image[-1]):
            start = jnp.asarray([0, *offset, channel])
            read = jax.jit(windows.pixels_of_tap, static_argnums=2)(laid_out, start, 1)
            assert_close(read, patches[:, :, tap, channel : channel + 1], "exact")


SLICED = [
    "cnn_flatten",
    "cnn_uneven_and_negative_padding",
    "cnn_strided",
    "cnn_dilated",
    "cnn_input_dilated",
    "cnn_transposed",
    "cnn_channels_first",
    "cnn_kernel_flipped",
    "cnn_one_dimension_causal",
    "cnn_three_dimensions",
    "cnn_max_pool",
    "resnet_with_projection",
    "cnn_weight_standardized",
    "cnn_shared_kernel",
    "cnn_same_kernel_for_each_channel",
]


@pytest.mark.once
@pytest.mark.parametrize(
    ("name", "paired"),
    [(name, bool(number % 2)) for number, name in enumerate(SLICED)],
)
def test_kernels_formed_in_slices_are_those_of_whole_gradients(
    name, paired, monkeypatch, x64
):
    monkeypatch.setattr(contract_gradients, "_SLICE_BYTES", {"cpu": 1, "other": 1})
    monkeypatch.setattr(contract_gradients, "_SLICE_INPUTS", 1)
    monkeypatch.setattr(
        "lazyjax.ntk.contract.groups.best_order", lambda sizes, shape: "gradient"
    )
    net = zoo.ZOO[name]
    x1, x2 = zoo.batches(name, np.float64)
    verb = jax.jit(functools.partial(structured_ntk, net.apply_fn))
    kernel = verb(net.params(np.float64), x1, *([x2] if paired else []))
    assert_close(kernel, zoo.oracle(name, paired=paired), 1e-12)
