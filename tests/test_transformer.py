import copy
import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from warm_process import start_server

from omniavatar.models.transformer import (
    BlockResidual,
    Moments,
    OmniAvatarTransformer3DModel,
)


def tiny_transformer():
    torch.manual_seed(0)
    return OmniAvatarTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        text_dim=16,
        freq_dim=16,
        ffn_dim=32,
        num_layers=6,
        audio_features=10,
        audio_hidden=8,
    ).eval()


def tiny_inputs(model, *, batch=1, frames=3, height=4, width=8):
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    with torch.no_grad():
        audio = model.encode_audio(draw(batch, 4 * frames - 3, 10))
    return {
        "hidden_states": draw(batch, 33, frames, height, width),
        "timestep": torch.linspace(900.0, 100.0, batch),
        "encoder_hidden_states": draw(batch, 5, 16),
        "audio_conditioning": audio,
        "return_dict": False,
    }


@torch.no_grad()
def run(model, inputs, **more):
    return model(**inputs, **more)[0]


@torch.no_grad()
def test_saving_and_loading_keeps_the_output(tmp_path):
    model = tiny_transformer()
    model.save_pretrained(tmp_path)
    loaded = OmniAvatarTransformer3DModel.from_pretrained(tmp_path)
    inputs = tiny_inputs(model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    # Weights that lie elsewhere in memory may be added up in another order.
    torch.testing.assert_close(run(loaded, inputs), run(model, inputs), rtol=0, atol=1e-5)
    assert loaded.config.audio_features == 10


def test_a_batch_equals_single_runs():
    model = tiny_transformer()
    inputs = tiny_inputs(model, batch=3)
    together = run(model, inputs)
    for index in range(3):
        single = {
            name: value[index : index + 1] if torch.is_tensor(value) else value
            for name, value in inputs.items()
        }
        torch.testing.assert_close(together[index : index + 1], run(model, single))


def test_speech_is_heard_in_the_frames_that_it_belongs_to():
    model = tiny_transformer()
    audio = torch.zeros(1, 9, 10)
    other = audio.clone()
    other[:, 5:] = 1.0  # the last of three latents packs video frames 5 to 8
    with torch.no_grad():
        change = (model.encode_audio(other) - model.encode_audio(audio)).abs().amax(dim=(0, 1, 3))
    assert change[0] == change[1] == 0
    assert change[2] > 0


def test_the_audio_conditioning_reaches_the_output():
    model = tiny_transformer()
    inputs = tiny_inputs(model)
    silent = {**inputs, "audio_conditioning": torch.zeros_like(inputs["audio_conditioning"])}
    assert (run(model, inputs) - run(model, silent)).abs().max() > 1e-3


def other_prompt(frames, *, batch=1):
    """Another prompt that counts in these latent frames."""
    prompt = torch.randn(batch, 5, 16, generator=torch.Generator().manual_seed(2))
    return Moments(prompt=prompt, frames=torch.tensor(frames))


def test_a_prompt_of_every_moment_is_as_good_as_the_prompt():
    model = tiny_transformer()
    inputs = tiny_inputs(model)
    never, always = other_prompt([False, False, False]), other_prompt([True, True, True])
    torch.testing.assert_close(run(model, inputs, moments=never), run(model, inputs))
    instead = {**inputs, "encoder_hidden_states": always.prompt}
    torch.testing.assert_close(run(model, inputs, moments=always), run(model, instead))


def test_a_prompt_of_a_moment_is_attended_to_in_its_frame_alone():
    model = tiny_transformer()
    inputs = tiny_inputs(model)
    seen = []
    hook = model.blocks[0].register_forward_hook(lambda *passed: seen.append(passed[-1]))
    run(model, inputs)
    run(model, inputs, moments=other_prompt([False, True, False]))
    hook.remove()
    change = (seen[1] - seen[0]).abs().amax(dim=(0, 2)).unflatten(0, (3, -1)).amax(1)
    assert max(change[0], change[2]) < 1e-5 < 1e-3 < change[1]


def test_padding_that_is_left_away_weighs_as_much_as_all_of_it():
    model = tiny_transformer()
    inputs, moments = tiny_inputs(model), other_prompt([False, True, False])
    text = inputs.pop("encoder_hidden_states")

    def padded(prompt, rows):
        return torch.nn.functional.pad(prompt, (0, 0, 0, rows))

    whole = {"encoder_hidden_states": padded(text, 40)}
    short = {"encoder_hidden_states": padded(text, 3), "padding_rows": 37}
    torch.testing.assert_close(run(model, inputs | short), run(model, inputs | whole))
    whole["moments"] = moments._replace(prompt=padded(moments.prompt, 20))
    short["moments"] = moments._replace(prompt=padded(moments.prompt, 1), padding_rows=19)
    torch.testing.assert_close(run(model, inputs | short), run(model, inputs | whole))
    without = {"encoder_hidden_states": padded(text, 3)}
    assert (run(model, inputs | without) - run(model, inputs | whole)).abs().max() > 1e-3


def test_a_reused_residual_stands_for_the_blocks():
    model = tiny_transformer()
    inputs = tiny_inputs(model)
    residual = BlockResidual()
    computed = run(model, inputs, block_residual=residual)
    residual.reuse = True
    torch.testing.assert_close(run(model, inputs, block_residual=residual), computed)
    for block in model.blocks:
        block.forward = None  # a reused step must not run them
    run(model, inputs, block_residual=residual)


def test_time_modulation_is_what_the_blocks_get():
    model = tiny_transformer()
    seen = []
    hook = model.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[2]))
    inputs = tiny_inputs(model)
    run(model, inputs)
    hook.remove()
    with torch.no_grad():
        modulation = model.time_modulation(inputs["timestep"])
    torch.testing.assert_close(modulation, seen[0].flatten(1))


