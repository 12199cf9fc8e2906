"""Ctrl-C: the command is out at once, with 130 and true words, whatever it computes."""

import contextlib
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

import lazyjax
from lazyjax.cli import interrupts
from lazyjax.cli.app import app
from lazyjax.sweeps.checkpoint import kept_files
from lazyjax.sweeps.run import Execution

pytestmark = pytest.mark.once

# Three seconds are promised; machines that run several tests at once may take more.
SECONDS = 10.0

# Shells start what runs in the background with interrupts ignored. What follows says
# "here" on stdout where the signal is to come.
BEGIN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)

def here(*_):
    print("here", flush=True)
"""
MAIN = "from lazyjax.cli import main; main()"

AT_IMPORT = """
sys.addaudithook(lambda event, args: args[0] == "jaxlib" and event == "import" and here())
"""
AT_COMPILE = """
import jax
lower = jax.stages.Traced.lower
compiled = jax.stages.Lowered.compile

def compile(*args, **kwargs):
    here()
    return compiled(*args, **kwargs)

jax.stages.Lowered.compile = compile
"""
AT_WRITE = """
import os, time
fsync = os.fsync

def slow(file):
    here()
    time.sleep(0.5)
    fsync(file)

os.fsync = slow
"""
AT_WORDS = """
import time
from lazyjax.cli import console, interrupts

class Told:
    def write(self, text):
        if "{words}" in text:
            here()
            time.sleep(1.0)
        return sys.__stderr__.write(text)
    def flush(self):
        sys.__stderr__.flush()

