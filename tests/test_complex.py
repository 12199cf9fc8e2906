"""Complex parameters and outputs: conventions, relations between forms, verbs."""

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import lazyjax
from lazyjax import spectrum
from lazyjax.linalg import gram_matrix
from tests.helpers.compare import assert_close, assert_trees_close
from tests.helpers.zoo_forms import FORMS, batches, complexed, log_cosh

pytestmark = pytest.mark.once

RECORDED = json.loads(
    (pathlib.Path(__file__).parent / "recorded" / "netket.json").read_text()
)


def _machine(p, x):
    x = x.astype(p["visible_bias"].dtype)
    h = log_cosh(x @ p["Dense/kernel"] + p["Dense/bias"][None])
    return h.sum(-1) + x @ p["visible_bias"]


def _modulus_and_phase(p, x):
    parts = (
        log_cosh(x @ p[f"Dense_{i}/kernel"] + p[f"Dense_{i}/bias"][None]).sum(-1)
        for i in range(2)
    )
    return lax.complex(*parts)


def _not_holomorphic(p, x):
    h = complexed(x) @ p["kernel"]
    return jnp.sum(jnp.conj(jnp.tanh(h)) * complexed(jnp.abs(h)), axis=-1)


NETWORKS = {
    "rbm_of_complex_parameters": _machine,
    "rbm_of_complex_parameters_as_pairs": _machine,
    "rbm_of_real_parameters": _machine,
    "modulus_and_phase": _modulus_and_phase,
    "not_holomorphic": _not_holomorphic,
}


def _array(parts, *, is_complex: bool):
    real, imaginary = map(np.asarray, parts)
    return real + 1j * imaginary if is_complex else real


def _by_parts(recorded: np.ndarray) -> np.ndarray:
    """NetKet's kernel of real parts and imaginary parts, as the complex one."""
    real, cross = recorded[0, :, 0] + recorded[1, :, 1], recorded[1, :, 0]
    return real + 1j * (cross - recorded[0, :, 1])


@pytest.mark.parametrize("form", ["kernel", "centered"])
@pytest.mark.parametrize("name", NETWORKS)
def test_kernels_are_those_recorded_of_netket(name, form, x64):
    found = RECORDED["models"][name]
    is_complex = "real" not in name and name != "modulus_and_phase"
    params = {
        path: jnp.asarray(_array(leaf, is_complex=is_complex))
        for path, leaf in found["params"].items()
    }
    x = jnp.asarray(RECORDED["samples"])
    fn = NETWORKS[name]
    log_psi = _array(found["log_psi"], is_complex=fn(params, x).dtype.kind == "c")
    assert_close(fn(params, x), log_psi, 1e-10)
    recorded: Any = _array(found[form], is_complex=True)
    expected = {
        # NetKet's complex derivative; ours are by real and by imaginary parts.
        "holomorphic": lambda: 2 * recorded,
        "complex": lambda: _by_parts(recorded),
        "real": lambda: recorded.real,
    }[found["mode"]]()
    kernel = lazyjax.empirical_ntk(fn, params, x)
    kernel = spectrum.center(kernel) if form == "centered" else kernel
    assert_close(kernel, expected, 1e-10)
    if form == "kernel":  # so that the comparison says something
        assert not np.allclose(kernel, spectrum.center(kernel), rtol=0.1)


def test_two_modes_of_netket_differ_by_the_factor_that_is_documented(x64):
    """The derivative by the imaginary part is i times that by the real one."""
    net = FORMS["complex_boltzmann_machine"]
    params, (x, _) = net.params("float64"), batches(net.name, "float64")
    derivatives = jax.jacrev(lambda p: net.apply_fn(p, x), holomorphic=True)(params)
    rows = [np.asarray(j).reshape(3, -1) for j in jax.tree.leaves(derivatives)]
    holomorphic = sum(j @ j.conj().T for j in rows)
    kernel = lazyjax.empirical_ntk(net.apply_fn, params, x)
    assert_close(kernel, 2 * holomorphic, 1e-12)
    # Not so of a function that is not holomorphic: the test could fail.
    conjugate = lambda p, x: net.apply_fn(p, x) + jnp.conj(net.apply_fn(p, x))
    assert not np.allclose(lazyjax.empirical_ntk(conjugate, params, x), kernel)


