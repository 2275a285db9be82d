"""params.yaml: the committed one is right; each mistake is one line with the key, the value and the remedy."""

import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from genlib import params
from genlib.errors import GenlibError
from genlib.objectives.gan import Settings as GanSettings
from genlib.objectives.vae import Settings as VaeSettings
from genlib.params import Params, load, parse
from genlib.settings import CelebaSettings, IdxSettings, ImportanceSettings

ROOT = Path(__file__).resolve().parent.parent
MISSING = object()


def change(raw: dict[str, Any], path: str, value: Any) -> None:
    """Set (or with MISSING remove) the entry at a path such as runs/mnist-gan/lr."""
    *folders, last = path.split("/")
    for folder in folders:
        raw = raw[folder]
    if value is MISSING:
        del raw[last]
    else:
        raw[last] = value


def refusal(raw: Any) -> str:
    with pytest.raises(GenlibError) as caught:
        parse(raw)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("params.yaml: ")
    return message


def file_refusal(path: Path) -> str:
    with pytest.raises(GenlibError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_the_committed_file_loads(raw: dict[str, Any]) -> None:
    everything = load(ROOT / "params.yaml")
    assert list(everything.runs) == list(raw["runs"])
    assert everything.seed == raw["seed"]
    mnist, celeba = everything.dataset("mnist"), everything.dataset("celeba")
    assert isinstance(mnist, IdxSettings)
    assert mnist.validation_images == raw["data"]["mnist"]["validation_images"]
    assert isinstance(celeba, CelebaSettings)
    assert celeba.crop == raw["data"]["celeba"]["crop"]
    assert everything.feature("digits").shift == raw["features"]["digits"]["shift"]
    assert {run for lane in raw["lanes"] for run in everything.lane(lane)} == set(raw["runs"])


def test_a_run_is_its_models_section_overlaid_with_its_own_lines(raw: dict[str, Any]) -> None:
    raw["gan"] |= {"lr": 0.25, "epochs": 7}
    raw["runs"]["mnist-gan"] |= {"epochs": 11, "lr": 0.5}
    everything = parse(raw)
    own, other = everything.run("mnist-gan"), everything.run("digits-gan")
    assert isinstance(own, GanSettings)
    assert (own.lr, own.epochs, own.real_label) == (0.5, 11, raw["gan"]["real_label"])
    assert (other.lr, other.epochs) == (0.25, raw["runs"]["digits-gan"]["epochs"])
    vae = everything.run("mnist-vae")
    assert isinstance(vae, VaeSettings)
    assert vae.lr == raw["vae"]["lr"]


def test_the_importance_bound_of_a_run_overrides_that_of_all(raw: dict[str, Any]) -> None:
    raw["evaluate"]["importance_of"] = {"mnist-vae": {"samples": 9, "images": 77}}
    evaluate = parse(raw).evaluate
    assert evaluate.of_run("mnist-vae") == ImportanceSettings(samples=9, images=77)
    assert evaluate.of_run("mnist-vae-2d") == ImportanceSettings(**raw["evaluate"]["importance"])


def test_a_whole_number_is_a_fine_float(raw: dict[str, Any]) -> None:
    raw["gan"]["lr"] = 1
    assert parse(raw).run("digits-gan").lr == 1.0


def test_a_place_where_stages_write_is_known_by_any_name(
    raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the home folder, and where the project's folder of data is a link to another disk."""
    disk, project = tmp_path / "disk", tmp_path / "project"
    disk.mkdir()
    project.mkdir()
    (project / "data").symlink_to(disk)
    monkeypatch.chdir(project)
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("~/project/runs/mine", "data/raw/mine", str(disk / "raw" / "mine")):
        raw["data"]["mine"] = {"source": {"kind": "folder", "path": path}, "image_size": 32}
        assert "where stages write" in refusal(raw)
    for path in ("~/photos", "~nobody-of-this-name/photos", str(disk / "photos")):
        raw["data"]["mine"] = {"source": {"kind": "folder", "path": path}, "image_size": 32}
        parse(raw)


def test_settings_that_change_under_a_stage_are_said_when_it_ends(raw: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"

    def write() -> None:
        YAML(typ="safe").dump(raw, path)

    write()
    with params.steady(lambda everything: everything.run("mnist-gan"), path) as settings:
        raw["vae"]["lr"] = 0.5  # another's
        write()
    assert settings == load(path).run("mnist-gan")

    def stage(lr: float, fails: bool) -> None:
        with params.steady(lambda everything: everything.run("mnist-gan"), path):
            raw["gan"]["lr"] = lr
            write()
            assert not fails

    with pytest.raises(GenlibError, match=r"params\.yaml: the settings of this stage were changed while it ran"):
        stage(0.5, fails=False)
    with pytest.raises(AssertionError):  # what goes wrong in the stage comes first
        stage(0.25, fails=True)


def test_settings_are_frozen(raw: dict[str, Any]) -> None:
    run = parse(raw).run("mnist-gan")
    with pytest.raises(ValueError, match="frozen"):
        run.lr = 1.0


@pytest.mark.parametrize(
    ("path", "value", "parts"),
    [
        ("gann", {}, ["gann: unknown section", "did you mean gan?", "remove or rename"]),
        ("gan/lrr", 0.1, [" gan.lrr: unknown key", "0.1", "did you mean lr?", "remove or rename"]),
        ("runs/mnist-gan/lrr", 0.1, ["runs.mnist-gan.lrr: unknown key", "0.1", "did you mean lr?"]),
        ("runs/mnist-gan/beta", 1.0, ["runs.mnist-gan.beta: unknown key", "1.0"]),
        ("data/digits/source/train_image", 5, ["data.digits.source.train_image: unknown key", "5"]),
        ("data/mnist/source/train_images", 5, ["data.mnist.source.train_images: unknown key", "5"]),
        ("data/digits/source/train_images", "x", ["data.digits.source.train_images: 'x' is refused", "change it"]),
        ("data/digits/source/train_images", MISSING, ["data.digits.source.train_images: missing", "add it"]),
        ("data/digits/source/kind", "digit", ["data.digits.source", "'digit'", "'digits'", "change it"]),
        ("data/digits/source", 3, ["data.digits.source", "3"]),
        ("data/digits/image_size", 4, ["data.digits.image_size: 4 is refused", "8", "change it"]),
        ("data/mnist/crop", 20, ["data.mnist.crop: unknown key", "20"]),
        ("data/lfw/limit", 20, ["data.lfw.limit: unknown key", "20"]),
        ("data/lfw/validation_images", MISSING, ["data.lfw.validation_images: missing", "add it"]),
        ("data/celeba/validation_images", 9, ["data.celeba.validation_images: unknown key", "9"]),
        ("data/celeba/crop", 179, ["data.celeba.crop: 179 is refused", "178", "change it"]),
        ("data/celeba/limit", 0, ["data.celeba.limit: 0 is refused", "greater than or equal to 1"]),
        ("data/celeba/source/kind", ["celeba"], ["data.celeba.source", "celeba"]),
        ("data/faces/source/validation_images", 0, ["data.faces.source.validation_images: 0 is refused"]),
        ("features/celeba/net", "resnet", ["features.celeba.net: 'resnet' is refused", "'plain' or 'residual'"]),
        ("features/mnist/flip", 1, ["features.mnist.flip: 1 is refused"]),
        ("features/mnist/seed", -1, ["features.mnist.seed: -1 is refused"]),
        ("features/mnist/seed", MISSING, ["features.mnist.seed: missing", "add it"]),
        ("vae/flip", "yes", [" vae.flip: 'yes' is refused"]),
        ("sample/attributes", "Smiling", ["sample.attributes: 'Smiling' is refused"]),
        ("sample/attributes", [1], ["sample.attributes", "1"]),
        ("features/mnist/shift", 9, ["features.mnist.shift: 9 is refused", "8"]),
        ("progress/frames", 1, ["progress.frames: 1 is refused", "2"]),
        ("sample/images", "many", ["sample.images: 'many' is refused", "integer"]),
        ("sample/images", 100.5, ["sample.images: 100.5 is refused"]),
        ("sample/images", True, ["sample.images: True is refused", "integer"]),
        ("evaluate/seed", -1, ["evaluate.seed: -1 is refused"]),
        ("evaluate/sets", 0, ["evaluate.sets: 0 is refused", "1"]),
        ("evaluate/neighbours", 0, ["evaluate.neighbours: 0 is refused", "1"]),
        ("evaluate/nearest_images", 99, ["evaluate.nearest_images: 99 is refused", "100"]),
        ("evaluate/features", "resnet", ["evaluate.features: 'resnet' is refused", "'domain' or 'inception'"]),
        ("evaluate/importance", MISSING, ["evaluate.importance: missing", "add it"]),
        ("evaluate/importance/samples", 0, ["evaluate.importance.samples: 0 is refused", "greater than or equal to 1"]),
        ("evaluate/importance/images", 1, ["evaluate.importance.images: 1 is refused", "greater than or equal to 2"]),
        ("evaluate/importance_of/mnist-vae", {"samples": 9}, ["evaluate.importance_of.mnist-vae.images: missing"]),
        (
            "evaluate/importance_of/mnist-vea",
            {"samples": 9, "images": 7},
            ["evaluate.importance_of: 'mnist-vea' has no entry under runs, did you mean mnist-vae?"],
        ),
        ("evaluate/covered_share", 0.0, ["evaluate.covered_share: 0.0 is refused", "greater than 0"]),
        ("evaluate/covered_share", 1.5, ["evaluate.covered_share: 1.5 is refused", "1"]),
        ("evaluate/covered_share", float("nan"), ["evaluate.covered_share: nan is refused", "finite"]),
        ("gan/lr", float("nan"), [" gan.lr: nan is refused", "finite"]),
        ("gan/lr", float("inf"), [" gan.lr: inf is refused", "finite"]),
        ("gan/lr", "1e-4", [" gan.lr: '1e-4' is refused", "number", "change it"]),
        ("gan/lr", -1.0, [" gan.lr: -1.0 is refused", "greater than 0"]),
        ("gan/dropout", 1.0, [" gan.dropout: 1.0 is refused", "less than 1"]),
        ("vae/output", "tanh", [" vae.output: 'tanh' is refused", "'sigmoid' or 'relu'"]),
        ("runs/mnist-gan/lr", "x", ["runs.mnist-gan.lr: 'x' is refused"]),
        ("runs/mnist-gan/epochs", 0, ["runs.mnist-gan.epochs: 0 is refused", "greater than or equal to 1"]),
        ("vae/beta", MISSING, ["beta: missing", "add it"]),
        ("lanes/demo/title", MISSING, ["lanes.demo.title: missing", "add it"]),
        ("sample/grid", MISSING, ["sample.grid: missing", "add it"]),
        ("sample", MISSING, ["sample: missing", "add it"]),
        ("runs", MISSING, ["runs: missing", "add it"]),
        ("sample", 3, ["sample: 3 is not a mapping", "key: value"]),
        ("sample", None, ["sample: None is not a mapping"]),
        ("data", [1], ["data: [1] is not a mapping"]),
        ("gan", "x", ["gan: 'x' is not a mapping"]),
        ("runs/mnist-gan", 7, ["runs.mnist-gan: 7 is not a mapping"]),
        ("runs/mnist-gan/model", "gam", ["runs.mnist-gan.model: 'gam'", "ae, bernoulli_vae, gan, vae"]),
        ("runs/mnist-gan/model", ["gan"], ["runs.mnist-gan.model: ['gan']", "ae, bernoulli_vae, gan, vae"]),
        ("runs/mnist-gan/model", MISSING, ["runs.mnist-gan.model", "ae, bernoulli_vae, gan, vae"]),
        ("runs/mnist-gan/net", "deck", ["runs.mnist-gan.net: 'deck'", "deck28"]),
        ("runs/mnist-gan/net", "../os", ["runs.mnist-gan.net: '../os'", "deck28"]),
        ("runs/mnist-gan/dataset", "mnits", ["runs.mnist-gan.dataset: 'mnits'", "did you mean mnist?", "digits"]),
        ("runs/mnist-gan/lane", "nowhere", ["runs.mnist-gan.lane: 'nowhere'", "presentation"]),
        ("runs/mnist-vae/features", "celeba", ["runs.mnist-vae.features: the images of celeba are 3 x 64 x 64"]),
        ("data/lfw/image_size", 128, ["images of celeba are 3 x 64 x 64", "lfw 3 x 128 x 128", "data.lfw.image_size"]),
        (
            "runs/mnist-vae/latent_dim",
            785,
            ["runs.mnist-vae.latent_dim (or vae.latent_dim): 785 is more than the 784 numbers", "mnist (1 x 28 x 28)"],
        ),
        ("progress/rows_per_epoch", 200, ["progress.rows_per_epoch: 200 in each of the", "are 80,000 rows", "50,000"]),
        (
            "progress",
            {"frames": 1000, "images": 256, "codes": 9, "rows_per_epoch": 2, "judged": 9},
            ["progress.images: 256 in each of 1000 frames are 3.1 GB for ", "more than 2.1 GB"],
        ),
        ("runs/mnist-gan/features", "lfw", ["runs.mnist-gan.features: 'lfw'", "digits, mnist"]),
        ("features/lfw", {"epochs": 1, "batch_size": 2, "lr": 1.0, "width": 1, "shift": 0}, ["features.lfw", "lfw"]),
        ("gan/lr", 1e300, ["gan.lr", "1e+300", "less than or equal to 1"]),
        ("features/mnist/lr", 2e30, ["features.mnist.lr", "2e+30", "less than or equal to 1"]),
        ("features/mnist/width", 2**63 - 1, ["features.mnist.width", "1024"]),
        ("evaluate/pairs", 3_000_000_000, ["evaluate.pairs", "1000000"]),
        *(
            (
                "data/mine",
                {"source": {"kind": "folder", "path": path}, "image_size": 32},
                [f"data.mine.source.path: {path!r} {lies}, where stages write; move your images elsewhere"],
            )
            for path, lies in (
                ("data/raw/mine", "lies in data/raw"),
                ("runs", "lies in runs"),
                ("photos/../presentation/demo", "lies in presentation"),
                (".", "holds data/raw"),
                ("data", "holds data/raw"),
                (str(Path.cwd() / "metrics"), "lies in metrics"),
            )
        ),
        ("seed", -1, ["seed: -1 is not a whole number", "such as 0"]),
        ("seed", 1.5, ["seed: 1.5 is not"]),
        ("seed", True, ["seed: True is not"]),
        ("seed", None, ["seed: None is not"]),
        ("seed", "0", ["seed: '0' is not"]),
    ],
)
def test_a_mistake_is_one_line(raw: dict[str, Any], path: str, value: Any, parts: list[str]) -> None:
    change(raw, path, value)
    message = refusal(raw)
    assert [part for part in parts if part not in message] == [], message


@pytest.mark.parametrize("path", ["runs", "data", "features"])
@pytest.mark.parametrize("name", ["../escape", "a/b", "a.b", "two\nlines", "", "-x", "Ä"])
def test_a_name_that_no_file_or_stage_can_bear_is_refused(raw: dict[str, Any], path: str, name: str) -> None:
    raw[path][name] = deepcopy(next(iter(raw[path].values())))
    if path == "features":
        raw["data"][name] = raw["data"]["digits"]
    assert "name" in refusal(raw)


def test_a_section_with_a_line_break_in_its_name_is_one_line(raw: dict[str, Any]) -> None:
    raw["two\nlines"] = {}
    assert "unknown section" in refusal(raw)


def test_a_key_with_a_line_break_in_its_name_is_one_line(raw: dict[str, Any]) -> None:
    raw["gan"]["l\nr"] = 1
    assert "unknown key" in refusal(raw)


def test_several_mistakes_are_counted(raw: dict[str, Any]) -> None:
    raw["sample"] |= {"images": 0, "grid": 0, "manifold": 0}
    assert "(and 2 more)" in refusal(raw)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (b"", "mapping"),
        (b"# only a comment\n", "mapping"),
        (b"just words", "mapping"),
        (b"- a\n- b\n", "mapping"),
        (b"seed: {", "not valid YAML"),
        (b"seed: 0\nseed: 1\n", "duplicate key"),
        (b"seed: 0\n--- \nseed: 1\n", "not valid YAML"),
        (b"seed: \xff\xfe", "not valid YAML"),
        (b"seed: \x00", "not valid YAML"),
        (b"seed: !!python/object/apply:os.system [false]", "not valid YAML"),
        (b"seed: 2024-13-45", "not valid YAML"),
        (b"seed: " + b"9" * 5000, "not valid YAML"),
        (b"seed: !!int x", "not valid YAML"),
        (b"seed: !!bool x", "not valid YAML"),
        (b"seed: " + b"[" * 5000, "not valid YAML"),
    ],
    ids=lambda value: repr(value[:24]) if isinstance(value, bytes) else "",
)
def test_a_file_that_is_not_a_mapping_in_yaml(tmp_path: Path, text: bytes, part: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(text)
    assert part in file_refusal(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "no such file; run this from" in file_refusal(tmp_path / "params.yaml")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    file_refusal(tmp_path)


@pytest.mark.parametrize("section", ["dataset", "feature", "run", "lane"])
def test_asking_for_what_is_not_there(raw: dict[str, Any], section: str) -> None:
    with pytest.raises(GenlibError, match="no such entry; there are ") as caught:
        getattr(parse(raw), section)("zzz")
    assert "\n" not in str(caught.value)


def test_asking_for_nearly_what_is_there(raw: dict[str, Any]) -> None:
    with pytest.raises(GenlibError, match="did you mean mnist-gan"):
        parse(raw).run("mnist-gam")


def test_loading_imports_no_torch() -> None:
    script = (
        "import sys; from pathlib import Path; from genlib import params; params.load(Path('params.yaml'));"
        "print(sorted({'torch', 'torchvision', 'mlflow', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["gan", "vae", "digits", "relu", "mnist", 0, 1, 28, 0.5])
)
_KEYS = st.text(max_size=8) | st.integers() | st.sampled_from(["lr", "kind", "model", "source", "epochs"])
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3), max_leaves=6
)
_COMMITTED: dict[str, Any] = YAML(typ="safe").load(ROOT / "params.yaml")


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))


@example(place=("data",), key="\n", value=None)
@example(place=("gan", "lr"), key=None, value={"\n": 1})
@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(place=st.sampled_from([path for path in places(_COMMITTED) if path]), key=st.none() | _KEYS, value=_VALUES)
def test_anything_anywhere_is_params_or_one_line(place: tuple[Any, ...], key: Any, value: Any) -> None:
    """`key` None: the value replaces what is at the place; else it is added there, if that is a mapping."""
    raw = deepcopy(_COMMITTED)
    target: Any = raw
    for step in place[:-1]:
        target = target[step]
    if key is not None and isinstance(target[place[-1]], dict):
        target, last = target[place[-1]], key
    else:
        last = place[-1]
    target[last] = value
    message = ""
    try:
        assert isinstance(parse(raw), Params)
    except GenlibError as error:
        message = str(error)
    assert len(message.splitlines()) <= 1
    assert len(message) < 2000
