"""bands.json: where the committed metrics were made, and how far from them a repetition elsewhere may come out."""

import json
import math
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from genlib.comparison import Result, mean_and_std
from genlib.errors import GenlibError
from genlib.experiments import in_experiments, in_metrics, in_workspace, used_params
from genlib.files import digest, read_json, write_json
from genlib.params import Params

PATH = Path("bands.json")
UNKNOWN = "unknown"
MACHINE = ("processor", "device", "threads", "processes", "torch", "cuda")
"""What decides how sums are rounded: where these are equal, results are equal to the last digit."""

FEWEST = 3
"""Values that a band is measured from, at least."""

MANY = 5
"""Values from which on a band is one of 99.9 %."""

ROUNDING = 1e-4
"""Share of the largest value by which a band is wider, for roundings that did not show where it was measured."""

COUNTED = {"active_units": 1.0, "classes_covered": 0.2, "copied_share": 5e-4}
"""What one more or one less is worth, of metrics that count: a number of the code, a class in one of five sets of
samples, a sample in one of five sets of 500 or more (4e-4 or less). A band is wider by so much: counts that agree here
may differ by one elsewhere."""

ABOUT = (
    "What metrics/ does not say: where the committed numbers were made (reference), and how far from them a",
    "repetition on another machine may come out (measured). make verify reads it; two commands write it, no hand.",
    "",
    "reference (python -m stages.verify --record): the training behind metrics/<lane>/<run>.json, the file with the",
    "sha256 metrics_sha256. Where processor, device, threads, processes, torch and cuda are the same, equality holds.",
    "",
    "measured (python -m stages.verify --measure): from the results named, those of the workspace (of metrics/, in a",
    "clone where the run was not made) and of DVC's experiments that have its params and code and differ from it in",
    "seed or threads only. A band is the 99 % prediction interval for a further value: mean +- t * s * sqrt(1 + 1/n),",
    "t being the 0.995 quantile of Student's distribution with n - 1 degrees of freedom; of five values or more the",
    "99.9 % interval (t: 0.9995), for tens of numbers are held against bands at once. So it holds the spread from",
    "seed to seed, and that of rounding: another number of threads rounds sums differently, as another machine does,",
    "and stands in for the spread from device to device as long as no second kind of machine was at hand; results of",
    "other processors count alike. It is wider by 1e-4 of the largest value, for roundings that did not show here, and",
    "that of a count (active units, covered classes, share of copies) by one. Fewer than 3 values: no band.",
    "params: digest of the settings the bands are for.",
)


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Band(_Entry):
    """Where one further value of a metric is expected, both ends included, from `n` values."""

    low: float
    high: float
    n: int = Field(ge=FEWEST)


class Reference(_Entry):
    """The training behind the metrics file with this sha256. `environment`: see `environment`."""

    metrics_sha256: str
    commit: str | None
    date: str
    seconds: float
    environment: dict[str, str]

    def is_of(self, provenance: Mapping[str, Any]) -> bool:
        """Whether `provenance` tells of this very training."""
        return all(provenance.get(key) == getattr(self, key) for key in ("commit", "date", "seconds"))


class Measured(_Entry):
    """Bands by metric, for the settings with the digest `params`. `results`: what they are from."""

    params: str
    results: tuple[str, ...]
    bands: dict[str, Band]


class Entry(_Entry):
    """What is known of a run; None is not yet."""

    reference: Reference | None = None
    measured: Measured | None = None


class Bands(_Entry):
    """The file. `runs`: by <lane>/<run>."""

    about: tuple[str, ...] = ABOUT
    runs: dict[str, Entry] = {}

    def of(self, run: str) -> Entry:
        """What is known of a run, `<lane>/<run>`."""
        return self.runs.get(run, Entry())


def parse(text: str | bytes, where: str, remedy: str = "name another commit: --rev") -> Bands:
    """Read the file's content. GenlibError with `where`, the key and the value that are wrong, and `remedy`."""
    try:
        return Bands.model_validate_json(text)
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        place = ".".join(map(str, wrong["loc"])) or "content"
        value = repr(wrong["input"])[:80]
        raise GenlibError(f"{where}: {place}: {value}: {wrong['msg']}; {remedy}") from error


def load(path: Path = PATH) -> Bands:
    """The file of the workspace; an empty one if there is none yet."""
    return parse(path.read_bytes(), str(path), f"git checkout {path}") if path.exists() else Bands()


def write(bands: Bands, path: Path = PATH) -> None:
    """Write the file, whole or not at all, with today's text on how it is made."""
    write_json(path, {**bands.model_dump(mode="json"), "about": ABOUT})


