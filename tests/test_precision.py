"""Precisions: refused where they are missing; bf16 trains close to float32, with weights as they are now."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from trainings import CPU, SHAPE, Bars, Small, advance

from genlib import training
from genlib.errors import GenlibError
from genlib.training.precision import set_precision

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_a_precision_the_cpu_lacks_is_refused(
    precision: str, small: Small, bars: Bars, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "amx_bf16": False})
    with pytest.raises(GenlibError, match=f"precision: {precision} needs a CUDA device.*set precision: float32"):
        advance(training.start(small("ae", precision=precision), 0, SHAPE, CPU), bars)


@pytest.mark.parametrize("model", ["ae", "vae", "gan", "bernoulli_vae"])
def test_bf16_on_a_cpu_trains_close_to_float32(
    model: str, small: Small, bars: Bars, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the three digits of bf16 while weights move a lot, and with losses that have more digits than that."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})  # imitated where it is missing
    losses = {}
    for precision in ("float32", "bf16"):
        state = training.start(small(model, precision=precision, epochs=6, lr=0.004), 0, SHAPE, CPU)
        rows = [row for epoch in advance(state, bars) for row in epoch.steps]
        losses[precision] = [row[name] for row in rows for name in state.objective.LOSSES[:2]]
        assert all(weight.dtype == torch.float32 for weight in state.networks[state.objective.DRAWS].parameters())
    assert losses["bf16"] == pytest.approx(losses["float32"], rel=0.1, abs=0.1)
    assert losses["bf16"] != losses["float32"]
    assert any(torch.tensor(loss).bfloat16().item() != pytest.approx(loss, rel=1e-6) for loss in losses["bf16"])


def test_bfloat16_sees_weights_that_have_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its context is held for an epoch; what it does to a GPU's networks is tried on a CPU's."""
    autocast = torch.autocast
    monkeypatch.setattr(torch, "autocast", lambda _, *how, **more: autocast("cpu", *how, **more))
    weight, images = nn.Parameter(torch.ones(1, 1)), torch.ones(1, 1)
    with set_precision("bf16", torch.device("cuda")):
        assert F.linear(images, weight).dtype == torch.bfloat16
        with torch.no_grad():
            weight.fill_(3.0)
        assert F.linear(images, weight) == 3
