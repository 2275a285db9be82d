"""params.yaml as frozen, validated types. A mistake is one line that names the key, the value and the remedy."""

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import CollectionNode, MappingNode

from genlib import objectives
from genlib.errors import GenlibError
from genlib.nets import names as net_names
from genlib.settings import (
    MOST,
    DatasetSettings,
    EvaluateSettings,
    FeatureSettings,
    FolderSettings,
    FolderSource,
    LaneSettings,
    Name,
    ProgressSettings,
    RunSettings,
    SampleSettings,
    Source,
    dataset_settings,
    image_shape,
)

FILE_BYTES = 32 << 10
"""The largest params.yaml; the committed one has 9 kB, and a run takes about 200 bytes. It is parsed in a second."""

NODES = 100_000
"""The most keys, values, lists and mappings of a params.yaml, those that aliases repeat counted each time."""

_WRITTEN = ("data/raw", "data/processed", "data/features", "runs", "metrics", "presentation", ".work", ".dvc")
_BRACKETS = 100  # open at once; what the parser takes for a line of them grows with their third power
_SCALAR_CHARACTERS = 1000
_SHOWN_CHARACTERS = 200
_REASON_CHARACTERS = 500
_SECTIONS = {"seed", "threads", "data", "features", "progress", "sample", "evaluate", "lanes", "runs"}
_NAME = TypeAdapter(Name)
_MOST_THREADS = 1024
_MOST_ROWS = 50_000  # of a training's curves: they are in the header of its state, which is read up to 16 MiB
_MOST_PICTURES = 2 << 30  # bytes of a training's pictures of its progress
_Settings = TypeVar("_Settings", bound=BaseModel)
_Part = TypeVar("_Part")


