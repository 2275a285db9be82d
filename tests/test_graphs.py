"""A step as a CUDA graph: on a GPU it is the plain step; what guards it is tested without one, too."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from genlib import bands, checkpoint, device, models, objectives, training
from genlib.checkpoint import Keeper
from genlib.data import batches
from genlib.device import GRAPHS_SWITCH as SWITCH
from genlib.errors import GenlibError
from genlib.settings import ProgressSettings, RunSettings
from genlib.training import graphs
from genlib.training.graphs import Outcome, State, Step
from stages import train

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SHAPE = (1, 28, 28)
IDENTITY = {"test": 1}
STEPS, BATCH, HELD_OUT = 100, 10, 11

pytestmark = pytest.mark.usefixtures("one_thread")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

Small = Callable[..., RunSettings]
Bars = Callable[[int], NDArray[np.uint8]]

# Noise, dropout, batch norm, averages, two optimizers, a learning rate that falls.
KINDS: dict[str, dict[str, Any]] = {
    "ae": {"noise": 0.3},
    "vae": {},
    "bernoulli_vae": {"lr_halflife_images": 500.0},
    "gan": {"dropout": 0.4, "ema_halflife_images": 15.0},
}
ON_CUDA = KINDS | {"gan": KINDS["gan"] | {"lr_halflife_images": 500.0}}  # a rate that falls is a tensor only there


@pytest.fixture(autouse=True)
def deterministic() -> Iterator[None]:
    """As `genlib.device.choose` has it: equal bytes are asked of a GPU."""
    mode = torch.get_deterministic_debug_mode()
    if torch.cuda.is_available():
        torch.set_deterministic_debug_mode("error")
    yield
    torch.set_deterministic_debug_mode(mode)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What needs a GPU is replaced; `Captured` stands in for a graph."""
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: None)
    monkeypatch.setattr(graphs, "_queued_on", nullcontext)
    monkeypatch.setattr(graphs, "_without_waiting", lambda step, images: step(images))
    monkeypatch.setattr(graphs, "Replayed", Captured)
    monkeypatch.setattr(graphs, "_release", lambda _: None)


class Captured:
    """Like a graph, it takes images from one place and leaves losses in another one."""

    def __init__(self, step: Step, images: Tensor, *_: object) -> None:
        self._step, self._images = step, images.clone()
        self._losses: dict[str, Tensor] = {}

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        self._images.copy_(images)
        for name, loss in self._step(self._images).items():
            self._losses.setdefault(name, loss.clone()).copy_(loss)
        return self._losses


def run(
    settings: RunSettings,
    bars: Bars,
    on: torch.device,
    graph: bool,
    keeper: Keeper | None = None,
    epochs: int | None = None,
    steps: int = STEPS,
) -> training.Training:
    """Train, to the end or for some epochs, with each step's losses in the history; `graph` holds on the CPU, too."""
    state = training.start(settings, 0, SHAPE, on, graph=graph)
    state.graph = graph
    images = bars(steps * settings.batch_size + HELD_OUT)
    progress = ProgressSettings(frames=3, images=5, codes=7, rows_per_epoch=steps, judged=8)
    going = training.run(state, images[HELD_OUT:], images[:HELD_OUT], progress, keeper)
    for _ in zip(range(epochs or 1000), going, strict=False):
        pass
    return state


def model_of(state: training.Training, path: Path) -> bytes:
    models.save(path, "r", state.seed, state.settings, SHAPE, state.networks, state.averaged)
    return path.read_bytes()


def state_of(settings: RunSettings, steps: int = 2) -> tuple[training.Training, Callable[[], object]]:
    """A training after some steps, and a function that takes one more."""
    state = training.start(settings, 0, SHAPE, CPU)
    images = torch.rand(BATCH, *SHAPE, generator=torch.Generator().manual_seed(1))
    noise = torch.Generator().manual_seed(2)

    def step() -> object:
        return state.objective.train_step(state.networks, state.optimizers, images, noise, settings)

    for _ in range(steps):
        step()
    return state, step


def places(state: training.Training) -> list[int]:
    return [tensor.data_ptr() for _, tensor in State(state.networks, state.optimizers)._tensors()]


