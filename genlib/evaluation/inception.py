"""The field's standard features: the Inception network of FID (Heusel et al. 2017) as torch-fidelity converts it.

Its weights are a file of 96 MB that is no part of the pipeline's own data: it is looked for in a folder, then in the
mirror, then at its official address, and where it is not to be had the answer is why, never other weights.
"""

import hashlib
import io
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from genlib.data.arrays import Images
from genlib.data.fetch import SourceError, Transfer, download
from genlib.data.meter import say
from genlib.data.mirror import VARIABLE, Mirror, find_mirror
from genlib.data.official import MismatchError, RemoteFile, verify
from genlib.data.partial import discard
from genlib.errors import GenlibError
from genlib.files import digest

DIMENSIONS = 2048

FOLDER = Path("data/weights")

OFFICIAL = RemoteFile(
    "weights-inception-2015-12-05-6726825d.pth",
    128 << 20,
    ("https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",),
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
)
"""The weights that TensorFlow's authors published in 2015, converted by torch-fidelity (Obukhov et al. 2020)."""

BRIEF = Transfer(retries=2, connect_seconds=5.0)
"""Less patient than for data: the features are an option, and a machine without a network must not wait for them."""

_KIND = "inception"
_BATCH = 16
_LOCK_SECONDS = 900.0


@dataclass(frozen=True)
class Unavailable:
    """Why there are no weights; as text, what stands in place of a number."""

    reason: str

    def __str__(self) -> str:
        return f"not computed: weights not available ({self.reason})"


@dataclass(frozen=True)
class Inception:
    """The network in evaluation mode, float32, with the sha256 of its weights."""

    sha256: str
    network: nn.Module
    device: torch.device

    @property
    def name(self) -> str:
        """What a result calls these features: the network and who computed it."""
        return f"inception-v3-compat, torch-fidelity {version('torch-fidelity')}"

    @torch.no_grad()
    def features(self, images: Images, batch_size: int = _BATCH) -> NDArray[np.float32]:
        """Images uint8 N C H W (C 1 or 3) to features N 2048 float32, those of the last average pooling.

        Grey becomes three equal channels; any H W is resized to 299 x 299 inside, as TensorFlow 1 does. The batch
        size changes no feature by more than 1e-5 of the largest. GenlibError if the images are none of that.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise GenlibError(
                f"images: {images.dtype} of shape {images.shape}; Inception features take uint8 N C H W, C 1 or 3"
            )
        features = np.empty((len(images), DIMENSIONS), np.float32)
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            for start in tqdm(range(0, len(images), batch_size), "inception", leave=False, disable=None):
                batch = torch.from_numpy(np.array(images[start : start + batch_size])).to(self.device)
                features[start : start + batch_size] = self.network(batch.expand(-1, 3, -1, -1))[0].cpu().numpy()
        return features


def find_weights(folder: Path = FOLDER, file: RemoteFile = OFFICIAL, transfer: Transfer = BRIEF) -> Path | Unavailable:
    """The weights' file in `folder`, brought there if need be from the mirror or its official address, or why not.

    A relative folder counts from DVC_ROOT if that is set, else from the current folder. The mirror's place for it is
    `<mirror>/inception/<name>`; no list need name it, since the official checksum decides.
    Raises GenlibError if the file in the folder or in the mirror is another than the official one, and if the folder
    does not take it.
    """
    path = (Path(os.environ.get("DVC_ROOT", "")) / folder).resolve() / file.name
    if not path.exists():
        missing = _fetch(path, file, transfer)
        if missing is not None:
            return missing
    _check(path, digest(path), file)
    return path


def load(path: Path, device: torch.device, file: RemoteFile = OFFICIAL) -> Inception:
    """Read the network; GenlibError if the file is missing or another than `file`, or does not fit the network.

    The bytes that are loaded are those whose checksum held, and nothing in them is run: torch-fidelity, which would
    unpickle whatever it is given, is given what was written here of plain tensors.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise GenlibError(f"{path}: cannot be read ({error.strerror}); run what fetches it again") from error
    sha256 = hashlib.sha256(data).hexdigest()
    _check(path, sha256, file)
    # Imported here, for it takes seconds.
    from torch_fidelity.feature_extractor_inceptionv3 import (
        FeatureExtractorInceptionV3,
    )

    tensors = io.BytesIO()
    try:
        torch.save(torch.load(io.BytesIO(data), "cpu", weights_only=True), tensors)
        tensors.seek(0)
        network: Any = FeatureExtractorInceptionV3("inception-v3-compat", [str(DIMENSIONS)], tensors)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise GenlibError(f"{path}: not the weights of that network ({reason}); delete it and try again") from error
    return Inception(sha256, network.to(device), device)


def _check(path: Path, sha256: str, file: RemoteFile) -> None:
    if sha256 != file.sha256:
        raise GenlibError(f"{path}: expected sha256 {file.sha256}, got {sha256}; delete it, and it is fetched again")


def _fetch(path: Path, file: RemoteFile, transfer: Transfer) -> Unavailable | None:
    """Bring the file to `path`, unless another process does so meanwhile; what hinders it, None if nothing did."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock"), timeout=_LOCK_SECONDS):
            return None if path.exists() else _bring(path, file, transfer)
    except Timeout as error:
        raise GenlibError(f"{path}: another process has been fetching it for long; wait for it or stop it") from error
    except OSError as error:
        raise GenlibError(f"{path}: cannot be written ({error.strerror}); mend that and try again") from error


def _bring(path: Path, file: RemoteFile, transfer: Transfer) -> Unavailable | None:
    """Bring the file to `path`, whole and verified, from the first source that gives it."""
    key = f"{_KIND}/{file.name}"
    part = path.with_name(f".{path.name}.partial")
    tried = []
    base = find_mirror(os.environ)
    if base is None:
        tried.append(f"{VARIABLE} is not set")
    else:
        try:
            _place(partial(Mirror(base, {}).bring, key, part, file.max_bytes, transfer), part, file, path)
            return None
        except MismatchError as error:
            raise GenlibError(
                f"{key}: not the official file in the mirror: {error}; mend the mirror or unset {VARIABLE}"
            ) from error
        except SourceError as error:
            say(f"{key}: not from the mirror in {VARIABLE} ({error}); going on to the official source")
            tried.append(f"the mirror in {VARIABLE}: {error}")
    for address in file.addresses(transfer):
        try:
            say(f"{key}: from {address.host}")
            _place(partial(download, address, part, file.max_bytes, key, transfer), part, file, path)
            return None
        except SourceError as error:
            say(f"{key}: not from {address.host} ({error})")
            tried.append(f"{address.host}: {error}")
    return Unavailable("; ".join(tried))


def _place(bring: Callable[[], bool], part: Path, file: RemoteFile, path: Path) -> None:
    """Bring, verify, move; once more from the start if the file was put together from several answers."""
    pieced = bring()
    try:
        verify(part, file)
    except MismatchError:
        if not pieced:
            raise
        bring()
        verify(part, file)
    part.replace(path)
    discard(part)
