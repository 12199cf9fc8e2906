"""Batches and parameters on several devices, in processes of their own."""

import os
import subprocess
import sys

import pytest

from tests.helpers.placed_arrays import CHECKS


@pytest.mark.parametrize("num_devices", [4, 8])
@pytest.mark.parametrize(
    "name",
    [
        name if name == "quick" else pytest.param(name, marks=pytest.mark.slow)
        for name in CHECKS
    ],
)
def test_what_is_split_over_a_mesh_is_as_the_whole(name, num_devices):
    if name == "quick" and num_devices == 8:
        pytest.skip("four devices say as much")
    flags = os.environ.get("XLA_FLAGS", "")
    flags = f"{flags} --xla_force_host_platform_device_count={num_devices}"
    run = subprocess.run(
        [sys.executable, "-m", "tests.helpers.placed_arrays", name],
        capture_output=True,
        check=False,
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
