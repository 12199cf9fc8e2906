"""Every file that is written is read back right, or refused in one error that names it."""

import dataclasses
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest

import lazyjax
from lazyjax.certify import Assumption, Certificate, Quantity
from lazyjax.dynamics import observers, train
from lazyjax.files import archive as _archive
from lazyjax.files.archive import FileError
from lazyjax.sweeps import Sweep
from lazyjax.sweeps.checkpoint import Checkpoint, kept_files
from tests.helpers import two_layer

pytestmark = pytest.mark.once

PARAMS, X, Y = two_layer.problem(np.float32)
NUM_DAMAGED = 200


def run_of(folder):
    return train(
        two_layer.apply,
        PARAMS,
        X,
        Y,
        optimizer=optax.sgd(0.05, 0.9),
        num_steps=4,
        observe=[observers.outputs],
        checkpoint=folder,
        checkpoint_every=2,
    )


def sweep_of(folder, **changes):
    settings = {"widths": [2], "num_seeds": 2, "learning_rates": [0.1]}
    return lazyjax.sweep(
        lazyjax.Architecture(activation="tanh"),
        X,
        Y[:, :1],
        key=jax.random.key(0),
        num_steps=3,
        observe=[observers.loss],
        checkpoint=folder,
        **(settings | changes),
    )


CERTIFICATE = Certificate(
    theorem="a theorem",
    conclusion="the loss goes to zero",
    assumptions=(Assumption(name="a", statement="h < 1/2", holds=True),),
    margin=0.25,
    quantities=(Quantity(name="h", value=0.125, bound="upper"),),
    rigor="proof",
    dynamics="flow",
    rate=2.0,
    radius=float("inf"),
    refutation=Assumption(name="r", statement="R", holds=None),
    premises=("arithmetic is exact",),
)


def leaves(result):
    if isinstance(result, Sweep):
        fields = dataclasses.fields(result)
        return jax.tree.leaves([getattr(result, field.name) for field in fields])
    return jax.tree.leaves(result)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Files of each kind, and what reads them back."""
    folder = tmp_path_factory.mktemp("written")
    run_of(folder / "run")
    result = sweep_of(folder / "sweep")
    record, *_ = kept_files(folder / "sweep")
    files: dict[str, Any] = {
        "run": (folder / "run" / "run.npz", lambda path: run_of(path.parent))
    }
    wanted = json.loads(str(np.load(record)["meta"]))["fingerprint"]
    files["record"] = (
        record,
        lambda path: list(Checkpoint(path.parent, wanted).read()),
    )
    for suffix in ("npz", "json", "csv"):
        files[suffix] = result.save(folder / f"result.{suffix}"), Sweep.load
    text = folder / "certificate"
    text.write_text(CERTIFICATE.to_json())
    files["certificate"] = (
        text,
        lambda path: Certificate.from_json(path.read_text(errors="replace")),
    )
    return files


def damaged(content, seed):
    """The content with some bits turned, cut short, or a part of it lost or repeated."""
    rng = np.random.default_rng(seed)
    kind = seed % 4
    at = int(rng.integers(len(content)))
    if kind == 0:
        return content[:at]
    if kind == 1:
        size = int(rng.integers(1, 9))
        return content[:at] + content[at + size :]
    bits = np.frombuffer(content, np.uint8).copy()
    for place in rng.integers(len(content), size=1 if kind == 2 else 3):
        bits[place] ^= 1 << int(rng.integers(8))
    return bits.tobytes()


KINDS = ("run", "record", "npz", "json", "csv", "certificate")


def read_or_refusal(read, path) -> tuple[list, ValueError | None]:
    """What is read, or the error; any other error than a ValueError is the test's."""
    try:
        return leaves(read(path)), None
    except ValueError as error:
        return [], error


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_right_or_refused_in_one_error(written, tmp_path, kind):
    path, read = written[kind]
    content = path.read_bytes()
    copy = tmp_path / path.name
    copy.write_bytes(content)
    expected = leaves(read(copy))
    refused = []
    for seed in range(NUM_DAMAGED):
        copy.write_bytes(damaged(content, seed))
        found, error = read_or_refusal(read, copy)
        if error is not None:
            refused.append(error)
            continue
        assert len(found) == len(expected)
        for leaf1, leaf2 in zip(found, expected, strict=True):
            np.testing.assert_array_equal(np.asarray(leaf1), np.asarray(leaf2))
    # Nobody reads the labels of a CSV file, or the dates in an archive.
    assert len(refused) > 0.8 * NUM_DAMAGED
    if kind == "certificate":
        assert all(str(error).startswith("`text` ") for error in refused)
        return
    for error in refused:
        assert isinstance(error, FileError)
        assert str(copy) in str(error)
        assert "anew" in str(error) or "again" in str(error)


