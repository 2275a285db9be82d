"""Each stage as a command: what it writes, what it says about a mistake, what it does not import."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML

from genlib import checkpoint, models, params, training
from genlib import features as measuring
from genlib.errors import GenlibError
from genlib.evaluation import inception
from genlib.features.classifiers import build
from genlib.files import digest
from genlib.training import judging
from stages import download, evaluate, features, preprocess, present, sample, train
from stages.command import run

ROOT = Path(__file__).resolve().parent.parent
STAGES: dict[str, Callable[..., None]] = {
    "download": download.main,
    "preprocess": preprocess.main,
    "features": features.main,
    "train": train.main,
    "sample": sample.main,
    "evaluate": evaluate.main,
    "present": present.main,
}
RUNS: dict[str, dict[str, Any]] = {
    "t-ae": {"model": "ae"},
    "t-dae": {"model": "ae", "noise": 0.5},
    "t-vae": {"model": "vae", "latent_dim": 2},
    "t-gan": {"model": "gan"},
    "t-binary": {"model": "bernoulli_vae", "net": "mlp"},
}
DATA, NETWORK = Path("data/processed/digits"), Path("data/features/digits/model.safetensors")
SAMPLES, TESTS = 140, 110

# Runs a stage as `python -m` does, then prints how many threads each BLAS has, and which heavy packages were imported.
AS_MODULE = """
import atexit, runpy, sys
name = sys.argv.pop(1)
heavy = {"torch", "torchvision", "mlflow", "matplotlib", "torch._dynamo", "sympy"}

def say():
    if "threadpoolctl" in sys.modules:
        pools = sys.modules["threadpoolctl"].threadpool_info()
        print("BLAS threads", [pool["num_threads"] for pool in pools if pool["user_api"] == "blas"])
    print("imported", sorted(heavy & set(sys.modules)))

