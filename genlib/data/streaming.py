"""Images that do not fit on the device: gathered on the host from where they are, ahead of the training that waits."""

import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from genlib.data.arrays import Images

_AHEAD = 3  # batches that are being gathered or wait


class Streamed:
    """Images uint8 N C H W, an array in memory or in a file, of which parts come to `device` as they are asked for."""

    def __init__(self, images: Images, device: torch.device) -> None:
        self.device = device
        self._images = on_host(images)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, rows: slice) -> Tensor:
        """Neighbouring images, on the device."""
        return self._images[rows].to(self.device)

    def gathered(self, choices: Iterable[Tensor]) -> Iterator[Tensor]:
        """For each tensor of indices, on the CPU, the images that it names, on the device.

        A thread reads up to three batches ahead, into memory from which a GPU copies while it computes. What it raises
        is raised here. It has ended when the iterator has, or was closed.
        """
        waiting = iter(choices)
        with ThreadPoolExecutor(1, "genlib-reader") as reader:
            try:
                ahead = deque(reader.submit(self._gather, chosen) for chosen in islice(waiting, _AHEAD))
                while ahead:
                    images = ahead.popleft().result()
                    ahead.extend(reader.submit(self._gather, chosen) for chosen in islice(waiting, 1))
                    yield images.to(self.device, non_blocking=True)
            finally:
                reader.shutdown(cancel_futures=True)

    def _gather(self, chosen: Tensor) -> Tensor:
        # What is pinned is not given out again before copies from it are done: torch's allocator sees to that.
        shape = (len(chosen), *self._images.shape[1:])
        images = torch.empty(shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        return torch.index_select(self._images, 0, chosen, out=images)


def on_host(images: Images) -> Tensor:
    """The array itself as a tensor, to be read only."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(images)


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a device: a GPU's, or what the host has available (all of it, where only that is told)."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    told = Path("/proc/meminfo")
    if told.exists():
        return int(told.read_text().split("MemAvailable:")[1].split()[0]) << 10
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
