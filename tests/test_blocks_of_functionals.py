"""Kernels of several functions of the same parameters, against whole Jacobians."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lazyjax
from lazyjax.ntk import KernelBlocks


def mlp(width=12, depth=2, num_inputs=2, num_outputs=1, seed=0):
    """Parameters, and a function of one point, written without the library."""
    sizes = [num_inputs, *[width] * depth, num_outputs]
    keys = jax.random.split(jax.random.key(seed), len(sizes))
    params = [
        {
            "kernel": jax.random.normal(key, (a, b)) / a**0.5,
            "bias": jax.random.normal(jax.random.fold_in(key, 1), (b,)),
        }
        for key, a, b in zip(keys, sizes, sizes[1:], strict=False)
    ]

    def u(params, x):
        *hidden, last = params
        for layer in hidden:
            x = jnp.tanh(x @ layer["kernel"] + layer["bias"])
        return x @ last["kernel"] + last["bias"]

    return params, u


def by_row(fn):
    """A function of a batch from one of a point."""
    return lambda params, x: jax.vmap(fn, (None, 0))(params, x)


def along(fn, axis):
    """Derivative of a function of a point along one of its coordinates."""

    def derivative(params, x):
        unit = jnp.zeros_like(x).at[axis].set(1)
        return jax.jvp(lambda x: fn(params, x), (x,), (unit,))[1]

    return derivative


def poisson(u):
    """Residual of the Poisson equation, by forward over reverse mode."""

    def residual(params, x):
        hessian = jax.hessian(lambda x: u(params, x)[0])(x)
        return jnp.trace(hessian)[None] + jnp.sin(x[:1])

    return residual


def wave(u):
    """Residual of the wave equation u_tt = 4 u_xx, by forward mode alone."""
    time, space = along(along(u, 0), 0), along(along(u, 1), 1)
    return lambda params, x: time(params, x) - 4 * space(params, x)


def points(number, num_inputs=2, seed=0):
    generator = np.random.default_rng(seed)
    return jnp.asarray(generator.uniform(size=(number, num_inputs)), jnp.float32)


def oracle(functionals, params):
    """The whole matrix from Jacobians in float64."""
    with jax.enable_x64(True):

        def wide(tree):
            is_float = lambda a: jnp.issubdtype(a.dtype, jnp.floating)
            as_wide = lambda a: jnp.asarray(a, jnp.float64) if is_float(a) else a
            return jax.tree.map(as_wide, tree)

        rows = []
        for fn, x in functionals.values():
            leaves = jax.tree.leaves(jax.jacrev(fn)(wide(params), wide(x)))
            flat = [np.asarray(leaf).reshape(*leaf.shape[:2], -1) for leaf in leaves]
            jacobian = np.concatenate(flat, axis=2)
            rows.append(jacobian.reshape(-1, jacobian.shape[-1]))
        matrix = np.concatenate(rows)
        return matrix @ matrix.T


def scan_network():
    """Stacked layers in a scan, and a function of them layer by layer."""
    params = {
        "layers": jax.random.normal(jax.random.key(0), (3, 5, 5)) / 2,
        "last": jax.random.normal(jax.random.key(1), (5, 2)),
    }

    def scanned(params, x):
        step = lambda h, w: (jnp.tanh(h @ w), None)
        return jax.lax.scan(step, x, params["layers"])[0] @ params["last"]

    def unrolled(params, x):
        for i in range(3):
            x = jnp.tanh(x @ params["layers"][i])
        return x @ params["last"][:, :1]

    return params, {
        "scanned": (scanned, points(4, 5)),
        "unrolled": (unrolled, points(3, 5)),
    }


def convolution():
    """A convolution, and one with other strides and of another image size."""
    params = {
        "filter": jax.random.normal(jax.random.key(0), (3, 3, 2, 4)),
        "last": jax.random.normal(jax.random.key(1), (4, 3)),
    }

    def of(strides):
        def fn(params, x):
            h = jax.lax.conv_general_dilated(
                x,
                params["filter"],
                strides,
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            return jnp.tanh(h).mean(axis=(1, 2)) @ params["last"]

        return fn

    image = lambda n, size: points(n * size * size, 2).reshape(n, size, size, 2)
    return params, {"one": (of((1, 1)), image(3, 6)), "two": (of((2, 2)), image(4, 8))}


def embedding():
    """A table that is looked up by one function, and multiplied by in the other."""
    params = {"table": jax.random.normal(jax.random.key(0), (7, 4))}
    lookup = lambda params, x: jnp.sin(params["table"][x]).mean(axis=1)
    head = lambda params, x: jnp.tanh(x @ params["table"].T)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 7, (5, 3)))
    return params, {"lookup": (lookup, tokens), "head": (head, points(3, 4))}


def slices():
    """Parameters cut otherwise by each function, rearranged, rescaled and squared."""
    params = {"w": jax.random.normal(jax.random.key(0), (6, 4)), "s": jnp.asarray(1.5)}
    first = lambda p, x: x @ (p["s"] * p["w"][:3])
    second = lambda p, x: x @ p["w"][2:5, ::-1]
    third = lambda p, x: (x @ p["w"].T.reshape(3, 8)) ** 2
    fourth = lambda p, x: x @ (p["w"][:3] ** 2) * p["s"]
    fns = {"first": first, "second": second, "third": third, "fourth": fourth}
    return params, {name: (fn, points(3, 3)) for name, fn in fns.items()}


def apart():
    """Functions of different parameters, one of which is a bias alone."""
    params = {"a": jnp.ones((2, 2)), "b": jnp.ones(2), "unused": jnp.ones(3)}
    return params, {
        "a": (lambda p, x: jnp.tanh(x @ p["a"]), points(3)),
        "b": (lambda p, x: x * p["b"][None], points(2)),
        "bias": (lambda p, x: x * 0 + jnp.sin(p["b"])[None], points(4)),
    }


def equations():
    """A network of two inputs with residuals, values, slopes and both derivatives."""
    params, u = mlp()
    both = lambda p, x: jax.jacfwd(lambda x: u(p, x)[0])(x)
    return params, {
        "poisson": (by_row(poisson(u)), points(7)),
        "wave": (by_row(wave(u)), points(5, seed=1)),
        "value": (by_row(u), points(3, seed=2)),
        "gradient": (by_row(both), points(2, seed=4)),
    }


PROBLEMS = {
    fn.__name__: fn
    for fn in (equations, scan_network, convolution, embedding, slices, apart)
}


@pytest.mark.parametrize(
    "method", ["structured", pytest.param("jacobian", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.sampled(2)
def test_blocks_are_those_of_whole_jacobians(problem, method):
    params, functionals = PROBLEMS[problem]()
    blocks = lazyjax.ntk_blocks(functionals, params, method=method)
    matrix, expected = np.asarray(blocks.matrix()), oracle(functionals, params)
    np.testing.assert_allclose(matrix, expected, atol=1e-5 * np.abs(expected).max())
    assert np.array_equal(matrix, matrix.T)
    sizes = {
        k: x.shape[0] * fn(params, x).shape[1] for k, (fn, x) in functionals.items()
    }
    assert blocks.sizes == sizes


def two():
    """Two functions of one network, with 1 and 2 outputs."""
    params, u = mlp()
    gradient = lambda p, x: jax.jacfwd(lambda x: u(p, x)[0])(x)
    return params, by_row(u), by_row(gradient)


@pytest.mark.parametrize("method", ["auto", "jacobian"])
def test_two_functions_in_one_call(method):
    params, value, gradient = two()
    x, z = points(4), points(3, seed=1)
    kernel = lazyjax.empirical_ntk((value, gradient), params, x, z, method=method)
    expected = oracle({"value": (value, x), "gradient": (gradient, z)}, params)[:4, 4:]
    assert kernel.shape == (4, 3, 1, 2)
    np.testing.assert_allclose(
        kernel[:, :, 0].reshape(4, 6), expected, rtol=1e-4, atol=1e-5
    )
    swapped = lazyjax.empirical_ntk((gradient, value), params, z, x, method=method)
    np.testing.assert_allclose(
        swapped, kernel.transpose(1, 0, 3, 2), rtol=1e-4, atol=1e-5
    )
    same = lazyjax.empirical_ntk((gradient, gradient), params, x, method=method)
    alone = lazyjax.empirical_ntk(gradient, params, x)
    np.testing.assert_allclose(same, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("outputs", ["diagonal", "trace", "pseudo", 1])
@pytest.mark.sampled(2)
def test_two_functions_in_every_form(outputs):
    params, _, gradient = two()
    other = lambda p, x: gradient(p, x) * x
    x, z = points(4), points(3, seed=1)
    full = lazyjax.empirical_ntk((gradient, other), params, x, z)
    expected = {
        "diagonal": jnp.einsum("ijaa->ija", full),
        "trace": jnp.einsum("ijaa->ij", full),
        "pseudo": full.sum((2, 3)) / 2,
        1: full[:, :, 1, 1],
    }[outputs]
    kernel = lazyjax.empirical_ntk((gradient, other), params, x, z, outputs=outputs)
    np.testing.assert_allclose(kernel, expected, rtol=1e-4, atol=1e-5)


def test_filtered_parameters_are_the_only_ones_between_two_functions():
    params, value, gradient = two()
    x = points(4)
    parts = [
        lazyjax.empirical_ntk((value, gradient), params, x, filter=accepts)
        for accepts in (lambda p: "bias" in p, lambda p: "bias" not in p)
    ]
    whole = lazyjax.empirical_ntk((value, gradient), params, x)
    np.testing.assert_allclose(parts[0] + parts[1], whole, rtol=1e-4, atol=1e-5)
    assert jnp.abs(parts[0]).max() > 0


def test_types_differ_between_functions():
    params, value, _ = two()
    half = lambda p, x: jax.tree.map(lambda a: a.astype(jnp.bfloat16), value(p, x))
    low = lambda p, x: value(
        jax.tree.map(lambda a: a.astype(jnp.bfloat16), p), x.astype(jnp.bfloat16)
    )
    x = points(4)
    for other in (half, low):
        kernel = lazyjax.empirical_ntk((value, other), params, x)
        assert kernel.dtype == jnp.float32
        exact = lazyjax.empirical_ntk(value, params, x)
        np.testing.assert_allclose(kernel, exact, rtol=0.05, atol=0.05)


def blocks_of_two() -> tuple[KernelBlocks, dict[str, Any], Any]:
    params, value, gradient = two()
    functionals = {"value": (value, points(4)), "gradient": (gradient, points(3))}
    return lazyjax.ntk_blocks(functionals, params), functionals, params


def test_weights_balance_the_traces():
    blocks, _, _ = blocks_of_two()
    weights, traces = blocks.balance(), blocks.traces()
    weighted = [float(weights[name] * traces[name]) for name in blocks.names]
    total = float(jnp.trace(blocks.matrix()))
    np.testing.assert_allclose(weighted, [total, total], rtol=1e-5)
    np.testing.assert_allclose(blocks.spectrum().sum(), total, rtol=1e-5)
    means = blocks.balance(mean=True)
    for name, rows in {"value": 4, "gradient": 6}.items():
        np.testing.assert_allclose(means[name], weights[name] * rows / 10, rtol=1e-6)


def test_blocks_are_kept_and_pass_through_jit(tmp_path):
    blocks, functionals, params = blocks_of_two()
    loaded = KernelBlocks.load(blocks.save(tmp_path / "blocks.npz"))
    np.testing.assert_array_equal(loaded.matrix(), blocks.matrix())
    (value, x), (gradient, z) = functionals.values()
    inside = jax.jit(
        lambda p, x, z: lazyjax.ntk_blocks(
            {"value": (value, x), "gradient": (gradient, z)}, p
        )
    )(params, x, z)
    np.testing.assert_allclose(inside.matrix(), blocks.matrix(), rtol=1e-5)
    many = jax.vmap(lambda p: lazyjax.ntk_blocks(functionals, p)["value", "gradient"])(
        jax.tree.map(lambda a: jnp.stack([a, 2 * a]), params)
    )
    np.testing.assert_allclose(many[0], blocks["value", "gradient"], rtol=1e-4)


def test_a_second_call_traces_nothing():
    _, functionals, params = blocks_of_two()
    calls, (value, x) = [], functionals["value"]

    def counted(p, x):
        calls.append(1)
        return value(p, x)

    functionals["value"] = counted, x
    lazyjax.ntk_blocks(functionals, params)
    calls.clear()
    lazyjax.ntk_blocks(functionals, jax.tree.map(lambda a: 2 * a, params))
    assert not calls


def test_rows_that_interact_are_refused_by_the_name_of_their_function():
    _, functionals, params = blocks_of_two()
    value, x = functionals["value"]
    centred = lambda p, x: value(p, x) - value(p, x).mean(axis=0, keepdims=True)
    functionals["centred"] = centred, x
    with pytest.raises(ValueError, match=r"functionals\['centred'\].*independently"):
        lazyjax.ntk_blocks(functionals, params)
    compiled = jax.jit(lambda p: lazyjax.ntk_blocks(functionals, p).matrix())(params)
    assert jnp.isnan(compiled).all()


@pytest.mark.once
@pytest.mark.usefixtures("own_errors")
@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda f: {}, ValueError, "one function at least"),
        (lambda f: list(f), TypeError, "dictionary of pairs"),
        (lambda f: {"value": f["value"][0]}, TypeError, "dictionary of pairs.*'value'"),
        (
            lambda f: {"v": f["value"][::-1]},
            TypeError,
            r"functionals\['v'\].*callable|func",
        ),
        (
            lambda f: {"sum": (lambda p, x: f["value"][0](p, x).sum(), f["value"][1])},
            ValueError,
            r"functionals\['sum'\].*a row for each of the",
        ),
        (
            lambda f: f | {"nan": (f["value"][0], jnp.full((2, 2), jnp.nan))},
            ValueError,
            r"functionals\['nan'\].*finite",
        ),
    ],
)
def test_wrong_functionals_are_named(change, error, match):
    _, functionals, params = blocks_of_two()
    with pytest.raises(error, match=match):
        lazyjax.ntk_blocks(change(functionals), params)


@pytest.mark.once
@pytest.mark.usefixtures("own_errors")
def test_other_wrong_arguments():
    blocks, functionals, params = blocks_of_two()
    (value, x), (gradient, _) = functionals.values()
    with pytest.raises(KeyError, match="'value', 'gradient'"):
        blocks["value", "slope"]
    with pytest.raises(ValueError, match="method"):
        lazyjax.ntk_blocks(functionals, params, method="vjp")
    with pytest.raises(ValueError, match="method"):
        lazyjax.empirical_ntk((value, gradient), params, x, method="vjp")
    with pytest.raises(ValueError, match="ntk_blocks"):
        lazyjax.empirical_ntk((value, value, value), params, x)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="have 1 and 2"):
        lazyjax.empirical_ntk((value, gradient), params, x, outputs="trace")
    with pytest.raises(ValueError, match=r"apply_fn\[1\].*finite"):
        lazyjax.empirical_ntk((value, gradient), params, x, x * jnp.inf)
