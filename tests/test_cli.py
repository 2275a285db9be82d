"""`python -m genlib`: pictures from small models, mistakes in one line, help that says units and defaults."""

import importlib
import json
import pkgutil
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner, Result

import genlib
import stages
from genlib import cli, models, training
from genlib.settings import RunSettings

ROOT = Path(__file__).resolve().parent.parent
GREY, COLOUR = (1, 28, 28), (3, 32, 32)
RUNS = {
    "digits-ae": ("ae", GREY),
    "digits-vae": ("vae", GREY),
    "digits-gan": ("gan", GREY),
    "faces-vae": ("vae", COLOUR),
}
COMMANDS = [module.name for module in pkgutil.iter_modules(stages.__path__) if module.name != "command"]

INTERRUPT = """
import os, signal

signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it

class Interrupting:
    def find_spec(self, name, *_):
        if name == "pydantic":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
"""


@pytest.fixture
def project(alone: Path, small: Callable[..., RunSettings]) -> Path:
    """A folder with params.yaml and models that were never trained."""
    (alone / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    for run, (model, shape) in RUNS.items():
        settings = small(model, net="dcgan" if shape == COLOUR else "deck28")
        state = training.start(settings, 3, shape, torch.device("cpu"))
        models.save(alone / "runs" / "demo" / run / "model.safetensors", run, 3, settings, shape, state.networks, None)
    return alone


def genlib_command(*words: str) -> Result:
    """The command, in this process; standard output and error apart."""
    return CliRunner().invoke(cli.app(), words)


def done(*words: str) -> str:
    result = genlib_command(*words)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*words: str) -> str:
    """The one line that a command says which ends with exit code 1."""
    result = genlib_command(*words)
    assert result.exit_code == 1, result.output
    (line,) = result.output.splitlines()
    assert line.startswith("error: ")
    return line


def photo(path: Path, size: tuple[int, int] = (90, 60)) -> Path:
    noise = np.random.default_rng(len(str(path))).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).save(path)
    return path


