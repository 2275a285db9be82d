"""The measuring networks: shapes, losses, flips, scores, files."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from genlib import features, rng
from genlib.data.arrays import Labels, Split
from genlib.errors import GenlibError
from genlib.features import classifiers
from genlib.settings import FeatureSettings
from stages import features as stage

CPU = torch.device("cpu")


def settings(**changes: Any) -> FeatureSettings:
    values = {"seed": 0, "net": "plain", "epochs": 1, "batch_size": 10, "lr": 5e-3, "width": 2, "shift": 0}
    return FeatureSettings.model_validate(values | {"flip": False} | changes)


def network_of(
    kind: features.Kind = "attributes", outputs: int = 2, net: str = "plain", channels: int = 1, size: int = 8
) -> features.MeasuringNetwork:
    torch.manual_seed(0)
    classifier = classifiers.build(net, channels, size, outputs, 3).eval()
    names = tuple(f"n{index}" for index in range(outputs))
    return features.MeasuringNetwork("toy", kind, names, "0" * 64, classifier, CPU)


def sided(count: int, size: int = 32) -> Split:
    """Colour images with noise; attribute 0: bright, attribute 1: red, attribute 2: something on the left half only."""
    draws = np.random.default_rng(count)
    labels = draws.integers(0, 2, size=(count, 3))
    images = draws.integers(0, 40, size=(count, 3, size, size))
    images += 90 * labels[:, 0, None, None, None]
    images[:, 0] += 80 * labels[:, 1, None, None]
    side = np.where(labels[:, 2], 0, size // 2)
    for image, left in zip(images, side, strict=True):
        image[:, 8:24, left : left + 12] += 40
    return Split(images.astype(np.uint8), labels.astype(np.int64))


# Networks


def layers_of_the_first_version(channels: int, size: int, outputs: int, width: int) -> nn.Module:
    """The plain network, written out; trained files and committed numbers depend on it."""
    side = (size + 3) // 4
    whole = nn.Module()
    whole.features = nn.Sequential(
        nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, 1, 1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.Conv2d(2 * width, 2 * width, 3, 2, 1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.Flatten(), nn.Dropout(0.3), nn.Linear(2 * width * side * side, 4 * width), nn.ReLU(),
    )  # fmt: skip
    whole.head = nn.Linear(4 * width, outputs)
    return whole


@pytest.mark.parametrize("size", [28, 30])
def test_plain_is_what_it_was(size: int) -> None:
    torch.manual_seed(0)
    expected = layers_of_the_first_version(1, size, 10, 4)
    torch.manual_seed(0)
    network = classifiers.build("plain", 1, size, 10, 4)
    theirs, ours = expected.state_dict(), network.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    images = torch.rand(3, 1, size, size)
    torch.manual_seed(1)
    hidden = expected.features(images)  # type: ignore[operator]
    torch.manual_seed(1)
    assert torch.equal(network(images), expected.head(hidden))  # type: ignore[operator]


@pytest.mark.parametrize(("channels", "size"), [(3, 32), (1, 33), (3, 64), (3, 100), (3, 128)])
def test_residual_takes_any_size_from_32_on(channels: int, size: int) -> None:
    network = classifiers.build("residual", channels, size, 7, 4).eval()
    images = torch.rand(2, channels, size, size)
    hidden = network.features(images)
    assert (hidden.shape, hidden.dtype) == ((2, 32), torch.float32)
    assert hidden.min() >= 0
    assert hidden.std() > 0
    assert torch.equal(network(images), network.head(hidden))
    assert network(images).shape == (2, 7)
    assert network.sizes == {"channels": channels, "size": size, "width": 4}


def test_residual_at_the_width_of_celeba() -> None:
    network = classifiers.build("residual", 3, 64, 40, 24)
    assert network.features(torch.rand(2, 3, 64, 64)).shape == (2, 192)
    assert all(parameter.grad is None for parameter in network.parameters())
    network(torch.rand(4, 3, 64, 64)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def test_a_residual_block_adds_to_its_input() -> None:
    block = classifiers.ResidualBlock(3, 3, 1).eval()
    maps = torch.rand(2, 3, 5, 5)
    nn.init.zeros_(block.convolutions[3].weight)  # type: ignore[arg-type]
    torch.testing.assert_close(block(maps), maps)


def test_global_mean_is_the_mean_over_pixels() -> None:
    maps = torch.rand(2, 3, 5, 4)
    expected = maps.numpy().astype(np.float64).mean((2, 3))
    np.testing.assert_allclose(classifiers.GlobalMean()(maps).numpy(), expected, rtol=1e-6)


def test_build_refuses_small_images_and_unknown_nets() -> None:
    with pytest.raises(GenlibError, match=r"28 x 28.*use plain"):
        classifiers.build("residual", 1, 28, 10, 4)
    with pytest.raises(GenlibError, match=r"'resnet' is not one of plain, residual"):
        classifiers.build("resnet", 3, 64, 10, 4)


# Training


def test_loss_of_attributes_is_the_mean_binary_cross_entropy() -> None:
    logits, labels = torch.tensor([[0.3, -2.0, 5.0], [-0.7, 1.5, 0.0]]), torch.tensor([[1.0, 0, 1], [1, 0, 0]])
    expected = []
    for logit, label in zip(logits.flatten().tolist(), labels.flatten().tolist(), strict=True):
        probability = 1 / (1 + math.exp(-logit))
        expected.append(-math.log(probability if label == 1 else 1 - probability))
    assert features.loss_of("attributes", logits, labels).item() == pytest.approx(sum(expected) / 6, rel=1e-6)


def test_loss_of_classes_is_the_mean_cross_entropy() -> None:
    logits = torch.tensor([[0.3, -2.0, 5.0], [-0.7, 1.5, 0.0]])
    expected = [
        math.log(sum(map(math.exp, row))) - row[label] for row, label in zip(logits.tolist(), (2, 0), strict=True)
    ]
    loss = features.loss_of("classes", logits, torch.tensor([2, 0]))
    assert loss.item() == pytest.approx(sum(expected) / 2, rel=1e-6)


def test_attributes_are_learned_on_held_out_images() -> None:
    train = sided(200)
    classifier = features.train(train, "attributes", 3, settings(net="residual", width=4, epochs=3), 0, CPU)
    network = features.MeasuringNetwork("toy", "attributes", ("bright", "red", "left"), "", classifier, CPU)
    held_out = sided(101)
    score = features.score(network, network.measure(held_out.images)[1], held_out.labels, train.labels)
    assert score.accuracy > 0.9
    assert score.baseline is not None
    assert score.baseline < 0.65
    assert not classifier.training


def test_flips_mirror_about_half_of_the_images_and_are_the_same_each_time() -> None:
    chosen = features._mirrored(1000, 0, 1)
    assert 430 < int(chosen.sum()) < 570
    assert torch.equal(chosen, features._mirrored(1000, 0, 1))
    assert not torch.equal(chosen, features._mirrored(1000, 0, 2))
    assert not torch.equal(chosen, features._mirrored(1000, 1, 1))


def batches_seen(monkeypatch: pytest.MonkeyPatch, split: Split, changes: dict[str, Any]) -> torch.Tensor:
    """All the images that one epoch of training showed the network."""
    seen: list[torch.Tensor] = []

    class Watched(classifiers.Classifier):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images.detach().clone())
            return super().forward(images)

    def watched(*arguments: Any) -> classifiers.Classifier:
        network = classifiers.build(*arguments)
        return Watched(network.features, network.head, **network.sizes)

    monkeypatch.setattr(features, "build", watched)
    features.train(split, "attributes", 3, settings(**changes), 0, CPU)
    monkeypatch.undo()
    return torch.cat(seen)


def test_training_sees_mirrored_images_and_else_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    split = sided(50, size=32)
    plain = batches_seen(monkeypatch, split, {"flip": False})
    flipped = batches_seen(monkeypatch, split, {"flip": True})
    turned = (flipped != plain).flatten(1).any(1)
    assert 10 < int(turned.sum()) < 40
    assert torch.equal(flipped[turned], plain[turned].flip(3))
    again = batches_seen(monkeypatch, split, {"flip": True})
    assert torch.equal(again, flipped)


def test_flips_leave_the_shifts_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    even = Split(np.arange(50, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 8, 8), np.uint8), sided(50).labels)
    even.images[:, :, 0] = 255  # the same mirrored; moved up or down by a shift
    still = batches_seen(monkeypatch, even, {"flip": False, "shift": 2})
    assert torch.equal(batches_seen(monkeypatch, even, {"flip": True, "shift": 2}), still)
    assert not torch.equal(batches_seen(monkeypatch, even, {"flip": False}), still)


def test_every_epoch_has_an_order_shifts_and_dropout_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[str, int]] = []
    derive = rng.derive

    def noted(seed: int, purpose: str, epoch: int = 0) -> int:
        drawn.append((purpose, epoch))
        return derive(seed, purpose, epoch)

    monkeypatch.setattr(rng, "derive", noted)
    features.train(sided(50), "attributes", 3, settings(epochs=2, flip=True), 0, CPU)
    purposes = [f"classifier {purpose}" for purpose in ("order", "flips", "shifts", "dropout")]
    assert drawn == [("classifier weights", 0), *((purpose, epoch) for epoch in (1, 2) for purpose in purposes)]


def test_training_with_flips_gives_the_same_weights_again() -> None:
    split = sided(40)
    first, second, without = (
        features.train(split, "attributes", 3, settings(flip=flip), 0, CPU).state_dict() for flip in (True, True, False)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], without[name]) for name in first)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("net", ["plain", "residual"])
def test_a_graph_gives_the_weights_of_plain_steps(net: str) -> None:
    """Dropout and batch norm's statistics included, over more than the steps that are taken before a capture."""
    split, wanted = sided(80, size=32), settings(net=net, epochs=3, flip=True)
    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("error")
    plain, graph = (
        features.train(split, "attributes", 3, wanted, 0, torch.device("cuda"), graph).state_dict()
        for graph in (False, True)
    )
    torch.set_deterministic_debug_mode(mode)
    for name, tensor in plain.items():
        torch.testing.assert_close(graph[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("labels", "kind", "outputs"),
    [
        (np.zeros((20, 2), np.int64), "classes", 2),
        (np.full(20, 2), "classes", 2),
        (np.zeros(20, np.int64), "attributes", 2),
        (np.zeros((20, 3), np.int64), "attributes", 2),
        (np.full((20, 2), -1), "attributes", 2),
    ],
)
def test_training_refuses_labels_of_another_kind(labels: Labels, kind: features.Kind, outputs: int) -> None:
    split = Split(np.zeros((20, 1, 8, 8), np.uint8), labels)
    with pytest.raises(GenlibError, match=f"are not those of {outputs} {kind}"):
        features.train(split, kind, outputs, settings(), 0, CPU)


def test_training_refuses_too_few_images_and_diverging() -> None:
    few = Split(np.zeros((5, 1, 8, 8), np.uint8), np.zeros(5, np.int64))
    with pytest.raises(GenlibError, match=r"batch_size 10 .* 5 training images"):
        features.train(few, "classes", 2, settings(), 0, CPU)
    with pytest.raises(GenlibError, match=r"lower features\.<dataset>\.lr"):
        features.train(sided(40), "attributes", 3, settings(lr=1e30, epochs=2), 0, CPU)


# Measuring


def test_measured_probabilities_are_a_softmax_or_sigmoids() -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 1, 8, 8), dtype=np.uint8)
    for kind in ("classes", "attributes"):
        network = network_of(kind)
        hidden, probabilities = network.measure(images)
        logits = network.classifier(torch.from_numpy(images) / 255).detach().numpy().astype(np.float64)
        exponentials = np.exp(logits)
        expected = (
            exponentials / exponentials.sum(1, keepdims=True) if kind == "classes" else 1 / (1 + 1 / exponentials)
        )
        np.testing.assert_allclose(probabilities, expected, rtol=1e-4)
        assert hidden.shape == (7, 12)
        assert hidden.dtype == probabilities.dtype == np.float32