@dataclass(frozen=True)
class Params:
    """All of params.yaml, checked, including what one part says of another."""

    seed: int
    threads: int
    data: Mapping[str, DatasetSettings]
    features: Mapping[str, FeatureSettings]
    progress: ProgressSettings
    sample: SampleSettings
    evaluate: EvaluateSettings
    lanes: Mapping[str, LaneSettings]
    runs: Mapping[str, RunSettings]

    def dataset(self, name: str) -> DatasetSettings:
        """The settings of a dataset; GenlibError if params.yaml has none of that name."""
        return _lookup(self.data, "data", name)

    def feature(self, name: str) -> FeatureSettings:
        """The settings of a measuring network; GenlibError if params.yaml has none of that name."""
        return _lookup(self.features, "features", name)

    def run(self, name: str) -> RunSettings:
        """The effective settings of a run; GenlibError if params.yaml has none of that name."""
        return _lookup(self.runs, "runs", name)

    def lane(self, name: str) -> dict[str, RunSettings]:
        """The runs of a lane, in the order of params.yaml; GenlibError if there is no such lane."""
        _lookup(self.lanes, "lanes", name)
        return {run: settings for run, settings in self.runs.items() if settings.lane == name}


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and check params.yaml. Raises GenlibError at the first thing that is wrong."""
    return parse(_read(path))


@contextmanager
def steady(used: Callable[[Params], _Part], path: Path = Path("params.yaml")) -> Iterator[_Part]:
    """The part of params.yaml that a stage uses. GenlibError after the block where the file says otherwise by then.

    DVC reads the file when a stage has ended, and would take its outputs for those of what it says at that time.
    """
    before = used(load(path))
    yield before
    if used(load(path)) != before:
        raise GenlibError(
            f"{path}: the settings of this stage were changed while it ran with the old ones; run it again"
        )


def parse(raw: Mapping[str, Any]) -> Params:
    """Check the parsed content of params.yaml."""
    known = _SECTIONS | set(objectives.names())
    for key in raw:
        if key not in known:
            raise GenlibError(
                f"params.yaml: {_printable(str(key))}: unknown section{_hint(str(key), known)}; remove or rename it"
            )
    for key in sorted(_SECTIONS - raw.keys()):
        raise GenlibError(f"params.yaml: {key}: missing; add it (git show HEAD:params.yaml has one)")
    seed = raw["seed"]
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= MOST:
        raise GenlibError(
            f"params.yaml: seed: {_shown(seed)} is not a whole number of 0 or more (at most {MOST}); set one, such as 0"
        )
    threads = raw["threads"]
    if not isinstance(threads, int) or isinstance(threads, bool) or not 1 <= threads <= _MOST_THREADS:
        raise GenlibError(
            f"params.yaml: threads: {_shown(threads)} is not a whole number from 1 to {_MOST_THREADS}; set 1"
        )
    params = Params(
        seed=seed,
        threads=threads,
        data={name: _dataset(entry, f"data.{name}") for name, entry in _named(raw, "data").items()},
        features=_each(FeatureSettings, raw, "features"),
        progress=_check(ProgressSettings, raw["progress"], "progress"),
        sample=_check(SampleSettings, raw["sample"], "sample"),
        evaluate=_check(EvaluateSettings, raw["evaluate"], "evaluate"),
        lanes=_each(LaneSettings, raw, "lanes"),
        runs={name: _run(raw, name, line) for name, line in _named(raw, "runs").items()},
    )
    for name, dataset in params.data.items():
        _check_place(dataset.source, name)
    for name in params.features:
        _refer(params.data, "data", name, f"features.{name}")
        _check_labels(params.data[name], name)
    for name, settings in params.runs.items():
        _refer(params.lanes, "lanes", settings.lane, f"runs.{name}.lane")
        _refer(params.data, "data", settings.dataset, f"runs.{name}.dataset")
        _refer(params.features, "features", settings.features, f"runs.{name}.features")
        _check_shape(params.data, name, settings)
        _check_code(params.data, name, settings)
        _check_records(params, name, settings)
    for name in params.evaluate.importance_of:
        _refer(params.runs, "runs", name, "evaluate.importance_of")
    return params


def _read(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(FILE_BYTES + 1)
        if len(text) > FILE_BYTES:
            raise ValueError(f"more than {FILE_BYTES >> 10} KiB")
        if _open_at_once(text) > _BRACKETS:
            raise ValueError(f"more than {_BRACKETS} brackets are open at once")
        yaml = YAML(typ="safe", pure=True)  # whose complaints and limits are known; DVC itself uses the parser in C
        root = yaml.compose(text)  # aliases are references in it: as small as the text
        if _size(root, {}) > NODES:
            raise ValueError(f"aliases (*name) expand it to more than {NODES} entries")
        raw = None if root is None else yaml.constructor.construct_document(root)
    except FileNotFoundError as error:
        raise GenlibError(f"{path}: no such file; run this from the folder that holds params.yaml") from error
    except OSError as error:
        raise GenlibError(f"{path}: cannot be read ({error.strerror}); mend that and run again") from error
    except (YAMLError, ValueError, LookupError, RecursionError) as error:  # the last three: odd scalars, deep nesting
        reason = _printable(" ".join(str(error).split())[:_REASON_CHARACTERS])
        raise GenlibError(f"{path}: not valid YAML: {reason}; mend that line") from error
    return _mapping(raw, str(path))


def _open_at_once(text: bytes) -> int:
    """How many brackets are open at once, at most; those in quotes and comments count, too."""
    deepest = depth = 0
    for bracket in re.findall(rb"[\[\]{}]", text):
        depth = depth + 1 if bracket in b"[{" else max(depth - 1, 0)
        deepest = max(deepest, depth)
    return deepest


def _size(node: Any, known: dict[int, int]) -> int:
    """How many nodes a document has once its aliases are expanded; ValueError if it has a part that nobody needs.

    `known`: the size of each node that was met before. 0 is one that is not finished: an alias to what it is part of.
    """
    if id(node) in known:
        if known[id(node)] == 0:
            raise ValueError("an alias (*name) stands for what it is part of")
        return known[id(node)]
    if not isinstance(node, CollectionNode):
        if node is not None and len(node.value) > _SCALAR_CHARACTERS:
            raise ValueError(f"a value or key of more than {_SCALAR_CHARACTERS} characters")
        return 1
    known[id(node)] = 0
    parts = [part for pair in node.value for part in pair] if isinstance(node, MappingNode) else node.value
    known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]


def _run(raw: Mapping[str, Any], name: str, line: Any) -> RunSettings:
    where = f"runs.{name}"
    own = _mapping(line, where)
    model = own.get("model")
    if model not in objectives.names():
        raise GenlibError(f"params.yaml: {where}.model: {_shown(model)} is not one of {', '.join(objectives.names())}")
    if own.get("net") not in net_names():
        raise GenlibError(f"params.yaml: {where}.net: {_shown(own.get('net'))} is not one of {', '.join(net_names())}")
    shared = _mapping(raw.get(model, {}), model)
    origin = dict.fromkeys(shared, model) | dict.fromkeys(own, where)
    return _check(objectives.get(model).Settings, {**shared, **own}, where, origin)


def _dataset(entry: Any, where: str) -> DatasetSettings:
    """Check an entry against the type of its kind of source; a kind that there is not is left to the common keys."""
    source = _mapping(entry, where).get("source")
    kind = source.get("kind") if isinstance(source, Mapping) else None
    try:
        settings = dataset_settings(str(kind))
    except KeyError:
        settings = DatasetSettings
    return _check(settings, entry, where)


def _each(kind: type[_Settings], raw: Mapping[str, Any], section: str) -> dict[str, _Settings]:
    return {name: _check(kind, entry, f"{section}.{name}") for name, entry in _named(raw, section).items()}


def _named(raw: Mapping[str, Any], section: str) -> Mapping[str, Any]:
    """The entries of a section whose names become names of stages and folders."""
    entries = _mapping(raw[section], section)
    for name in entries:
        try:
            _NAME.validate_python(name)
        except ValidationError as error:
            raise GenlibError(
                f"params.yaml: {section}: {_shown(name)} is no name; "
                "use a-z, 0-9, - and _, up to 64, a letter or digit first"
            ) from error
    return entries


def _check(kind: type[_Settings], raw: Any, where: str, origin: Mapping[str, str] | None = None) -> _Settings:
    """Validate one entry; `origin` says which section each key of an overlaid entry came from."""
    try:
        return kind.model_validate(_mapping(raw, where))
    except ValidationError as error:
        first, *more = error.errors(include_url=False)
        path = [str(key) for key in first["loc"]]
        # A union's error path holds the alternative chosen (source, digits, train_images); it is no key of the file.
        keys = [key for before, key in zip(["", *path], path, strict=False) if before != "source" or key == path[-1]]
        place = ".".join([(origin or {}).get(keys[0], where) if keys else where, *keys])
        rest = f" (and {len(more)} more)" if more else ""
        if first["type"] == "extra_forbidden":
            hint = _hint(keys[-1], set(kind.model_fields))
            message = f"params.yaml: {place}: unknown key (value {_shown(first['input'])}){hint}; remove or rename it"
        elif first["type"] == "missing":
            message = f"params.yaml: {place}: missing; add it"
        else:
            reason = first["msg"][:_SHOWN_CHARACTERS]
            message = f"params.yaml: {place}: {_shown(first['input'])} is refused: {reason}; change it"
        raise GenlibError(_printable(message) + rest) from error


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise GenlibError(f"params.yaml: {where}: {_shown(value)} is not a mapping; write it as 'key: value' lines")
    return value


def _lookup(entries: Mapping[str, _Settings], section: str, name: str) -> _Settings:
    if name not in entries:
        raise GenlibError(
            f"params.yaml: {section}.{name}: no such entry{_hint(name, set(entries))}; "
            f"there are {', '.join(entries) or 'none'}"
        )
    return entries[name]


def _refer(entries: Mapping[str, Any], section: str, name: str, place: str) -> None:
    if name not in entries:
        raise GenlibError(
            f"params.yaml: {place}: {name!r} has no entry under {section}{_hint(name, set(entries))}; "
            f"there are {', '.join(entries) or 'none'}"
        )


def _shown(value: Any) -> str:
    """A value as an error shows it: escaped and short."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."


