"""Inception features with random weights of the right architecture: the official file is not needed here."""

import hashlib
import io
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch_fidelity
from numpy.typing import NDArray
from servers import LocalServer, Reply, closed_port, page, ranged, serve
from torch import nn
from torch_fidelity import feature_extractor_inceptionv3

from genlib.data.fetch import Transfer
from genlib.data.official import RemoteFile
from genlib.errors import GenlibError
from genlib.evaluation.inception import DIMENSIONS, OFFICIAL, Inception, Unavailable, find_weights, load

CPU = torch.device("cpu")
QUICK = Transfer(retries=1, backoff_seconds=0.001, max_wait_seconds=0, connect_seconds=5, read_seconds=5)
SMALL = b"weights" * 10_000


class Blank(feature_extractor_inceptionv3.FeatureExtractorInceptionV3):  # type: ignore[misc]
    """The network as it is constructed, before weights are loaded."""

    def load_state_dict(self, *arguments: Any, **options: Any) -> None:
        """Nothing."""


def saved(state: Any) -> io.BytesIO:
    """As torch saved it when the official file was made."""
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=False)
    buffer.seek(0)
    return buffer


@pytest.fixture(scope="module")
def weights() -> bytes:
    """Random weights whose activations neither vanish nor explode, in a plain dict without counters, as converted."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = Blank("blank", ["2048"], saved({}))
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=(2 / module.weight[0].numel()) ** 0.5)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.bias, std=0.1)
    state = {key: tensor for key, tensor in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    return saved(state).getvalue()


@pytest.fixture(autouse=True)
def _no_mirror(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GENLIB_MIRROR", raising=False)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


@pytest.fixture
def server() -> Iterator[LocalServer]:
    with serve() as local:
        yield local


def remote(data: bytes, *urls: str) -> RemoteFile:
    sha256 = hashlib.sha256(data).hexdigest()
    return RemoteFile(f"weights-test-{sha256[:8]}.pth", 128 << 20, urls, sha256=sha256)


def mirrored(folder: Path, file: RemoteFile, data: bytes) -> Path:
    (folder / "inception").mkdir(parents=True)
    (folder / "inception" / file.name).write_bytes(data)
    return folder


def find(file: RemoteFile) -> Path | Unavailable:
    return find_weights(Path("weights"), file, QUICK)


def fails(file: RemoteFile) -> str:
    with pytest.raises(GenlibError) as caught:
        find(file)
    return str(caught.value)


def left(folder: Path) -> list[str]:
    """The files in a folder, but for the lock."""
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


@pytest.fixture(scope="module")
def network(weights: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inception]:
    """Loaded from a file that came through the mirror."""
    root = tmp_path_factory.mktemp("root")
    file = remote(weights)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(root))
        patch.setenv("GENLIB_MIRROR", str(mirrored(root / "mirror", file, weights)))
        path = find(file)
        assert path == root / "weights" / file.name
        assert left(root / "weights") == [file.name]
        yield load(path, CPU, file)


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (3, 3, 20, 20), np.uint8)


@pytest.fixture(scope="module")
def features(network: Inception, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return network.features(images)


def test_features_are_torch_fidelitys(
    weights: bytes, network: Inception, images: NDArray[np.uint8], features: NDArray[np.float32]
) -> None:
    reference = feature_extractor_inceptionv3.FeatureExtractorInceptionV3("reference", ["2048"], io.BytesIO(weights))
    expected = reference(torch.from_numpy(images))[0].numpy()
    assert features.shape == (3, DIMENSIONS)
    assert features.dtype == np.float32
    assert np.linalg.norm(expected[0] - expected[1]) > 0.01 * np.linalg.norm(expected[0])  # not constants
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-5 * expected.max())
    assert network.sha256 == hashlib.sha256(weights).hexdigest()
    assert network.name == f"inception-v3-compat, torch-fidelity {torch_fidelity.__version__}"


def test_batch_size_does_not_matter(
    network: Inception, images: NDArray[np.uint8], features: NDArray[np.float32]
) -> None:
    apart = network.features(images, batch_size=2)
    np.testing.assert_allclose(apart, features, rtol=0, atol=1e-5 * features.max())


def test_grey_is_three_equal_channels(network: Inception, images: NDArray[np.uint8]) -> None:
    grey = images[:2, 1:2]
    expected = network.features(np.repeat(grey, 3, axis=1))
    np.testing.assert_allclose(network.features(grey), expected, rtol=0, atol=1e-6 * expected.max())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (np.zeros((2, 2, 8, 8), np.uint8), r"\(2, 2, 8, 8\)"),
        (np.zeros((2, 3, 8, 8), np.float32), "float32"),
        (np.zeros((2, 8, 8), np.uint8), r"\(2, 8, 8\)"),
    ],
)
def test_other_arrays_are_refused(network: Inception, wrong: Any, said: str) -> None:
    with pytest.raises(GenlibError, match=said):
        network.features(wrong)


def test_no_images_no_features(network: Inception) -> None:
    assert network.features(np.zeros((0, 3, 8, 8), np.uint8)).shape == (0, DIMENSIONS)


def test_the_official_file() -> None:
    """Its address is torch-fidelity's own; its name ends in the first digits of its sha256, as torch.hub wants."""
    assert OFFICIAL.urls == (feature_extractor_inceptionv3.URL_INCEPTION_V3,)
    assert OFFICIAL.urls[0].endswith(f"/{OFFICIAL.name}")
    assert OFFICIAL.sha256 is not None
    assert OFFICIAL.name.endswith(f"-{OFFICIAL.sha256[:8]}.pth")
    assert len(OFFICIAL.sha256) == 64


