"""Whether the workspace's metrics are those committed at a revision: to the last digit, or within measured bands.

On the machine that made the committed ones equality is promised; elsewhere the bands of bands.json hold. Only what was
trained here counts as checked: committed files and restored outputs agree with themselves.
"""

import json
import math
import subprocess
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from genlib import bands, params
from genlib.bands import MACHINE, UNKNOWN, Band, Bands
from genlib.errors import GenlibError
from genlib.experiments import used_params

EQUAL = "equal"
WITHIN = "within"
OUT = "out"
NO_BAND = "no band"
NOT_CHECKED = "not checked"
OTHER_PARAMS = "other params"

_WIDTH = 100

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Settings:
    """params.yaml, checked, and as it was parsed."""

    checked: params.Params
    raw: Mapping[str, Any]

    def of(self, run: str) -> tuple[dict[str, Any], dict[str, str]]:
        """What the numbers of `<lane>/<run>` depend on, and where it is written; empty if there is no such run.

        Without threads, which round sums as another machine does: the machine's part, not the model's.
        """
        lane, name = run.split("/")
        if name not in self.checked.runs or self.checked.runs[name].lane != lane:
            return {}, {}
        used, places = used_params(self.checked, self.raw, name)
        return {key: value for key, value in used.items() if key != "threads"} | {"seed": self.checked.seed}, places


@dataclass(frozen=True)
class Revision:
    """What a commit holds: metrics by `<lane>/<run>`, the sha256 of their files, params.yaml and bands.json."""

    name: str
    commit: str
    metrics: Mapping[str, Metrics]
    digests: Mapping[str, str]
    settings: Settings
    bands: Bands

    def digest_of(self, run: str) -> str:
        """Of the settings of `<lane>/<run>`, as bands are marked with it."""
        return bands.settings_digest(self.settings.checked, self.settings.raw, run.split("/")[1])


@dataclass(frozen=True)
class Row:
    """A metric: at the revision, here, and what it means. `tolerance`: a band, or "equality", or "-"."""

    metric: str
    reference: float | None
    here: float | None
    tolerance: str
    verdict: str


@dataclass(frozen=True)
class Finding:
    """A run: rows, or a `verdict` on all of it with its reason (then rows are of what was changed). `note`: what more.

    `environment`: key, and what it is at the revision and here, where they differ; None of what was not trained here.
    """

    run: str
    rows: tuple[Row, ...] = ()
    verdict: str = ""
    reason: str = ""
    note: str = ""
    environment: tuple[tuple[str, str, str], ...] | None = None

    def bad(self) -> bool:
        """Whether it fails the verification."""
        return self.verdict == OTHER_PARAMS or any(row.verdict == OUT for row in self.rows)


@dataclass(frozen=True)
class _Here:
    """What the workspace holds of a run; None is a file that is not there."""

    metrics: Metrics | None
    evaluation: Mapping[str, Any] | None
    provenance: Mapping[str, Any] | None


def revision(name: str) -> Revision:
    """Read a commit. GenlibError if it is none, or holds no metrics, or something that cannot be read."""
    if _git("rev-parse", "--show-prefix") is None:
        raise GenlibError(f"{Path.cwd()}: not in a git repository; clone the project and run this in its folder")
    found = _git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    if found is None:
        raise GenlibError(f"--rev {name}: git knows no such commit; git log --oneline --all shows those there are")
    commit = found.decode().strip()
    listed = (_git("ls-tree", "-r", "-z", "--name-only", commit, "--", "metrics/") or b"").decode().split("\0")
    paths = [Path(path) for path in listed if path.endswith(".json") and path.count("/") == 2]
    if not paths:
        raise GenlibError(f"{name}: no metrics/<lane>/<run>.json at that commit; name one that has them: --rev")
    metrics, digests = {}, {}
    for path in paths:
        run, content = f"{path.parent.name}/{path.stem}", _show(name, commit, str(path))
        metrics[run] = _parsed(content, f"{name}: {path}", finite=True)
        digests[run] = sha256(content).hexdigest()
    try:
        settings = _settings(_show(name, commit, "params.yaml").decode("utf-8"))
    except (GenlibError, UnicodeDecodeError) as error:
        raise GenlibError(f"{name}: {error}; or name another commit: --rev") from error
    text = _git("show", f"{commit}:./{bands.PATH}")  # a commit may be older than the file
    known = Bands() if text is None else bands.parse(text, f"{name}: {bands.PATH}")
    return Revision(name, commit[:7], metrics, digests, settings, known)


