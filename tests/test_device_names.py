"""The one place that names a kind of device."""

import re
from pathlib import Path

import pytest
import torch

import curvtool
from curvtool import device
from curvtool.errors import UsageError

CODE = Path(curvtool.__file__).parent


def test_no_other_file_names_one():
    """In words to users it may stand: a setting's help, a report's field, a remedy."""
    calls = re.compile(
        r"torch\.(cuda|xpu|mps)\b|backends import (cuda|mps)|\.type [!=]= \"|\w\.is_cuda\b(?!\()|\"(xpu|mps|nccl)\""
    )
    found = {
        str(path.relative_to(CODE)): lines
        for path in CODE.rglob("*.py")
        if (lines := [line for line in path.read_text().splitlines() if calls.search(line)])
    }
    assert set(found) == {"device.py"}, found


@pytest.fixture
def two_gpus(monkeypatch):
    """What torch says on a machine with two CUDA devices, the second one current."""
    for name, value in {"is_available": True, "device_count": 2, "current_device": 1}.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)


@pytest.mark.parametrize(
    ("text", "rank", "ranks", "found"),
    [
        ("auto", 0, 1, "cuda:1"),
        ("cuda", 0, 1, "cuda:1"),
        ("cuda:0", 0, 1, "cuda:0"),
        ("auto", 0, 2, "cuda:0"),
        ("cuda", 1, 2, "cuda:1"),
        ("cuda", 2, 4, "cuda:0"),
        ("cpu", 1, 2, "cpu"),
    ],
)
def test_a_device_has_its_number(text, rank, ranks, found, two_gpus):
    """A tensor's device always has one, and torch calls `cuda` and `cuda:0` unequal."""
    assert device.pick(text, rank, ranks) == torch.device(found)


@pytest.mark.parametrize("text", ["cuda:2", "cuda:x", "tpu9"])
def test_no_such_device(text, two_gpus):
    with pytest.raises(UsageError, match="CT004"):
        device.pick(text)


def test_memory_of_a_gpu(two_gpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda place: (7, 9))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda place: 5)
    place = torch.device("cuda:0")
    assert (device.free_bytes(place), device.peak_bytes(place)) == (7, 5)
    assert (device.free_bytes(device.HOST), device.peak_bytes(device.HOST)) == (None, None)


def test_what_a_backend_does_not_offer():
    """The meta device has no module: nothing is done, and nothing is known."""
    place = torch.device("meta")
    device.synchronize(place)
    device.give_back(place)
    device.reset_peak(place)
    assert device.free_bytes(place) is None and device.name_of(place)
    assert device.sums_in(place) == torch.float64 and not device.has_fast_double(place)


def test_generators_go_on_as_if_nothing_was_drawn():
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    with device.generators_kept():
        torch.rand(9)
    assert torch.equal(torch.rand(2), wanted)