def environment(provenance: Mapping[str, Any], evaluation: Mapping[str, Any], path: str) -> dict[str, str]:
    """What results may differ by from one machine to another, in words: `MACHINE`, the images, the measuring network.

    What older files do not say is UNKNOWN. GenlibError naming `path`, the evaluation's, if that is of another shape.
    """
    try:
        card, features = evaluation["dataset"], evaluation["card"]["features"]
        sources = sorted({file["source"] for file in card["origin"]["files"]})
        images = [f"{split} {card['sha256'][f'{split}.npy'][:8]}" for split in ("train", "test")]
        data = ", ".join([card["dataset"], *sources, *([card["edition"]] if card["edition"] else []), *images])
        network = features["sha256"][:8]
    except (LookupError, TypeError) as error:
        raise GenlibError(f"{path}: dataset or card: not of today's shape ({error}); run dvc repro") from error
    # Files without the number of processes are older than trainings by several.
    told = {key: provenance.get(key, 1 if key == "processes" else UNKNOWN) for key in MACHINE}
    said = {key: "none" if value is None else str(value) for key, value in told.items()}
    if provenance.get("cuda_graph"):
        said["device"] += ", steps replayed from a graph"
    return said | {"data": data, "measuring network": network}


def record(old: Bands, everything: Params) -> tuple[Bands, list[str]]:
    """`old` with the reference of each run that the workspace has the provenance of; and a note on each run.

    A reference of a run that is not here stays, as long as the metrics are those it is for. GenlibError if metrics are
    not those of the evaluation.json beside the provenance.
    """
    runs, notes = {}, []
    for name, settings in everything.runs.items():
        run = f"{settings.lane}/{name}"
        metrics, folder = Path("metrics") / f"{run}.json", Path("runs") / run
        sha = digest(metrics) if metrics.is_file() else None
        reference = old.of(run).reference
        if sha is not None and (folder / "provenance.json").is_file() and (folder / "evaluation.json").is_file():
            reference = _reference(metrics, folder)
            notes.append(f"{run}: made {reference.date}, {', '.join(reference.environment[key] for key in MACHINE)}")
        elif reference is not None and reference.metrics_sha256 != sha:
            reference = None
            notes.append(f"{run}: dropped: its reference is of other metrics, and the training is not here")
        else:
            notes.append(f"{run}: {'none: the training is not here' if reference is None else 'as it was'}")
        runs[run] = Entry(reference=reference, measured=old.of(run).measured)
    return Bands(runs=runs), notes


def _reference(metrics: Path, folder: Path) -> Reference:
    """That of a metrics file, from the run's folder."""
    provenance, evaluation = folder / "provenance.json", folder / "evaluation.json"
    training, found = read_mapping(provenance), read_mapping(evaluation, "metrics")
    if found["metrics"] != read_json(metrics):
        raise GenlibError(f"{metrics}: not the metrics of {evaluation}; run dvc repro evaluate@{metrics.stem}")
    told = {key: training.get(key) for key in ("commit", "date", "seconds")}
    try:
        where = environment(training, found, str(evaluation))
        return Reference.model_validate({**told, "metrics_sha256": digest(metrics), "environment": where})
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        raise GenlibError(
            f"{provenance}: {wrong['loc'][0]}: {wrong['input']!r}: {wrong['msg']}; delete it and run dvc repro"
        ) from error


def measure(old: Bands, everything: Params, raw: Mapping[str, Any], rev: str) -> tuple[Bands, list[str]]:
    """`old` with the bands of each run that has results enough in the workspace and in DVC's experiments on `rev`.

    A run that has not keeps its bands, unless its settings have changed since. `raw`: params.yaml as it was parsed. The
    notes say for each run what its bands are from.
    """
    runs, notes = {}, []
    for name, settings in everything.runs.items():
        run, params = f"{settings.lane}/{name}", settings_digest(everything, raw, name)
        measured = old.of(run).measured
        results, left_out = repetitions(run, rev, old.of(run).reference)
        if len(results) >= FEWEST:
            wanted = read_json(Path("metrics") / f"{run}.json")
            found = {metric: band_of(_values(results, metric), COUNTED.get(metric, 0.0)) for metric in wanted}
            measured = Measured(
                params=params,
                results=tuple(f"{each.name}: seed {each.seed}, threads {each.params['threads']}" for each in results),
                bands={metric: band for metric, band in found.items() if band is not None},
            )
            notes.append(f"{run}: {len(measured.bands)} bands from {'; '.join(measured.results)}")
        elif measured is not None and measured.params != params:
            measured = None
            notes.append(f"{run}: bands dropped: they are for other settings, and there are {len(results)} results")
        else:
            kept = "no bands" if measured is None else "bands as they were"
            notes.append(f"{run}: {kept}: {len(results)} of {FEWEST} results")
        if left_out:
            notes.append(f"  {len(left_out)} left out (python -m stages.compare {name} --experiments), {left_out[0]}")
        runs[run] = Entry(reference=old.of(run).reference, measured=measured)
    return Bands(runs=runs), notes