def verify(reference: Revision) -> list[Finding]:
    """Hold each run of the workspace and of the revision against the other."""
    settings = load_settings()
    here = {f"{path.parent.name}/{path.stem}" for path in Path("metrics").glob("*/*.json")}
    return [_finding(run, reference, settings) for run in sorted(here | reference.metrics.keys())]


def load_settings(path: Path = Path("params.yaml")) -> Settings:
    """params.yaml of the workspace. GenlibError at the first thing that is wrong."""
    return Settings(params.load(path), YAML(typ="safe").load(path))


def passed(findings: Sequence[Finding]) -> bool:
    """Whether nothing is out, and no run has other params. What was not checked does not count against it."""
    return not any(finding.bad() for finding in findings)


def _finding(run: str, reference: Revision, settings: Settings) -> Finding:
    here, committed, name = _here(run), reference.metrics.get(run), run.split("/")[1]
    changed = _changed(run, here)
    note = _note(run, here, changed)
    (ours, places), (theirs, their_places) = settings.of(run), reference.settings.of(run)
    if committed is not None and theirs:
        if ours == theirs:
            return _judged(run, reference, committed, here, changed, note)
        differ = [key for key in {**theirs, **ours} if ours.get(key) != theirs.get(key)] if ours else []
        reason = "not comparable, params differ: " + ", ".join(
            [places.get(key) or their_places.get(key, key) for key in differ] or [f"runs.{name}, which is gone"]
        )
        verdict, why = OTHER_PARAMS, _not_repeated(run, here, None)
        if why is not None:
            verdict, reason = NOT_CHECKED, f"{why}; {reason}"
    else:
        verdict, reason = NOT_CHECKED, f"{reference.name} has no {'metrics of it' if theirs else 'such run'}"
    rows = _rows(committed or {}, here.metrics or {}, changed, {}, promised=True)
    return Finding(run, tuple(row for row in rows if row.metric in changed), verdict, reason, note if changed else "")


def _judged(
    run: str,
    reference: Revision,
    committed: Metrics,
    here: _Here,
    changed: Mapping[str, tuple[float | None, float | None]],
    note: str,
) -> Finding:
    """A run of the same params, metric by metric, if it was repeated here."""
    entry = reference.bands.of(run)
    # A reference of other metrics than those committed tells of another training.
    known = entry.reference if entry.reference and entry.reference.metrics_sha256 == reference.digests[run] else None
    why, differences = _not_repeated(run, here, known), None
    if here.provenance is not None and here.evaluation is not None and why is None:
        environment = bands.environment(here.provenance, here.evaluation, f"runs/{run}/evaluation.json")
        differences = _differences({} if known is None else known.environment, environment)
    promised = differences is None or not any(key in MACHINE for key, _, _ in differences)
    limits = entry.measured.bands if entry.measured and entry.measured.params == reference.digest_of(run) else {}
    rows = list(_rows(committed, here.metrics or {}, changed, limits, promised))
    if why is None and known is None and all(row.verdict in (EQUAL, NOT_CHECKED) for row in rows):
        # Equal numbers from nobody knows which training may be the committed ones themselves.
        why = f"{bands.PATH} at {reference.name} does not say which training its metrics are from"
    if why is None:
        return Finding(run, tuple(rows), note=note, environment=differences)
    if not any(row.verdict == OUT for row in rows):
        return Finding(run, verdict=NOT_CHECKED, reason=why)
    rows = [row if row.verdict == OUT else replace(row, verdict=NOT_CHECKED) for row in rows]
    return Finding(run, tuple(rows), note=note or f"differs, though it was not repeated here: {why}")


def _rows(
    committed: Metrics, metrics: Metrics, changed: Mapping[str, Any], limits: Mapping[str, Band], promised: bool
) -> Iterator[Row]:
    """A row for each metric. `changed`: those that are not what was measured; `promised`: equality is."""
    for metric in {**committed, **metrics}:
        old, new, band = committed.get(metric), metrics.get(metric), limits.get(metric)
        tolerance = "equality" if promised else "-" if band is None else f"[{band.low:.6g}, {band.high:.6g}]"
        yield Row(metric, old, new, tolerance, OUT if metric in changed else _verdict(old, new, band, promised))


