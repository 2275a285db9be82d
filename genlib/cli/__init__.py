"""What people do by hand: `python -m genlib <command>`. torch is imported by what computes, when it does."""

from collections.abc import Callable, Mapping

import typer

from genlib import terminal
from genlib.cli.doctor import doctor
from genlib.cli.draw import interpolate, reconstruct, sample
from stages.compare import main as compare

COMMANDS: Mapping[str, Callable[..., None]] = {
    "sample": sample,
    "reconstruct": reconstruct,
    "interpolate": interpolate,
    "compare": compare,
    "doctor": doctor,
}


def app() -> typer.Typer:
    """All commands as one command line."""
    made = typer.Typer(
        name="genlib", add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True, help=_HELP
    )
    for name, command in COMMANDS.items():
        made.command(name)(terminal.guarded(command))
    return made


def main() -> None:
    """`python -m genlib`."""
    terminal.run(app(), prog_name="python -m genlib")


_HELP = """Draw from trained models, compare them, and see what is missing here.

A RUN is the name of a run in params.yaml, such as digits-gan, or the path of a model file.
"""
