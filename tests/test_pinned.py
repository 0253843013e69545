"""Weights that move into slabs of page-locked memory: the same weights, and little more memory."""

import pytest
import torch
from torch import Tensor, nn

from omniavatar.flops import transformer_config
from omniavatar.memory import PINNED_SHARE
from omniavatar.models.transformer import OmniAvatarTransformer3DModel
from omniavatar.pinned import pin
from omniavatar.weights.build import empty
from omniavatar.weights.catalog import CATALOG


class Allocator:
    """Memory of the tests' own, in place of CUDA's."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.sizes: list[int] = []

    def __call__(self, size: int) -> Tensor:
        self.sizes.append(size)
        return torch.empty(size, dtype=torch.uint8, device=self.device)


def test_weights_and_what_they_compute_stay() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(37, 50), nn.BatchNorm1d(50), nn.Linear(50, 3)).eval()
    network[2].to(torch.bfloat16)
    network.register_parameter("again", network[0].weight)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    inputs = torch.randn(5, 37)
    wanted = network[1](network[0](inputs))
    allocate = Allocator()
    pin(network, allocate=allocate, slab_bytes=4096)
    for name, tensor in network.state_dict().items():
        assert tensor.dtype == state[name].dtype
        assert torch.equal(tensor, state[name])
    assert torch.equal(network[1](network[0](inputs)), wanted)
    assert network.again is network[0].weight
    with torch.no_grad():
        network[0].bias.zero_()
    assert torch.equal(network[0].weight, state["0.weight"]), "weights lie over each other"
    assert all(size & (size - 1) == 0 for size in allocate.sizes)


@pytest.mark.parametrize("model", ["1.3B", "14B"])
def test_full_sizes_take_little_more_than_they_have(model: str) -> None:
    config = dict(transformer_config(CATALOG[model]))
    network = empty(lambda: OmniAvatarTransformer3DModel.from_config(config)).bfloat16()
    blocks = network.blocks
    has = sum(tensor.nbytes for tensor in (*blocks.parameters(), *blocks.buffers()))
    allocate = Allocator("meta")
    pin(blocks, allocate=allocate)
    assert has <= sum(allocate.sizes) <= PINNED_SHARE * has
