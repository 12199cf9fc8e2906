"""Batches and parameters on several devices, in processes of their own."""

import os
import subprocess
import sys

import pytest

_SETUP = """
import jax, jax.numpy as jnp, numpy as np, lazyjax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

def network(p, x):
    return jnp.tanh(x @ p["w"]) @ p["v"]

def on(kind, array, *spec):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(kind,))
    return jax.device_put(array, NamedSharding(mesh, P(*spec)))

rng = np.random.default_rng(0)
x = rng.normal(size=(8, 3)).astype(np.float32)
p = {"w": jnp.ones((3, 8)), "v": jnp.ones((8, 2))}
VERBS = {
    "empirical_ntk": lambda p, x: lazyjax.empirical_ntk(network, p, x),
    "layerwise_ntk": lambda p, x: lazyjax.layerwise_ntk(network, p, x)["w"],
    "ntk_diagonal": lambda p, x: lazyjax.ntk_diagonal(network, p, x),
    "ntk_operator": lambda p, x: lazyjax.ntk_operator(network, p, x)(x[:, :2]),
    "empirical_nngp": lambda p, x: lazyjax.empirical_nngp(network, p, x),
}
"""

_REFUSED = """
split = on(AxisType.Explicit, x, "data")
columns = {**p, "w": on(AxisType.Explicit, p["w"], None, "data")}
for call, name in [
    *((lambda v=v: v(p, split), "`x") for v in VERBS.values()),
    *((lambda v=v: v(columns, x), "`params['w']`") for v in VERBS.values()),
    (lambda: jax.jit(VERBS["empirical_ntk"])(p, split), "`x1`"),
    (lambda: lazyjax.linearize(network, p)(p, split), "`x`"),
]:
    try:
        call()
    except ValueError as error:
        message = str(error)
        assert "explicit mesh axes; it is over 'data'" in message, message
        assert "AxisType.Auto" in message and "auto_axes" in message, message
        assert name in message, message
    else:
        raise AssertionError("not refused: " + name)
"""

_AUTOMATIC = """
expected = {name: np.asarray(verb(p, x)) for name, verb in VERBS.items()}
split = on(AxisType.Auto, x, "data")
everywhere = on(AxisType.Explicit, x)
for name, verb in VERBS.items():
    for batch in (split, everywhere):
        error = np.abs(np.asarray(verb(p, batch)) - expected[name]).max()
        assert error <= 1e-5 * np.abs(expected[name]).max(), (name, error)
call = jax.sharding.auto_axes(lambda x: VERBS["empirical_ntk"](p, x), out_sharding=P())
mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Explicit,))
with jax.set_mesh(mesh):
    kernel = jax.jit(call)(jax.device_put(x, P("data")))
assert np.abs(kernel - expected["empirical_ntk"]).max() < 1e-4
"""


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(_REFUSED, id="refused"),
        pytest.param(_AUTOMATIC, id="works", marks=pytest.mark.slow),
    ],
)
def test_what_is_split_over_mesh_axes(program):
    """Over automatic ones it works; over explicit ones the way out is told."""
    flags = os.environ.get("XLA_FLAGS", "")
    flags = f"{flags} --xla_force_host_platform_device_count=4"
    run = subprocess.run(
        [sys.executable, "-c", _SETUP + program],
        capture_output=True,
        check=False,
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
