"""Data sets of files: what is written here is read, and what is damaged is refused."""

import gzip
import hashlib
import io
import os
import tarfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

from lazyjax.cli.app import app
from lazyjax.data import _cifar10, _sources, cifar10, mnist, where
from lazyjax.experiments import Conditions, run
from tests.helpers.compare import assert_close

pytestmark = pytest.mark.once

RNG = np.random.default_rng(0)
PER_FILE = 20


def idx_bytes(array):
    """The idx format: two zeros, the type (8: bytes), the axes, sizes, entries."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes((0, 0, 8, array.ndim)) + sizes + array.astype(np.uint8).tobytes()


def write_pair(folder, prefix, images, label, *, compressed):
    for kind, array in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", label)):
        content = idx_bytes(array)
        name = f"{prefix}{kind}{'.gz' if compressed else ''}"
        (folder / name).write_bytes(gzip.compress(content) if compressed else content)


def digits_of(num):
    """Random images, and the labels 0 to 9 in turn."""
    images = RNG.integers(0, 256, (num, 28, 28), dtype=np.uint8)
    return images, np.arange(num) % 10


def records_of(num_files):
    """Files of random records, each with the labels 0 to 9 equally often."""
    rows = RNG.integers(0, 256, (num_files, PER_FILE, 1 + 3072), dtype=np.uint8)
    rows[..., 0] = np.arange(PER_FILE) % 10
    return rows


@pytest.fixture
def small_cifar(tmp_path, monkeypatch):
    """A folder of six files with the layout of CIFAR-10, of 20 images each."""
    monkeypatch.setattr(_cifar10, "_PER_FILE", PER_FILE)
    rows = records_of(6)
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    for name, row in zip(names, rows, strict=True):
        (folder / name).write_bytes(row.tobytes())
    return tmp_path, rows


def unit_rows(images):
    x = np.reshape(images, (len(images), -1)).astype(float)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def rows_of(x, pool):
    """Which rows of `pool` the rows of `x` are."""
    distance = np.abs(np.asarray(x)[:, None] - unit_rows(pool)[None]).max(-1)
    assert distance.min(1).max() < 1e-6
    return distance.argmin(1)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("place", ["", "mnist", "MNIST/raw"])
def test_mnist_has_the_images_and_labels_of_its_files(tmp_path, compressed, place):
    folder = tmp_path / place
    folder.mkdir(parents=True, exist_ok=True)
    train, test = digits_of(40), digits_of(30)
    write_pair(folder, "train-", *train, compressed=compressed)
    write_pair(folder, "t10k-", *test, compressed=compressed)
    data = mnist(tmp_path, 40, num_test=20, dtype=jnp.float32)
    for x, y, pool in (
        (data.x_train, data.y_train, train),
        (data.x_test, data.y_test, test),
    ):
        row = rows_of(x, pool[0])
        assert len(set(row)) == len(x)
        np.testing.assert_array_equal(y, np.eye(10)[pool[1][row]])
    assert np.asarray(data.y_test).sum(0).tolist() == [2] * 10


def test_one_pair_of_files_gives_disjoint_training_and_test_images(tmp_path):
    images, label = digits_of(60)
    write_pair(tmp_path, "", images, label, compressed=True)
    data = mnist(str(tmp_path), 8, num_test=None, classes=(7, 2), dtype=jnp.float32)
    row = rows_of(np.concatenate([data.x_train, data.x_test]), images)
    assert sorted(row) == np.flatnonzero(np.isin(label, (7, 2))).tolist()
    y = np.concatenate([data.y_train, data.y_test])[:, 0]
    np.testing.assert_array_equal(y, np.where(label[row] == 2, 1, -1))
    assert data.description == "MNIST digits, 7 (-1) or 2 (+1)"


def test_another_key_draws_other_images(tmp_path):
    write_pair(tmp_path, "", *digits_of(60), compressed=False)
    one, same, other = (
        mnist(tmp_path, 20, num_test=20, key=jax.random.key(seed)) for seed in (1, 1, 2)
    )
    assert_close(one.x_train, same.x_train, "exact")
    assert not np.array_equal(one.x_train, other.x_train)


def test_inputs_of_half_precision_have_unit_norm(tmp_path):
    write_pair(
        tmp_path, "", 0 * digits_of(20)[0] + 255, digits_of(20)[1], compressed=False
    )
    x = mnist(tmp_path, 20, num_test=0, dtype=jnp.float16).x_train
    np.testing.assert_allclose(x, 1 / 28, rtol=1e-3)


def damaged(images=None, label=None, cut=None, magic=None, flip=None, suffix=""):
    """Writer of a pair of files of which one is damaged."""
    good_images, good_label = digits_of(20)

    def write(folder):
        arrays = {
            "images-idx3-ubyte": good_images if images is None else images,
            "labels-idx1-ubyte": good_label if label is None else label,
        }
        for name, array in arrays.items():
            content = idx_bytes(array)
            if magic and name.startswith("images"):
                content = magic + content[4:]
            if suffix:
                content = gzip.compress(content)
            if cut and name.startswith("images"):
                content = content[:cut]
            if flip and name.startswith("images"):
                content = bytearray(content)
                content[flip] ^= 1
            (folder / f"{name}{suffix}").write_bytes(content)

    return write


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (damaged(cut=-1), r"images-idx3-ubyte.*must have 15696 bytes.*it has 15695"),
        (damaged(cut=3), r"images-idx3-ubyte.*magic number 0x00000803"),
        (damaged(cut=-5, suffix=".gz"), r"images-idx3-ubyte.gz is damaged"),
        (damaged(flip=-6, suffix=".gz"), r"images-idx3-ubyte.gz.*CRC"),
        (damaged(magic=b"\0\0\x0d\3"), r"begins with 0x00000d03"),
        (damaged(images=np.ones((20, 28, 27))), r"28 by 28 pixels, not \(20, 28, 27\)"),
        (
            damaged(label=np.arange(19) % 10),
            r"labels-idx1.*19 labels for the 20 images",
        ),
        (damaged(label=np.arange(20) % 11), r"labels-idx1.*the label 10"),
        (damaged(images=np.ones((0, 28, 28))), r"images of 28 by 28"),
    ],
)
def test_damaged_mnist_is_one_error_that_names_the_file(tmp_path, write, message):
    write(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        mnist(tmp_path, 10, num_test=0)
    assert "lazyjax data where mnist" in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_longer_file_than_its_header_says_is_refused(tmp_path):
    write_pair(tmp_path, "", *digits_of(20), compressed=False)
    with (tmp_path / "labels-idx1-ubyte").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ValueError, match=r"must have 28 bytes.*it has 29"):
        mnist(tmp_path, 10, num_test=0)


@pytest.mark.parametrize("load", [mnist, cifar10])
@pytest.mark.parametrize("place", ["", "nowhere"])
def test_missing_files_say_where_to_get_them(tmp_path, load, place):
    with pytest.raises(FileNotFoundError, match=f"data where {load.__name__}"):
        load(tmp_path / place, 10)


def test_missing_half_of_a_pair_is_named(tmp_path):
    write_pair(tmp_path, "train-", *digits_of(20), compressed=True)
    with pytest.raises(FileNotFoundError, match="t10k-images-idx3-ubyte"):
        mnist(tmp_path, 10, num_test=5)


def test_black_image_is_refused_as_it_has_no_direction(tmp_path):
    images, label = digits_of(20)
    images[3] = 0
    write_pair(tmp_path, "", images, label, compressed=False)
    with pytest.raises(ValueError, match="one of the MNIST digits is zero"):
        mnist(tmp_path, 20, num_test=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_train": 61}, r"`num_train` \+ `num_test` must be at most 60.*61 \+ 0"),
        ({"classes": (1, 10)}, "two or more different numbers below 10"),
        ({"num_test": -1}, "`num_test` must be at least 0"),
    ],
)
def test_mnist_refuses_bad_arguments_by_name(tmp_path, own_errors, arguments, message):
    write_pair(tmp_path, "", *digits_of(60), compressed=False)
    with pytest.raises(ValueError, match=message):
        mnist(tmp_path, **{"num_train": 10, "num_test": 0} | arguments)


def test_cifar_images_have_their_channels_last(small_cifar):
    directory, rows = small_cifar
    data = cifar10(directory, 100, num_test=20, dtype=jnp.float32)
    for x, y, pool in (
        (data.x_train, data.y_train, rows[:5].reshape(-1, 3073)),
        (data.x_test, data.y_test, rows[5]),
    ):
        planes = pool[:, 1:].reshape(-1, 3, 1024)  # red, green and blue, row by row
        pixels = np.stack([planes[:, 0], planes[:, 1], planes[:, 2]], -1)
        row = rows_of(x, pixels)
        assert sorted(row) == list(range(len(pool)))
        np.testing.assert_array_equal(y, np.eye(10)[pool[row, 0]])
    one_red = data.x_train.reshape(-1, 32, 32, 3)[0, 1, 2, 0]
    source = rows[:5].reshape(-1, 3073)[rows_of(data.x_train[:1], pixels_of(rows))[0]]
    norm = np.linalg.norm(source[1:].astype(float))
    assert_close(one_red, np.float32(source[1 + 32 + 2] / norm))


def pixels_of(rows):
    return np.moveaxis(rows[:5].reshape(-1, 3073)[:, 1:].reshape(-1, 3, 1024), 1, 2)


def test_two_classes_of_cifar_have_their_names(small_cifar):
    data = cifar10(small_cifar[0], 4, num_test=2, classes=(0, 9))
    assert data.description == "CIFAR-10, airplane (-1) or truck (+1)"
    assert sorted(np.asarray(data.y_train)[:, 0]) == [-1, -1, 1, 1]
    with pytest.raises(ValueError, match=r"`num_test` must be at most 4.*got 5"):
        cifar10(small_cifar[0], 4, num_test=5, classes=(0, 9))


def test_archive_is_read_as_it_is_if_its_checksum_is_right(small_cifar, monkeypatch):
    directory, _ = small_cifar
    folder = directory / "cifar-10-batches-bin"
    expected = cifar10(directory, 30, num_test=20)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(folder, arcname=folder.name)
    for path in folder.iterdir():
        path.unlink()
    path = directory / "cifar-10-binary.tar.gz"
    path.write_bytes(buffer.getvalue())
    with pytest.raises(
        ValueError, match=rf"{path.name}.*MD5 checksum must be c32a1d4a"
    ):
        cifar10(directory, 30, num_test=20)
    official = _sources.SOURCES["cifar10"].files
    digest = hashlib.md5(buffer.getvalue()).hexdigest()
    monkeypatch.setattr(_cifar10, "_MD5", digest)
    assert digest not in official.values()
    assert_close(cifar10(directory, 30, num_test=20).x_train, expected.x_train, "exact")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c[:-1], r"data_batch_3.bin.*must have 61460 bytes.*it has 61459"),
        (lambda c: c[:-3073], r"data_batch_3.bin.*20 records of 3073; it has 58387"),
        (lambda c: b"\x0a" + c[1:], r"data_batch_3.bin.*the label 10"),
        (
            lambda c: b"\x01" + c[1:],
            r"must have 10 training images; it has from 9 to 11",
        ),
    ],
)
def test_damaged_cifar_is_one_error_that_names_the_file(small_cifar, change, message):
    directory, _ = small_cifar
    path = directory / "cifar-10-batches-bin" / "data_batch_3.bin"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=message) as error:
        cifar10(directory, 10)
    assert str(directory) in str(error.value)


def test_missing_batch_is_named(small_cifar):
    path = small_cifar[0] / "cifar-10-batches-bin" / "test_batch.bin"
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"test_batch\.bin"):
        cifar10(small_cifar[0], 10)


def test_where_names_every_file_and_its_checksum():
    for name, source in _sources.SOURCES.items():
        text = where(name)
        for address, md5 in source.files.items():
            assert address in text
            assert md5 in text
    with pytest.raises(ValueError, match="Did you mean 'cifar10'"):
        where("cifar")


def test_commands_say_what_there_is_and_what_to_download(tmp_path, monkeypatch):
    monkeypatch.setenv("LAZYJAX_DATA_DIR", str(tmp_path))
    write_pair(tmp_path, "", *digits_of(20), compressed=False)
    runner = CliRunner()
    listed = runner.invoke(app, ["data", "list"])
    assert listed.exit_code == 0
    assert "no files of it" in " ".join(listed.stdout.split())
    assert "whole, in" in " ".join(listed.stdout.split())
    (tmp_path / "labels-idx1-ubyte").write_bytes(b"broken")
    again = runner.invoke(app, ["data", "list"])
    assert "magic number 0x00000801" in " ".join(again.stdout.split())
    shown = runner.invoke(app, ["data", "where", "cifar10"])
    assert shown.stdout == where("cifar10") + "\n"
    assert runner.invoke(app, ["data", "where", "imagenet"]).exit_code == 2
    monkeypatch.setenv("LAZYJAX_DATA_DIR", str(tmp_path / "nowhere"))
    refused = runner.invoke(app, ["reproduce", "du2019"])
    assert refused.exit_code == 2
    assert "--data-dir must be a folder" in " ".join(refused.output.split())


def real_mnist():
    """The folder of data sets, if it has MNIST."""
    folder = Path(os.environ.get("LAZYJAX_DATA_DIR", "nowhere"))
    return folder if any(folder.rglob("*images-idx3-ubyte*")) else None


def test_experiments_on_digits_take_mnist_where_it_is(tmp_path):
    conditions = Conditions(seed=3, data_dir=tmp_path)
    assert "MNIST" not in conditions.digits(6, num_test=0).description
    write_pair(tmp_path, "", *digits_of(20), compressed=True)
    found = conditions.digits(6, num_test=0, classes="parity")
    assert found.description.startswith("MNIST")
    expected = mnist(tmp_path, 6, num_test=0, classes="parity", key=jax.random.key(3))
    np.testing.assert_array_equal(found.x_train, expected.x_train)
    assert Conditions(seed=3).digits(6, num_test=0).x_train.shape == (6, 64)
    (tmp_path / "labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match="labels-idx1-ubyte"):
        conditions.digits(6, num_test=0)


@pytest.mark.skipif(real_mnist() is None, reason="LAZYJAX_DATA_DIR has no MNIST")
def test_real_mnist_digits_are_like_their_class():
    folder = real_mnist()
    assert folder is not None
    data = mnist(folder, 1500, num_test=500, classes=(0, 1))
    means = [
        np.asarray(data.x_train)[np.asarray(data.y_train)[:, 0] == sign].mean(0)
        for sign in (-1, 1)
    ]
    score = np.asarray(data.x_test) @ (means[1] - means[0])
    threshold = (means[1] @ means[1] - means[0] @ means[0]) / 2
    correct = np.sign(score - threshold) == np.asarray(data.y_test)[:, 0]
    assert correct.mean() > 0.98, "nearest means tell 0 from 1"


@pytest.mark.slow
@pytest.mark.skipif(real_mnist() is None, reason="LAZYJAX_DATA_DIR has no MNIST")
@pytest.mark.parametrize("name", ["du2019", "random-labels"])
def test_experiments_on_real_mnist_are_reproduced(name):
    result = run(name, data_dir=real_mnist())
    assert result.verdict.word == "reproduced", result.verdict.line
    assert "MNIST" in result.verdict.line