@pytest.mark.parametrize("name", ["modulus_and_phase", "not_holomorphic"])
def test_complex_kernel_is_made_of_the_real_one(name):
    net = FORMS[name]
    params, (x1, x2) = net.params(), batches(name, "float32")
    kernel = lazyjax.empirical_ntk(net.apply_fn, params, x1, x2)
    flat = lazyjax.empirical_ntk(net.apply_fn, params, x1, x2, outputs="flat")
    k = flat.shape[2] // 2
    parts = {
        (p, q): flat[:, :, p * k :, q * k :][:, :, :k, :k]
        for p in (0, 1)
        for q in (0, 1)
    }
    expected = lax.complex(parts[0, 0] + parts[1, 1], parts[1, 0] - parts[0, 1])
    assert_close(kernel, expected.reshape(kernel.shape), "exact")

    def real_outputs(p, x):
        f = net.apply_fn(p, x).reshape(x.shape[0], k)
        return jnp.concatenate([f.real, f.imag], axis=1)

    by_hand = jax.tree.map(
        lambda leaf: (
            {"re": leaf.real, "im": leaf.imag} if leaf.dtype.kind == "c" else leaf
        ),
        params,
    )
    together = lambda p: jax.tree.map(
        lambda leaf: (
            lax.complex(leaf["re"], leaf["im"]) if isinstance(leaf, dict) else leaf
        ),
        p,
        is_leaf=lambda node: isinstance(node, dict) and "re" in node,
    )
    by_hand_fn = lambda p, x: real_outputs(together(p), x)
    assert_close(flat, lazyjax.empirical_ntk(by_hand_fn, by_hand, x1, x2), 1e-5)


def test_gradient_flow_of_a_complex_model_is_that_of_the_real_kernel(x64):
    """For one small step of gradient descent on half the squared modulus."""
    net = FORMS["not_holomorphic"]
    params, (x, _) = net.params("float64"), batches(net.name, "float64")
    f = net.apply_fn(params, x)
    loss = lambda p: jnp.sum(jnp.abs(net.apply_fn(p, x)) ** 2) / 2
    step = 1e-6
    # Of complex parameters JAX returns the conjugate of the direction of steepest ascent.
    moved = jax.tree.map(
        lambda p, g: p - step * jnp.conj(g), params, jax.grad(loss)(params)
    )
    rate = (net.apply_fn(moved, x) - f) / step
    flat = lazyjax.empirical_ntk(net.apply_fn, params, x, outputs="flat")
    residual = jnp.concatenate([f.real, f.imag], axis=1).ravel()
    expected = -(gram_matrix(flat) @ residual).reshape(3, 2, 2)
    assert_close(rate, lax.complex(expected[:, 0], expected[:, 1]), 1e-4)


def test_all_verbs_agree_on_complex_numbers(x64):
    net = FORMS["amplitude_and_spectrum"]
    params, (x1, x2) = net.params("float64"), batches(net.name, "float64")
    kernel = lazyjax.empirical_ntk(net.apply_fn, params, x1)
    layers = lazyjax.layerwise_ntk(net.apply_fn, params, x1)
    assert list(layers) == ["filter", "w"]
    total = jax.tree.map(jnp.add, layers["filter"], layers["w"])
    assert_trees_close(total, kernel, 1e-12)
    only = lazyjax.empirical_ntk(
        net.apply_fn, params, x1, filter=lambda path: path == "filter"
    )
    assert_trees_close(only, layers["filter"], 1e-12)
    own = lazyjax.ntk_diagonal(net.apply_fn, params, x1, outputs="diagonal")
    expected = lazyjax.empirical_ntk(net.apply_fn, params, x1, outputs="diagonal")
    rows = jnp.arange(3)
    assert_trees_close(own, jax.tree.map(lambda k: k[rows, rows], expected), 1e-12)
    f = net.apply_fn(params, x1)["spectrum"]
    products = lazyjax.empirical_nngp(net.apply_fn, params, x1)["spectrum"]["spectrum"]
    assert_close(products, jnp.einsum("ia,jb->ijab", f, f.conj()), 1e-12)
    operator = lazyjax.ntk_operator(net.apply_fn, params, x1, x2, batch_size=2)
    assert operator.dtype == jnp.float64
    flat = lazyjax.empirical_ntk(net.apply_fn, params, x1, x2, outputs="flat")
    v = jnp.cos(jnp.arange(operator.shape[1], dtype=jnp.float64))
    assert_close(operator @ v, gram_matrix(flat) @ v, 1e-12)
    assert_close(operator.as_matrix(), gram_matrix(flat), 1e-12)
    cross = lazyjax.empirical_ntk((net.apply_fn, net.apply_fn), params, x1, x2)
    assert_trees_close(
        cross, lazyjax.empirical_ntk(net.apply_fn, params, x1, x2), 1e-12
    )
    blocks = lazyjax.ntk_blocks(
        {"a": (net.apply_fn, x1), "b": (net.apply_fn, x2)}, params
    )
    assert_close(blocks["a", "b"], flat, 1e-12)
    plan = lazyjax.ntk_plan(net.apply_fn, params, x1)
    assert [row.path for row in plan.rows] == ["filter", "w"]


