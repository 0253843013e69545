"""The one-pass VAE equals diffusers' frame-by-frame loop."""

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan

from omniavatar.models.whole_sequence import decode_whole, encode_moments, encode_whole

ROUNDING = 6e-6
"""Of float32 sums in another order: 4.07e-6 was seen on a CPU without AVX-512, 4e-6 never with."""

LAYOUTS: dict[str, dict[str, Any]] = {
    "Wan2.1": {
        "base_dim": 96,
        "dim_mult": [1, 2, 4, 4],
        "num_res_blocks": 2,
        "temperal_downsample": [False, True, True],
    },
    "patches of 2": {
        "base_dim": 16,
        "dim_mult": [1, 2, 4],
        "num_res_blocks": 1,
        "temperal_downsample": [True, True],
        "in_channels": 12,
        "out_channels": 12,
        "patch_size": 2,
    },
    "residual": {
        "base_dim": 8,
        "decoder_base_dim": 16,
        "dim_mult": [1, 2, 4, 4],
        "num_res_blocks": 1,
        "temperal_downsample": [False, True, True],
        "is_residual": True,
    },
}


def _vae(layout: str) -> AutoencoderKLWan:
    torch.manual_seed(0)
    return AutoencoderKLWan(**LAYOUTS[layout]).eval().requires_grad_(False)


def _video(frames: int, side: int = 16) -> torch.Tensor:
    return torch.rand(1, 3, frames, side, side, generator=torch.manual_seed(frames)) * 2 - 1


def _error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    assert found.shape == wanted.shape
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


@pytest.mark.parametrize(
    ("layout", "frames"),
    [("Wan2.1", 1), ("Wan2.1", 9)]
    + [(layout, frames) for layout in ("patches of 2", "residual") for frames in (1, 5, 17, 65)],
)
@pytest.mark.parametrize("gradient", [True, False])  # without one, a CPU works in place
def test_one_pass_equals_the_cached_loop(layout: str, frames: int, gradient: bool) -> None:
    vae = _vae(layout)
    video = _video(frames)
    latents = vae.encode(video).latent_dist.mode()
    with torch.set_grad_enabled(gradient):
        assert _error(encode_whole(vae, video), latents) <= ROUNDING
        # Random weights decode to almost nothing: enlarge the latents, or no clamp is reached.
        for scale in (1, 300):
            expected = vae.decode(scale * latents).sample
            assert _error(decode_whole(vae, scale * latents), expected) <= ROUNDING


def test_a_batch_equals_its_members_alone() -> None:
    vae = _vae("patches of 2")
    videos = torch.cat([_video(9), -_video(9)])
    latents = encode_whole(vae, videos)
    assert _error(latents[1:], encode_whole(vae, videos[1:])) <= ROUNDING
    decoded = decode_whole(vae, latents)
    assert _error(decoded[1:], decode_whole(vae, latents[1:])) <= ROUNDING


def test_moments_hold_the_posterior_of_the_class() -> None:
    vae = _vae("patches of 2")
    posterior = vae.encode(_video(5)).latent_dist
    mean, log_variance = encode_moments(vae, _video(5)).chunk(2, dim=1)
    assert _error(mean, posterior.mean) <= ROUNDING
    assert _error(log_variance, posterior.logvar) <= ROUNDING


def test_gradients_reach_every_weight() -> None:
    vae = _vae("patches of 2").requires_grad_(True)
    decoded = decode_whole(vae, encode_whole(vae, _video(9)), clamp=False)
    (decoded - 3).square().mean().backward()
    assert [name for name, p in vae.named_parameters() if p.grad is None] == []


def test_a_length_that_splits_a_latent_is_refused() -> None:
    with pytest.raises(AssertionError, match="4n \\+ 1"):
        encode_whole(_vae("patches of 2"), _video(6))


@pytest.mark.parametrize("layout", ["patches of 2", "residual"])
@pytest.mark.parametrize("window", [1, 2, 3])
@pytest.mark.parametrize("gradient", [True, False])
def test_frames_decoded_a_few_at_a_time_equal_all_at_once(
    layout: str, window: int, gradient: bool
) -> None:
    vae = _vae(layout)
    latents = vae.encode(_video(33)).latent_dist.mode()
    with torch.set_grad_enabled(gradient):
        few = decode_whole(vae, latents, window=window)
    assert _error(few, decode_whole(vae, latents)) <= ROUNDING