# The switch.


@pytest.mark.parametrize(
    ("environ", "expected"),
    [({}, True), ({SWITCH: ""}, True), ({SWITCH: "auto"}, True), ({SWITCH: " off "}, False)],
)
def test_the_switch(environ: dict[str, str], expected: bool) -> None:
    assert device.allows_graphs(environ) is expected


@pytest.mark.parametrize("value", ["on", "0", "AUTO", "off\nauto"])
def test_a_wrong_switch_is_refused_before_anything_is_read(
    value: str, alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SWITCH, value)
    with pytest.raises(GenlibError) as caught:
        train.main("digits-ae", *[alone / name for name in ("data", "network", "model", "log", "provenance")])
    said = f"GENLIB_CUDA_GRAPH: {value!r} is neither auto nor off; set one of them, or unset it"
    assert str(caught.value) == said


def test_the_cpu_has_no_graph(small: Small, bars: Bars, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(graphs, "captured")
    state = training.start(small("ae"), 0, SHAPE, CPU)
    assert not state.graph
    images = bars(30)
    progress = ProgressSettings(frames=2, images=5, codes=7, rows_per_epoch=2, judged=8)
    assert len(list(training.run(state, images, images, progress, None))) == 2


def test_only_a_graph_changes_what_a_state_is_recognised_by(small: Small, progress: ProgressSettings) -> None:
    plain, graph = (checkpoint.identity(small("ae"), 0, 1, progress, {}, CPU, graph=graph) for graph in (False, True))
    assert graph["code"].keys() - plain["code"].keys() == {"training.graphs"}
    assert "training.graphs" not in checkpoint.identity(small("ae"), 0, 1, progress, {}, CPU)["code"]


def test_a_graph_is_told_of_where_results_may_differ() -> None:
    card: dict[str, Any] = {"dataset": "d", "edition": None, "sha256": {"train.npy": "1" * 9, "test.npy": "2" * 9}}
    card |= {"origin": {"files": []}}
    evaluation = {"dataset": card, "card": {"features": {"sha256": "3" * 9}}}
    told = {
        graph: bands.environment({"device": "cuda", "cuda_graph": graph}, evaluation, "here")["device"]
        for graph in (False, True)
    }
    assert told == {False: "cuda", True: "cuda, steps replayed from a graph"}


# State.


@pytest.mark.parametrize("model", KINDS)
def test_what_a_step_changes_is_put_back_in_place(model: str, small: Small) -> None:
    state, step = state_of(small(model, **KINDS[model]))
    kept = State(state.networks, state.optimizers)
    before, where = kept.now(), places(state)
    assert any(".exp_avg_sq" in name for name in before)
    assert any(name.endswith(".step") for name in before)
    step()
    moved = kept.now()
    assert sum(not torch.equal(moved[name], tensor) for name, tensor in before.items()) > len(before) / 2
    kept.put_back()
    assert places(state) == where
    assert all(torch.equal(tensor, before[name]) for name, tensor in kept.now().items())
    assert all(weight.grad is None for network in state.networks.values() for weight in network.parameters())


def test_a_step_that_failed_in_the_middle_leaves_nothing(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GAN's discriminator takes no gradient while the generator moves; a fresh optimizer has no state."""
    state, step = state_of(small("gan"), steps=0)
    kept = State(state.networks, state.optimizers)
    before = kept.now()
    monkeypatch.setattr(state.objective, "generator_loss", lambda logits: logits.no_such_thing)
    with pytest.raises(AttributeError):
        step()
    assert not any(weight.requires_grad for weight in state.networks["discriminator"].parameters())
    kept.put_back()
    kept.forget()
    assert all(weight.requires_grad for network in state.networks.values() for weight in network.parameters())
    assert [len(optimizer.state) for optimizer in state.optimizers.values()] == [0, 0]
    assert kept.now().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in kept.now().items())


def test_what_an_optimizer_made_since_is_as_at_its_first_step(small: Small) -> None:
    state, step = state_of(small("vae"), steps=0)
    kept = State(state.networks, state.optimizers)
    step()
    kept.put_back()
    made = [tensor for moments in state.optimizers["autoencoder"].state.values() for tensor in moments.values()]
    assert made
    assert not any(tensor.any() for tensor in made)


def test_learning_rates_are_put_back_and_their_changes_are_noticed(small: Small) -> None:
    state, step = state_of(small("bernoulli_vae", lr=0.25, lr_halflife_images=10.0), steps=0)
    [group] = state.optimizers["autoencoder"].param_groups
    kept = State(state.networks, state.optimizers)
    step()
    assert kept.moved_number() is None  # the first step's learning rate is that of the settings
    step()
    assert kept.moved_number() == "the step changes lr, a number that a graph would keep"
    group["lr"] = torch.tensor(0.125)
    assert kept.moved_number() is None
    kept.put_back()
    kept.forget()
    assert group["lr"] == 0.25
    group["lr"] = rate = torch.tensor(0.5)
    kept = State(state.networks, state.optimizers)
    rate.mul_(0.5)
    kept.put_back()
    assert group["lr"] is rate
    assert rate == 0.5


# The check.


def outcome(loss: float = 2.0, weight: float = 1.1) -> Outcome:
    return Outcome([{"total": torch.tensor(3.0)}, {"total": torch.tensor(loss)}], {"w": torch.tensor([1.0, weight])})


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (outcome(), None),
        (outcome(loss=2.0001), None),
        (outcome(weight=1.1 + 5e-6), None),
        (outcome(loss=2.001), "its loss total is 2.001 in step 2, not 2"),
        (outcome(loss=float("nan")), "its loss total is nan in step 2, not 2"),
        (outcome(weight=1.1 + 5e-5), "it leaves w 5e-05 from where it should be, 0.1 from where it was"),
        (outcome(weight=float("nan")), "it leaves w nan from where it should be, 0.1 from where it was"),
    ],
)
def test_what_differs_from_a_plain_step_is_noticed(found: Outcome, expected: str | None) -> None:
    before = {"w": torch.tensor([1.0, 1.0])}
    assert graphs.disagreement(before, outcome(), found, graphs.TOLERANCE["float32"]) == expected


