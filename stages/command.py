"""How every stage meets the terminal: typer for arguments, one line for an error, exit code 130 for Ctrl-C."""

import atexit
import signal
import sys
from collections.abc import Callable
from functools import wraps

import typer

from genlib.errors import GenlibError
from genlib.files import STORAGE


class Terminated(KeyboardInterrupt):
    """SIGTERM, as a batch system or `docker stop` sends it: the same as Ctrl-C but for the exit code, 143."""


def run(stage: Callable[..., None]) -> None:
    """Run `stage` as a command line.

    A GenlibError, a want of memory, a disk or folder that refuses: one line on stderr and exit code 1.
    """

    # Inside typer, which would answer Ctrl-C with exit code 1.
    @wraps(stage)
    def guarded(*arguments: object, **options: object) -> None:
        try:
            stage(*arguments, **options)
            sys.stdout.flush()
        except GenlibError as error:
            sys.exit(f"error: {error}")
        except (MemoryError, RuntimeError) as error:
            if not _is_shortage(error):
                raise
            reason = " ".join(str(error).split())[:200]
            sys.exit(f"error: out of memory ({reason}); stop what else uses it, or use a machine that has more")
        except OSError as error:
            if error.errno not in STORAGE:
                raise
            where = error.filename or "standard output"
            sys.exit(f"error: {where}: {error.strerror}; make room or mend that, and run again")
        except KeyboardInterrupt as error:
            print("interrupted; nothing half-written is left, run it again to go on", file=sys.stderr)
            sys.exit(143 if isinstance(error, Terminated) else 130)
        finally:
            atexit.register(_end_in_peace)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _terminate)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(guarded)
    app()


def _terminate(*_: object) -> None:
    raise Terminated


def _end_in_peace() -> None:
    """Ctrl-C has nothing left to stop, and would end in what other libraries say of it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _is_shortage(error: BaseException) -> bool:
    """Whether memory did not suffice; torch is not imported for it by stages that do without."""
    if "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from genlib.memory import is_shortage

    return is_shortage(error)
