"""When blocks are compiled, and that they can be as one graph."""

import os
import subprocess
import sys

import pytest
import torch
from diffusers import AutoencoderKLWan

from omniavatar import InputError, attention_kernel
from omniavatar.models.transformer import OmniAvatarTransformer3DModel
from omniavatar.models.whole_sequence import decode_whole, norm_and_silu
from omniavatar.speed import (
    COMPILE_PAYS_FLOPS,
    VAE_COMPILE_PAYS_PIXELS,
    Compilation,
    arrange_for_convolution,
    has_hooks,
    set_compiled,
    set_vae_compiled,
)
from omniavatar.weights.storage import store_as_fp8


def _transformer() -> OmniAvatarTransformer3DModel:
    torch.manual_seed(0)
    return OmniAvatarTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        text_dim=8,
        freq_dim=16,
        ffn_dim=32,
        num_layers=4,
        audio_features=8,
        audio_hidden=4,
    ).eval()


def _vae() -> AutoencoderKLWan:
    torch.manual_seed(0)
    return AutoencoderKLWan(base_dim=8, z_dim=4, dim_mult=[1, 2], temperal_downsample=[True]).eval()


def _is_vae_compiled(vae):
    return norm_and_silu(vae)._compiled_call_impl is not None


def _is_compiled(transformer: OmniAvatarTransformer3DModel) -> bool:
    return transformer.blocks[0]._compiled_call_impl is not None


@torch.no_grad()
def _forward(transformer: OmniAvatarTransformer3DModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return transformer(
        torch.randn(1, 33, 2, 4, 4, generator=generator),
        torch.tensor([500.0]),
        torch.randn(1, 4, 8, generator=generator),
        audio_conditioning=torch.randn(1, 1, 2, 24, generator=generator),
        return_dict=False,
    )[0]


def test_a_block_is_one_graph_and_all_blocks_share_it():
    transformer = _transformer()
    plain = _forward(transformer)
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return graph.forward

    transformer.compile_repeated_blocks(fullgraph=True, backend=keep)
    torch.testing.assert_close(_forward(transformer), plain)
    assert len(graphs) == 1


@pytest.mark.parametrize(("mode", "flops"), [("off", 1e30), ("auto", 1e30), ("auto", 0.0)])
def test_a_processor_compiles_only_when_told_to(mode, flops):
    transformer, vae = _transformer(), _vae()
    assert not Compilation(mode).prepare(transformer, vae, flops=flops, pixels=flops)
    assert not _is_compiled(transformer)
    assert not _is_vae_compiled(vae)


def test_work_adds_up_until_compiling_pays(monkeypatch):
    transformer = _transformer()
    device = torch.device("cuda")  # only asked for its kind
    monkeypatch.setattr("omniavatar.speed.device_of", lambda _: device)
    monkeypatch.setattr("omniavatar.speed.compiler_problem", lambda _: None)
    compilation = Compilation()
    vae = _vae()
    part = {"flops": 0.6 * COMPILE_PAYS_FLOPS, "pixels": 0.4 * VAE_COMPILE_PAYS_PIXELS}
    assert not compilation.prepare(transformer, vae, **part)
    assert compilation.prepare(transformer, vae, **part)
    assert _is_compiled(transformer)
    assert not _is_vae_compiled(vae)
    compilation.prepare(transformer, vae, **part)
    assert _is_vae_compiled(vae)


def test_no_compiler_is_one_line_in_the_log_and_no_error(monkeypatch, caplog):
    transformer = _transformer()
    monkeypatch.setattr("omniavatar.speed.compiler_problem", lambda _: "no compiler")
    compilation = Compilation("on")
    with caplog.at_level("INFO", logger="omniavatar.speed"):
        assert not compilation.prepare(transformer, _vae(), flops=1.0, pixels=1.0)
        assert not compilation.prepare(transformer, _vae(), flops=1.0, pixels=1.0)
    assert [record.message for record in caplog.records] == [
        "the transformer runs uncompiled: no compiler"
    ]


def test_weights_that_change_while_it_works_undo_it(monkeypatch):
    transformer = _transformer()
    monkeypatch.setattr("omniavatar.speed.compiler_problem", lambda _: None)
    compilation = Compilation("on")
    assert compilation.prepare(transformer, _vae(), flops=1.0, pixels=1.0)
    store_as_fp8(transformer, compute_dtype=torch.float32)
    assert has_hooks(transformer)
    assert not compilation.prepare(transformer, _vae(), flops=1.0, pixels=1.0)
    assert not _is_compiled(transformer)


def test_blocks_run_as_they_are_again():
    transformer = _transformer()
    set_compiled(transformer, True)
    set_compiled(transformer, False)
    assert not _is_compiled(transformer)


@torch.no_grad()
def test_a_compiled_decoder_gives_the_same_video():
    vae = _vae()
    latents = torch.randn(1, 4, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    plain = decode_whole(vae, latents)
    set_vae_compiled(vae, True)
    compiled = decode_whole(vae, latents)
    torch.testing.assert_close(compiled, plain)
    assert compiled.stride() == plain.stride()
    set_vae_compiled(vae, False)
    assert torch.equal(decode_whole(vae, latents), plain)


def test_a_decoder_is_compiled_when_told_to_and_runs_as_it_is_again(monkeypatch):
    transformer, vae = _transformer(), _vae()
    monkeypatch.setattr("omniavatar.speed.compiler_problem", lambda _: None)
    Compilation("on").prepare(transformer, vae, flops=1.0, pixels=1.0)
    assert _is_vae_compiled(vae)
    Compilation("off").prepare(transformer, vae, flops=1e30, pixels=1e30)
    assert not _is_vae_compiled(vae)


def test_another_mode_is_refused():
    with pytest.raises(InputError, match="auto, on, off"):
        Compilation("fast")


def test_the_kernel_of_attention_has_a_name():
    names = {"cuDNN", "FlashAttention", "memory-efficient", "plain"}
    assert attention_kernel("cpu", torch.float32) in names


def test_the_layout_of_convolutions_changes_no_value():
    layers = torch.nn.Sequential(torch.nn.Conv3d(4, 8, 3), torch.nn.Conv2d(4, 8, 3))
    before = [layer.weight.clone() for layer in layers]
    arrange_for_convolution(layers)
    assert layers[0].weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert all(torch.equal(a, layer.weight) for a, layer in zip(before, layers, strict=True))


@pytest.mark.parametrize(("told", "used"), [({}, "1"), ({"THP_MEM_ALLOC_ENABLE": "0"}, "0")])
def test_torch_asks_for_large_pages_unless_told_otherwise(told, used):
    program = (
        "import sys, os, omniavatar\n"
        "assert 'torch' not in sys.modules\n"
        "print(os.environ['THP_MEM_ALLOC_ENABLE'])"
    )
    others = {k: v for k, v in os.environ.items() if k != "THP_MEM_ALLOC_ENABLE"}
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={**others, **told},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == used