def test_well_formed_files_with_one_other_number_are_refused(written, tmp_path):
    data = json.loads(written["json"][0].read_text())
    data["observed_at"]["values"][0] += 1
    (tmp_path / "s.json").write_text(json.dumps(data))
    lines = written["csv"][0].read_text().splitlines()
    *cells, value = lines[2].split(",")
    lines[2] = ",".join([*cells, str(float(value) + 1)])
    (tmp_path / "s.csv").write_text("\n".join(lines))
    for name in ("s.json", "s.csv"):
        with pytest.raises(FileError, match="its content is not what was written"):
            Sweep.load(tmp_path / name)
    data = json.loads(CERTIFICATE.to_json())
    with pytest.raises(FileError, match="`text` cannot be used: its content is not"):
        Certificate.from_json(json.dumps(data | {"rate": 3.0}))


def test_text_that_was_only_laid_out_anew_is_read(written, tmp_path):
    path, read = written["json"]
    copy = tmp_path / "s.json"
    copy.write_text(json.dumps(json.loads(path.read_text()), indent=2, sort_keys=True))
    for leaf1, leaf2 in zip(leaves(read(copy)), leaves(read(path)), strict=True):
        np.testing.assert_array_equal(leaf1, leaf2)
    indented = json.dumps(json.loads(CERTIFICATE.to_json()), indent=2)
    assert Certificate.from_json(indented) == CERTIFICATE


def without_member(path, name):
    """Remove one array of an archive."""
    with zipfile.ZipFile(path) as archive:
        kept = {n: archive.read(n) for n in archive.namelist() if n != f"{name}.npy"}
    with zipfile.ZipFile(path, "w") as archive:
        for n, content in kept.items():
            archive.writestr(n, content)


def as_written_by_a_later_version(path):
    """The same content, in a format to come."""
    arrays = dict(np.load(path))
    about = json.loads(str(arrays["meta"])) | {"format": 4}
    np.savez(path, **(arrays | {"meta": np.array(json.dumps(about))}))  # pyright: ignore[reportArgumentType]


HURT = {
    "empty": (lambda path: path.write_bytes(b""), "it is no archive of arrays"),
    "text": (lambda path: path.write_text("{}"), "it is no archive of arrays"),
    "zeros": (
        lambda path: path.write_bytes(bytes(path.stat().st_size)),
        "it is no archive of arrays",
    ),
    "no header": (lambda path: without_member(path, "meta"), "not in format 3"),
    "no loss": (lambda path: without_member(path, "loss"), "not what was written"),
    "not JSON": (
        lambda path: np.savez(path, meta=np.array("{")),
        r"is damaged \(JSONDecodeError",
    ),
    "JSON of something else": (
        lambda path: np.savez(path, meta=np.array("[1]")),
        "is damaged",
    ),
    "pickle": (
        lambda path: np.savez(path, meta=np.array([None, {}], object)),
        "is damaged",
    ),
    "an earlier version": (
        lambda path: np.savez(path, meta=np.array('{"width": [2]}')),
        "it is not in format 3",
    ),
    "a later version": (
        as_written_by_a_later_version,
        "written by a newer version of lazyjax, in format 4",
    ),
    "folder": (lambda path: (path.unlink(), path.mkdir()), "Is a directory"),
    "another kind": (
        lambda path: _archive.write_npz(path, "letter", {}, {}),
        "it is no file of a .*, but of a letter",
    ),
}


