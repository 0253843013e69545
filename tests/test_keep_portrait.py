"""What holds still in a video is the portrait itself; what moves is the model's."""

import torch
from torch import Tensor

from omniavatar.stages.keep_portrait import PortraitKeeper, moving_share
from omniavatar.weights.catalog import CATALOG

SIDE = 48
MOUTH = (slice(20, 30), slice(18, 32))


def softened(portrait: Tensor, frames: int) -> Tensor:
    """Frames as a small VAE gives them: blurred, each a little brighter or darker. Lips move."""
    blurred = torch.nn.functional.avg_pool2d(
        torch.nn.functional.pad(portrait[:, :, 0], (1, 1, 1, 1), mode="replicate"), 3, stride=1
    )
    flicker = torch.tensor([0.0, 0.008, -0.008, 0.004])[torch.arange(frames) % 4]
    video = (blurred[:, :, None] + flicker.view(1, 1, -1, 1, 1)).clamp(0, 1)
    video[:, :, 2:, *MOUTH] = 0.02
    return video


def grainy_portrait(*, grey: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    grain = 0.3 * torch.rand(1, 1 if grey else 3, 1, SIDE, SIDE, generator=generator)
    return (0.4 + grain).expand(1, 3, 1, SIDE, SIDE).contiguous()


def test_grain_stays_where_nothing_moves_and_lips_move() -> None:
    portrait = grainy_portrait()
    video = softened(portrait, 6)
    kept = PortraitKeeper(portrait).keep(video)
    corner = (..., slice(0, 12), slice(0, 48))
    assert torch.equal(kept[corner], portrait.expand_as(kept)[corner])
    assert (video[corner] - portrait.expand_as(video)[corner]).abs().max() > 0.05
    assert torch.equal(kept[:, :, 2:, *MOUTH], video[:, :, 2:, *MOUTH])
    # Before they move, lips are the portrait's.
    assert torch.equal(kept[:, :, 0], portrait[:, :, 0])


def test_between_both_one_fades_into_the_other() -> None:
    decoded = torch.full((1, 3, 1, SIDE, SIDE), 0.5)
    ramp = decoded + torch.linspace(0, 0.1, SIDE)
    share = moving_share(ramp, decoded=decoded, portrait=decoded)[0, 0, 0, SIDE // 2]
    assert share[0] == 0
    assert share[-1] == 1
    assert (share.diff() >= -1e-6).all()
    assert share.diff().max() < 0.35


def test_edges_that_the_vae_loses_may_shimmer_more_than_what_it_shows() -> None:
    decoded = torch.full((1, 3, 1, SIDE, SIDE), 0.5)
    portrait = decoded.clone()
    portrait[..., ::2] = 0.6
    portrait[..., SIDE // 2 :] = 0.5
    shimmering = decoded + 0.06
    share = moving_share(shimmering, decoded=decoded, portrait=portrait)[0, 0, 0, SIDE // 2]
    assert (share[: SIDE // 2 - 8] == 0).all()
    assert (share[SIDE // 2 + 8 :] == 1).all()
    lips = moving_share(decoded - 0.4, decoded=decoded, portrait=portrait)
    assert (lips == 1).all()


def test_later_chunks_are_compared_with_the_first_ones_portrait() -> None:
    portrait = grainy_portrait()
    keeper = PortraitKeeper(portrait)
    keeper.keep(softened(portrait, 5))
    later = keeper.keep(softened(portrait, 7)[:, :, 2:])
    assert torch.equal(later[..., :12, :], portrait.expand_as(later)[..., :12, :])
    assert (later[:, :, :, *MOUTH] < 0.1).all()


def test_a_grey_portrait_gets_no_colours() -> None:
    portrait = grainy_portrait(grey=True)
    video = softened(portrait, 5)
    video[:, 0, 2:, *MOUTH] = 0.6
    kept = PortraitKeeper(portrait).keep(video)
    assert (kept.amax(1) - kept.amin(1)).max() < 1e-5
    coloured = PortraitKeeper(grainy_portrait()).keep(video)
    assert (coloured[:, 0, 3, *MOUTH] > 0.5).all()


def test_published_models_show_what_they_make() -> None:
    assert [name for name, spec in CATALOG.items() if spec.keep_portrait] == ["nano"]
