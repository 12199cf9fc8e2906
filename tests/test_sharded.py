"""Batches and parameters on several devices, in processes of their own."""

import os
import subprocess
import sys

import pytest

from tests.helpers.placed_arrays import CHECKS

slow = pytest.mark.slow


# On eight devices what may depend on their number.
CASES = [
    pytest.param(name, number, marks=[] if (name, number) == ("quick", 4) else slow)
    for name in CHECKS
    for number in ((4, 8) if name in ("quick", "memory", "single") else (4,))
]


@pytest.mark.parametrize(("name", "num_devices"), CASES)
def test_what_is_split_over_a_mesh_is_as_the_whole(name, num_devices):
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