def repetitions(run: str, rev: str, reference: Reference | None) -> tuple[list[Result], list[str]]:
    """The workspace's result of `<lane>/<run>` and those that differ from it in seed or threads only; notes on others.

    The same result (seed, threads, metrics) counts once. Where the run's outputs are not here, its metrics file is the
    workspace's result, with the images that `reference` is of. No result if that of the workspace is not up to date.
    """
    name, images = run.split("/")[1], None
    try:
        if (Path("runs") / run / "evaluation.json").is_file():
            first = in_workspace(name)
        else:
            first, images = in_metrics(name), _images_of(run, reference)
    except GenlibError as error:
        return [], [f"workspace: left out: {error}"]
    others, notes = in_experiments(name, rev)
    results, seen = [first], {_identity(first)}
    for other in others:
        different = _difference(first, other) or (images and _other_images(images, other))
        if different:
            notes.append(f"{other.name}: left out: {different}")
        elif _identity(other) not in seen:
            results.append(other)
            seen.add(_identity(other))
    return results, notes


def _images_of(run: str, reference: Reference | None) -> str:
    """What a committed metrics file was measured on, in the words of `environment`."""
    path = Path("metrics") / f"{run}.json"
    if reference is None or reference.metrics_sha256 != digest(path):
        raise GenlibError(f"{path}: {PATH} does not say which training it is from, and runs/{run} is not here")
    return reference.environment["data"]


def _other_images(images: str, other: Result) -> str | None:
    """That a result is of other images than those, if it is."""
    own = ", ".join(f"{split} {str(other.card.get(f'images.{split}_sha256'))[:8]}" for split in ("train", "test"))
    return None if images.endswith(own) else f"its images are {own}, and {images} here"


def _difference(first: Result, other: Result) -> str | None:
    """What makes `other` no repetition of `first`: a key, with both values; None if it is one.

    Another number of threads trains another measuring network. Keys that only one of two cards has are no difference.
    """
    params, cards = (first.params, other.params), (first.card, other.card)
    keys = [(key, params) for key in {**first.params, **other.params} if key != "threads"]
    keys += [(key, cards) for key in first.card if key in other.card and key not in ("seed", "features.sha256")]
    for key, (ours, theirs) in keys:
        if ours.get(key) != theirs.get(key):
            return f"{key} is {theirs.get(key)!r}, and {ours.get(key)!r} here"
    return None


def band_of(values: Sequence[float], count: float = 0.0) -> Band | None:
    """The prediction interval for one further value (Student's t); None of fewer than `FEWEST` values.

    Of 99 %, or, from `MANY` values on, of 99.9 %: of tens of numbers that are checked at once, hardly one is then out
    by chance. Of fewer values, such an interval would be three times as wide, and say nothing.

    Wider by `ROUNDING` of the largest value: equal values here need not be equal to the last digit elsewhere. And by
    `count`, what one more or one less is worth of a metric that counts.
    """
    n = len(values)
    if n < FEWEST:
        return None
    mean, std = mean_and_std(values)
    reach = _reach(n) * (std or 0.0) + ROUNDING * max(map(abs, values)) + count
    return Band(low=mean - reach, high=mean + reach, n=n)


def values_behind(band: Band, count: float = 0.0) -> tuple[float, float]:
    """Mean and standard deviation of the values that `band_of` made a band of, the latter to 1e-4 of the mean."""
    mean = (band.low + band.high) / 2
    std = ((band.high - band.low) / 2 - ROUNDING * abs(mean) - count) / _reach(band.n)
    return mean, max(std, 0.0)


def _reach(n: int) -> float:
    """That of a prediction interval from `n` values, in standard deviations."""
    from scipy.special import stdtrit  # three quarters of a second, which only this needs

    return float(stdtrit(n - 1, 0.995 if n < MANY else 0.9995)) * math.sqrt(1 + 1 / n)


def settings_digest(everything: Params, raw: Mapping[str, Any], run: str) -> str:
    """One word for all settings that decide a run's numbers, but the seed."""
    used, _ = used_params(everything, raw, run)
    return sha256(json.dumps(used, sort_keys=True).encode()).hexdigest()[:16]


def read_mapping(path: Path, *keys: str) -> Mapping[str, Any]:
    """A JSON file that is a mapping with at least these keys. GenlibError if it is not."""
    found = read_json(path)
    if not isinstance(found, Mapping):
        raise GenlibError(f"{path}: {repr(found)[:80]}: not a mapping; delete the file and run dvc repro")
    for key in keys:
        if key not in found:
            raise GenlibError(f"{path}: {key}: missing; delete the file and run dvc repro")
    return dict(found)


def _identity(result: Result) -> tuple[object, ...]:
    return result.seed, result.params["threads"], tuple(sorted(result.metrics.items()))


def _values(results: Sequence[Result], metric: str) -> list[float]:
    """Of each result that has it; fid_std is the spread of fid over sample sets."""
    told = [{**{f"{name}_std": std for name, std in result.spreads.items()}, **result.metrics} for result in results]
    return [numbers[metric] for numbers in told if metric in numbers]
