"""The benchmarks run, and what they compare is the same: the textbook's losses are genlib's."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT

from benchmarks import contestant, growth, overhead, textbook
from benchmarks import training as race
from benchmarks.contestant import Moved, Turns, work_per_image
from benchmarks.training import Race
from genlib import rng, training
from genlib.data.batches import shuffled
from genlib.errors import GenlibError
from genlib.settings import RunSettings

CPU = torch.device("cpu")
STEPS = 20
Small = Callable[..., RunSettings]

OWN: dict[str, dict[str, Any]] = {
    "ae": {"noise": 0.3},
    "vae": {"beta": 2.0},
    "bernoulli_vae": {"lr_halflife_images": 50.0},
    "gan": {"dropout": 0.0, "real_label": 0.9, "lr_halflife_images": 50.0},
}


@pytest.mark.parametrize("model", OWN)
@pytest.mark.parametrize("net", ["deck28", "dcgan"])
def test_the_textbook_computes_genlibs_losses(model: str, net: str, small: Small) -> None:
    """The same weights, images, noise: over 20 steps they differ by rounding only, to 1 in 5,000 (float32)."""
    shape = (1, 28, 28) if net == "deck28" else (3, 32, 32)
    settings = small(model, net=net, width=4, **OWN[model])
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (STEPS * 10, *shape), np.uint8))
    batches = [batch.contiguous() for batch in shuffled(images, 10, seed=0, epoch=1)]  # randn_like draws as they lie
    ours, theirs = (training.start(settings, 0, shape, CPU) for _ in range(2))
    noise = rng.generator(0, "noise", 1)
    expected = [ours.objective.train_step(ours.networks, ours.optimizers, x, noise, settings) for x in batches]
    textbook.plain(theirs.networks)
    with rng.default_generators(0, "noise", 1):
        found = list(textbook.TRAIN[model](theirs.networks, batches, settings, CPU))
    assert len(found) == STEPS
    for name in found[0]:
        values = [losses[name] for losses in found]
        assert values == pytest.approx([losses[name].item() for losses in expected], rel=2e-4, abs=1e-5)
        assert len(set(values)) == STEPS


def test_the_textbooks_images_are_the_arrays(tmp_path: Path) -> None:
    for channels in (1, 3):
        images = np.random.default_rng(0).integers(0, 256, (6, channels, 8, 8), np.uint8)
        items = textbook.Pictures(images, flip=False)
        for index in range(len(items)):
            np.testing.assert_array_equal(items[index].numpy(), images[index].astype(np.float32) / 255)
        flipped = textbook.Pictures(images, flip=True)
        drawn = [flipped[0].numpy() for _ in range(20)]
        assert {bool((picture == items[0].numpy()).all()) for picture in drawn} == {True, False}
        assert all(
            (picture == items[0].numpy()).all() or (picture == items[0].flip(2).numpy()).all() for picture in drawn
        )
        assert next(textbook.endless(images, 4, 0, False)).shape == (4, channels, 8, 8)


def test_flops_of_an_autoencoder_are_those_of_its_layers(small: Small) -> None:
    """A dense network's step: forward, and backward twice that, but no gradient of the image; 2 for a multiply-add."""
    encoder, decoder = 28 * 28 * 2 + 2 * 3, 3 * 2 + 2 * 28 * 28
    expected = 2 * (3 * (encoder + decoder) - 28 * 28 * 2)
    assert work_per_image(small("ae", net="mlp"), (1, 28, 28)).flops == expected


def test_bytes_are_those_that_operators_read_and_write() -> None:
    a, b = torch.ones(10, 30), torch.ones(10, 30)
    moved: list[int] = []
    works: list[Callable[[], object]] = [
        lambda: a + b,  # two read, one written
        lambda: a.add_(b),  # the same
        lambda: torch._foreach_add_([a, b], 1.0),  # two read, two written
        lambda: a.t().reshape(3, 100),  # copied: once read, once written
        lambda: a.view(300)[:20],
        lambda: torch.empty(1000),
        lambda: torch.zeros(5),
        lambda: torch.ones(1).expand(1000) * 2.0,  # one number made and read, a thousand written
    ]
    for work in works:
        with Moved() as counter:
            work()
        moved.append(counter.bytes)
    assert moved == [3600, 3600, 4800, 2400, 0, 0, 20, 4 + 4 + 4000]


def test_bytes_of_a_dense_autoencoders_step(small: Small) -> None:
    """All that Adam touches, seven tensors of every weight, at least; and no more than twenty."""
    weights = 28 * 28 * 2 + 2 + 2 * 3 + 3 + 3 * 2 + 2 + 2 * 28 * 28 + 28 * 28
    settings = small("ae", net="mlp", batch_size=2)
    assert 7 < work_per_image(settings, (1, 28, 28)).bytes * 2 / (4 * weights) < 60