def tiles(picture: Path, size: int, scale: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The images of a grid, N H W or N H W 3, in their own resolution."""
    with Image.open(picture) as opened:
        array = np.asarray(opened)
    step = size * scale + 1
    down, across = array.shape[0] // step, array.shape[1] // step
    places = [(1 + step * row, 1 + step * column) for row in range(down) for column in range(across)]
    return np.stack([array[y : y + size * scale : scale, x : x + size * scale : scale] for y, x in places])


# Pictures


def test_sample_draws_what_the_library_draws(project: Path) -> None:
    said = done("sample", "digits-gan", "-n", "6", "--seed", "4", "a.png")
    assert said == "digits-gan: 6 images of seed 4 in a.png\n"
    expected = genlib.load("runs/demo/digits-gan/model.safetensors").sample(6, seed=4)
    assert np.array_equal(tiles(Path("a.png"), 28, 2)[:6], expected[:, 0])
    done("sample", "runs/demo/digits-gan/model.safetensors", "b.png", "-n", "6", "--seed", "4", "--columns", "3")
    assert Path("b.png").read_bytes() == Path("a.png").read_bytes()
    done("sample", "faces-vae", "c.png", "--device", "cpu")
    assert tiles(Path("c.png"), 32, 2).shape == (64, 32, 32, 3)


def test_codes_without_a_prior_are_said_to_be(project: Path) -> None:
    result = genlib_command("sample", "digits-ae", "a.png")
    assert result.exit_code == 0
    assert result.stderr.startswith("note: digits-ae: its codes were never made to follow the distribution")
    assert "note" not in genlib_command("sample", "digits-vae", "a.png").stderr


@pytest.mark.parametrize(("run", "shape"), [("digits-vae", GREY), ("faces-vae", COLOUR)])
def test_reconstruct_shows_any_photo_beside_what_becomes_of_it(
    run: str, shape: tuple[int, int, int], project: Path
) -> None:
    said = done("reconstruct", run, str(photo(project / "me.jpg")))
    model = genlib.load(f"runs/demo/{run}/model.safetensors")
    original = model.prepare("me.jpg")
    made = model.reconstruct(original)
    error = float(((original / 255.0 - made / 255.0) ** 2).mean())
    assert said.startswith(f"{run}: squared error {error:.4f} per pixel")
    assert said.endswith(f"in me-{run}.png\n")
    with Image.open(f"me-{run}.png") as picture:
        array = np.asarray(picture)
    scale = 256 // shape[1]
    side, gap = shape[1] * scale, 16
    halves = (array[1 : side + 1, 1 : side + 1], array[1 : side + 1, side + 2 + gap + 1 : 2 * side + 2 + gap + 1])
    for half, image in zip(halves, (original, made), strict=True):
        expected = image[0, 0] if shape == GREY else image[0].transpose(1, 2, 0)
        assert np.array_equal(half[::scale, ::scale], expected)
    done("reconstruct", run, "me.jpg", "other.png", "--invert")
    assert Path("other.png").read_bytes() != Path(f"me-{run}.png").read_bytes()


def test_interpolate_between_photos_has_them_at_its_ends(project: Path) -> None:
    start, end = photo(project / "a.png"), photo(project / "other.png", (31, 40))
    done("interpolate", "digits-vae", "--from", str(start), "--to", str(end), "--steps", "3", "out.png")
    model = genlib.load("runs/demo/digits-vae/model.safetensors")
    ends = np.concatenate([model.prepare(start), model.prepare(end)])
    between = model.interpolate(model.encode(ends)[:1], model.encode(ends)[1:], 3)
    assert np.array_equal(tiles(Path("out.png"), 28, 2), np.concatenate([ends[:1], between, ends[1:]])[:, 0])


def test_interpolate_between_random_codes_depends_on_the_seed(project: Path) -> None:
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        done("interpolate", "digits-gan", f"{name}.png", "--rows", "2", "--steps", "4", "--seed", seed)
    assert tiles(Path("a.png"), 28, 2).shape == (8, 28, 28)
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes() != Path("c.png").read_bytes()


def test_compare_is_that_of_the_stages(project: Path) -> None:
    for run, fid in (("digits-vae", 2.5), ("digits-gan", 4.0)):
        evaluation = {"run": run, "metrics": {"fid": fid}, "card": {"samples": 9, "seed": 0}, "samples": {}}
        Path("runs", "demo", run, "evaluation.json").write_text(json.dumps(evaluation))
    said = done("compare", "digits-vae", "digits-gan")
    assert re.search(r"^fid +2\.5 +4 +\+1\.5$", said, re.MULTILINE)
    assert "name two different runs" in refused("compare", "digits-vae")


# Mistakes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sample", "digits-gam", "a.png"), r"runs\.digits-gam: no such entry, did you mean digits-gan"),
        (("sample", "lfw-gan", "a.png"), r"lfw-gan is not trained here; run dvc repro train@lfw-gan"),
        (("sample", "./none.safetensors", "a.png"), r"none\.safetensors: no such model file"),
        (("sample", "params.yaml/", "a.png"), r"params\.yaml"),
        (("sample", "digits-gan", "a.jpg"), r"a\.jpg: the picture is written as PNG; give it a name that ends"),
        (("sample", "digits-gan", "runs.png"), r"runs\.png: is a folder; name a file"),
        (("sample", "digits-gan", "a.png", "--device", "tpu"), r"GENLIB_DEVICE='tpu' is no device; set auto"),
        (("sample", "digits-gan", "a.png", "--checkpoint", "best"), r"checkpoint best: this gan has only the last one"),
        (("reconstruct", "digits-gan", "me.jpg"), r"a gan draws images and encodes none; take a run whose model enc"),
        (("reconstruct", "digits-vae", "none.jpg"), r"none\.jpg: no such picture"),
        (("reconstruct", "digits-vae", "params.yaml"), r"params\.yaml: not a picture that can be read"),
        (("reconstruct", "digits-vae", "me.jpg", "a.gif"), r"a\.gif: the picture is written as PNG"),
        (("interpolate", "digits-vae", "a.png", "--to", "me.jpg"), r"one photo is given; give two, --from and --to"),
        (("interpolate", "digits-gan", "a.png", "--from", "me.jpg", "--to", "me.jpg"), r"encodes none; take a run"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(words: tuple[str, ...], message: str, project: Path) -> None:
    photo(project / "me.jpg")
    (project / "runs.png").mkdir()
    before = sorted(project.iterdir())
    assert re.search(message, refused(*words))
    assert sorted(project.iterdir()) == before


def test_outside_a_project_a_run_has_no_name(alone: Path) -> None:
    assert "params.yaml: no such file" in refused("sample", "digits-gan", "a.png")


@pytest.mark.parametrize("words", [("sample", "digits-gan", "a.png", "-n", "0"), ("nonsense",), ("sample",)])
def test_a_wrong_command_line_is_a_usage_error(words: tuple[str, ...]) -> None:
    assert genlib_command(*words).exit_code == 2


# Around the commands


def as_module(*words: str, before: str = "") -> subprocess.CompletedProcess[str]:
    code = f"import runpy, sys\n{before}\nsys.argv[:] = {['genlib', *words]!r}\n"
    code += "runpy.run_module('genlib', run_name='__main__', alter_sys=True)"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_help_needs_no_torch() -> None:
    said = as_module("--help", before="import atexit\natexit.register(lambda: print('torch' in sys.modules))")
    assert said.returncode == 0, said.stderr
    assert said.stdout.splitlines()[-1] == "False"
    assert all(name in said.stdout for name in cli.COMMANDS)


def test_without_its_packages_it_says_what_to_do() -> None:
    said = as_module("doctor", before="sys.modules['typer'] = None")
    assert said.returncode == 1
    (line,) = said.stderr.splitlines()
    assert line.startswith("error: ")
    assert line.endswith("has no typer; run make setup, then source .venv/bin/activate")


def parameters(main: Callable[..., None]) -> Any:
    app = typer.Typer(add_completion=False)
    app.command()(main)
    return typer.main.get_command(app).params


@pytest.mark.parametrize(
    "main",
    [*cli.COMMANDS.values(), *(importlib.import_module(f"stages.{name}").main for name in COMMANDS)],
    ids=[*(f"genlib {name}" for name in cli.COMMANDS), *COMMANDS],
)
def test_help_says_what_every_option_is_and_what_holds_without_it(main: Callable[..., None]) -> None:
    assert main.__doc__
    for parameter in parameters(main):
        assert parameter.help, parameter.name
        assert parameter.help.endswith("."), parameter.name
        flag = parameter.default in (False, None)
        said = parameter.required or parameter.show_default or flag
        assert said, f"{parameter.name}: neither required nor with a default that is shown"
        if parameter.default is None and not parameter.required and not parameter.show_default:
            assert "without" in parameter.help or "goes with" in parameter.help or parameter.name == "end"


def test_help_of_a_stage_says_where_settings_and_their_units_are() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "stages.download", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "Settings are in params.yaml, whose comments give their units" in re.sub(r"\s+", " ", said)


def test_ctrl_c_while_it_imports_is_one_line() -> None:
    said = as_module("doctor", before=INTERRUPT)
    assert (said.returncode, said.stderr) == (130, "interrupted; nothing was begun, run it again\n")


# Files and places


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model is loaded: who tries ends with another error than a GenlibError."""
    monkeypatch.setattr("genlib.library.load", None)


def spellings(folder: Path) -> dict[str, Path]:
    """The photo me.png by its other names."""
    (folder / "linked.png").symlink_to("me.png")
    (folder / "hard.png").hardlink_to(folder / "me.png")
    (folder / "sub").mkdir()
    return {"whole": folder / "me.png", "around": Path("sub/../me.png"), "linked": Path("linked.png")} | {
        "hard": Path("hard.png")
    }


@pytest.mark.parametrize("spelling", ["whole", "around", "linked", "hard"])
@pytest.mark.parametrize(
    "words",
    [
        ("reconstruct", "digits-vae", "me.png", "OUT"),
        ("interpolate", "digits-vae", "OUT", "--from", "me.png", "--to", "other.png"),
        ("interpolate", "digits-vae", "OUT", "--from", "other.png", "--to", "me.png"),
    ],
)
def test_a_photo_is_never_written_over(words: tuple[str, ...], spelling: str, project: Path, unread: None) -> None:
    before = photo(project / "me.png").read_bytes()
    photo(project / "other.png")
    out = str(spellings(project)[spelling])
    said = refused(*(out if word == "OUT" else word for word in words))
    assert said == f"error: {out}: is the photo itself; name another file"
    assert Path("me.png").read_bytes() == before


def test_nor_is_one_that_is_called_as_the_picture_that_is_named_after_it(project: Path) -> None:
    before = photo(project / "me-digits-vae.png").read_bytes()
    (project / "me.png").symlink_to("me-digits-vae.png")
    assert "me-digits-vae.png: is the photo itself" in refused("reconstruct", "digits-vae", "me.png")
    assert Path("me-digits-vae.png").read_bytes() == before


def test_there_are_no_more_columns_than_images(project: Path) -> None:
    for name, columns in (("a", "3"), ("b", "1000000000000")):
        done("sample", "digits-gan", "-n", "3", "--columns", columns, f"{name}.png")
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="a folder that takes no files and is no disk: Linux")
@pytest.mark.parametrize("out", ["/proc/i.png", "/proc/none/i.png"])
def test_a_place_that_takes_no_file_is_one_line(out: str, project: Path) -> None:
    said = refused("interpolate", "digits-gan", out)
    assert re.fullmatch(rf"error: {out}: cannot be written \(.+\).*; .+", said)


