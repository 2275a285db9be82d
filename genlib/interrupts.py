"""Ctrl-C while a command is still importing, which takes seconds."""

import os
import signal


def answer_at_once() -> None:
    """Until `genlib.terminal.listen`, Ctrl-C ends the process with one line, unless something else answers it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def _end(*_: object) -> None:
    os.write(2, b"interrupted; nothing was begun, run it again\n")
    os._exit(130)
