"""How every stage meets the terminal: typer for arguments, one line for an error, 130 for Ctrl-C."""

import sys
from collections.abc import Callable
from typing import Any

import typer

from genlib.errors import GenlibError


def run(stage: Callable[..., Any]) -> None:
    """Run `stage` as a command line; a GenlibError becomes one line on stderr and exit code 1."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(stage)
    try:
        app(standalone_mode=True)
    except GenlibError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