def _verdict(old: float | None, new: float | None, band: Band | None, promised: bool) -> str:
    if old is None:
        return NOT_CHECKED  # there is nothing to hold it against
    if new is None:
        return OUT
    if new == old:
        return EQUAL
    if promised:
        return OUT
    if band is None:
        return NO_BAND
    return WITHIN if band.low <= new <= band.high else OUT


def _not_repeated(run: str, here: _Here, known: bands.Reference | None) -> str | None:
    """Why the numbers here are not a repetition of the committed ones; None if they are, or may be."""
    for name, found in (("provenance.json", here.provenance), ("evaluation.json", here.evaluation)):
        if found is None:
            return f"no {name} in runs/{run}"
    if known is not None and here.provenance is not None and known.is_of(here.provenance):
        return "the model here is the reference's own, not trained again"
    return None


def _here(run: str) -> _Here:
    path, folder = Path("metrics") / f"{run}.json", Path("runs") / run
    evaluation, provenance = folder / "evaluation.json", folder / "provenance.json"
    return _Here(
        _parsed(path.read_bytes(), str(path), finite=False) if path.exists() else None,
        bands.read_mapping(evaluation, "metrics") if evaluation.exists() else None,
        bands.read_mapping(provenance) if provenance.exists() else None,
    )


def _changed(run: str, here: _Here) -> dict[str, tuple[float | None, float | None]]:
    """Metrics whose file is not what evaluate wrote: in the file, and in evaluation.json beside the model."""
    if here.metrics is None or here.evaluation is None:
        return {}
    measured = _numbers(here.evaluation["metrics"], f"runs/{run}/evaluation.json: metrics", finite=True)
    names = {**measured, **here.metrics}
    pairs = {name: (here.metrics.get(name), measured.get(name)) for name in names}
    return {name: (written, found) for name, (written, found) in pairs.items() if written != found}


def _note(run: str, here: _Here, changed: Mapping[str, tuple[float | None, float | None]]) -> str:
    if here.metrics is None:
        return f"metrics/{run}.json: no such file here; run dvc repro evaluate@{run.split('/')[1]}"
    if not changed:
        return ""
    said = ", ".join(f"{name} {_exact(written)}, not {_exact(found)}" for name, (written, found) in changed.items())
    return (
        f"metrics/{run}.json was changed after evaluate wrote it, by hand or by git: {said} as in its evaluation.json; "
        f"run dvc repro evaluate@{run.split('/')[1]}"
    )


def _differences(theirs: Mapping[str, str], ours: Mapping[str, str]) -> tuple[tuple[str, str, str], ...]:
    """What differs; what is unknown on either side may."""
    pairs = [(key, theirs.get(key, UNKNOWN), ours.get(key, UNKNOWN)) for key in {**ours, **theirs}]
    return tuple((key, old, new) for key, old, new in pairs if old != new or UNKNOWN in (old, new))


def _parsed(content: bytes, where: str, finite: bool) -> dict[str, float]:
    """A metrics file. Here one may hold NaN, which no stage writes: that metric is out."""
    try:
        return _numbers(json.loads(content), where, finite)
    except ValueError as error:
        raise GenlibError(f"{where}: not valid JSON ({error}); run dvc repro, or name another commit: --rev") from error


def _numbers(found: Any, where: str, finite: bool) -> dict[str, float]:
    if not isinstance(found, Mapping):
        raise GenlibError(f"{where}: not a mapping of names to numbers; run dvc repro, or name another commit: --rev")
    for name, value in found.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or (finite and not math.isfinite(value)):
            raise GenlibError(f"{where}: {name}: {value!r} is no number; run dvc repro, or name another commit: --rev")
    return dict(found)


def _settings(text: str) -> Settings:
    try:
        raw = YAML(typ="safe").load(text)
    except (YAMLError, ValueError, LookupError) as error:
        raise GenlibError(f"params.yaml: not valid YAML: {error}") from error
    if not isinstance(raw, Mapping):
        raise GenlibError("params.yaml: not a mapping")
    return Settings(params.parse(raw), raw)


def _show(name: str, commit: str, path: str) -> bytes:
    content = _git("show", f"{commit}:./{path}")
    if content is None:
        raise GenlibError(f"{name}: no {path} at that commit; name one that has it: --rev")
    return content


