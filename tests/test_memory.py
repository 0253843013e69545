import pytest
import torch

from omniavatar.errors import InputError
from omniavatar.memory import Placement, available_devices, choose_placement


@pytest.mark.parametrize(
    ("available", "device", "dtype"),
    [
        (("cuda", "cpu"), "cuda", torch.bfloat16),
        (("mps", "cpu"), "mps", torch.float32),
        (("cpu",), "cpu", torch.float32),
    ],
)
def test_best_device_and_its_precision_are_chosen(available, device, dtype):
    chosen = choose_placement(available=available)
    assert chosen == Placement(device=torch.device(device), dtype=dtype)


def test_what_is_asked_for_is_taken():
    chosen = choose_placement(device="cpu", dtype=torch.bfloat16, available=("cuda", "cpu"))
    assert chosen == Placement(device=torch.device("cpu"), dtype=torch.bfloat16)
    second = choose_placement(device="cuda:1", available=("cuda", "cpu"))
    assert second.device == torch.device("cuda", 1)


@pytest.mark.parametrize("device", ["cuda", "toaster"])
def test_device_that_is_not_there_is_refused(device):
    with pytest.raises(InputError, match=f"{device}.*cpu") as caught:
        choose_placement(device=device, available=("cpu",))
    assert caught.value.field == "device"


def test_precision_that_is_not_offered_is_refused():
    with pytest.raises(InputError, match=r"torch\.float16"):
        choose_placement(device="cpu", dtype=torch.float16)


def test_there_is_always_a_cpu():
    assert available_devices()[-1] == "cpu"
