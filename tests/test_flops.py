"""The closed form against torch's own count of the same forward, without memory for weights."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from omniavatar import CATALOG, transformer_flops
from omniavatar.flops import chunk_tokens, transformer_config
from omniavatar.models.transformer import OmniAvatarTransformer3DModel


def _counted(name: str, frames: int, height: int, width: int) -> int:
    spec = CATALOG[name]
    with torch.device("meta"):
        network = OmniAvatarTransformer3DModel.from_config(dict(transformer_config(spec)))
        config = network.config
        width_of_model = config.num_attention_heads * config.attention_head_dim
        inputs = {
            "hidden_states": torch.empty(1, 33, frames, height // 8, width // 8),
            "timestep": torch.empty(1),
            "encoder_hidden_states": torch.empty(1, spec.text_tokens, config.text_dim),
            "audio_conditioning": torch.empty(
                1, len(network.audio_cond_projs), frames, width_of_model
            ),
        }
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            network(**inputs)
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("name", "frames", "height", "width", "published"),
    [
        ("nano", 17, 128, 128, None),
        ("1.3B", 27, 400, 720, 249.06e12),
        ("14B", 27, 400, 720, 1497.02e12),
        ("14B", 15, 720, 720, 1497.02e12),
    ],
)
def test_closed_form_is_what_torch_counts(name, frames, height, width, published):
    tokens = chunk_tokens(latent_frames=frames, height=height, width=width)
    closed = transformer_flops(CATALOG[name], tokens=tokens)
    assert closed == _counted(name, frames, height, width)
    # What the published network counts for itself; its audio modules are in that figure.
    assert published is None or closed == pytest.approx(published, rel=1e-4)


def test_a_config_says_as_much_as_a_catalog_entry():
    spec = CATALOG["1.3B"]
    assert transformer_flops(transformer_config(spec), tokens=640) == transformer_flops(
        spec, tokens=640
    )