def test_measuring_does_not_depend_on_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 3, 32, 32), dtype=np.uint8)
    network = network_of(net="residual", channels=3, size=32)
    whole = network.measure(images)
    monkeypatch.setattr(features, "_BATCH", 4)
    for one, other in zip(whole, network.measure(images), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 1, 28, 28), (2, 1, 8, 9), (2, 3, 8, 8)])
def test_measuring_refuses_images_of_another_shape(shape: tuple[int, ...]) -> None:
    named = " x ".join(map(str, shape[1:]))
    with pytest.raises(GenlibError, match=rf"images: {named}, .* of toy was trained on 1 x 8 x 8; set runs"):
        network_of().measure(np.zeros(shape, np.uint8))


def test_score_of_attributes_by_hand() -> None:
    probabilities = np.array([[0.9, 0.5], [0.2, 0.4], [0.8, 0.7], [0.6, 0.1]], np.float32)
    labels = np.array([[1, 1], [0, 1], [0, 1], [1, 0]])
    # Most training images have the first attribute and have not the second: the held-out majority is another one.
    train_labels = np.array([[1, 0], [1, 0], [0, 1]])
    score = features.score(network_of(), probabilities, labels, train_labels)
    assert score.attributes == {"n0": (0.75, 0.5), "n1": (0.75, 0.25)}
    assert (score.accuracy, score.baseline) == (0.75, 0.375)


