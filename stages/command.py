"""A stage as a command line: typer for arguments; `genlib.terminal` for errors and Ctrl-C."""

from collections.abc import Callable

import typer

from genlib import terminal

_EPILOG = (
    "Settings are in params.yaml, whose comments give their units. GENLIB_DEVICE, GENLIB_CUDA_GRAPH, "
    "GENLIB_PROCESSES, GENLIB_WORKERS, GENLIB_MIRROR and GENLIB_TRACKING, environment variables, say what only this "
    "machine is concerned with: see README.md."
)


def run(stage: Callable[..., None]) -> None:
    """Run `stage` as a command line; how it ends, `genlib.terminal.guarded` says."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(epilog=_EPILOG)(terminal.guarded(stage))
    terminal.run(app)
