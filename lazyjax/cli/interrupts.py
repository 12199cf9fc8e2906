"""One Ctrl-C ends the program at once, whatever it computes, and says what was written.

Python handles signals between two instructions of the main thread. A program that XLA
compiles or runs is one instruction, so a separate thread waits for the signal. It ends
the process by `os._exit`: in an ordinary exit, threads that still run XLA would crash.
"""

import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from lazyjax.files.writing import end_writing

EXIT_CODE = 130

# Enough for a file that is being written.
_SECONDS_TO_WRITE = 1.0

_SHOW_CURSOR = "\x1b[?25h\n"  # a progress bar hides it


_outcome: Callable[[], str] = lambda: "nothing written"


def after_interrupt(
    *outputs: Path, otherwise: Callable[[], str] = lambda: "nothing written"
) -> None:
    """Set the message of a command that is interrupted from now on."""
    global _outcome
    before = list(map(_identity, outputs))

    def outcome() -> str:
        if outputs and list(map(_identity, outputs)) != before:
            return f"after it wrote {' and '.join(map(str, outputs))}"
        return otherwise()

    _outcome = outcome


def _identity(path: Path) -> tuple[int, int] | None:
    """Numbers that change when a file is written anew."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def message() -> str:
    """One line about a command that was interrupted."""
    return f"lazyjax: interrupted, {_outcome()}"


def exit_on_interrupt() -> None:
    """Let Ctrl-C end the process with `EXIT_CODE` from now on.

    Where interrupts are ignored, as for what a shell runs in the background, they stay
    so; and only the main thread may handle signals.
    """
    if (
        signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        or threading.current_thread() is not threading.main_thread()
    ):
        return
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    threading.Thread(target=_wait_for_interrupt, args=(receiver,), daemon=True).start()
    signal.set_wakeup_fd(sender.detach(), warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, lambda *_: None)


def _wait_for_interrupt(receiver: socket.socket) -> None:
    while received := receiver.recv(1):
        if received[0] == signal.SIGINT:
            _exit()


def _exit() -> None:
    end_writing(_SECONDS_TO_WRITE)
    try:
        text = message()
    except OSError as error:  # a folder that cannot be looked into
        text = f"lazyjax: interrupted; {error}"
    if os.isatty(2):
        text = _SHOW_CURSOR + text
    try:
        # Buffered streams may be in use by the thread that was interrupted.
        os.write(2, f"{text}\n".encode())
    finally:
        os._exit(EXIT_CODE)
