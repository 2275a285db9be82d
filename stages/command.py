"""How every stage meets the terminal: typer for arguments, one line for an error, exit code 130 for Ctrl-C."""

import sys
from collections.abc import Callable
from functools import wraps

import typer

from genlib.errors import GenlibError


def run(stage: Callable[..., None]) -> None:
    """Run `stage` as a command line. A GenlibError or a want of memory becomes one line on stderr and exit code 1."""

    # Inside typer, which would answer Ctrl-C with exit code 1.
    @wraps(stage)
    def guarded(*arguments: object, **options: object) -> None:
        try:
            stage(*arguments, **options)
        except GenlibError as error:
            sys.exit(f"error: {error}")
        except (MemoryError, RuntimeError) as error:
            if not _is_shortage(error):
                raise
            reason = " ".join(str(error).split())[:200]
            sys.exit(f"error: out of memory ({reason}); stop what else uses it, or use a machine that has more")
        except KeyboardInterrupt:
            print("interrupted; nothing half-written is left, run it again to go on", file=sys.stderr)
            sys.exit(130)

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(guarded)
    app()


def _is_shortage(error: BaseException) -> bool:
    """Whether memory did not suffice; torch is not imported for it by stages that do without."""
    if "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from genlib.memory import is_shortage

    return is_shortage(error)
