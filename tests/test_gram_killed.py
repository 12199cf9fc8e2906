"""A Gram matrix on disk survives whatever happens to the process and to the disk."""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from typing import Any

import jax
import numpy as np
import pytest

import lazyjax
from lazyjax.grams import GramStore
from tests.helpers.compare import assert_close

pytestmark = pytest.mark.once

NET = lazyjax.nets.cnn(width=4, depth=2, num_outputs=2)
X = np.random.default_rng(0).normal(size=(60, 5, 5, 1)).astype(np.float32)
PARAMS = NET.init(jax.random.key(0), X[:2])
NUM_TILES = 78


def gram_of(path, progress: Any = False):
    return lazyjax.gram(
        (NET.apply, PARAMS), X, path=path, tile=5, memory="300KiB", progress=progress
    )


def say(share, message):
    sys.stdout.write(f"{message}\n")
    sys.stdout.flush()
    time.sleep(0.02)  # or all is over before anything can be done to it


def stuck(share, message):
    say(share, message)
    if message.startswith("tile 3 "):
        time.sleep(600)


def started(path, report="say"):
    code = f"""
from tests import test_gram_killed as t
t.gram_of({str(path)!r}, t.{report})
"""
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    )


def content(path):
    """All files of a matrix by name."""
    files = (file for file in path.rglob("*") if file.is_file())
    names = {file: str(file.relative_to(path)) for file in files}
    return {
        name: file.read_bytes() for file, name in names.items() if "lock" not in name
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole")
    assert len(gram_of(path).files.places) == NUM_TILES
    return content(path)


def has_written(process, num_tiles):
    """Wait until a process has written so many tiles, or ended."""
    assert process.stdout is not None
    for _ in range(num_tiles):
        if not process.stdout.readline():
            break


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.communicate()


def resumed(path, whole):
    """Go on with what there is; checks that no tile that is there is computed again."""
    before = {file: file.stat().st_mtime_ns for file in path.glob("c/*/*/*/*")}
    before = {file: time for file, time in before.items() if file.suffix != ".__lock"}
    told = []
    gram_of(path, progress=lambda share, message: told.append(message))
    assert len(told) == NUM_TILES - len(before)
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert content(path) == whole
    return len(before)


def test_a_killed_process_loses_no_tile_and_keeps_others_out(tmp_path, whole):
    process = started(tmp_path, "stuck")
    has_written(process, 3)
    with pytest.raises(ValueError, match="is being written to by another run"):
        gram_of(tmp_path)
    kill(process)
    assert 3 <= resumed(tmp_path, whole) < NUM_TILES


@pytest.mark.slow
def test_twenty_kills_at_any_moment(tmp_path, whole):
    draw, kept = random.Random(0), []
    for number in range(20):
        path = tmp_path / str(number)
        # Also before there is anything, and while a program is compiled.
        tiles = draw.choice([0, 0, *draw.sample(range(1, NUM_TILES), 6)])
        process = started(path)
        has_written(process, tiles)
        time.sleep(draw.uniform(0, 6.0 if tiles == 0 else 0.05))
        kill(process)
        kept.append(resumed(path, whole))
    assert len({*kept}) > 5


def test_a_flipped_byte_is_found_and_mended(tmp_path, whole):
    store = gram_of(tmp_path)
    draw = random.Random(0)
    for place in [(0, 0), (3, 7), (11, 11)]:
        file = tmp_path.joinpath("c", *map(str, place), "0", "0")
        raw = bytearray(file.read_bytes())
        raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
        file.write_bytes(raw)
        assert store.verify().damaged == (place,)
        with pytest.raises(ValueError, match="is damaged"):
            store.to_array()
        gram_of(tmp_path)
        assert content(tmp_path) == whole
    for damage in (b"", raw[:-1], bytes(raw) + b"0"):
        file.write_bytes(damage)
        assert not store.verify().holds
        gram_of(tmp_path)
        assert content(tmp_path) == whole
    file.unlink()
    assert store.verify().missing == ((11, 11),)
    with pytest.raises(ValueError, match="lacks 1 of 78 tiles"):
        store.to_array()


def test_a_full_disk_is_one_clear_error_and_what_is_there_is_kept(tmp_path, whole):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(share, message):
        if message.startswith("tile 5 "):
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))

    try:
        with pytest.raises(
            OSError, match=r"cannot be written to .*: file too large"
        ) as error:
            gram_of(tmp_path, progress=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "the same call goes on" in str(error.value)
    assert resumed(tmp_path, whole) >= 5


@pytest.mark.slow
def test_disks_that_are_really_full_or_read_only(tmp_path, whole):
    def mount(*options):
        return subprocess.run(
            ["mount", *options, tmp_path], capture_output=True
        ).returncode

    if os.geteuid() or mount("-t", "tmpfs", "-o", "size=100k", "tmpfs"):
        pytest.skip("needs the right to mount")
    try:
        path = tmp_path / "k"
        with pytest.raises(OSError, match="no space left on device"):
            gram_of(path)
        mount("-o", "remount,ro")
        with pytest.raises(ValueError, match="can be made and written to"):
            gram_of(path)
        mount("-o", "remount,rw,size=10m")
        assert 0 < resumed(path, whole) < NUM_TILES
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_paths_that_cannot_be_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is not a folder"):
        gram_of(tmp_path / "file" / "k")
    with pytest.raises(ValueError, match="holds other files"):
        gram_of(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no Gram matrix"):
        GramStore.open(tmp_path / "nowhere")


def test_a_second_writer_in_the_same_process_is_refused(tmp_path):
    refused = []

    def again(share, message):
        if not refused:
            with pytest.raises(ValueError, match="by another run") as error:
                gram_of(tmp_path)
            refused.append(error)

    store = gram_of(tmp_path, progress=again)
    assert len(refused) == 1
    assert_close(store.to_array(), GramStore.open(tmp_path).to_array(), "exact")
