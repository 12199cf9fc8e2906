"""The lines of the table of `stax_rows`: which networks are compared."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lazyjax import Architecture
from lazyjax.activations import ABReLU, Polynomial, RectifiedPower
from tests.helpers.stax_rows import B_STD, W_STD, WIDTH, Row

MLP = Architecture(depth=1, w_std=W_STD, b_std=B_STD)


def cnn(**fields: Any) -> Architecture:
    given = {"depth": 2, "w_std": W_STD, "b_std": B_STD, "head": "average"} | fields
    return Architecture(kind="cnn", **given)


def dense(features: int = WIDTH, **given: Any) -> nn.Module:
    return nn.Dense(features, param_dtype=float, **given)


def conv(features: int = WIDTH, size: Any = (3, 3), **given: Any) -> nn.Module:
    return nn.Conv(features, size, param_dtype=float, **given)


def mean(x: jax.Array) -> jax.Array:
    return x.mean(axis=tuple(range(1, x.ndim - 1)))


def flat(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0], -1)


def of_vectors(*layers: Any) -> Any:
    return lambda: [dense(), *layers, dense(1)]


def of_images(*layers: Any) -> Any:
    return lambda: [conv(), *layers, mean, dense(1)]


def after_convolution(layer: str, option: str, **given: Any) -> Row:
    """A layer of some name, of filters, after a convolution."""
    of_flax = {"padding": "VALID", "param_dtype": float} | given
    has_flax = (layer, option) != ("ConvLocal", "CIRCULAR")  # which Flax's lacks
    return Row(
        layer,
        option,
        lambda s: s.activated(getattr(s, layer)(WIDTH, (3, 2), **given), s.Relu()),
        "images",
        (
            lambda: [
                *(conv(), nn.relu),
                getattr(nn, layer)(WIDTH, (3, 2), **of_flax),
                *(nn.relu, mean, dense(1)),
            ]
        )
        if has_flax
        else None,
    )


def convolution(option: str, inputs: str = "images", **given: Any) -> Row:
    """A convolution after another."""
    ndim = {"sequences": 1, "images": 2, "volumes": 3}[inputs]
    size, padding = (3, 2, 2)[:ndim], given.pop("padding", "SAME")
    strides = given.get("strides", (1,) * ndim)
    is_square = len(set(strides)) == 1
    spec = None
    if ndim < 3 and is_square:
        spec = cnn(filter_shape=size, padding=padding, strides=(1, strides[0]))
    given = {"padding": padding, "strides": strides}
    return Row(
        "Conv",
        option,
        lambda s: [
            *(s.Conv(WIDTH, size, padding=padding), s.Relu()),
            *(s.Conv(WIDTH, size, **given), s.Relu(), s.GlobalAvgPool(), s.Dense(1)),
        ],
        inputs,
        lambda: [
            *(conv(size=size, padding=padding), nn.relu),
            *(conv(size=size, **given), nn.relu, mean, dense(1)),
        ],
        spec,
    )


def attention(option: str, **given: Any) -> Row:
    def layers(s: Any) -> list[Any]:
        sizes = {"n_chan_out": WIDTH, "n_chan_key": 7, "n_chan_val": 4, "n_heads": 3}
        layer = s.GlobalSelfAttention(
            **sizes, W_key_std=1.2, W_query_std=0.9, W_value_std=1.1, **given
        )
        return s.activated(layer, s.Relu())

    return Row("GlobalSelfAttention", option, layers, "images")


def activation(
    layer: str,
    option: str,
    make: Any,
    phi: Any = None,
    name: Any = None,
) -> Row:
    """An activation between dense layers; `phi` in Flax, `name` in an `Architecture`."""
    return Row(
        layer,
        option,
        lambda s: s.around(make(s)),
        flax=None if phi is None else of_vectors(phi),
        architecture=None
        if name is None
        else Architecture(depth=1, w_std=W_STD, b_std=B_STD, activation=name),
    )


def branches(s: Any, *last: Any) -> list[Any]:
    two = s.parallel(
        s.serial(s.Dense(WIDTH), s.Relu(), s.Dense(WIDTH)),
        s.serial(s.Dense(WIDTH), s.Erf(), s.Dense(WIDTH)),
    )
    return [s.Dense(WIDTH), s.Relu(), s.FanOut(2), two, *last]


_ADJACENCY = np.random.default_rng(5).normal(size=(2, 5, 4, 5, 4))
_EDGES = np.random.default_rng(6).integers(0, 4, size=(2, 7, 2, 2))


def pattern(array: np.ndarray) -> Any:
    both = jnp.asarray(array)
    return lambda of: {"pattern": (both[:1], both[1:]) if of == "kernel" else both}


def dropout_key(of: str) -> dict[str, Any]:
    return {} if of == "kernel" else {"rng": jax.random.key(0)}


LAYERS: list[Row] = [
    Row(
        "Dense",
        "ntk",
        lambda s: s.around(s.Relu(), s.Dense(WIDTH), s.Relu()),
        flax=of_vectors(nn.relu, dense(), nn.relu),
        architecture=Architecture(depth=2, w_std=W_STD, b_std=B_STD),
    ),
    Row(
        "Dense",
        "b_std=None",
        lambda s: s.around(s.Relu(), s.stax.Dense(WIDTH, W_STD), s.Relu()),
    ),
    Row(
        "Dense",
        "no readout",
        lambda s: [s.Dense(WIDTH), s.Relu(), s.Dense(WIDTH)],
        flax=lambda: [dense(), nn.relu, dense()],
        architecture=MLP,
    ),
    Row(
        "Dense",
        "of images, at each pixel",
        lambda s: [s.Dense(WIDTH), s.Relu(), s.GlobalAvgPool(), s.Dense(1)],
        "images",
        lambda: [dense(), nn.relu, mean, dense(1)],
        cnn(depth=1, filter_shape=(1, 1)),
    ),
    convolution("SAME"),
    convolution("VALID", padding="VALID"),
    convolution("CIRCULAR", padding="CIRCULAR"),
    convolution("strides", strides=(2, 2)),
    convolution("strides, VALID", padding="VALID", strides=(2, 1)),
    convolution("1-D", "sequences"),
    convolution("1-D, CIRCULAR", "sequences", padding="CIRCULAR"),
    convolution("3-D", "volumes"),
    Row(
        "Conv",
        "NCHW",
        lambda s: [
            s.Conv(WIDTH, (3, 3), dimension_numbers=("NCHW", "OIHW", "NCHW")),
            s.Relu(),
            s.Flatten(batch_axis=0),
            s.Dense(1),
        ],
        "channels first",
    ),
    Row(
        "Conv",
        "flattened",
        lambda s: [s.Conv(WIDTH, (3, 3)), s.Relu(), s.Flatten(), s.Dense(1)],
        "images",
        lambda: [conv(padding="VALID"), nn.relu, flat, dense(1)],
        cnn(depth=1, padding="VALID", head="flatten"),
    ),
    after_convolution("ConvLocal", "VALID"),
    after_convolution("ConvLocal", "SAME", padding="SAME"),
    after_convolution("ConvLocal", "CIRCULAR", padding="CIRCULAR"),
    after_convolution("ConvLocal", "strides", padding="SAME", strides=(2, 1)),
    after_convolution("ConvTranspose", "VALID"),
    after_convolution("ConvTranspose", "SAME", padding="SAME"),
    after_convolution("ConvTranspose", "CIRCULAR", padding="CIRCULAR"),
    after_convolution("ConvTranspose", "strides", padding="SAME", strides=(2, 3)),
    after_convolution(
        "ConvTranspose", "strides, VALID", padding="VALID", strides=(3, 2)
    ),
    *(
        Row(
            name,
            option,
            lambda s, name=name, given=given: s.activated(
                getattr(s, name)((2, 2), **given)
            ),
            "images",
            None
            if name == "SumPool" or given.get("padding") == "CIRCULAR"
            else of_images(
                nn.relu,
                lambda x, given=given: nn.avg_pool(
                    x,
                    (2, 2),
                    given.get("strides"),
                    given.get("padding", "VALID"),
                    count_include_pad=not given.get("normalize_edges", False),
                ),
            ),
            cnn(depth=1, pool_after=(1,))
            if name == "AvgPool" and option == "strides"
            else None,
        )
        for name in ("AvgPool", "SumPool")
        for option, given in {
            "VALID": {},
            "strides": {"strides": (2, 2)},
            "SAME": {"padding": "SAME"},
            "CIRCULAR": {"padding": "CIRCULAR"},
            **(
                {"normalize_edges": {"padding": "SAME", "normalize_edges": True}}
                if name == "AvgPool"
                else {}
            ),
        }.items()
    ),
    Row(
        "GlobalAvgPool",
        "",
        lambda s: s.around_images(s.Relu()),
        "images",
        of_images(nn.relu),
        cnn(depth=1),
    ),
    Row(
        "GlobalSumPool",
        "",
        lambda s: [
            s.Conv(WIDTH, (3, 3), padding="SAME"),
            *(s.Erf(), s.GlobalSumPool(), s.Dense(1)),
        ],
        "images",
        lambda: [conv(), jax.lax.erf, lambda x: x.sum((1, 2)), dense(1)],
    ),
    Row(
        "Flatten",
        "",
        lambda s: [s.Flatten(), s.Dense(WIDTH), s.Relu(), s.Dense(1)],
        "images",
        lambda: [flat, dense(), nn.relu, dense(1)],
        MLP,
    ),
    Row(
        "Identity",
        "",
        lambda s: s.around(s.Identity(), s.Relu()),
        flax=of_vectors(lambda x: x, nn.relu),
        architecture=MLP,
    ),
    Row(
        "Index",
        "crop",
        lambda s: s.activated(s.Index(s.Slice[:, 1:4, ::2])),
        "images",
        of_images(nn.relu, lambda x: x[:, 1:4, ::2]),
    ),
    Row(
        "Index",
        "one row of pixels",
        lambda s: s.activated(s.Index(s.Slice[:, 2, ...])),
        "images",
        of_images(nn.relu, lambda x: x[:, 2]),
    ),
    *(
        Row(
            "ImageResize",
            f"{method}, {shape[1]} x {shape[2]}{note}",
            # After two convolutions: after one, theirs takes height for width.
            lambda s, shape=shape, method=method, given=given: s.activated(
                *(s.Conv(WIDTH, (3, 3), padding="SAME"), s.Relu()),
                *(s.ImageResize(shape, method, **given), s.Dense(WIDTH), s.Relu()),
            ),
            "images",
            of_images(
                nn.relu,
                conv(),
                nn.relu,
                lambda x, shape=shape, method=method, given=given: jax.image.resize(
                    x,
                    (x.shape[0], *shape[1:3], x.shape[3]),
                    method,
                    precision=jax.lax.Precision.HIGHEST,
                    **given,
                ),
                dense(),
                nn.relu,
            ),
        )
        for method in ("nearest", "linear")
        for shape, given, note in (
            ((-1, 8, 7, -1), {}, ""),
            ((-1, 3, 2, -1), {}, ""),
            ((-1, 3, 2, -1), {"antialias": False}, ", antialias=False"),
        )
    ),
    Row(
        "DotGeneral",
        "number",
        lambda s: s.activated(s.DotGeneral(rhs=2.0)),
        "images",
        of_images(nn.relu, lambda x: 2.0 * x),
    ),
    Row(
        "Aggregate",
        "DENSE",
        lambda s: s.activated(s.Aggregate((1, 2)), s.Dense(WIDTH), s.Relu()),
        "images",
        keywords=pattern(_ADJACENCY),
    ),
    Row(
        "Aggregate",
        "SPARSE",
        lambda s: s.activated(
            s.Aggregate((1, 2), implementation="SPARSE"), s.Dense(WIDTH), s.Relu()
        ),
        "images",
        keywords=pattern(_EDGES),
    ),
    *(
        Row(
            "Dropout",
            mode,
            lambda s, mode=mode: s.around(
                *(s.Relu(), s.Dropout(0.7, mode), s.Dense(WIDTH), s.Relu())
            ),
            flax=of_vectors(
                nn.relu,
                nn.Dropout(0.3, deterministic=mode == "test"),
                dense(),
                nn.relu,
            ),
            keywords=dropout_key,
        )
        for mode in ("train", "test")
    ),
    Row(
        "LayerNorm",
        "units",
        lambda s: s.around(s.LayerNorm(eps=1e-6), s.Relu()),
        flax=of_vectors(
            nn.LayerNorm(use_scale=False, use_bias=False, epsilon=1e-6), nn.relu
        ),
        architecture=Architecture(
            depth=1, w_std=W_STD, b_std=B_STD, normalization="layer"
        ),
    ),
    Row(
        "LayerNorm",
        "units, at each pixel",
        lambda s: s.around_images(s.LayerNorm(eps=1e-6), s.Relu()),
        "images",
        of_images(nn.LayerNorm(use_scale=False, use_bias=False, epsilon=1e-6), nn.relu),
        cnn(depth=1, normalization="layer"),
    ),
    Row(
        "LayerNorm",
        "height, width, units",
        lambda s: s.around_images(s.LayerNorm((1, 2, 3)), s.Relu()),
        "images",
        of_images(
            nn.LayerNorm(
                epsilon=1e-12,
                use_scale=False,
                use_bias=False,
                reduction_axes=(1, 2, 3),
                feature_axes=-1,
            ),
            nn.relu,
        ),
    ),
    Row(
        "LayerNorm",
        "as nn.RMSNorm",
        lambda s: s.around(s.LayerNorm(eps=1e-6), s.Relu()),
        flax=of_vectors(nn.RMSNorm(use_scale=False, epsilon=1e-6), nn.relu),
    ),
    Row(
        "LayerNorm",
        "as nn.GroupNorm of one group",
        lambda s: s.around_images(s.LayerNorm((1, 2, 3), eps=1e-6), s.Relu()),
        "images",
        of_images(
            nn.GroupNorm(1, use_scale=False, use_bias=False, epsilon=1e-6), nn.relu
        ),
    ),
    Row(
        "FanInSum",
        "",
        lambda s: [*branches(s, s.FanInSum()), s.Relu(), s.Dense(1)],
    ),
    Row(
        "FanInProd",
        "",
        lambda s: [*branches(s, s.FanInProd()), s.Dense(1)],
    ),
    Row(
        "FanInConcat",
        "channels",
        lambda s: [*branches(s, s.FanInConcat()), s.Dense(1)],
    ),
    Row(
        "FanInConcat",
        "pixels",
        lambda s: [
            *(s.Conv(WIDTH, (3, 3)), s.Relu(), s.FanOut(2)),
            s.parallel(s.Conv(WIDTH, (2, 2)), s.Conv(WIDTH, (2, 2))),
            *(s.FanInConcat(1), s.Relu(), s.GlobalAvgPool(), s.Dense(1)),
        ],
        "images",
    ),
    Row(
        "repeat",
        "",
        lambda s: [s.Dense(WIDTH), s.repeat(s.serial(s.Relu(), s.Dense(WIDTH)), 3)],
    ),
    *(
        attention(
            f"{name}, linear scaling{note}", attention_mechanism=name.upper(), **given
        )
        for name in ("softmax", "identity", "relu", "abs")
        for note, given in (
            ("", {}),
            (", b_std", {"b_std": 0.3}),
            (", positions added", {"pos_emb_type": "SUM", "W_pos_emb_std": 0.8}),
            (
                ", positions added, values too",
                {"pos_emb_type": "SUM", "val_pos_emb": True},
            ),
            (", positions concatenated", {"pos_emb_type": "CONCAT"}),
        )
        if name == "softmax" or note == ""
    ),
    attention(
        "softmax, decaying positions",
        pos_emb_type="SUM",
        pos_emb_decay_fn=lambda d: jnp.exp(-d),
    ),
    attention(
        "identity, root scaling", attention_mechanism="IDENTITY", linear_scaling=False
    ),
]

ACTIVATIONS: list[Row] = [
    activation("Relu", "", lambda s: s.Relu(), nn.relu, "relu"),
    activation("Relu", "do_stabilize", lambda s: s.Relu(True), nn.relu, "relu"),
    activation(
        "LeakyRelu",
        "0.1",
        lambda s: s.LeakyRelu(0.1),
        lambda u: nn.leaky_relu(u, 0.1),
        ABReLU(0.1, 1.0),
    ),
    activation("Abs", "", lambda s: s.Abs(), jnp.abs, "abs"),
    activation(
        "ABRelu", "-0.5, 1.5", lambda s: s.ABRelu(-0.5, 1.5), None, ABReLU(-0.5, 1.5)
    ),
    activation("Sign", "", lambda s: s.Sign(), jnp.sign, "sign"),
    activation("Erf", "", lambda s: s.Erf(), jax.lax.erf, "erf"),
    activation(
        "Erf",
        "a, b, c",
        lambda s: s.Erf(1.2, 0.7, 0.3),
        lambda u: 1.2 * jax.lax.erf(0.7 * u) + 0.3,
        lambda u: 1.2 * jax.lax.erf(0.7 * u) + 0.3,
    ),
    activation("Sigmoid_like", "", lambda s: s.Sigmoid_like()),
    activation("Gelu", "", lambda s: s.Gelu(), lambda u: nn.gelu(u, False), "gelu"),
    activation("Sin", "", lambda s: s.Sin(), jnp.sin, "sin"),
    activation("Sin", "a, b, c", lambda s: s.Sin(1.2, 0.7, 0.3)),
    activation("Cos", "", lambda s: s.Cos(), jnp.cos, "cos"),
    activation("Cos", "a, b, c", lambda s: s.Cos(1.2, 0.7, 0.3)),
    activation("Rbf", "", lambda s: s.Rbf(0.6)),
    activation("Exp", "", lambda s: s.Exp(), jnp.exp, "exp"),
    activation("Exp", "a, b", lambda s: s.Exp(0.5, 0.7)),
    activation(
        "Gaussian", "", lambda s: s.Gaussian(), lambda u: jnp.exp(-(u**2)), None
    ),
    activation("Gaussian", "a, b", lambda s: s.Gaussian(1.5, -0.5)),
    activation("ExpNormalized", "", lambda s: s.ExpNormalized()),
    activation("ExpNormalized", "gamma, shift", lambda s: s.ExpNormalized(1.5, 0.2)),
    activation("Gabor", "", lambda s: s.Gabor()),
    *(activation("Hermite", str(n), lambda s, n=n: s.Hermite(n)) for n in (1, 2, 4)),
    *(
        activation(
            "Monomial",
            str(n),
            lambda s, n=n: s.Monomial(n),
            (lambda u, n=n: u**n) if n else None,
            Polynomial((0.0,) * n + (1.0,)) if n else None,
        )
        for n in (0, 1, 2, 3, 4)
    ),
    *(
        activation(
            "RectifiedMonomial",
            str(n),
            lambda s, n=n: s.RectifiedMonomial(n),
            None if n == 0 else lambda u, n=n: nn.relu(u) ** n,
            RectifiedPower(n) if n else None,
        )
        for n in (0, 1, 2, 3)
    ),
    activation(
        "Polynomial",
        "degree 3",
        lambda s: s.Polynomial([0.3, -0.5, 0.2, 0.1]),
        lambda u: 0.3 - 0.5 * u + 0.2 * u**2 + 0.1 * u**3,
        Polynomial((0.3, -0.5, 0.2, 0.1)),
    ),
    activation(
        "ElementwiseNumerical",
        "sigmoid",
        lambda s: s.ElementwiseNumerical(jax.nn.sigmoid, 100),
        nn.sigmoid,
        "sigmoid",
    ),
    activation(
        "ElementwiseNumerical",
        "softplus",
        lambda s: s.ElementwiseNumerical(jax.nn.softplus, 100),
        nn.softplus,
        "softplus",
    ),
    activation(
        "ElementwiseNumerical",
        "tanh",
        lambda s: s.ElementwiseNumerical(jnp.tanh, 100),
        nn.tanh,
        "tanh",
    ),
    activation(
        "Elementwise",
        "nngp given",
        lambda s: s.Elementwise(
            jax.lax.erf,
            lambda c12, v1, v2: (
                jnp.arcsin(2 * c12 / jnp.sqrt((1 + 2 * v1) * (1 + 2 * v2)))
                * (2 / math.pi)
            ),
        ),
        jax.lax.erf,
        "erf",
    ),
]

ROWS = [*LAYERS, *ACTIVATIONS]