atexit.register(say)
runpy.run_module(name, run_name="__main__", alter_sys=True)
"""


def tiny() -> dict[str, Any]:
    """params.yaml with next to nothing to do."""
    raw: dict[str, Any] = YAML(typ="safe").load(ROOT / "params.yaml")
    raw["data"] = {"digits": raw["data"]["digits"]}
    raw["data"]["digits"] |= {"validation_images": 40}
    raw["data"]["digits"]["source"] |= {"train_images": 300, "test_images": TESTS}
    raw["features"] = {"digits": raw["features"]["digits"] | {"epochs": 1, "batch_size": 50, "width": 2, "shift": 1}}
    raw["progress"] = {"frames": 3, "images": 9, "codes": 30, "rows_per_epoch": 2, "judged": 30}
    for model in ("ae", "vae", "gan", "bernoulli_vae"):
        raw[model] |= {"width": 2, "epochs": 1, "batch_size": 50, "latent_dim": 5}
    raw["gan"]["discriminator_width"] = 2
    raw["evaluate"] |= {"sets": 2, "pairs": 20, "nearest_images": 100}
    raw["evaluate"] |= {"importance": {"samples": 3, "images": 20}, "importance_of": {}}
    raw["sample"] |= {"images": SAMPLES, "grid": 16, "interpolations": 2, "manifold": 3}
    raw["sample"] |= {"gradient_draws": 3, "gradient_images": 8}
    shared = {"lane": "demo", "dataset": "digits", "features": "digits", "net": "deck28"}
    raw["runs"] = {name: shared | own for name, own in RUNS.items()}
    return raw


def write_params(raw: dict[str, Any]) -> None:
    with Path("params.yaml").open("w") as file:
        YAML(typ="safe").dump(raw, file)


def command(stage: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The stage in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", AS_MODULE, f"stages.{stage}", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def succeeded(stage: str, *arguments: object) -> str:
    """What a stage printed; the last line says what it imported."""
    done = command(stage, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def folder(name: str) -> Path:
    return Path("runs/demo") / name


def train_arguments(name: str) -> dict[str, Any]:
    model, log = folder(name) / "model.safetensors", folder(name) / "training"
    provenance = folder(name) / "provenance.json"
    return {"data": DATA, "network": NETWORK, "model": model, "log": log, "provenance": provenance}


def sample_arguments(name: str) -> dict[str, Any]:
    return {
        "model": folder(name) / "model.safetensors",
        "log": folder(name) / "training",
        "data": DATA,
        "samples": folder(name) / "samples.npy",
        "figures": folder(name) / "figures",
        "real": folder(name) / "real",
    }


def evaluate_arguments(name: str) -> dict[str, Any]:
    return {
        "model": folder(name) / "model.safetensors",
        "samples": folder(name) / "samples.npy",
        "data": DATA,
        "network": NETWORK,
        "out": folder(name) / "evaluation.json",
        "metrics": Path("metrics/demo") / f"{name}.json",
    }


def options(arguments: dict[str, Any], positional: str = "") -> list[str]:
    """The same arguments for the command line."""
    words = [str(arguments[positional])] if positional else []
    return words + [w for key, value in arguments.items() if key != positional for w in (f"--{key}", str(value))]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A folder in which all stages have run on tiny settings, the VAE's as commands; what those printed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("project"))
        patch.setenv("GENLIB_TRACKING", "off")
        patch.setenv("GENLIB_DEVICE", "cpu")
        write_params(tiny())
        said = {
            "download": succeeded("download", "digits", "--out", "data/raw/digits"),
            "preprocess": succeeded("preprocess", "digits", "--raw", "data/raw/digits", "--out", DATA),
        }
        features.main("digits", DATA, NETWORK, NETWORK.with_name("metrics.json"))
        for name in RUNS:
            if name == "t-vae":
                said["train"] = succeeded("train", name, *options(train_arguments(name)))
                said["sample"] = succeeded("sample", *options(sample_arguments(name), "model"))
                said["evaluate"] = succeeded("evaluate", *options(evaluate_arguments(name), "model"))
            else:
                train.main(name, **train_arguments(name), work=Path(".work"))
                sample.main(**sample_arguments(name))
                evaluate.main(**evaluate_arguments(name))
        page = {"runs": "runs/demo", "metrics": "metrics/demo"}
        said["present"] = succeeded("present", "demo", *options(page | {"out": "presentation/demo"}))
        yield said


def picture_is_not_blank(path: Path) -> None:
    with Image.open(path) as picture:
        last = getattr(picture, "n_frames", 1) - 1
        for frame in {0, last}:
            picture.seek(frame)
            assert len(set(picture.convert("L").tobytes())) > 1, f"{path}, frame {frame}"
        assert (last > 0) == (path.suffix == ".gif")


# What is around a stage and must not change its results.
ELSEWHERE = {
    "GENLIB_TRACKING": "on",
    "GENLIB_WORKERS": "3",
    "LC_ALL": "C",
    "OMP_NUM_THREADS": "3",
    "OPENBLAS_NUM_THREADS": "3",
    "PYTHONHASHSEED": "7",
    "TZ": "Asia/Tokyo",
}


def test_no_byte_depends_on_what_is_around(
    project: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads, worker processes, hashes, locale, time zone, folder, tracking: a GAN again, from the archives on."""
    here, raw = Path.cwd(), Path("data/raw/digits").absolute()
    monkeypatch.chdir(tmp_path)
    for name, value in ELSEWHERE.items():
        monkeypatch.setenv(name, value)
    write_params(tiny())
    succeeded("preprocess", "digits", "--raw", raw, "--out", DATA)
    monkeypatch.delenv("GENLIB_TRACKING")  # on is also what holds without it
    outputs = ("--model", NETWORK, "--metrics", NETWORK.with_name("metrics.json"))
    assert "dynamo" not in succeeded("features", "digits", "--data", DATA, *outputs)
    succeeded("train", "t-gan", *options(train_arguments("t-gan")))
    monkeypatch.setenv("GENLIB_TRACKING", "off")  # it was on long enough: it costs seconds
    succeeded("sample", *options(sample_arguments("t-gan"), "model"))
    succeeded("evaluate", *options(evaluate_arguments("t-gan"), "model"))
    assert Path("mlflow.db").exists()
    found = {path: digest(path) for part in ("data", "runs", "metrics") for path in Path(part).rglob("*.*")}
    assert len(found) > 20
    differing = {str(path) for path, checksum in found.items() if digest(here / path) != checksum}
    assert differing == {"runs/demo/t-gan/provenance.json"}


@pytest.mark.parametrize("stage", ["download", "preprocess", "present"])
def test_stages_without_networks_import_none(stage: str, project: dict[str, str]) -> None:
    *said, imported = project[stage].splitlines()
    assert len(said) == (0 if stage == "download" else 1)
    assert [name for name in ("torch", "torchvision", "mlflow") if f"'{name}'" in imported] == []