def _printable(text: str) -> str:
    """Text of a library, which quotes keys and values as they are, with its control characters escaped."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def _check_place(source: Source, name: str) -> None:
    """A folder of the user's own may not be where stages write, nor hold that: they replace what is there."""
    if not isinstance(source, FolderSource):
        return
    project = Path(os.environ.get("DVC_ROOT", ""))  # as for `path`, see genlib.data.kinds.folder
    place = (project / os.path.expanduser(source.path)).resolve()  # noqa: PTH111  (an unknown home is said there)
    for known in _WRITTEN:
        written = (project / known).resolve()  # it may be a link to a larger disk
        if place.is_relative_to(written) or written.is_relative_to(place):
            lies = f"{'holds' if place in written.parents else 'lies in'} {known}"
            raise GenlibError(
                f"params.yaml: data.{name}.source.path: {_shown(source.path)} {lies}, where stages write; move "
                f"your images elsewhere, such as photos/{name}"
            )


def _check_labels(dataset: DatasetSettings, name: str) -> None:
    if isinstance(dataset, FolderSettings) and dataset.labels == "none":
        raise GenlibError(
            f"params.yaml: features.{name}: a measuring network learns from labels, and data.{name} has none; set "
            f"data.{name}.labels to folders, or remove the entry and let runs.<run>.features name another dataset's"
        )


