"""Command doctor: what is here, what is missing, and what to do next."""

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from genlib import params
from genlib.checkup import (
    Finding,
    Level,
    RunState,
    State,
    computing,
    dataset,
    disk,
    interpreter,
    mirror,
    packages,
    repository,
    runs,
)
from genlib.errors import GenlibError
from genlib.params import Params

_WIDTH = 100
_LEVEL, _SUBJECT = 7, 17
"""Columns of a finding's level and subject."""


def doctor(
    network: Annotated[
        bool,
        typer.Option(
            "--network", help="Ask a mirror's server and the official sources, 5 s each, for what is lacking."
        ),
    ] = False,
) -> None:
    """Say what is installed, which device and data are there, which runs are trained, and what to do next.

    Nothing is changed or downloaded. Exit code 1 only if something keeps the pipeline from running.
    """
    root = Path.cwd()
    findings = []
    for finding in _environment(root):
        print(_line(finding))
        findings.append(finding)
    states: list[RunState] = []
    try:
        settings = params.load(root / "params.yaml")
    except GenlibError as error:
        findings.append(Finding(Level.PROBLEM, "settings", str(error)))
        print(_line(findings[-1]))
    else:
        for finding in _project(root, settings, network):
            print(_line(finding))
            findings.append(finding)
        states, fault = runs(root, settings)
        print(*_run_lines(states), sep="\n")
        if fault is not None:
            note = Finding(Level.NOTE, "runs", f"DVC does not say which of them are out of date: {fault}")
            print(_line(note))
    print()
    for number, step in enumerate(next_steps(findings, states, root)):
        print(_folded("      " if number else "next: ", step))
    if any(finding.level is Level.PROBLEM for finding in findings):
        raise typer.Exit(1)


def next_steps(findings: Sequence[Finding], states: Sequence[RunState], root: Path) -> list[str]:
    """What to do, the most pressing first: mend problems, then train, then look."""
    problems = [finding for finding in findings if finding.level is Level.PROBLEM]
    if problems:
        return [f"{finding.subject}: {finding.remedy or finding.text}" for finding in problems]
    steps = []
    if not any(state.state is not State.MISSING for state in states):
        steps.append("make demo: trains small models on drawn images and makes a page of results (minutes)")
    due = [state.run for state in states if state.state in (State.STALE, State.UNMEASURED)]
    if due:
        steps.append("dvc repro " + " ".join(f"evaluate@{run}" for run in due))
    pages = sorted((root / "presentation").glob("*/index.html"))
    steps += [f"open {page.relative_to(root)} in a browser" for page in pages]
    trained = [state.run for state in states if state.state is not State.MISSING]
    if trained:
        steps.append(f"python -m genlib sample {trained[-1]} {trained[-1]}.png")
    if any(state.state is State.MISSING for state in states) and trained:
        steps.append("make repro: trains what is missing, on real images too (hours on a CPU)")
    return steps


def _environment(root: Path) -> Iterator[Finding]:
    """What can be said without params.yaml."""
    yield interpreter(root)
    yield from packages(root)
    yield disk(root)
    yield from repository(root)


def _project(root: Path, settings: Params, network: bool) -> Iterator[Finding]:
    """What goes by params.yaml, but for the runs."""
    yield computing(settings.threads)
    found, finding = mirror(network)
    yield finding
    for name, entry in settings.data.items():
        yield dataset(root, name, entry, found, network)


def _line(finding: Finding) -> str:
    heading = f"{finding.level.value:<{_LEVEL}}  {finding.subject:<{_SUBJECT}}  "
    return _folded(heading, f"{finding.text}; {finding.remedy}" if finding.remedy else finding.text)


def _run_lines(states: Sequence[RunState]) -> list[str]:
    """A line for each lane and state; and for each run that changed, what did."""
    lines = []
    for lane in dict.fromkeys(state.lane for state in states):
        for kind in State:
            members = [state for state in states if (state.lane, state.state) == (lane, kind)]
            if not members:
                continue
            names = [f"{member.run} ({_few(member.why)})" if member.why else member.run for member in members]
            level = Level.OK if kind is State.CURRENT else Level.NOTE
            lines.append(_line(Finding(level, f"runs {lane}"[:_SUBJECT], f"{kind.value}: {', '.join(names)}")))
    return lines


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _folded(heading: str, text: str) -> str:
    """Text of at most 100 columns behind a heading; what goes on is indented."""
    lines = textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=heading,
        subsequent_indent=" " * len(heading),
        break_on_hyphens=False,
        break_long_words=False,
    )
    return "\n".join(lines)