def test_memory_is_measured_by_a_triad(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three arrays of 8,000 bytes a step."""
    monkeypatch.setattr(contestant, "_TRIAD", 2000)
    turns = Turns(1, CPU)
    monkeypatch.setattr(turns, "step", lambda: pytest.fail("enough") if turns.batch_size != 1 else None)
    with pytest.raises(pytest.fail.Exception, match="enough"):
        contestant._triad(turns, CPU)
    assert turns.batch_size == pytest.approx(24e-6)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the params.yaml of tiny runs, to be in."""
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    overhead.shrink(tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=ON_GPU)])
@pytest.mark.parametrize(("kind", "workers"), [("textbook", 1), ("genlib", 0)])
def test_a_training_takes_turns(kind: str, workers: int, device: str, tiny: Path) -> None:
    with race.contestant(kind, "digits-gan", Race(tiny / "nothing", device, 1), workers) as one:
        assert one.first["source"] == "random"
        assert 0.1 < one.first["first_step_seconds"] < 200
        turns = [one.turn(0.05) for _ in range(2)]
    assert one.process.wait(60) == 0
    assert all(turn["images_per_second"] > 0 and turn["images_per_cpu_second"] > 0 for turn in turns)
    assert turns[0]["peak_mib"] > (50 if device == "cpu" else 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"on": race.Device.cuda}, "--device cuda: torch sees no CUDA device; "),
        ({"side_by_side": True, "workers": 2}, "--workers: trainings side by side have no loader's processes; "),
    ],
)
def test_what_cannot_be_measured_is_refused(
    options: dict[str, Any], said: str, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(GenlibError, match=said):
        race.main(["digits-ae"], tiny, **options)


def test_a_contestant_that_fails_is_named(tiny: Path) -> None:
    with pytest.raises(GenlibError, match="textbook digits-nothing: it ended early"):
        race.compare("digits-nothing", Race(tiny, "cpu", 1), {}, rounds=1, seconds=0.05)


def test_ratios_are_medians_over_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two loader processes are best; genlib is twice as fast in two rounds of three; 10 GFLOP/s, 8 GB/s are there."""

    class Fake:
        def __init__(self, kind: str, workers: int) -> None:
            self.kind, self.workers, self.turns = kind, workers, 0
            self.first = {"source": "random", "first_step_seconds": 3.0}
            self.first |= {"flops_per_image": 5e6, "bytes_per_image": 2e6}

        def turn(self, seconds: float) -> dict[str, float]:
            self.turns += 1
            fixed = {"matmul": 10.0, "triad": 8.0, "genlib": 2000.0 if self.turns < 3 else 100.0}
            rate = fixed.get(self.kind, 1000.0 + self.workers)
            return {"images_per_second": rate, "images_per_cpu_second": rate, "peak_mib": 100.0 + self.turns}

    @contextmanager
    def fake(kind: str, name: str, race: Race, workers: int = 0) -> Iterator[Fake]:
        yield Fake(kind, workers)

    monkeypatch.setattr(race, "contestant", fake)
    ceilings: Any = {kind: Fake(kind, 0) for kind in race.CEILINGS}
    row = race.compare("digits-gan", Race(Path(), "cpu", 1), ceilings, rounds=3, seconds=1)
    assert row["workers"] == 2
    assert row["ratio"] == row["ratio_cpu"] == pytest.approx(2000 / 1002)
    assert row["ratio_bare"] == 1
    assert row["genlib"]["share_of_matmul"] == pytest.approx(1.0)
    assert row["genlib"]["share_of_triad"] == pytest.approx(0.5)
    assert row["genlib"]["peak_mib"] == 103


def test_overhead_is_measured() -> None:
    rows = overhead.nothing_to_do(1, tiny=True)
    assert {name: row["stages"] for name, row in rows.items()} == {"everything": 10, "present@demo": 10}
    for row in rows.values():
        assert all(0.5 < row[key] < 20 for key in ("ratio", "ratio_cpu", "ratio_bare", "ratio_bare_cpu"))
        assert row["bare"] > 0
        assert row["plain"] > 0
    ((name, row),) = overhead.each_stage(1, most=1).items()
    assert name == "download@digits"
    assert row["loads"] == []
    assert row["whole"] > row["imports"] > 0


def test_growth_is_measured_in_a_process_of_its_own() -> None:
    seconds, mib = growth._alone("fid", 400, 64)
    assert seconds > 0
    assert mib < 200


@pytest.mark.parametrize("work", growth.WORKS, ids=lambda work: work.name)
def test_each_work_can_be_measured(work: growth.Work, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENLIB_WORKERS", "1")
    (tiny / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    seconds, mib = growth.measure(work.name, 4, 32)
    assert 0 < seconds < 100
    assert mib >= 0


def test_exponents_are_slopes_and_are_drawn(tmp_path: Path) -> None:
    rows = [
        {"work": "one", "images": n, "size": size, "seconds": n * size**4 / 1e9, "mib": n**2 * size**2 / 1e6}
        for n, size in [(10, 64), (40, 64), (160, 64), (40, 32), (40, 128)]
    ]
    found = growth.exponents(rows)["one"]
    assert {key: pytest.approx((slope, slope)) for key, slope in zip(found, (1, 2, 2, 1), strict=True)} == found
    assert growth.Work("one", 10, images=1, pixels=2).grows_well(found)
    assert not growth.Work("one", 10, images=1, pixels=1).grows_well(found)
    assert growth.exponent([1, 2], [0, 1]) is None
    growth.draw(rows, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")