@pytest.mark.parametrize("name", HURT)
def test_each_way_to_be_damaged_is_told(written, tmp_path, name):
    hurt, message = HURT[name]
    for kind in ("run", "record", "npz"):
        path, read = written[kind]
        copy = tmp_path / kind / path.name
        copy.parent.mkdir()
        shutil.copy(path, copy)
        hurt(copy)
        with pytest.raises(FileError, match=message) as caught:
            read(copy)
        assert str(copy) in str(caught.value)


def test_files_that_may_not_be_read_are_named(written, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    for kind in ("run", "record", "npz"):
        path, read = written[kind]
        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_bytes", refuse)
            with pytest.raises(FileError, match="cannot be read: Permission denied"):
                read(path)


def test_files_that_are_not_there_are_said_not_to_be(tmp_path):
    for suffix in ("npz", "json", "csv"):
        with pytest.raises(FileNotFoundError, match=f"none.{suffix}"):
            Sweep.load(tmp_path / f"none.{suffix}")


def test_a_damaged_record_stops_a_sweep_and_once_deleted_is_made_again(tmp_path):
    result = sweep_of(tmp_path)
    record, *_ = kept_files(tmp_path)
    record.write_bytes(record.read_bytes()[:-9])
    with pytest.raises(FileError, match="Delete it, and its members are trained again"):
        sweep_of(tmp_path, resume=True)
    record.unlink()
    np.testing.assert_array_equal(sweep_of(tmp_path, resume=True).loss, result.loss)


# --- writing ------------------------------------------------------------------------


def test_files_follow_links_and_have_usual_permissions(tmp_path):
    result = Sweep(
        axes={"width": (2,)},
        loss=np.zeros((1, 1)),
        diverged_at=np.full(1, -1),
        observed_at=np.zeros(0, int),
        observations={},
    )
    target, link = tmp_path / "target.npz", tmp_path / "link.npz"
    (tmp_path / "usual").write_bytes(b"")
    target.write_bytes(b"old")
    link.symlink_to(target)
    result.save(link)
    assert link.is_symlink()
    assert Sweep.load(target).axes == result.axes
    result.save(tmp_path / "new.npz")
    modes = {(tmp_path / name).stat().st_mode for name in ("usual", "new.npz")}
    assert len(modes) == 1


def test_what_is_not_finite_and_of_other_byte_order_is_kept(tmp_path):
    nans = np.array([[np.nan, -np.nan, np.inf, -0.0]])
    assert len({n.tobytes() for n in nans[0, :2]}) == 2  # NaNs of either sign
    result = Sweep(
        axes={"width": (2,)},
        loss=nans.astype(">f8"),
        diverged_at=np.full(1, 0),
        observed_at=np.zeros(1, int),
        observations={"bits": np.array([[True]]), "count": np.array([[2**62]])},
    )
    for suffix in ("npz", "json", "csv"):
        again = Sweep.load(result.save(tmp_path / f"s.{suffix}"))
        np.testing.assert_array_equal(again.loss, result.loss)
        assert np.signbit(again.loss[0, 3])
        np.testing.assert_array_equal(again.observations["count"], [[2**62]])
        assert again.observations["bits"].dtype == bool


def test_no_file_is_left_where_writing_fails(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    run_of(tmp_path)
    before = (tmp_path / "run.npz").read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        sweep_of(tmp_path / "sweep")
    assert list((tmp_path / "sweep").iterdir()) == []
    assert (tmp_path / "run.npz").read_bytes() == before
