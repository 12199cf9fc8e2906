"""Chatterjee's positive starts and the adversary of his criterion."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lazyjax.certify import Verdict, adversary
from lazyjax.certify.theorems.positive_start import positive_init
from tests.helpers.compare import assert_close

pytestmark = pytest.mark.once


def verdict(certificate):
    return certificate.verdict.name


# Positive starts


def unit_rows(n, d, seed=0):
    x = np.random.default_rng(seed).standard_normal((n, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def signs(n):
    return np.where(np.arange(n) % 2, 1.0, -1.0)[:, None]


class PlainTanh:
    """The network with tanh and unit biases, and its Jacobian, in NumPy."""

    def __init__(self, params):
        names = sorted(params)
        self.w = [np.asarray(params[n]["kernel"], np.float64) for n in names]
        self.b = [np.asarray(params[n]["bias"], np.float64) for n in names]

    def flat(self):
        return np.concatenate([a.ravel() for a in (*self.w, *self.b)])

    def moved(self, flat):
        other, at = PlainTanh({}), 0
        for name in ("w", "b"):
            arrays = []
            for a in getattr(self, name):
                arrays.append(a + flat[at : at + a.size].reshape(a.shape))
                at += a.size
            setattr(other, name, arrays)
        return other

    def outputs_and_jacobian(self, x):
        h = [x]
        for w, b in zip(self.w[:-1], self.b[:-1], strict=True):
            h.append(np.tanh(h[-1] @ w + b))
        e = np.ones((len(x), 1))
        of_w, of_b = [], []
        for i in range(len(self.w) - 1, -1, -1):
            of_w.append(np.einsum("ni,nj->nij", h[i], e).reshape(len(x), -1))
            of_b.append(e)
            if i:
                e = (e @ self.w[i].T) * (1 - h[i] ** 2)
        f = (h[-1] @ self.w[-1] + self.b[-1])[:, 0]
        return f, np.hstack([*of_w[::-1], *of_b[::-1]])


@pytest.fixture(scope="module")
def positive():
    with jax.enable_x64(True):
        x, y = unit_rows(5, 10), signs(5)
        return x, y, positive_init(x, y, width=6, depth=2)


def test_positive_start_is_certified_and_runs_to_zero_loss(positive):
    x, y, start = positive
    assert verdict(start.flow) == verdict(start.descent) == "CERTIFIED"
    assert 15 < start.needed < 60  # about 30 for such inputs
    net = PlainTanh(start.params)
    first, loss = net.flat(), []
    for _ in range(4000):
        f, jacobian = net.outputs_and_jacobian(x)
        r = f - y[:, 0]
        loss.append(r @ r / 2)
        if loss[-1] < 1e-21:
            break
        net = net.moved(-start.descent.step_size * (jacobian.T @ r))
    assert loss[0] == 2.5  # the output is zero
    assert loss[-1] < 1e-20
    allowed = loss[0] * (1 - start.descent.rate) ** np.arange(len(loss))
    assert np.all(np.array(loss) <= allowed)
    assert np.linalg.norm(net.flat() - first) < start.descent.radius


def test_singular_values_in_the_ball_are_above_their_bound(positive):
    """In adversarial corners: all weights lowered by all of the radius, and at random."""
    x, _, start = positive
    net = PlainTanh(start.params)
    radius = start.flow.radius
    rng = np.random.default_rng(0)
    smallest = []
    directions = [rng.standard_normal(net.flat().size) for _ in range(30)]
    lowered = [np.zeros_like(a) for a in (*net.w, *net.b)]
    for layer in (1, 2):
        one = [a.copy() for a in lowered]
        one[layer] -= 1
        directions.append(np.concatenate([a.ravel() for a in one]))
    for direction in directions:
        step = radius * direction / np.linalg.norm(direction)
        _, jacobian = net.moved(step).outputs_and_jacobian(x)
        smallest.append(np.linalg.svd(jacobian, compute_uv=False)[-1])
    bound = start.flow["sigma_min"]
    assert 0 < bound <= min(smallest)


def test_needed_output_weight_is_what_the_derivation_says(positive):
    x, y, start = positive
    radius, weight, width = 0.25, 0.5, 6
    z1 = radius * np.sqrt(2)
    h = np.sqrt(width) * np.tanh(z1)
    z2 = (weight * np.sqrt(width) + radius) * h + radius
    slopes = (1 - np.tanh(z1) ** 2) * (1 - np.tanh(z2) ** 2)
    share = slopes * width * (weight - radius)
    eig_min = np.linalg.eigvalsh(x @ x.T + 1)[0]
    needed = radius + np.sqrt(5) / (radius * share * np.sqrt(width * eig_min))
    assert_close(start.needed, needed, 1e-9)
    below = positive_init(x, y, width=6, output_weight=0.98 * start.needed)
    assert verdict(below.flow) == "INCONCLUSIVE"
    above = positive_init(x, y, width=6, output_weight=1.02 * start.needed)
    assert verdict(above.flow) == "CERTIFIED"


@pytest.mark.parametrize("activation", ["softplus", "sigmoid", "erf", "identity"])
def test_positive_start_of_other_smooth_activations_begins_at_zero(activation, x64):
    x, y = unit_rows(3, 4), signs(3)
    start = positive_init(x, y, width=4, depth=1, activation=activation)
    assert verdict(start.flow) == "CERTIFIED"
    output = start.network.apply(start.params, jnp.asarray(x))
    assert float(jnp.max(jnp.abs(output))) <= 1e-12 * start.output_weight


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"activation": "relu"}, "smooth and increasing"),
        ({"activation": "leaky_relu"}, "smooth and increasing"),
        ({"activation": "sin"}, "smooth and increasing"),
        ({"activation": "gelu"}, "smooth and increasing"),
        ({"x": unit_rows(5, 3)}, "independent"),
        ({"x": np.vstack([unit_rows(4, 10), unit_rows(1, 10)])}, "independent"),
        ({"radius": 0.6}, "positive"),
        ({"output_weight": 2.0}, "criterion"),
    ],
)
def test_positive_start_is_inconclusive_outside_of_the_theorem(changes, missing, x64):
    arguments = {"x": unit_rows(5, 10), "width": 6} | changes
    start = positive_init(arguments.pop("x"), signs(5), **arguments)
    for found in (start.flow, start.descent):
        assert found.verdict is not Verdict.CERTIFIED
        assert missing in {a.name for a in found.assumptions if a.holds is not True}


# The adversary


def flat(w, x):
    return x @ w**2


def test_adversary_finds_the_worst_point_of_a_known_loss(x64):
    """f = w^2, y = 0, L = w^4 / 2, |L'|^2 / L = 8 w^2: least at the nearest to zero."""
    one = jnp.ones((1, 1))
    found = adversary.attack(
        flat, one, one, 0 * one, [0.25, 0.5, 2.0], key=jax.random.key(0)
    )
    assert_close(found.ratio[:3], [8.0, 8 * 0.75**2, 8 * 0.5**2], 1e-6)
    assert found.alpha_upper(0.3) == found.ratio[1]


def attack_of(radii, ratio, loss=1.0):
    return adversary.Attack(
        radii=np.asarray(radii, float), ratio=np.asarray(ratio, float), loss=loss
    )


@pytest.mark.parametrize(
    ("ratio", "left"),
    [
        # The ratio at the start, 4, refutes up to 1; 1 up to 2; then 0 all.
        ([4.0, 1.0, 0.0], ()),
        ([4.0, 1.0, 0.5], ((math.sqrt(8), math.inf),)),
        ([4.0, 4.0, 0.0], ((1.0, 2.0),)),
        # A larger ratio that was found later does not undo a smaller one.
        ([1.0, 4.0, 0.0], ()),
    ],
)
def test_radii_left_open_are_those_no_ratio_refutes(ratio, left):
    found = attack_of([0.0, 1.0, 2.0], ratio)
    assert found.open_radii == left