sys.stderr = Told()
"""

# Two calls, on any number of cores; programs that take longest to compile or to run.
SMALL = {
    "--widths": "8,16",
    "--seeds": 1,
    "--alphas": 1,
    "--steps": 5,
    "--num-train": 8,
}
LONG = {"--widths": 2048, "--seeds": 64, "--steps": 100000, "--num-train": 100}
ENDLESS = {"--num-train": 4, "--max-width": 1, "--num-steps": 2 * 10**9}


def options(chosen):
    return [str(part) for pair in chosen.items() for part in pair]


def interrupted(folder, hook, *arguments, delay=0.0):
    """Last words of a command that gets two interrupts; all else is checked here."""
    process = subprocess.Popen(
        [sys.executable, "-c", BEGIN + hook + MAIN, *map(str, arguments)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        time.sleep(delay)
        start = time.monotonic()
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        stdout, stderr = process.communicate(timeout=120)
        seconds = time.monotonic() - start
    finally:
        process.kill()
    assert process.returncode == interrupts.EXIT_CODE, stderr
    assert seconds < SECONDS
    assert "Traceback" not in stderr
    assert set(stdout.splitlines()) <= {"here"}
    return stderr.splitlines()[-1]


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_sweep_says_what_is_kept_and_goes_on_from_there(tmp_path):
    told = interrupted(
        tmp_path, AT_WRITE, "sweep", *options(SMALL), "--checkpoint", "kept", delay=0.1
    )
    # The file that was being written is finished, and no other is begun.
    (record,) = kept_files(tmp_path / "kept")
    assert names(tmp_path) == ["kept", f"kept/{record.name}"]
    assert told == (
        "lazyjax: interrupted, sweep.npz not written; 1 file of results kept in kept, "
        "from which the same command goes on"
    )
    content = record.read_bytes()
    with contextlib.chdir(tmp_path):
        command = ["sweep", *options(SMALL), "--checkpoint", "kept"]
        done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert record.read_bytes() == content
    loss = lazyjax.sweeps.Sweep.load(tmp_path / "sweep.npz").loss
    assert loss.shape == (2, 1, 1, 1, 6)


@pytest.mark.slow
def test_main_thread_in_a_program_that_never_ends_is_no_hindrance(tmp_path):
    told = interrupted(
        tmp_path,
        AT_WORDS.replace("{words}", "training width 1"),
        *("certify", "bounds", *options(ENDLESS)),
        delay=4.0,
    )
    assert told == "lazyjax: interrupted, nothing written"
    assert names(tmp_path) == []


def test_interrupt_while_jax_is_imported_is_one_line(tmp_path):
    told = interrupted(tmp_path, AT_IMPORT, "quickstart", "--out", "out")
    assert told == "lazyjax: interrupted, nothing written"
    assert names(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hook", "arguments", "delay", "told"),
    [
        (AT_IMPORT, ["sweep", "--checkpoint", "k"], 0.0, "nothing written"),
        (AT_IMPORT, ["certify", "bounds"], 0.0, "nothing written"),
        (AT_IMPORT, ["certify", "bounds"], 0.3, "nothing written"),
        (
            AT_COMPILE,
            ["sweep", *options(LONG), "--checkpoint", "k"],
            0.2,
            "nothing written",
        ),
        (
            AT_COMPILE,
            ["sweep", *options(LONG), "--checkpoint", "k"],
            6.0,
            "nothing written",
        ),
        (
            AT_COMPILE,
            ["sweep", *options(LONG)],
            6.0,
            "nothing written; with --checkpoint what is done would be kept",
        ),
        (
            AT_WORDS.replace("{words}", "certifying width 16"),
            ["certify", "bounds"],
            0.1,
            "nothing written",
        ),
        (
            AT_WORDS.replace("{words}", "training width 1"),
            ["certify", "bounds"],
            0.5,
            "nothing written",
        ),
        (
            AT_WORDS.replace("{words}", "reading digits"),
            ["quickstart", "--out", "out"],
            0.0,
            "nothing written",
        ),
        (
            AT_WORDS.replace("{words}", "training width 4096"),
            ["quickstart", "--out", "out"],
            1.0,
            "nothing written",
        ),
        (
            AT_WRITE,
            ["quickstart", "--quick", "--out", "out"],
            0.1,
            "after it wrote out/quickstart.png and out/quickstart.json",
        ),
        (AT_WRITE, ["sweep", *options(SMALL)], 0.1, "after it wrote sweep.npz"),
    ],
)
def test_every_phase_of_every_command_is_interrupted(
    tmp_path, hook, arguments, delay, told
):
    found = interrupted(tmp_path, hook, *arguments, delay=delay)
    assert found == f"lazyjax: interrupted, {told}"
    written = [name for name in names(tmp_path) if name not in ("out", "k")]
    promised = told.removeprefix("after it wrote ").split(" and ")
    assert written == (sorted(promised) if "after" in told else [])


def test_words_follow_what_is_on_disk(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_text("old")
    interrupts.after_interrupt(first, second, otherwise=lambda: "nothing")
    try:
        assert interrupts.message() == "lazyjax: interrupted, nothing"
        second.write_text("new")
        assert interrupts.message().endswith(f"after it wrote {first} and {second}")
    finally:
        interrupts.after_interrupt()
    assert interrupts.message() == "lazyjax: interrupted, nothing written"


def test_commands_in_the_background_stay_deaf(monkeypatch):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        interrupts.exit_on_interrupt()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


# --- without the command line -------------------------------------------------------


def test_an_interrupted_sweep_does_not_wait_for_programs_that_compile(monkeypatch):
    started, may_end = threading.Event(), threading.Event()
    lower = Execution._lower

    def compile_forever(*_, **__):
        started.set()
        may_end.wait(60)
        raise RuntimeError("nobody asks any more")

    def lower_and_interrupt(*args):
        if started.wait(60 if args[1] == 2 else 0):
            raise KeyboardInterrupt
        return lower(*args)

    monkeypatch.setattr(jax.stages.Lowered, "compile", compile_forever)
    monkeypatch.setattr(Execution, "_lower", lower_and_interrupt)
    start = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            own_sweep(None, widths=[2, 4], resume=False)
        assert time.monotonic() - start < 30
    finally:
        may_end.set()


@pytest.mark.slow
def test_an_interrupted_library_call_leaves_good_files(tmp_path):
    """A Python program of one's own, whose sweep gets the signal in the middle."""
    hook = textwrap.dedent(
        """
        import time
        import jax, lazyjax
        from lazyjax.sweeps.checkpoint import Checkpoint
        from tests.test_interrupts import own_sweep
        write = Checkpoint.write
        def told(self, *args):
            write(self, *args)
            here()
            time.sleep(0.3)
        Checkpoint.write = told
        try:
            own_sweep(sys.argv[1])
        except KeyboardInterrupt:
            raise SystemExit(130)
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", BEGIN + hook, str(tmp_path / "kept")],
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode == 130
    (record,) = kept_files(tmp_path / "kept")
    content = record.read_bytes()
    resumed = own_sweep(tmp_path / "kept")
    assert record.read_bytes() == content
    whole = own_sweep(tmp_path / "whole")
    np.testing.assert_array_equal(resumed.loss, whole.loss)


def own_sweep(folder, **changes: Any):
    data = lazyjax.data.digits(8, num_test=0, classes="parity")
    settings: dict[str, Any] = {"widths": [4], "resume": True}
    return lazyjax.sweep(
        lazyjax.Architecture(),
        data.x_train,
        data.y_train,
        num_seeds=4,
        key=jax.random.key(0),
        learning_rates=[0.1],
        num_steps=5,
        chunk_size=1,
        checkpoint=folder,
        **(settings | changes),
    )