@pytest.mark.parametrize("stage", ["train", "sample", "evaluate"])
def test_each_blas_has_as_many_threads_as_params_say(stage: str, project: dict[str, str]) -> None:
    """numpy's, and scipy's own where it is loaded: in the evaluation, not in a training, which needs none."""
    [line] = [line for line in project[stage].splitlines() if line.startswith("BLAS threads")]
    assert line == f"BLAS threads {[1, 1] if stage == 'evaluate' else [1]}"


@pytest.mark.parametrize("stage", ["train", "sample", "evaluate"])
def test_without_tracking_mlflow_is_not_imported(stage: str, project: dict[str, str]) -> None:
    imported = project[stage].splitlines()[-1]
    assert "'torch'" in imported
    assert "mlflow" not in imported
    assert "torchvision" not in imported
    assert not list(Path().rglob("mlflow.db"))


@pytest.mark.parametrize("stage", ["train", "sample", "evaluate"])
def test_torchs_compiler_is_not_imported(stage: str, project: dict[str, str]) -> None:
    """Nor sympy, which it needs: together a second and 150 MiB in each process, and nothing is compiled."""
    imported = project[stage].splitlines()[-1]
    assert "'torch'" in imported
    assert "dynamo" not in imported
    assert "sympy" not in imported


def test_nothing_half_written_is_left(project: dict[str, str]) -> None:
    assert not list(Path().rglob("*.partial"))
    assert not list(Path(".work").rglob("*.pt"))


def test_download_and_preprocess(project: dict[str, str]) -> None:
    origin = json.loads(Path("data/raw/digits/origin.json").read_text())
    assert {record["source"] for record in origin["files"]} == {"drawn"}
    assert len(origin["files"]) == 4
    card = json.loads((DATA / "card.json").read_text())
    assert card["counts"] == {"train": 260, "val": 40, "test": TESTS}
    assert f"260 train, 40 val, {TESTS} test" in project["preprocess"]


def test_features(project: dict[str, str]) -> None:
    metrics = json.loads(NETWORK.with_name("metrics.json").read_text())
    assert list(metrics) == ["val_accuracy"]
    assert 0 <= metrics["val_accuracy"] <= 1


@pytest.mark.parametrize("name", RUNS)
def test_train(name: str, project: dict[str, str]) -> None:
    log = folder(name) / "training"
    assert {path.name for path in log.iterdir()} == {
        "settings.json",
        "architecture.json",
        "history.csv",
        "steps.csv",
        "progress.safetensors",
    }
    networks = json.loads((log / "architecture.json").read_text())["networks"]
    kinds = ["generator", "discriminator"] if name == "t-gan" else ["encoder", "decoder"]
    assert [network["name"] for network in networks] == kinds
    settings = json.loads((log / "settings.json").read_text())
    assert settings["latent_dim"] == (2 if name == "t-vae" else 5)
    assert settings["seed"] == 0
    provenance = json.loads((folder(name) / "provenance.json").read_text())
    assert provenance["device"] == "cpu"
    assert provenance["seconds"] >= 0


def test_train_says_how_it_goes(project: dict[str, str]) -> None:
    lines = project["train"].splitlines()
    assert lines[0].startswith("t-vae: vae on 260 digits images, 1 epochs, cpu")
    assert lines[1].startswith("t-vae: epoch 1/1")
    assert "val_total" in lines[1]


def test_samples_of_a_gan_are_judged_and_its_best_checkpoint_kept(project: dict[str, str]) -> None:
    [header, row] = (folder("t-gan") / "training" / "history.csv").read_text().splitlines()
    judged = dict(zip(header.split(","), map(float, row.split(",")), strict=True))
    assert judged["val_fid"] > 0
    assert 0 <= judged["val_classes"] <= 10
    assert judged["val_diversity"] >= 0
    assert judged["val_collapse"] in (0, 1)
    model = models.load(folder("t-gan") / "model.safetensors")
    assert model.best_epoch == 1
    assert torch.equal(model.sample(5), model.sample(5, checkpoint="best"))  # one epoch: the best is the last
    for name in ("t-ae", "t-vae", "t-binary"):
        assert "fid" not in (folder(name) / "training" / "history.csv").read_text()
        assert models.load(folder(name) / "model.safetensors").best_epoch is None