def test_score_of_classes_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]], np.float32)
    score = features.score(network_of("classes"), probabilities, np.array([0, 1, 1]), np.array([0, 0, 0]))
    assert score.accuracy == pytest.approx(2 / 3)
    assert (score.baseline, score.attributes) == (None, {})


# Files


@pytest.mark.parametrize(("net", "channels", "size"), [("plain", 1, 28), ("residual", 3, 32)])
def test_a_file_gives_the_network_back(net: str, channels: int, size: int, tmp_path: Path) -> None:
    network = network_of("attributes", 2, net, channels, size)
    path = tmp_path / "toy" / "model.safetensors"
    features.save(path, network.classifier, "toy", "attributes", ["Smiling", "Wearing_Hat"], net)
    loaded = features.load(path, CPU)
    assert (loaded.dataset, loaded.labels, loaded.classes) == ("toy", "attributes", ("Smiling", "Wearing_Hat"))
    assert len(loaded.sha256) == 64
    images = np.random.default_rng(0).integers(0, 256, (3, channels, size, size), dtype=np.uint8)
    for ours, theirs in zip(loaded.measure(images), network.measure(images), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    first = path.read_bytes()
    features.save(path, network.classifier, "toy", "attributes", ["Smiling", "Wearing_Hat"], net)
    assert path.read_bytes() == first


GOOD = {
    "dataset": "toy",
    "labels": "classes",
    "classes": ["a", "b"],
    "net": "plain",
    "channels": 1,
    "size": 8,
    "width": 3,
}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"labels": None, "net": None}, "labels"),  # of the first version
        ({"net": "transformer"}, "net"),
        ({"labels": "people"}, "labels"),
        ({"classes": []}, "classes"),
        ({"classes": ["a"]}, "head"),
        ({"net": "residual"}, "too small"),
        ({"width": 4096, "size": 4096}, "size mismatch"),  # 2 petabytes if it were made
        ({"width": 10**9}, "width"),
        ({"width": "3"}, "width"),
        ({"code": "x"}, "code"),
    ],
)
def test_old_and_hostile_files_are_refused(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    path = tmp_path / "toy" / "model.safetensors"
    path.parent.mkdir()
    metadata = {key: value for key, value in (GOOD | changes).items() if value is not None}
    save_file(network_of("classes").classifier.state_dict(), path, {"genlib": json.dumps(metadata)})
    with pytest.raises(GenlibError, match=rf"not a measuring network .*{named}.*run dvc repro features@toy"):
        features.load(path, CPU)


def test_damaged_and_missing_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "toy" / "model.safetensors"
    with pytest.raises(GenlibError, match=r"no such file; run dvc repro features@toy"):
        features.load(path, CPU)
    features.save(path, network_of("classes").classifier, "toy", "classes", ["a", "b"], "plain")
    whole = path.read_bytes()
    tensors = load_file(path)
    for damaged in (b"", whole[:-4], whole[:20], b"<html>" + whole):
        path.write_bytes(damaged)
        with pytest.raises(GenlibError, match="not a measuring network"):
            features.load(path, CPU)
    save_file(tensors, path)  # no metadata
    with pytest.raises(GenlibError, match="not a measuring network"):
        features.load(path, CPU)
    del tensors["head.bias"]
    save_file(tensors, path, {"genlib": json.dumps(GOOD)})
    with pytest.raises(GenlibError, match=r"head\.bias"):
        features.load(path, CPU)


# Stage


def project(folder: Path, raw: dict[str, Any], labels: str, make: dict[str, Split]) -> Path:
    """params.yaml (JSON is YAML) with features.faces made small, and a processed dataset faces."""
    small = {"net": "residual", "epochs": 1, "batch_size": 20, "lr": 3e-3, "width": 2, "shift": 2, "flip": True}
    raw["features"] = {"faces": small | {"seed": 0}}
    raw["runs"] = {name: run for name, run in raw["runs"].items() if run["dataset"] == "faces"}
    raw["evaluate"]["importance_of"] = {}
    (folder / "params.yaml").write_text(json.dumps(raw))
    data = folder / "data" / "faces"
    data.mkdir(parents=True)
    for name, split in make.items():
        np.save(data / f"{name}.npy", split.images)
        np.save(data / f"{name}_labels.npy", split.labels)
    card = dict.fromkeys(
        ("origin", "edition", "class_counts", "people_counts", "mean", "std", "crop", "resize", "split_rule", "sha256")
    )
    names = [] if labels == "people" else ["bright", "red", "left"]
    card |= {"dataset": "faces", "people": False, "image_size": 32, "channels": 3, "labels": labels, "classes": names}
    card["counts"] = {name: len(split.images) for name, split in make.items()}
    (data / "card.json").write_text(json.dumps(card))
    return data


def test_the_stage_writes_accuracies_beside_baselines(alone: Path, raw: dict[str, Any]) -> None:
    data = project(alone, raw, "attributes", {"train": sided(60), "val": sided(31)})
    stage.main("faces", data, alone / "faces" / "model.safetensors", alone / "metrics.json")
    metrics = json.loads((alone / "metrics.json").read_text())
    assert list(metrics) == ["val_accuracy", "val_baseline", "attributes"]
    assert list(metrics["attributes"]) == ["bright", "red", "left"]
    for key in ("accuracy", "baseline"):
        mean = np.mean([numbers[key] for numbers in metrics["attributes"].values()])
        assert metrics[f"val_{key}"] == pytest.approx(mean, abs=1e-4)
    network = features.load(alone / "faces" / "model.safetensors", CPU)
    assert network.labels == "attributes"
    right = (network.measure(sided(31).images)[1] > 0.5) == sided(31).labels
    assert metrics["val_accuracy"] == pytest.approx(right.mean(), abs=1e-4)
    majority = sided(60).labels.mean(0) >= 0.5
    assert metrics["val_baseline"] == pytest.approx((sided(31).labels == majority).mean(), abs=1e-4)


def test_the_network_has_a_seed_of_its_own(alone: Path, raw: dict[str, Any]) -> None:
    """Repetitions of a run with other seeds are to be measured with the same network."""
    data = project(alone, raw, "attributes", {"train": sided(60), "val": sided(31)})
    written = []
    for seed, own in ((0, 0), (7, 0), (0, 7)):
        raw["seed"] = seed
        raw["features"]["faces"]["seed"] = own
        (alone / "params.yaml").write_text(json.dumps(raw))
        stage.main("faces", data, alone / "model.safetensors", alone / "metrics.json")
        written.append((alone / "model.safetensors").read_bytes())
    assert written[0] == written[1] != written[2]


def test_the_stage_refuses_labels_that_are_people(alone: Path, raw: dict[str, Any]) -> None:
    images = sided(20).images
    people = Split(images, np.arange(20))
    data = project(alone, raw, "people", {"train": people, "val": people})
    expected = r"features\.faces: .*people.*" + re.escape("mnist, digits, celeba and faces")
    with pytest.raises(GenlibError, match=expected):
        stage.main("faces", data, alone / "model.safetensors", alone / "metrics.json")
    assert not (alone / "metrics.json").exists()


@pytest.mark.parametrize(
    ("path", "stage"),
    [
        ("data/features/toy/model.safetensors", " features@toy"),
        ("model.safetensors", ""),
        ("sub/../model.safetensors", ""),
        ("mine/net.safetensors", ""),
    ],
)
def test_what_to_do_about_a_file_fits_its_path(path: str, stage: str, alone: Path) -> None:
    remedy = f"run dvc repro{stage}, or name a file that the features stage wrote$"
    with pytest.raises(GenlibError, match=rf"^{re.escape(path)}: no such file; {remedy}"):
        features.load(Path(path), CPU)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    (alone / path).write_bytes(b"<html>")
    with pytest.raises(GenlibError, match=rf"^{re.escape(path)}: not a measuring network \(.*\); {remedy}"):
        features.load(Path(path), CPU)