def _git(*arguments: str) -> bytes | None:
    """What git answers; None if it refuses."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, check=False)
    except FileNotFoundError as error:
        raise GenlibError("git: not found; install it: the committed metrics are read from it") from error
    return done.stdout if done.returncode == 0 else None


def report(findings: Sequence[Finding], reference: Revision, everything: bool = False) -> str:
    """The findings as text of at most 100 columns: a table by run, differences in environment, a closing line.

    A run whose metrics are all equal takes one line, or with `everything` one for each.
    """
    cells = {finding.run: [_cells(row) for row in finding.rows] for finding in findings}
    head = ("metric", f"at {reference.name[:12]}", "here", "band", "verdict")
    widths = [
        max(map(len, column)) for column in zip(head, *(row for rows in cells.values() for row in rows), strict=True)
    ]
    lines = [_line(head, widths)] if any(cells.values()) else []
    for finding in findings:
        same = sum(row.verdict == EQUAL for row in finding.rows)
        if finding.verdict:
            lines += _wrapped(f"{finding.run}: {finding.verdict}: {finding.reason}", "    ")
        elif finding.rows and same == len(finding.rows) and not everything:
            lines.append(f"{finding.run}: {same} of {same} equal")
            continue
        else:
            lines.append(finding.run)
        lines += [_line(row, widths) for row in cells[finding.run]]
        lines += _wrapped(f"  {finding.note}", "    ") if finding.note else []
    return "\n".join([*lines, "", *_environment(findings), "", *_wrapped(_closing(findings, reference), "  ")])


def _cells(row: Row) -> tuple[str, str, str, str, str]:
    shown = ["-" if value is None else f"{value:.6g}" for value in (row.reference, row.here)]
    if shown[0] == shown[1] and row.reference != row.here:
        shown = [_exact(row.reference), _exact(row.here)]
    return row.metric, shown[0], shown[1], row.tolerance, row.verdict


def _exact(value: float | None) -> str:
    return "nothing" if value is None else repr(value)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    metric, *numbers, verdict = (
        cell.rjust(width) if 0 < place < 3 else cell.ljust(width)
        for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join(["", metric, *numbers, verdict]).rstrip()


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, subsequent_indent=indent, break_on_hyphens=False)


def _environment(findings: Sequence[Finding]) -> list[str]:
    """Each difference once, with the runs it is of."""
    trained = {finding.run: finding.environment for finding in findings if finding.environment is not None}
    if not trained:
        return ["environment: nothing that could be compared was trained here"]
    found: dict[tuple[str, str, str], list[str]] = {}
    for run, differences in trained.items():
        for difference in differences:
            found.setdefault(difference, []).append(run)
    if not found:
        return [f"environment: the same ({', '.join(MACHINE)}, data, measuring network)"]
    lines = ["environment, where it differs:"]
    for (key, old, new), runs in found.items():
        of = "" if len(runs) == len(trained) else f" ({', '.join(runs)})"
        lines += _wrapped(f"  {key}: here {new}; reference {old}{of}", "    ")
    return lines


def _closing(findings: Sequence[Finding], reference: Revision) -> str:
    metrics = Counter(row.verdict for finding in findings for row in finding.rows)
    runs = Counter(finding.verdict for finding in findings if finding.verdict)
    said = f"{reference.name} ({reference.commit})"
    if not metrics and not runs[OTHER_PARAMS]:
        return f"nothing was checked: for each run the reason is above; no metric differs from {said}"
    parts = [
        (metrics[OUT], f"{_count(metrics[OUT], 'metric')} out"),
        (runs[OTHER_PARAMS], f"{_count(runs[OTHER_PARAMS], 'run')} with other params"),
        (metrics[EQUAL], f"{_count(metrics[EQUAL], 'metric')} equal"),
        (metrics[WITHIN], f"{_count(metrics[WITHIN], 'metric')} within bands"),
        (metrics[NO_BAND], f"{_count(metrics[NO_BAND], 'metric')} changed with no band to judge by"),
        (metrics[NOT_CHECKED], f"{_count(metrics[NOT_CHECKED], 'metric')} not checked"),
        (runs[NOT_CHECKED], f"{_count(runs[NOT_CHECKED], 'run')} not checked"),
    ]
    verdict = "passed" if passed(findings) else "FAILED"
    return f"{verdict} against {said}: {', '.join(part for number, part in parts if number)}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