def test_official_source(server: LocalServer, tmp_path: Path) -> None:
    file = remote(SMALL, server.on("/w", Reply(body=SMALL)))
    assert find(file) == tmp_path / "weights" / file.name
    assert (tmp_path / "weights" / file.name).read_bytes() == SMALL
    assert left(tmp_path / "weights") == [file.name]
    assert find(file) == tmp_path / "weights" / file.name
    assert len(server.log) == 1  # what is there is not fetched again


def test_a_broken_transfer_goes_on_where_it_stopped(server: LocalServer, tmp_path: Path) -> None:
    cut, whole = ranged(SMALL, '"a"', cut=30_000), ranged(SMALL, '"a"')
    url = server.on("/w", cut, Reply(404), whole)
    file = remote(SMALL, url)
    assert isinstance(find(file), Unavailable)
    assert find(file) == tmp_path / "weights" / file.name
    assert server.ranges() == [None, "bytes=30000-", "bytes=30000-"]


def test_a_wrong_seam_is_mended_by_a_fresh_transfer(server: LocalServer, tmp_path: Path) -> None:
    other = b"another" * 10_000
    url = server.on("/w", ranged(other, cut=30_000), ranged(SMALL))
    assert find(remote(SMALL, url)) == tmp_path / "weights" / remote(SMALL).name
    assert server.ranges() == [None, "bytes=30000-", None]


def test_the_mirror_comes_first(server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = remote(SMALL, server.on("/w", Reply(body=SMALL)))
    server.on(f"/mirror/inception/{file.name}", Reply(body=SMALL))
    monkeypatch.setenv("GENLIB_MIRROR", f"{server.url}/mirror/")
    assert find(file) == tmp_path / "weights" / file.name
    assert [asked.path for asked in server.log] == [f"/mirror/inception/{file.name}"]


def test_not_reachable_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = remote(SMALL, f"{closed_port()}/w")
    assert str(find(file)) == (
        "not computed: weights not available "
        "(GENLIB_MIRROR is not set; 127.0.0.1: no connection (Connection refused), 2 tries)"
    )
    (tmp_path / "mirror").mkdir()
    monkeypatch.setenv("GENLIB_MIRROR", "mirror")
    assert "the mirror in GENLIB_MIRROR: it has no such file; 127.0.0.1: no connection" in str(find(file))
    assert left(tmp_path / "weights") == []


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (page("<html><title>Sign in</title></html>"), r"answers with an HTML page \(Sign in\)"),
        (Reply(body=b"<!DOCTYPE html><html>"), "an HTML page that claims to be the file"),
        (Reply(404, b"gone"), "HTTP 404"),
        (Reply(body=SMALL[:-1]), f"expected sha256 {remote(SMALL).sha256}, got "),
    ],
)
def test_an_address_without_the_file_is_a_reason(server: LocalServer, tmp_path: Path, reply: Reply, said: str) -> None:
    found = find(remote(SMALL, server.on("/w", reply)))
    assert isinstance(found, Unavailable)
    assert re.search(said, found.reason)
    assert left(tmp_path / "weights") == []


def test_another_file_in_the_mirror_is_refused(
    server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not passed over: what the mirror's list says of it does not count."""
    file = remote(SMALL, server.on("/w", Reply(body=SMALL)))
    other = hashlib.sha256(SMALL[:-1]).hexdigest()
    mirror = mirrored(tmp_path / "mirror", file, SMALL[:-1])
    (mirror / "SHA256SUMS").write_text(f"{other}  inception/{file.name}\n")
    monkeypatch.setenv("GENLIB_MIRROR", str(mirror))
    line = fails(file)
    for piece in (f"inception/{file.name}", str(file.sha256), other, "GENLIB_MIRROR"):
        assert piece in line
    assert left(tmp_path / "weights") == []
    assert server.log == []


@pytest.mark.parametrize("held", [SMALL[:-1], b"", b"<!DOCTYPE html><html><title>404</title></html>"])
def test_another_file_in_the_folder_is_refused(server: LocalServer, tmp_path: Path, held: bytes) -> None:
    file = remote(SMALL, server.on("/w", Reply(body=SMALL)))
    path = tmp_path / "weights" / file.name
    path.parent.mkdir()
    path.write_bytes(held)
    line = fails(file)
    with pytest.raises(GenlibError) as caught:
        load(path, CPU, file)
    assert str(caught.value) == line
    for piece in (str(path), str(file.sha256), hashlib.sha256(held).hexdigest(), "delete it"):
        assert piece in line
    assert path.read_bytes() == held
    assert server.log == []


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("a file")
    line = fails(remote(SMALL))
    assert str(tmp_path / "weights") in line
    assert "File exists" in line


def test_a_missing_file_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(GenlibError, match="No such file"):
        load(tmp_path / "none.pth", CPU, remote(SMALL))


class Bomb:
    """What runs code when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_loading_runs_no_code(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    data = saved({"fc.bias": Bomb(mark)}).getvalue()
    pickle.loads(pickle.dumps(Bomb(mark)))
    assert mark.exists()  # the bomb is one
    mark.unlink()
    (tmp_path / "w.pth").write_bytes(data)
    with pytest.raises(GenlibError, match="not the weights of that network"):
        load(tmp_path / "w.pth", CPU, remote(data))
    assert not mark.exists()


@pytest.mark.parametrize("data", [b"", SMALL, saved({"fc.bias": torch.zeros(3)}).getvalue(), saved([1]).getvalue()])
def test_a_verified_file_that_holds_no_such_network(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "w.pth").write_bytes(data)
    with pytest.raises(GenlibError, match=r"w\.pth: not the weights of that network .*; delete it"):
        load(tmp_path / "w.pth", CPU, remote(data))
