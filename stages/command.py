"""How every stage meets the terminal: typer for arguments, one line for an error, exit code 130 for Ctrl-C."""

import sys
from collections.abc import Callable
from functools import wraps

import typer

from genlib.errors import GenlibError


def run(stage: Callable[..., None]) -> None:
    """Run `stage` as a command line. A GenlibError becomes one line on stderr and exit code 1."""

    # Inside typer, which would answer Ctrl-C with exit code 1.
    @wraps(stage)
    def guarded(*arguments: object, **options: object) -> None:
        try:
            stage(*arguments, **options)
        except GenlibError as error:
            sys.exit(f"error: {error}")
        except KeyboardInterrupt:
            print("interrupted; nothing half-written is left, run it again to go on", file=sys.stderr)
            sys.exit(130)

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(guarded)
    app()