def test_train_warns_of_mode_collapse_and_says_which_epoch_was_best(
    project: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = iter([(9.0, 1.0), (7.5, 0.9), (8.0, 0.1)])
    monkeypatch.setattr(judging.Judge, "measure", lambda *_: dict(zip(("fid", "diversity"), next(said), strict=True)))
    raw = tiny()
    raw["gan"]["epochs"] = 3
    arguments = {key: Path.cwd() / value for key, value in train_arguments("t-gan").items()}
    monkeypatch.chdir(tmp_path)
    write_params(raw)
    train.main("t-gan", **arguments | {"model": Path("m"), "log": Path("log")}, work=Path("work"))
    out, err = capsys.readouterr()
    assert [line for line in err.splitlines() if line.startswith("warning: ")] == [
        "warning: t-gan, epoch 3: samples are 0.10 times as diverse as real images, 1.00 times after epoch 1; "
        "this may be mode collapse"
    ]
    assert "t-gan: best after epoch 2, FID 7.5 on validation; last: 8" in out.splitlines()
    assert models.load(Path("m")).best_epoch == 2


@pytest.mark.parametrize("changed", ["settings", "code"])
def test_what_changes_while_a_run_trains_is_said_and_nothing_is_lost(
    changed: str, project: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC would record the model as one of what params.yaml and code are when the stage ends."""
    arguments = {key: Path.cwd() / value for key, value in train_arguments("t-ae").items()}
    expected = arguments["model"].read_bytes()
    arguments |= {key: tmp_path / key for key in ("model", "log", "provenance")}
    monkeypatch.chdir(tmp_path)
    raw, other, identity = tiny(), tiny(), checkpoint.identity
    write_params(raw)
    other["ae"]["lr"] = 0.5
    other["vae"]["lr"] = 0.5  # of another run
    epochs: list[int] = []

    def summary(epoch: training.Epoch, of: int) -> str:
        epochs.append(epoch.number)
        if changed == "settings":
            write_params(other)
        else:
            monkeypatch.setattr(checkpoint, "identity", lambda *what: identity(*what) | {"code": {"adam": "edited"}})
        return f"{epoch.number} of {of}"

    monkeypatch.setattr(training, "summary", summary)
    named = {"settings": "runs.t-ae", "code": "code"}[changed]
    with pytest.raises(GenlibError, match=rf"^t-ae: {named}: changed in params.yaml or the code while it trained"):
        train.main("t-ae", **arguments, work=Path("work"))
    assert not any(arguments[key].exists() for key in ("model", "log", "provenance"))
    monkeypatch.setattr(checkpoint, "identity", identity)
    other["ae"]["lr"] = raw["ae"]["lr"]
    write_params(other)
    train.main("t-ae", **arguments, work=Path("work"))  # writes what was trained
    assert epochs == [1]
    assert arguments["model"].read_bytes() == expected


def test_a_wrong_switch_of_tracking_is_said_before_any_work(
    project: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENLIB_TRACKING", "maybe")
    monkeypatch.setattr(models, "load", None)  # nothing is read
    for main, arguments in ((sample.main, sample_arguments("t-ae")), (evaluate.main, evaluate_arguments("t-ae"))):
        with pytest.raises(GenlibError, match="GENLIB_TRACKING: 'maybe' is neither on nor off"):
            main(**arguments)


def test_public_and_private_pictures_need_two_folders(project: dict[str, str]) -> None:
    with pytest.raises(GenlibError, match=r"--real \S+/figures: --figures, too; name two folders"):
        sample.main(**sample_arguments("t-ae") | {"real": folder("t-ae") / "figures"})


def test_standard_output_may_be_closed_or_know_few_letters(project: dict[str, str]) -> None:
    closed = 'exec "$0" "$@" >&-'
    words = [sys.executable, "-m", "stages.evaluate", *options(evaluate_arguments("t-ae"), "model")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(["sh", "-c", closed, *words], capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    letters = "import genlib.terminal; genlib.terminal.run(lambda: print('\u00b1 0.2'))"
    environment |= {"PYTHONIOENCODING": "ascii"}
    said = subprocess.run([sys.executable, "-c", letters], capture_output=True, text=True, check=True, env=environment)
    assert said.stdout == "\\xb1 0.2\n"


def test_a_measuring_network_is_read_for_gans_alone_and_before_training(
    project: dict[str, str], tmp_path: Path
) -> None:
    written = {"network": tmp_path / "nowhere", "model": tmp_path / "m", "log": tmp_path / "l"}
    train.main("t-ae", **train_arguments("t-ae") | written, work=tmp_path / "w")
    assert (tmp_path / "m").read_bytes() == (folder("t-ae") / "model.safetensors").read_bytes()
    written |= {"model": tmp_path / "g", "log": tmp_path / "gl"}
    with pytest.raises(GenlibError, match=r"nowhere: no such file; run dvc repro"):
        train.main("t-gan", **train_arguments("t-gan") | written, work=tmp_path / "gw")
    measuring.save(
        tmp_path / "nowhere", build("plain", 3, 28, 10, 2), "colours", "classes", list("0123456789"), "plain"
    )
    with pytest.raises(GenlibError, match=r"1 x 28 x 28, but the measuring network of colours was trained on 3 x 28"):
        train.main("t-gan", **train_arguments("t-gan") | written, work=tmp_path / "gw")
    assert not (tmp_path / "g").exists()
    assert not (tmp_path / "gw").exists()


@pytest.mark.parametrize("name", RUNS)
def test_sample(name: str, project: dict[str, str]) -> None:
    samples = np.load(folder(name) / "samples.npy", allow_pickle=False)
    count = min(SAMPLES, TESTS)
    assert (samples.dtype, samples.shape) == (np.uint8, (count, 1, 28, 28))
    assert len(np.unique(samples.reshape(count, -1), axis=0)) > count // 2
    learning = {"progress.gif", "training_points.png"}
    figures = {
        "t-ae": set(),
        "t-dae": set(),
        "t-vae": learning | {"codes.png", "codes.gif", "manifold.png", "gradient_variance.png"}
        | {"gradient_variance.json"},
        "t-gan": learning | {"samples_last.png", "interpolations.png", "alternation.json"},
        "t-binary": learning,  # the variance is measured on squared errors, which it does not have
    }[name]  # fmt: skip
    real = {
        "t-ae": learning | {"reconstructions.png", "interpolations.png"},
        "t-dae": learning | {"denoising.png", "interpolations.png"},
        "t-vae": {"reconstructions.png", "interpolations.png"},
        "t-binary": {"reconstructions.png", "interpolations.png"},
        "t-gan": set(),
    }[name]
    expected = {"figures": figures | {"samples.png", "curves.png"}, "real": real | {"data.png", "neighbours.png"}}
    assert {part: {path.name for path in (folder(name) / part).iterdir()} for part in expected} == expected
    for part, names in expected.items():
        for figure in names:
            if not figure.endswith(".json"):
                picture_is_not_blank(folder(name) / part / figure)


@pytest.mark.parametrize("name", RUNS)
def test_evaluate(name: str, project: dict[str, str]) -> None:
    metrics = json.loads((Path("metrics/demo") / f"{name}.json").read_text())
    assert len(metrics) <= 12
    assert all(isinstance(value, int | float) and math.isfinite(value) for value in metrics.values())
    bounds = {"recon_mse", "recon_ssim", "elbo", "nll", "active_units"}
    of_model = {
        "t-ae": {"recon_mse", "recon_ssim", "pca_mse"},
        "t-dae": {"noisy_psnr", "restored_psnr", "restored_ssim"},
        "t-vae": bounds,
        "t-binary": bounds,
        "t-gan": {"fid_best", "collapse", "min_class_share", "classes_covered", "class_distance"},
    }[name]
    of_samples = {"fid", "fid_std", "kid", "precision", "recall", "coverage", "copied_share"}
    assert set(metrics) == of_samples | of_model

    everything = json.loads((folder(name) / "evaluation.json").read_text())
    assert everything["run"] == name
    assert everything["metrics"] == metrics
    fid = everything["samples"]["fid"]
    assert (fid["mean"], fid["std"]) == (metrics["fid"], metrics["fid_std"])
    assert 0 <= fid["floor"] < metrics["fid"]
    assert sum(everything["class_shares"].values()) == pytest.approx(1, abs=1e-4)
    assert list(everything["class_shares"]) == list("0123456789")
    card = everything["card"]
    assert (card["samples"], card["reference"], card["sets"], card["seed"]) == (TESTS, TESTS, 2, 0)
    assert card["features"]["sha256"] == digest(NETWORK)
    assert card["images"]["test_sha256"] == digest(DATA / "test.npy")
    assert everything["measuring_network"]["accuracy"] >= 0
    assert "inception" not in everything
    assert everything["dataset"]["dataset"] == "digits"
    assert everything["dataset"]["counts"]["test"] == TESTS
    assert everything["dataset"]["origin"]["files"]


def test_cards_of_runs_on_the_same_data_differ_in_the_likelihood_alone(project: dict[str, str]) -> None:
    cards = [json.loads((folder(name) / "evaluation.json").read_text())["card"] for name in RUNS]
    of_likelihood = {"likelihood", "elbo_draws", "importance_samples", "importance_images"}
    for card in cards:
        assert {key: card[key] for key in card if key not in of_likelihood} == cards[0]
    assert [bool(of_likelihood & set(card)) for card in cards] == ["vae" in name or "binary" in name for name in RUNS]


def test_evaluate_warns_of_mode_collapse(
    project: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A GAN of a few steps: whatever it draws, the network sees few classes in it."""
    evaluate.main(**evaluate_arguments("t-gan") | {"out": tmp_path / "out", "metrics": tmp_path / "metrics"})
    out, err = capsys.readouterr()
    [line] = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert line.startswith("warning: t-gan: samples ")
    assert line.endswith("; this may be mode collapse")
    assert json.loads((tmp_path / "out").read_text())["collapse"] == line.removeprefix("warning: t-gan: ")
    assert out.splitlines()[-1].startswith("t-gan: fid ")
    assert (tmp_path / "out").read_bytes() == (folder("t-gan") / "evaluation.json").read_bytes()


def test_inception_is_asked_for_by_params_and_its_absence_is_no_mistake(
    project: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inception, "find_weights", lambda: inception.Unavailable("asked for"))
    raw = tiny()
    raw["evaluate"]["features"] = "inception"
    arguments = {key: Path.cwd() / value for key, value in evaluate_arguments("t-ae").items()}
    monkeypatch.chdir(tmp_path)
    write_params(raw)
    evaluate.main(**arguments | {"out": Path("out"), "metrics": Path("metrics")})
    everything = json.loads(Path("out").read_text())
    assert everything["inception"] == {"not_computed": "not computed: weights not available (asked for)"}
    assert Path("metrics").read_bytes() == arguments["metrics"].read_bytes()


def test_present(project: dict[str, str]) -> None:
    assert all(run in Path("presentation/demo/results.html").read_text() for run in RUNS)
    assert "t-gan" in Path("presentation/demo/index.html").read_text()
    said = project["present"].splitlines()[0]
    assert re.fullmatch(r"demo: 5 runs on \d+ slides in presentation/demo/index\.html; open it in a browser", said)


def test_a_stage_gives_the_same_bytes_again(project: dict[str, str], tmp_path: Path) -> None:
    train.main("t-gan", DATA, NETWORK, tmp_path / "model", tmp_path / "log", tmp_path / "work")
    assert (tmp_path / "model").read_bytes() == (folder("t-gan") / "model.safetensors").read_bytes()
    folders = {"figures": tmp_path / "figures", "real": tmp_path / "real"}
    sample.main(**sample_arguments("t-gan") | {"samples": tmp_path / "s.npy"} | folders)
    assert (tmp_path / "s.npy").read_bytes() == (folder("t-gan") / "samples.npy").read_bytes()
    for part, again in folders.items():
        for picture in (folder("t-gan") / part).iterdir():
            assert (again / picture.name).read_bytes() == picture.read_bytes()


@pytest.mark.parametrize("missing", ["samples", "network", "data"])
def test_evaluate_names_what_is_missing_or_damaged(missing: str, project: dict[str, str], tmp_path: Path) -> None:
    arguments = evaluate_arguments("t-gan") | {"out": tmp_path / "out", "metrics": tmp_path / "metrics"}
    with pytest.raises(GenlibError, match=r"nowhere.*dvc repro"):
        evaluate.main(**arguments | {missing: tmp_path / "nowhere"})
    (tmp_path / "damaged").write_bytes(b"")
    if missing != "data":
        with pytest.raises(GenlibError, match=r"damaged.*dvc repro"):
            evaluate.main(**arguments | {missing: tmp_path / "damaged"})
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "metrics").exists()


def test_few_validation_images_are_enough_for_pictures(project: dict[str, str], tmp_path: Path) -> None:
    """15 images for 8 interpolations."""
    raw = tiny()
    raw["sample"]["interpolations"] = 8
    with pytest.MonkeyPatch.context() as patch:
        data = tmp_path / DATA
        data.mkdir(parents=True)
        for path in DATA.iterdir():
            (data / path.name).write_bytes(path.read_bytes())
        for name in ("val.npy", "val_labels.npy"):
            np.save(data / name, np.load(DATA / name)[:15])
        arguments = {key: Path.cwd() / value for key, value in sample_arguments("t-ae").items()}
        patch.chdir(tmp_path)
        write_params(raw)
        written = {"samples": Path("s.npy"), "figures": Path("figures"), "real": Path("real")}
        sample.main(**arguments | {"data": DATA} | written)
    assert (tmp_path / "real" / "interpolations.png").exists()


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("train", ["nope", *options(train_arguments("nope"))]),
        ("download", ["nope", "--out", "data/raw/nope"]),
        ("preprocess", ["nope", "--raw", "data/raw/digits", "--out", "data/processed/nope"]),
        ("features", ["nope", "--data", DATA, "--model", "m", "--metrics", "n"]),
        ("sample", options(sample_arguments("nope"), "model")),
        ("evaluate", options(evaluate_arguments("nope"), "model")),
        ("present", ["nope", *options({"runs": "r", "metrics": "m", "out": "o"})]),
    ],
)
def test_what_is_not_there_is_one_line_and_exit_code_1(
    stage: str,
    words: list[Any],
    project: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = sorted(Path().rglob("*"))
    if stage in ("train", "present"):  # two in a process of their own, to see the code
        done = command(stage, *words)
        code, errors = done.returncode, done.stderr
        assert code == 1
    else:
        monkeypatch.setattr(sys, "argv", [stage, *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            run(STAGES[stage])
        errors = f"{caught.value.code}\n{capsys.readouterr().err}"
    [line] = errors.strip().splitlines()
    assert line.startswith("error: ")
    assert "nope" in line
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("stage", STAGES)
def test_help(stage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [stage, "--help"])
    with pytest.raises(SystemExit) as caught:
        run(STAGES[stage])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert (STAGES[stage].__doc__ or "?").split()[0] in said
    assert "--help" in said


def test_a_command_line_that_is_wrong_is_exit_code_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["present", "--surprise"])
    with pytest.raises(SystemExit) as caught:
        run(present.main)
    assert caught.value.code == 2


def test_ctrl_c_is_exit_code_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stage() -> None:
        """Stops."""
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["stage"])
    with pytest.raises(SystemExit) as caught:
        run(stage)
    assert caught.value.code == 130
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_ctrl_c_while_a_stage_still_imports_is_one_line() -> None:
    words = [sys.executable, "-m", "stages.train", "no-such-run", "--data", "d", "--network", "n", "--model", "m"]
    words += ["--log", "l", "--provenance", "p"]
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(1)  # importing torch takes longer
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        said = process.stderr.read()
    assert (process.returncode, len(said.splitlines())) == (130, 1), said
    assert said.startswith("interrupted; ")


def test_any_other_error_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def stage() -> None:
        """Fails."""
        raise ZeroDivisionError

    monkeypatch.setattr(sys, "argv", ["stage"])
    with pytest.raises(ZeroDivisionError):
        run(stage)


def test_a_code_that_could_not_be_measured_is_refused_before_it_is_trained(project: dict[str, str]) -> None:
    runs = params.load().runs
    train._check_code("t-ae", runs["t-ae"], 6, 6)
    train._check_code("t-gan", runs["t-gan"], 2, 2)  # which encodes nothing
    for counts in ((100, 5), (5, 100)):
        with pytest.raises(GenlibError, match=r"runs\.t-ae\.latent_dim: 5 is more than 4, .*; lower it, or take more"):
            train._check_code("t-ae", runs["t-ae"], *counts)


@pytest.mark.parametrize("value", ["", "gpu", "-1", "meta", "cuda:99", "0"])
def test_a_machine_that_is_not_there(
    value: str, project: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GENLIB_DEVICE", value)
    with pytest.raises(GenlibError, match=f"GENLIB_DEVICE={value!r}") as caught:
        train.main("t-ae", DATA, NETWORK, *(tmp_path / name for name in ("model", "log", "provenance", "work")))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
