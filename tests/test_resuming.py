"""A stopped training goes on as if it had not been: from its last good state, and from no other's."""

import json
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor
from trainings import COUNT, CPU, HELD_OUT, IDENTITY, KINDS, SHAPE, Bars, Small, advance, outputs, trained

from genlib import checkpoint, training
from genlib.checkpoint import Keeper
from genlib.errors import GenlibError
from genlib.settings import ProgressSettings, RunSettings

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("model", KINDS)
@pytest.mark.parametrize("stop", [1, 3])
def test_a_stopped_run_goes_on_as_if_it_had_not(
    model: str, stop: int, small: Small, bars: Bars, tmp_path: Path
) -> None:
    settings = small(model, epochs=4, **KINDS[model])
    expected = trained(settings, bars, tmp_path / "undisturbed")
    assert (b'"best_epoch' in expected["model"].replace(b"\\", b"")) == (model == "gan")
    with Keeper(tmp_path / "work", IDENTITY) as keeper:
        advance(training.start(settings, 0, SHAPE, CPU), bars, keeper, epochs=stop)
    with Keeper(tmp_path / "work", IDENTITY) as keeper:
        state = training.start(settings, 0, SHAPE, CPU)
        rest = advance(state, bars, keeper)
        assert outputs(state, tmp_path / "resumed") == expected
        assert [epoch.number for epoch in rest] == list(range(stop + 1, 5))
        assert state.seconds > sum(epoch.seconds for epoch in rest)  # the first process counts too
        assert len(list(keeper.folder.glob("epoch-*.safetensors"))) == 2

        # Stopped after the last epoch, before its model was written.
        state = training.start(settings, 0, SHAPE, CPU)
        assert advance(state, bars, keeper) == []
        assert outputs(state, tmp_path / "again") == expected
        keeper.discard()
        assert not keeper.folder.exists()


def test_a_fused_optimizer_goes_on_where_channels_are_last(small: Small, bars: Bars, tmp_path: Path) -> None:
    """It goes through weights and moments as they lie in memory, which a state does not tell."""
    settings = small("bernoulli_vae", epochs=2, width=4)
    expected = trained(settings, bars, tmp_path / "undisturbed")
    with Keeper(tmp_path / "work", IDENTITY) as keeper:
        advance(training.start(settings, 0, SHAPE, CPU), bars, keeper, epochs=1)
        state = training.start(settings, 0, SHAPE, CPU)
        advance(state, bars, keeper)
    assert outputs(state, tmp_path / "resumed") == expected


_VICTIM = """
import sys
import warnings
from pathlib import Path
import numpy as np, torch
from genlib import objectives, training
from genlib.checkpoint import Keeper
from genlib.settings import ProgressSettings
sys.path.insert(0, "tests")
from trainings import judge_of
torch.set_num_threads(1)
work, settings, images = Path(sys.argv[1]), sys.argv[2], np.load(sys.argv[3])
gan = objectives.get("gan")
state = training.start(gan.Settings.model_validate_json(settings), 0, (1, 28, 28), torch.device("cpu"))
step, done = gan.train_step, []
def hanging(*arguments):
    done.append(1)
    if len(done) == 8:  # the second step of the third epoch
        print("there", flush=True)
        sys.stdin.read()
    return step(*arguments)
gan.train_step = hanging
progress = ProgressSettings(frames=4, images=5, codes=7, rows_per_epoch=2, judged=8)
with Keeper(work, {"test": 1}) as keeper:
    list(training.run(state, images[:34], images[34:], progress, keeper, judge_of(images[34:])))
"""


def test_a_killed_process_loses_only_its_epoch(small: Small, bars: Bars, tmp_path: Path) -> None:
    settings = small("gan", epochs=4, **KINDS["gan"])
    expected = trained(settings, bars, tmp_path / "undisturbed")
    np.save(tmp_path / "images.npy", bars(COUNT + HELD_OUT))
    paths = str(tmp_path / "work"), str(tmp_path / "images.npy")
    command = [sys.executable, "-c", _VICTIM, paths[0], settings.model_dump_json(), paths[1]]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as victim:
        assert victim.stdout is not None
        try:
            assert victim.stdout.readline() == "there\n"
            with pytest.raises(GenlibError, match=r"another process \(pid \d+\) is training this run") as caught:
                Keeper(tmp_path / "work", IDENTITY).__enter__()
            assert "\n" not in str(caught.value)
        finally:
            victim.kill()
    with Keeper(tmp_path / "work", IDENTITY) as keeper:
        state = training.start(settings, 0, SHAPE, CPU)
        assert [epoch.number for epoch in advance(state, bars, keeper)] == [3, 4]
    assert outputs(state, tmp_path / "resumed") == expected