def test_what_steps_do_not_move_has_to_stay() -> None:
    before = outcome().tensors
    assert graphs.disagreement(before, outcome(), outcome(weight=1.1001), 1e-2) is not None
    assert graphs.disagreement({}, outcome(), outcome(weight=1.1001), 1e-2) is None  # made by the steps, from zero


# The decision, without a GPU.


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("model", ["ae", "vae", "gan"])
def test_a_captured_training_is_a_plain_one(
    model: str, small: Small, bars: Bars, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Warm-up and check change nothing; losses are taken before they are overwritten; after a stop, too."""
    settings = small(model, **KINDS[model])
    plain = run(settings, bars, CPU, graph=False, steps=3)
    expected = model_of(plain, tmp_path / "plain")
    captured = run(settings, bars, CPU, graph=True, steps=3)
    assert captured.graph
    assert (captured.steps, captured.history) == (plain.steps, plain.history)
    assert model_of(captured, tmp_path / "captured") == expected
    with Keeper(tmp_path / "work", IDENTITY) as keeper:
        run(settings, bars, CPU, graph=True, keeper=keeper, epochs=1, steps=3)
    with Keeper(tmp_path / "work", IDENTITY) as keeper:
        resumed = run(settings, bars, CPU, graph=True, keeper=keeper, steps=3)
    assert model_of(resumed, tmp_path / "resumed") == expected
    assert capsys.readouterr().out == ""


def raising(error: Exception) -> Callable[..., Captured]:
    """A capture that fails in the middle of its third step."""

    def capture(step: Step, images: Tensor, *_: object) -> Captured:
        step(images)
        raise error

    return capture


def failing_at_its_end(step: Step, images: Tensor, *_: object) -> Captured:
    """What torch does where an operation cannot be captured: the end of the capture fails, too."""
    try:
        step(images)
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore\n")
    finally:
        raise RuntimeError("CUDA error: operation failed due to a previous error during capture")


class Off(Captured):
    """A graph whose losses are not those of the step."""

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        return {name: 1.001 * loss for name, loss in super().__call__(images).items()}


class Once(Captured):
    """A graph that moves weights in its first replay only."""

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        return self._losses or super().__call__(images)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    ("capture", "reason"),
    [
        (raising(RuntimeError("CUDA error: no\nsecond line")), "CUDA error: no"),
        (raising(torch.OutOfMemoryError("CUDA out of memory")), "memory does not suffice for it"),
        (failing_at_its_end, "CUDA error: operation not permitted when stream is capturing"),
        (Off, "its loss discriminator is "),
        (Once, "its loss discriminator is "),
    ],
)
def test_training_falls_back_audibly(
    capture: Any,
    reason: str,
    small: Small,
    bars: Bars,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = small("gan", **KINDS["gan"])
    plain = run(settings, bars, CPU, graph=False, steps=3)
    monkeypatch.setattr(graphs, "Replayed", capture)
    state = run(settings, bars, CPU, graph=True, steps=3)
    assert not state.graph
    assert model_of(state, tmp_path / "fallen") == model_of(plain, tmp_path / "plain")
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith(f"CUDA graph of a training step: not used ({reason}")
    assert line.endswith("); steps are launched one by one")


@pytest.mark.usefixtures("no_gpu")
def test_a_training_that_had_no_graph_goes_on_without_one(
    small: Small, bars: Bars, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where a graph could be had by now."""
    settings = small("gan", epochs=2, **KINDS["gan"])
    with Keeper(tmp_path / "work", IDENTITY) as keeper:
        monkeypatch.setattr(graphs, "Replayed", raising(torch.OutOfMemoryError("CUDA out of memory")))
        run(settings, bars, CPU, graph=True, keeper=keeper, epochs=1, steps=3)
    monkeypatch.setattr(graphs, "Replayed", Captured)
    capsys.readouterr()
    with Keeper(tmp_path / "work", IDENTITY) as keeper:
        resumed = run(settings, bars, CPU, graph=True, keeper=keeper, steps=3)
    assert (resumed.epoch, resumed.graph) == (2, False)
    assert "not used, as it was not before" in capsys.readouterr().out


@pytest.mark.usefixtures("no_gpu")
def test_a_training_that_had_a_graph_does_not_go_on_without_one(
    small: Small, bars: Bars, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small("gan", epochs=2, **KINDS["gan"])
    with Keeper(tmp_path / "work", IDENTITY) as keeper:
        run(settings, bars, CPU, graph=True, keeper=keeper, epochs=1, steps=3)
    with Keeper(tmp_path / "work", IDENTITY) as keeper, monkeypatch.context() as patch:
        patch.setattr(graphs, "Replayed", raising(torch.OutOfMemoryError("CUDA out of memory")))
        with pytest.raises(GenlibError, match=r"begun with one, and it cannot be made now.*GENLIB_CUDA_GRAPH=off"):
            run(settings, bars, CPU, graph=True, keeper=keeper, steps=3)
    with Keeper(tmp_path / "work", IDENTITY) as keeper:
        resumed = run(settings, bars, CPU, graph=True, keeper=keeper, steps=3)
    assert (resumed.epoch, resumed.graph) == (2, True)


@pytest.mark.usefixtures("no_gpu")
def test_a_number_that_moves_from_step_to_step_is_not_captured(
    small: Small, bars: Bars, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the CPU, a falling learning rate is one; on a GPU it is a tensor."""
    settings = small("bernoulli_vae", **KINDS["bernoulli_vae"])
    plain, state = (run(settings, bars, CPU, graph, steps=3) for graph in (False, True))
    assert "not used (the step changes lr, a number that a graph would keep)" in capsys.readouterr().out
    assert model_of(state, tmp_path / "fallen") == model_of(plain, tmp_path / "plain")


@pytest.mark.usefixtures("no_gpu")
def test_an_error_of_the_model_is_not_swallowed(small: Small, bars: Bars, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "Replayed", raising(TypeError("a mistake")))
    with pytest.raises(TypeError, match="a mistake"):
        run(small("ae"), bars, CPU, graph=True, steps=3)


@pytest.mark.usefixtures("no_gpu")
def test_a_batch_that_does_not_fit_is_said_as_without_a_graph(
    small: Small, bars: Bars, monkeypatch: pytest.MonkeyPatch
) -> None:
    ae = objectives.get("ae")
    step = ae.train_step

    def greedy(networks: Any, optimizers: Any, images: Tensor, *rest: Any) -> dict[str, Tensor]:
        if len(images) > 6:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(networks, optimizers, images, *rest)

    monkeypatch.setattr(ae, "train_step", greedy)
    with pytest.raises(GenlibError, match="out of memory on cpu with batch_size 10; 5 fits: set batch_size: 5"):
        run(small("ae"), bars, CPU, graph=True, steps=3)


# On a GPU.


def agree(graph: training.Training, plain: training.Training, tolerance: float) -> None:
    assert graph.graph
    assert not plain.graph
    assert len(graph.steps) == len(plain.steps) >= STEPS
    for one, other in zip(graph.steps, plain.steps, strict=True):
        assert one == pytest.approx(other, rel=tolerance, abs=tolerance)
    for name, value in plain.history[-1].items():
        assert graph.history[-1][name] == pytest.approx(value, rel=tolerance, abs=tolerance), name


@needs_cuda
@pytest.mark.parametrize("model", ON_CUDA)
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_graph_has_the_losses_of_plain_steps(model: str, precision: str, small: Small, bars: Bars) -> None:
    settings = small(model, epochs=1, precision=precision, **ON_CUDA[model])
    graph, plain = (run(settings, bars, CUDA, graph) for graph in (True, False))
    agree(graph, plain, 1e-3 if precision == "float32" else 0.05)
    if plain.averaged is not None and graph.averaged is not None:
        for name, tensor in plain.averaged.state_dict().items():
            torch.testing.assert_close(graph.averaged.state_dict()[name], tensor, rtol=0.02, atol=0.02)


@needs_cuda
def test_a_graph_takes_streamed_images(small: Small, bars: Bars, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = small("vae", epochs=1)
    plain = run(settings, bars, CUDA, graph=False)
    monkeypatch.setattr(batches, "RESIDENT_SHARE", 0)
    agree(run(settings, bars, CUDA, graph=True), plain, 1e-3)


@needs_cuda
@pytest.mark.parametrize("model", ON_CUDA)
def test_a_stopped_run_goes_on_with_a_graph_as_if_it_had_not(
    model: str, small: Small, bars: Bars, tmp_path: Path
) -> None:
    settings = small(model, epochs=3, **ON_CUDA[model])
    undisturbed = run(settings, bars, CUDA, graph=True, steps=5)
    assert undisturbed.graph
    with Keeper(tmp_path / "work", IDENTITY) as keeper:
        run(settings, bars, CUDA, graph=True, keeper=keeper, epochs=1, steps=5)
    with Keeper(tmp_path / "work", IDENTITY) as keeper:
        resumed = run(settings, bars, CUDA, graph=True, keeper=keeper, steps=5)
    assert resumed.graph
    assert model_of(resumed, tmp_path / "resumed") == model_of(undisturbed, tmp_path / "undisturbed")
    assert resumed.steps == undisturbed.steps


@needs_cuda
@pytest.mark.parametrize("wait", [lambda loss: loss.item(), lambda _: torch.cuda.synchronize()])
def test_a_step_that_waits_for_the_gpu_is_not_captured(
    wait: Callable[[Tensor], object],
    small: Small,
    bars: Bars,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With dropout, whose generator is torch's own, and which goes on after a capture that has failed."""
    settings = small("gan", **ON_CUDA["gan"])
    plain = run(settings, bars, CUDA, graph=False, steps=5)
    gan = objectives.get("gan")
    loss = gan.generator_loss  # type: ignore[attr-defined]

    def waiting(logits: Tensor) -> Tensor:
        wait(logits.mean())
        answer: Tensor = loss(logits)
        return answer

    monkeypatch.setattr(gan, "generator_loss", waiting)
    state = run(settings, bars, CUDA, graph=True, steps=5)
    assert not state.graph
    assert "CUDA graph of a training step: not used (" in capsys.readouterr().out
    assert model_of(state, tmp_path / "fallen") == model_of(plain, tmp_path / "plain")