# make ui


@pytest.fixture
def ui(alone: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """`make ui` with a port, in a folder where an mlflow says how it was called and does no more."""
    (alone / "Makefile").write_bytes((ROOT / "Makefile").read_bytes())
    (alone / "mlflow.db").touch()
    binaries = alone / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "python").symlink_to(sys.executable)
    (binaries / "mlflow").write_text("#!/bin/sh\necho called: $*\n")
    (binaries / "mlflow").chmod(0o755)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def run(port: str) -> subprocess.CompletedProcess[str]:
        words = ["make", "-s", "-o", ".venv/ready", "ui", f"PORT={port}"]
        return subprocess.run(words, cwd=alone, capture_output=True, text=True, check=False)

    return run


def test_ui_says_that_its_port_is_taken_and_no_address(
    ui: Callable[[str], subprocess.CompletedProcess[str]],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        said = ui(port)
    line, *makes_own = said.stderr.splitlines()
    assert line == f"error: port {port} is taken or cannot be used; make ui PORT=... names another"
    assert all(own.startswith("make") for own in makes_own)
    assert (said.returncode, said.stdout) == (2, "")
    free = ui(port)
    assert free.returncode == 0, free.stderr
    address, called = free.stdout.splitlines()
    assert address == f"MLflow is at http://127.0.0.1:{port} until Ctrl-C"
    assert called.startswith("called: server --backend-store-uri sqlite:///mlflow.db")
    assert f"--port {port}" in called


@pytest.mark.parametrize("port", ["none", "70000"])
def test_ui_says_that_a_port_is_none(port: str, ui: Callable[[str], subprocess.CompletedProcess[str]]) -> None:
    said = ui(port)
    assert said.stderr.startswith(f"error: port {port} is taken or cannot be used;")
    assert (said.returncode, said.stdout) == (2, "")
