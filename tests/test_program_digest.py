"""Digests: the same for the same program in every process, another for another one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lazyjax.dynamics import observers, square_loss
from lazyjax.dynamics.training import fingerprint as _fingerprint
from lazyjax.dynamics.training.program_digest import content_digest, program_digest
from tests.helpers import two_layer
from tests.helpers.derivatives import identity_with_derivative

ONCE = identity_with_derivative(1.0)
JAX_CONSTANT = jnp.full((1, 3), 0.5)
ROOT = Path(__file__).parent.parent
PARAMS, X, Y = two_layer.problem(np.float32)
NOISY = optax.chain(optax.add_noise(0.1, 0.5, jax.random.key(1)), optax.sgd(0.05))


@pytest.fixture(autouse=True)
def dtype_promotion():
    """As optax needs it, which raises floats to integers."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def every_digest():
    """Digests of programs with nested functions, control flow, callbacks and sets."""

    def host(f):
        return np.asarray(f)

    def net(params, x):
        f = two_layer.apply(params, ONCE(x))
        f = jax.lax.cond(jnp.sum(f) > 0, jnp.sin, jnp.cos, f)
        f = jax.lax.scan(lambda c, _: (jax.nn.relu(c) + 0.1, None), f, None, length=2)[
            0
        ]
        return jax.pure_callback(host, jax.ShapeDtypeStruct(f.shape, f.dtype), f)

    return [
        program_digest(net, PARAMS, X),
        content_digest({"a", "b", "c"}, {"d": jax.random.key(0)}, X, 0.1, None),
        *_fingerprint.functions_of(
            lambda p, x: two_layer.apply(p, x + jnp.ones_like(x) + JAX_CONSTANT),
            square_loss,
            lambda: NOISY,
            {"ntk": observers.ntk, "drift": observers.ntk_drift},
            PARAMS,
            X,
            Y,
        ).values(),
    ]


def test_digests_are_the_same_in_every_process():
    code = (
        "import json\n"
        "from tests.test_program_digest import every_digest\n"
        "print(json.dumps(every_digest()))"
    )
    here = every_digest()
    assert every_digest() == here
    assert len(set(here)) == len(here)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": "1"},
        text=True,
    )
    assert json.loads(done.stdout) == here


@pytest.mark.parametrize(
    ("fn", "other"),
    [
        (lambda x: x + 1, lambda x: x + 2),
        (lambda x: x + 1, lambda x: x - 1),
        (lambda x: (x, x + 1), lambda x: (x + 1, x)),
        (lambda x: [x], lambda x: (x,)),
        (lambda x: jnp.sum(x, axis=0), lambda x: jnp.sum(x, axis=1)),
        (lambda x: jax.lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, x), jnp.sin),
        (
            lambda x: jax.lax.fori_loop(0, 3, lambda i, c: c * 2.0, x),
            lambda x: jax.lax.fori_loop(0, 3, lambda i, c: c * 3.0, x),
        ),
        (
            lambda x: jax.jit(lambda x: x * np.array([[1, 2, 3]], np.float32))(x),
            lambda x: jax.jit(lambda x: x * np.array([[1, 2, 4]], np.float32))(x),
        ),
        (
            lambda x: jax.pure_callback(lambda x: x + np.float32(1), x, x),
            lambda x: jax.pure_callback(lambda x: x + np.float32(2), x, x),
        ),
        (lambda x: x.astype(jnp.bfloat16), lambda x: x.astype(jnp.float16)),
    ],
)
def test_digests_of_other_programs_differ(fn, other):
    x = jnp.ones((3, 3), jnp.float32)
    assert program_digest(fn, x) == program_digest(lambda x: fn(x), x)
    assert program_digest(fn, x) != program_digest(other, x)
    assert program_digest(fn, x) != program_digest(fn, x[:, :2].repeat(3, 1)[:2, :3])
