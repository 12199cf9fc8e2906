"""Convolutional networks and their linear models on few images."""

import jax
import numpy as np
import pytest

from lazyjax.data import _cifar10
from lazyjax.experiments import run
from lazyjax.experiments.lazy import chizat_bach_images as module
from tests.helpers.experiments import check_control, check_repeatable

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def result():
    return run("chizat-bach-images", size="brief")


@pytest.mark.slow
def test_gates_stay_as_the_output_scale_grows(result):
    found, checks = result.measured, result.verdict.checks
    assert found.alphas == (0.1, 1000.0, np.inf)
    assert [check.word for check in checks if "gates" in check.statement] == [
        "reproduced"
    ] * 2
    # Of a linear model, none of whose parameters is large, gates hardly move either.
    assert found.accuracy.min() > 0.5
    np.testing.assert_allclose(found.accuracy[1], found.accuracy[2], atol=0.03)
    assert "digits in its place" in result.verdict.line


@pytest.mark.slow
def test_small_output_scales_are_not_lazy():
    check_control("chizat-bach-images")


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers(result):
    check_repeatable("chizat-bach-images", result)


def test_cifar_is_used_where_it_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(_cifar10, "_PER_FILE", 20)
    rows = np.random.default_rng(0).integers(0, 256, (6, 20, 3073), dtype=np.uint8)
    rows[..., 0] = np.arange(20) % 10
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    for name, row in zip(names, rows, strict=True):
        (tmp_path / name).write_bytes(row.tobytes())
    size = module.ChizatBachImagesSize(num_train=40, num_test=20)
    data, is_cifar = module._images(size, tmp_path, jax.random.key(0))
    assert is_cifar
    assert data.x_train.shape == (40, 32, 32, 3)
    np.testing.assert_allclose(
        np.mean(np.square(data.x_train), (1, 2, 3)), 1, rtol=1e-5
    )
    (tmp_path / "test_batch.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"test_batch\.bin"):
        module._images(size, tmp_path, jax.random.key(0))
    data, is_cifar = module._images(size, tmp_path / "nowhere", jax.random.key(0))
    assert not is_cifar
    assert data.x_test.shape == (20, 8, 8, 1)