def test_taylor_polynomial_of_a_complex_network(x64):
    net = FORMS["complex_boltzmann_machine"]
    params, (x, _) = net.params("float64"), batches(net.name, "float64")
    direction = jax.tree.map(lambda leaf: leaf * (0.3 - 0.7j), params)
    errors = []
    for size in (1e-2, 1e-3):
        moved = jax.tree.map(lambda p, d, s=size: p + s * d, params, direction)
        second = lazyjax.taylor_expand(net.apply_fn, params, order=2)
        errors.append(np.abs(second(moved, x) - net.apply_fn(moved, x)).max())
    assert 500 < errors[0] / errors[1] < 2000
    linear = lazyjax.linearize(net.apply_fn, params)(moved, x)
    _, tangent = jax.jvp(
        lambda s: net.apply_fn(
            jax.tree.map(lambda p, d: p + s * d, params, direction), x
        ),
        (0.0,),
        (1e-3,),
    )
    assert_close(linear, net.apply_fn(params, x) + tangent, 1e-12)


def test_mean_over_complex_initializations(x64):
    net = FORMS["complex_boltzmann_machine"]
    x, _ = batches(net.name, "float64")

    def init(key, x):
        draw = lambda leaf: 0.5 * jax.random.normal(key, leaf.shape, jnp.complex128)
        return jax.tree.map(draw, net.params("float64"))

    key = jax.random.key(0)
    found = lazyjax.monte_carlo_ntk(net.apply_fn, init, x, key=key, num_seeds=4)
    drawn = np.stack(
        [
            lazyjax.empirical_ntk(net.apply_fn, init(jax.random.fold_in(key, i), x), x)
            for i in range(4)
        ]
    )
    assert_close(found.mean, drawn.mean(0), 1e-12)
    spread = np.sqrt((np.abs(drawn - drawn.mean(0)) ** 2).sum(0) / 3 / 4)
    assert_close(found.sem, spread, 1e-12)


def test_real_parameters_that_become_complex_give_the_real_part():
    """Their gradient is the real part of the one by the complex number they become."""
    x = jnp.asarray([[1.0, 2.0], [0.5, -1.0]])
    apply_fn = lambda w, x: jnp.abs(complexed(x) * (1 + 2j) @ complexed(w)) ** 2
    w = jnp.asarray([[1.0], [2.0]])
    jacobian = 2 * 5 * (x @ w) * x  # of 5 (x w)^2
    for method in ("structured", "jacobian", "vjp"):
        kernel = lazyjax.empirical_ntk(apply_fn, w, x, method=method)
        assert_close(kernel[:, :, 0, 0], jacobian @ jacobian.T, 1e-6)


def test_rows_of_complex_networks_that_interact_are_refused():
    net = FORMS["complex_boltzmann_machine"]
    params, (x, _) = net.params(), batches(net.name, "float32")
    mixed = lambda p, x: net.apply_fn(p, x) * jnp.mean(net.apply_fn(p, x))
    with pytest.raises(ValueError, match="rows of `x` independently"):
        lazyjax.empirical_ntk(mixed, params, x)
    phase_only = lambda p, x: lax.complex(
        net.apply_fn(p, x).real, net.apply_fn(p, x[::-1]).imag
    )
    with pytest.raises(ValueError, match="rows of `x` independently"):
        lazyjax.empirical_ntk(phase_only, params, x)


@pytest.mark.usefixtures("own_errors")
def test_complex_numbers_are_refused_where_they_have_no_meaning():
    net = FORMS["complex_boltzmann_machine"]
    params, (x, _) = net.params(), batches(net.name, "float32")
    real = lambda p, x: net.apply_fn(p, x).real
    with pytest.raises(ValueError, match="are of one form, all real or all complex"):
        lazyjax.empirical_ntk((net.apply_fn, real), params, x, outputs="trace")
    kernel = lazyjax.empirical_ntk((net.apply_fn, real), params, x)
    whole = lazyjax.empirical_ntk(net.apply_fn, params, x, outputs="flat")
    assert_close(kernel, lax.complex(whole[..., 0, 0], whole[..., 1, 0]), 1e-5)
