"""docs/tutorial.ipynb runs from its first cell to its last on small models, in this interpreter, and shows pictures."""

import json
import shutil
import sys
from base64 import b64decode
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from genlib import models, training
from genlib.settings import RunSettings

nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"
SHAPE = (1, 28, 28)
Bars = Callable[[int], np.ndarray[Any, np.dtype[np.uint8]]]


@pytest.fixture
def project(alone: Path, small: Callable[..., RunSettings], bars: Bars, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What `make demo` leaves, as far as the notebook goes: models that were never trained, test images, numbers."""
    shutil.copy(ROOT / "params.yaml", alone)
    for run in ("digits-vae", "digits-gan"):
        settings = small(run.removeprefix("digits-"))
        state = training.start(settings, 3, SHAPE, torch.device("cpu"))
        models.save(alone / "runs" / "demo" / run / "model.safetensors", run, 3, settings, SHAPE, state.networks, None)
        (alone / "metrics" / "demo").mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "metrics" / "demo" / f"{run}.json", alone / "metrics" / "demo")
    (alone / "data" / "processed" / "digits").mkdir(parents=True)
    np.save(alone / "data" / "processed" / "digits" / "test.npy", bars(12))
    (alone / "docs").mkdir()
    # A kernel of this interpreter, whatever others are installed for the user.
    kernel = alone / "jupyter" / "kernels" / "this"
    kernel.mkdir(parents=True)
    words = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": words, "display_name": "this", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(alone / "jupyter"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(alone / "runtime"))
    monkeypatch.setenv("IPYTHONDIR", str(alone / "ipython"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return alone


def test_the_notebook_runs(project: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell("print(sys.executable, Path.cwd())"))
    client = nbclient.NotebookClient(
        notebook, timeout=60, kernel_name="this", resources={"metadata": {"path": str(project / "docs")}}
    )
    client.execute()
    said = "".join(output.text for cell in notebook.cells for output in cell.get("outputs", ()) if "text" in output)
    assert said.endswith(f"{sys.executable} {project}\n")
    assert "<digits-gan: gan of digits, images 1 x 28 x 28, Z = 3>" in said
    assert "3 numbers for 784 pixels; squared error per pixel 0." in said
    fid = json.loads((ROOT / "metrics" / "demo" / "digits-gan.json").read_text())["fid"]
    assert f"{fid:>12.4g}\n" in said
    encoded = [
        output.data["image/png"] for cell in notebook.cells for output in cell.get("outputs", ()) if "data" in output
    ]
    pictures = [Image.open(BytesIO(b64decode(text))) for text in encoded]
    assert [picture.size for picture in pictures] == [(457, 229), (457, 229), (571, 115), (571, 172), (571, 172)]


def test_the_committed_notebook_holds_no_output() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
