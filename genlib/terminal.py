"""How every command meets the terminal: one line for an error, exit code 130 for Ctrl-C."""

import atexit
import io
import os
import signal
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, NoReturn

from genlib.errors import GenlibError
from genlib.files import STORAGE


class Terminated(KeyboardInterrupt):
    """SIGTERM, as a batch system or `docker stop` sends it: the same as Ctrl-C but for the exit code, 143."""


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """The same command, of the same signature, which ends with one line on stderr and exit code 1 after what is no
    mistake of ours: a GenlibError, a want of memory, a disk or folder that refuses.

    To be wrapped around what typer calls, for typer itself would answer Ctrl-C with exit code 1.
    """

    @wraps(command)
    def guard(*arguments: object, **options: object) -> None:
        try:
            command(*arguments, **options)
            if sys.stdout is not None:
                sys.stdout.flush()
        except GenlibError as error:
            sys.exit(f"error: {error}")
        except (MemoryError, RuntimeError) as error:
            if not _is_shortage(error):
                raise
            reason = " ".join(str(error).split())[:200]
            sys.exit(f"error: out of memory ({reason}); stop what else uses it, or use a machine that has more")
        except OSError as error:
            _refused(error)
        except KeyboardInterrupt as error:
            print("interrupted; nothing half-written is left, run it again to go on", file=sys.stderr)
            sys.exit(143 if isinstance(error, Terminated) else 130)
        finally:
            atexit.register(_end_in_peace)

    return guard


def run(app: Callable[..., object], **options: Any) -> None:
    """Call typer's `app`; Ctrl-C and SIGTERM interrupt it, and help on a full disk ends as a guarded command does."""
    listen()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None, if it is closed
            stream.reconfigure(errors="backslashreplace")  # a terminal that has no ± is told \xb1
    try:
        app(**options)
    except OSError as error:
        _refused(error)


def listen() -> None:
    """Let Ctrl-C and SIGTERM interrupt what follows."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(*_: object) -> None:
    raise Terminated


def _refused(error: OSError) -> NoReturn:
    """End with one line for what a disk or folder has refused, and raise again what is something else.

    Without a file's name it was standard output, which Python would try once more at its end, with lines of its own.
    """
    if error.errno not in STORAGE:
        raise error
    if error.filename is None and sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    where = error.filename or "standard output"
    sys.exit(f"error: {where}: {error.strerror}; make room or mend that, and run again")


def _end_in_peace() -> None:
    """Ctrl-C has nothing left to stop, and would end in what other libraries say of it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _is_shortage(error: BaseException) -> bool:
    """Whether memory did not suffice; torch is not imported for it by commands that do without."""
    if "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from genlib.memory import is_shortage

    return is_shortage(error)