def test_regional_compilation_needs_no_graph_break():
    model = tiny_transformer()
    inputs, moments = tiny_inputs(model), other_prompt([False, True, False])
    inputs["padding_rows"] = 7
    expected, with_moments = run(model, inputs), run(model, inputs, moments=moments)
    # The eager backend traces as any other does, without needing a compiler on this machine.
    model.compile_repeated_blocks(fullgraph=True, backend="eager")
    torch.testing.assert_close(run(model, inputs), expected)
    torch.testing.assert_close(run(model, inputs, moments=moments), with_moments)


@pytest.mark.parametrize("kind", ["block_level", "leaf_level"])
def test_group_offload_gives_the_same_output(kind):
    model = tiny_transformer()
    inputs = tiny_inputs(model) | {"moments": other_prompt([False, True, False])}
    expected = run(model, inputs)
    groups = {"num_blocks_per_group": 2} if kind == "block_level" else {}
    model.enable_group_offload(
        onload_device=torch.device("cpu"), offload_type=kind, use_stream=False, **groups
    )
    torch.testing.assert_close(run(model, inputs), expected)


def test_layerwise_casting_stays_close():
    model = tiny_transformer()
    inputs = tiny_inputs(model)
    expected = run(model, inputs)
    model.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    assert model.blocks[0].attn1.to_q.weight.dtype is torch.bfloat16
    error = (run(model, inputs) - expected).abs().max() / expected.abs().max()
    assert error < 0.02


def test_an_attention_backend_can_be_chosen():
    model = tiny_transformer()
    inputs = tiny_inputs(model)
    expected = run(model, inputs)
    model.set_attention_backend("_native_math")
    torch.testing.assert_close(run(model, inputs), expected)


def _run_split_over_two_devices(rank, folder):
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    # diffusers picks a device by rank; a machine without an accelerator counts none
    torch.accelerator.device_count = lambda: 1
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    from diffusers import ContextParallelConfig

    model = tiny_transformer()
    inputs = tiny_inputs(model, frames=3) | {"moments": other_prompt([False, True, False])}
    expected = run(copy.deepcopy(model), inputs)
    model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
    # 3 frames over 2 devices: the border lies within the second frame
    torch.testing.assert_close(run(model, inputs), expected)
    with pytest.raises(ValueError, match="Use one of the two"):
        run(model, inputs | {"block_residual": BlockResidual()})
    dist.destroy_process_group()


def test_context_parallelism_gives_each_token_the_speech_and_the_prompt_of_its_frame(tmp_path):
    start_server()
    mp.start_processes(
        _run_split_over_two_devices, args=(tmp_path,), nprocs=2, start_method="forkserver"
    )
