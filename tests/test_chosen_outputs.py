"""Kernels along directions in output space: chosen outputs, losses, random probes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import lazyjax
from tests.helpers.compare import assert_close
from tests.helpers.oracles import naive_ntk

RNG = np.random.default_rng(3)
X1, X2 = RNG.normal(size=(5, 4)), RNG.normal(size=(3, 4))
NUM_OUTPUTS = 6
METHODS = ["structured", "jacobian", "vjp"]


def network(p, x):
    h = jnp.tanh(x @ p["w"] + p["b"][None])
    return jnp.tanh(h @ p["u"]) @ p["v"] + h[:, :1] * p["b"][None, :1]


def params():
    draw = lambda *shape: jnp.asarray(np.random.default_rng(5).normal(size=shape))
    return {
        "w": draw(4, 5),
        "b": draw(5) / 2,
        "u": draw(5, 3),
        "v": draw(3, NUM_OUTPUTS),
    }


def whole(x1, x2):
    """The kernel of all outputs, by an independent method."""
    return naive_ntk(network, params(), jnp.asarray(x1), jnp.asarray(x2))


@pytest.mark.once
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("method", METHODS)
def test_a_list_of_outputs_is_that_part_of_the_kernel(method):
    chosen = [4, 0, 3]
    expected = whole(X1, X2)[:, :, chosen][..., chosen]
    for outputs in (chosen, np.asarray(chosen), tuple(chosen)):
        kernel = lazyjax.empirical_ntk(
            network, params(), X1, X2, outputs=outputs, method=method
        )
        assert_close(kernel, expected)
    own = lazyjax.empirical_ntk(network, params(), X1, outputs=chosen, method=method)
    assert_close(own, whole(X1, X1)[:, :, chosen][..., chosen])
    assert_close(own, own.transpose(1, 0, 3, 2), "exact")
    assert_close(
        lazyjax.empirical_ntk(
            network, params(), X1, outputs=range(2, 4), method=method
        ),
        whole(X1, X1)[:, :, 2:4, 2:4],
    )


@pytest.mark.once
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("memory", [None, "8KB"])
def test_each_example_may_have_outputs_of_its_own(method, memory):
    t1, t2 = RNG.integers(0, NUM_OUTPUTS, (5, 2)), RNG.integers(0, NUM_OUTPUTS, (3, 2))
    of_pair = whole(X1, X2)
    i, j = np.arange(5)[:, None, None, None], np.arange(3)[None, :, None, None]
    expected = of_pair[i, j, t1[:, None, :, None], t2[None, :, None, :]]
    kernel = lazyjax.empirical_ntk(
        network, params(), X1, X2, outputs=(t1, t2), method=method, memory=memory
    )
    assert_close(kernel, expected)
    own = lazyjax.empirical_ntk(
        network, params(), X1, outputs=t1, method=method, memory=memory
    )
    j = np.arange(5)[None, :, None, None]
    assert_close(own, whole(X1, X1)[i, j, t1[:, None, :, None], t1[None, :, None]])
    assert_close(own, own.transpose(1, 0, 3, 2), "exact")


@pytest.mark.once
@pytest.mark.usefixtures("x64")
def test_all_kernels_take_chosen_outputs():
    chosen, each = [5, 1], RNG.integers(0, NUM_OUTPUTS, (5, 2))
    kernel = whole(X1, X1)
    diagonal = lazyjax.ntk_diagonal(network, params(), X1, outputs=chosen)
    assert_close(diagonal, kernel[range(5), range(5)][:, chosen][..., chosen])
    diagonal = lazyjax.ntk_diagonal(network, params(), X1, outputs=each, batch_size=2)
    rows = np.arange(5)[:, None, None]
    assert_close(diagonal, kernel[rows, rows, each[:, :, None], each[:, None]])
    layers = lazyjax.layerwise_ntk(network, params(), X1, outputs=chosen)
    assert_close(sum(layers.values()), kernel[:, :, chosen][..., chosen])
    f = np.asarray(network(params(), jnp.asarray(X1)))[:, chosen]
    nngp = lazyjax.empirical_nngp(network, params(), X1, outputs=chosen)
    assert_close(nngp, np.einsum("ia,jb->ijab", f, f))


@pytest.mark.once
@pytest.mark.usefixtures("own_errors")
@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ([0, 6], r"`outputs` must hold numbers in 0\.\.5.*got 6"),
        ([-1], r"`outputs` must hold numbers in 0\.\.5.*got -1"),
        ([], "`outputs` as numbers"),
        ([0.5], "`outputs` as numbers"),
        (np.zeros((2, 2, 2), int), "`outputs` as numbers"),
        (np.zeros((4, 1), int), r"one array.*5 and 3 examples; got \(4, 1\)"),
        (
            (np.zeros((5, 1), int), np.zeros((3, 2), int)),
            r"one array.*got \(5, 1\) and \(3, 2\)",
        ),
    ],
)
def test_outputs_that_are_none_are_refused(outputs, message):
    with pytest.raises(ValueError, match=message):
        lazyjax.empirical_ntk(network, params(), X1, X2, outputs=outputs)


@pytest.mark.once
def test_traced_numbers_out_of_range_give_nan():
    kernel = jax.jit(
        lambda t: lazyjax.empirical_ntk(network, params(), X1, outputs=t[:, None])
    )
    numbers = jnp.asarray([0, 1, 2, 3, 5])
    assert jnp.isfinite(kernel(numbers)).all()
    assert jnp.isnan(kernel(numbers + 1)).all()


def cross_entropy(f, y):
    return -jnp.sum(jnp.take_along_axis(jax.nn.log_softmax(f), y[:, None], 1))


@pytest.mark.once
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("memory", [None, "7KB"])
def test_kernel_of_the_loss_is_that_of_gradients_of_losses(method, memory):
    y1, y2 = RNG.integers(0, NUM_OUTPUTS, 5), RNG.integers(0, NUM_OUTPUTS, 3)

    def gradients(x, y):
        rows = []
        for i in range(len(x)):
            one = lambda p, i=i: cross_entropy(network(p, x[i : i + 1]), y[i : i + 1])
            rows.append(
                np.concatenate(
                    [g.ravel() for g in jax.tree.leaves(jax.grad(one)(params()))]
                )
            )
        return np.stack(rows)

    g1, g2 = gradients(X1, y1), gradients(X2, y2)
    kernel = lazyjax.empirical_ntk_of_loss(
        cross_entropy, network, params(), X1, y1, X2, y2, method=method, memory=memory
    )
    assert_close(kernel, g1 @ g2.T)
    own = lazyjax.empirical_ntk_of_loss(
        cross_entropy, network, params(), X1, y1, method=method, memory=memory
    )
    assert_close(own, g1 @ g1.T)
    assert_close(own, own.T, "exact")
    other = lazyjax.empirical_ntk_of_loss(
        cross_entropy, network, params(), X1, (y1 + 1) % NUM_OUTPUTS, method=method
    )
    assert not np.allclose(other, own)


@pytest.mark.once
@pytest.mark.usefixtures("own_errors")
def test_targets_of_a_loss_are_those_of_the_examples():
    y = jnp.zeros(5, int)
    with pytest.raises(
        ValueError, match=r"`y1` must have one row for each of the 5 of `x1`"
    ):
        lazyjax.empirical_ntk_of_loss(cross_entropy, network, params(), X1, y[:4])
    with pytest.raises(ValueError, match="`x2` and `y2` must be given together"):
        lazyjax.empirical_ntk_of_loss(cross_entropy, network, params(), X1, y, X2)
    with pytest.raises(TypeError, match="`loss_fn`"):
        lazyjax.empirical_ntk_of_loss("mse", network, params(), X1, y)  # pyright: ignore[reportArgumentType]


@pytest.mark.once
@pytest.mark.usefixtures("x64")
def test_estimate_of_the_trace_is_within_its_standard_error():
    expected = np.einsum("ijaa->ij", whole(X1, X1))
    scores = []
    for seed in range(40):
        found = lazyjax.ntk_trace_estimate(
            network, params(), X1, key=jax.random.key(seed), num_probes=24
        )
        assert_close(found.mean, found.mean.T, "exact")
        assert np.linalg.eigvalsh(found.mean)[0] >= -1e-10
        upper = np.triu_indices(5)
        scores.append(((found.mean - expected) / found.sem)[upper])
    scores = np.asarray(scores)
    # Means of 40 are normal with deviation 1/sqrt(40), Student's t with 23 degrees has
    # variance 23/21; signs of few outputs make it a little wider.
    assert np.abs(scores.mean(0)).max() < 5 / 40**0.5
    assert 0.8 < np.sqrt(np.mean(scores**2)) < 1.3
    paired = lazyjax.ntk_trace_estimate(
        network, params(), X1, X2, key=jax.random.key(0), num_probes=4000
    )
    error = np.abs(paired.mean - np.einsum("ijaa->ij", whole(X1, X2)))
    assert (error < 5 * paired.sem).all()
    assert (paired.sem < 0.05 * np.abs(np.diag(expected)).max()).all()


def of_parts(p: object, x: dict[str, jax.Array]) -> dict[str, jax.Array]:
    f = network(p, x["u"])
    return {"a": 1.5 * f, "b": jax.lax.complex(f[:, 0], f[:, 1])}


@pytest.mark.parametrize("form", ["real", "complex"])
def test_loss_of_a_tree_of_outputs(form, x64):
    weights, x = params(), {"u": jnp.asarray(X1)}

    def outputs(p: object, x: dict[str, jax.Array]) -> object:
        f = of_parts(p, x)
        return f if form == "complex" else f["a"][:, :, None]

    def loss(f: object, y: jax.Array) -> jax.Array:
        return y[0] * jnp.sum(
            jnp.stack([jnp.sum(jnp.abs(leaf) ** 2) for leaf in jax.tree.leaves(f)])
        )

    y = jnp.arange(1.0, len(X1) + 1)
    found = lazyjax.empirical_ntk_of_loss(loss, outputs, weights, x, y)

    def of_one(p: object, i: int) -> jax.Array:
        return loss(outputs(p, {"u": jnp.asarray(X1)[i][None]}), y[i][None])

    gradients = [ravel_pytree(jax.grad(of_one)(weights, i))[0] for i in range(len(X1))]
    gradients = np.stack(gradients)
    assert_close(found, gradients @ gradients.T, 1e-10)


def test_numbers_of_outputs_run_through_a_tree_and_are_not_those_of_complex_ones(x64):
    weights, x = params(), {"u": jnp.asarray(X1)}
    real = lambda p, x: {"a": network(p, x["u"]), "b": 2 * network(p, x["u"])[:, 0]}
    flat = lazyjax.empirical_ntk(real, weights, x, outputs="flat")
    k = flat.shape[-1]
    chosen = lazyjax.empirical_ntk(real, weights, x, outputs=[k - 1, 0])
    assert_close(chosen, flat[:, :, [k - 1, 0]][..., [k - 1, 0]], 1e-12)
    for call in (
        lambda: lazyjax.empirical_ntk(of_parts, weights, x, outputs=[0]),
        lambda: lazyjax.ntk_trace_estimate(of_parts, weights, x, key=jax.random.key(0)),
    ):
        with pytest.raises(ValueError, match="real outputs"):
            call()
    with pytest.raises(ValueError, match="of several functions"):
        lazyjax.empirical_ntk((real, real), weights, x, outputs=[0, 1])