def _check_shape(data: Mapping[str, DatasetSettings], run: str, settings: RunSettings) -> None:
    """A measuring network takes images of no other shape than those which it was trained on."""
    own, known = image_shape(data[settings.dataset]), image_shape(data[settings.features])
    if own != known:
        raise GenlibError(
            f"params.yaml: runs.{run}.features: the images of {settings.features} are {_by(known)}, those of "
            f"{settings.dataset} {_by(own)} (channels x height x width), and a measuring network takes one shape; name "
            f"one of that shape, or change data.{settings.dataset}.image_size"
        )


def _check_code(data: Mapping[str, DatasetSettings], run: str, settings: RunSettings) -> None:
    """A model that encodes is measured against as many principal components, of which images have only so many."""
    shape = image_shape(data[settings.dataset])
    if hasattr(objectives.get(settings.model), "encode") and settings.latent_dim > math.prod(shape):
        raise GenlibError(
            f"params.yaml: runs.{run}.latent_dim (or {settings.model}.latent_dim): {settings.latent_dim} is more than "
            f"the {math.prod(shape):,} numbers of an image of {settings.dataset} ({_by(shape)}); lower it"
        )


def _check_records(params: Params, run: str, settings: RunSettings) -> None:
    """What is recorded on the way has to fit into the state that a stopped training goes on from."""
    progress = params.progress
    rows = settings.epochs * progress.rows_per_epoch
    if rows > _MOST_ROWS:
        raise GenlibError(
            f"params.yaml: progress.rows_per_epoch: {progress.rows_per_epoch} in each of the {settings.epochs:,} "
            f"epochs of {run} are {rows:,} rows of curves, more than {_MOST_ROWS:,}; lower it"
        )
    pictures = progress.frames * progress.images * math.prod(image_shape(params.data[settings.dataset]))
    if pictures > _MOST_PICTURES:
        raise GenlibError(
            f"params.yaml: progress.images: {progress.images} in each of {progress.frames} frames are "
            f"{pictures / 1e9:.1f} GB for {run}, more than {_MOST_PICTURES / 1e9:.1f} GB; lower images or frames"
        )


def _by(shape: tuple[int, int, int]) -> str:
    return " x ".join(map(str, shape))


def _hint(name: str, known: set[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f", did you mean {close[0]}?" if close else ""