def test_a_state_of_other_settings_is_not_used(small: Small, bars: Bars, tmp_path: Path) -> None:
    with Keeper(tmp_path, IDENTITY) as keeper:
        advance(training.start(small("ae"), 0, SHAPE, CPU), bars, keeper, epochs=1)
        kept = next(keeper.folder.glob("epoch-*.safetensors"))
    with Keeper(tmp_path, {"test": 2}) as keeper:
        state = training.start(small("ae"), 0, SHAPE, CPU)
        keeper.restore(state)
        assert state.epoch == 0
        keeper.folder.mkdir()
        (keeper.folder / kept.name).write_bytes(kept.read_bytes())  # even if it lies in the wrong folder
        keeper.restore(state)
        assert state.epoch == 0
    assert kept.exists()


def test_the_identity_is_all_that_decides_the_result(small: Small, progress: ProgressSettings) -> None:
    data = {"train.npy": "1"}

    def print_of(
        settings: RunSettings,
        seed: int = 0,
        threads: int = 1,
        data: dict[str, str] = data,
        frames: int = 4,
        network: str | None = None,
    ) -> str:
        recorded = progress.model_copy(update={"frames": frames})
        return Keeper(Path(), checkpoint.identity(settings, seed, threads, recorded, data, CPU, network)).fingerprint

    same = print_of(small("gan"))
    assert print_of(small("gan")) == same
    others = [
        print_of(small("gan", lr=0.5)),
        print_of(small("gan", epochs=9)),
        print_of(small("vae")),
        print_of(small("gan"), seed=1),
        print_of(small("gan"), threads=2),
        print_of(small("gan"), data={"train.npy": "2"}),
        print_of(small("gan"), frames=5),
        print_of(small("gan"), network="1"),
        print_of(small("gan"), network="2"),
    ]
    assert len({same, *others}) == 10


def test_all_code_that_a_training_depends_on_is_in_the_identity(small: Small, progress: ProgressSettings) -> None:
    """As dvc.yaml has it; what only writes files is not."""
    pipeline = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]["train"]["do"]["deps"]
    made = checkpoint.identity(small("gan"), 0, 1, progress, {}, CPU, "a network", graph=True)
    wanted = set()
    for entry in pipeline:
        path = ROOT / entry.replace("${item.net}", "deck28").replace("${item.model}", "gan")
        if entry.startswith("genlib/"):
            wanted |= {file.relative_to(ROOT / "genlib") for file in ([path] if path.is_file() else path.glob("*.py"))}
    names = {".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in wanted}
    assert names - made["code"].keys() == {"training.history"}
    assert {"adam", "training.precision", "training.graphs", "nets.layers"} <= made["code"].keys()


def damages(good: bytes) -> dict[str, bytes]:
    flipped = bytearray(good)
    flipped[-100] ^= 1
    return {
        "empty": b"",
        "cut": good[: len(good) // 2],
        "short": good[:-1],
        "zeros": bytes(len(good)),
        "one bit": bytes(flipped),
        "page": b"<html>",
    }


DAMAGES = list(damages(bytes(200)))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_said_and_the_one_before_is_used(
    damage: str, small: Small, bars: Bars, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = small("ae", epochs=4)
    with Keeper(tmp_path / "work", IDENTITY) as keeper:
        advance(training.start(settings, 0, SHAPE, CPU), bars, keeper, epochs=3)
        newest = max(keeper.folder.glob("epoch-*.safetensors"))
        newest.write_bytes(damages(newest.read_bytes())[damage])
        state = training.start(settings, 0, SHAPE, CPU)
        assert [epoch.number for epoch in advance(state, bars, keeper)] == [3, 4]
    [warning] = capsys.readouterr().err.strip().splitlines()
    assert warning.startswith(f"warning: {newest} is damaged")
    assert outputs(state, tmp_path / "resumed") == trained(settings, bars, tmp_path / "undisturbed")


def spoilt(path: Path, change: Callable[[dict[str, Tensor], dict[str, Any]], object]) -> None:
    """Change tensors and metadata of a state, and make its checksum fit again, as a stranger could."""
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = json.loads(file.metadata()["genlib"])
    change(tensors, metadata)
    content = save(tensors, metadata={"genlib": json.dumps(metadata)})
    path.write_bytes(content)
    path.with_suffix(".sha256").write_text(sha256(content).hexdigest())


SPOILT: dict[str, Callable[[dict[str, Tensor], dict[str, Any]], object]] = {
    "of another training": lambda tensors, metadata: metadata.update(fingerprint="0"),
    "a tensor less": lambda tensors, metadata: tensors.pop(min(name for name in tensors if "networks" in name)),
    "a tensor more": lambda tensors, metadata: tensors.update({"networks.encoder.x": torch.zeros(1)}),
    "another shape": lambda tensors, metadata: tensors.update(
        {name: tensor[:1] for name, tensor in tensors.items() if name.endswith("weight") and tensor.ndim == 4}
    ),
    "another type": lambda tensors, metadata: tensors.update(
        {name: tensor.double() for name, tensor in tensors.items() if name.endswith("weight")}
    ),
    "no moments": lambda tensors, metadata: [tensors.pop(name) for name in list(tensors) if "optimizers" in name],
    "other moments": lambda tensors, metadata: tensors.update(
        {name: torch.zeros(3) for name in tensors if name.endswith("exp_avg")}
    ),
    "a best that is none": lambda tensors, metadata: metadata.update(best_epoch=1),
    "too many epochs": lambda tensors, metadata: metadata.update(epoch=999),
    "no history": lambda tensors, metadata: metadata.update(history=[]),
    "not a number": lambda tensors, metadata: metadata["history"][0].update(epoch=float("nan")),
    "an unknown key": lambda tensors, metadata: metadata.update(surprise=1),
    "no groups": lambda tensors, metadata: metadata.update(groups={}),
}


@pytest.mark.parametrize("change", SPOILT)
def test_a_state_that_does_not_fit_is_refused_though_its_checksum_does(
    change: str, small: Small, bars: Bars, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = small("ae", epochs=3)
    with Keeper(tmp_path, IDENTITY) as keeper:
        advance(training.start(settings, 0, SHAPE, CPU), bars, keeper, epochs=1)
        [path] = keeper.folder.glob("epoch-*.safetensors")
        spoilt(path, SPOILT[change])
        state = training.start(settings, 0, SHAPE, CPU)
        before = {name: tensor.clone() for name, tensor in state.networks["encoder"].state_dict().items()}
        keeper.restore(state)
        assert state.epoch == 0
        assert all(torch.equal(tensor, before[name]) for name, tensor in state.networks["encoder"].state_dict().items())
    assert "is damaged" in capsys.readouterr().err


def test_a_stopped_training_of_other_settings_is_mentioned(
    small: Small, bars: Bars, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Keeper(tmp_path, {"other": 1}) as keeper:
        advance(training.start(small("ae"), 0, SHAPE, CPU), bars, keeper, epochs=1)
        name = keeper.folder.name
    with Keeper(tmp_path, IDENTITY) as keeper:
        keeper.restore(training.start(small("ae"), 0, SHAPE, CPU))
    said = capsys.readouterr().err
    assert "not gone on with" in said
    assert name in said


def test_all_states_damaged_is_a_fresh_start(small: Small, bars: Bars, tmp_path: Path) -> None:
    settings = small("ae", epochs=3)
    with Keeper(tmp_path / "work", IDENTITY) as keeper:
        advance(training.start(settings, 0, SHAPE, CPU), bars, keeper, epochs=2)
        for path in keeper.folder.glob("epoch-*.safetensors"):
            path.write_bytes(path.read_bytes()[:100])
        state = training.start(settings, 0, SHAPE, CPU)
        assert len(advance(state, bars, keeper)) == 3
    assert outputs(state, tmp_path / "resumed") == trained(settings, bars, tmp_path / "undisturbed")


def test_a_lock_is_released(tmp_path: Path) -> None:
    with Keeper(tmp_path, IDENTITY), pytest.raises(GenlibError, match="another process"), Keeper(tmp_path, {"o": 1}):
        pass
    with pytest.raises(ZeroDivisionError), Keeper(tmp_path, IDENTITY):
        raise ZeroDivisionError
    with Keeper(tmp_path, IDENTITY):
        pass


def test_a_note_is_kept_until_the_run_is_done(tmp_path: Path) -> None:
    with Keeper(tmp_path, IDENTITY) as keeper:
        assert keeper.note() is None
        keeper.note("abc")
    with Keeper(tmp_path, IDENTITY) as keeper:
        assert keeper.note() == "abc"
        keeper.discard()
        assert keeper.note() is None
