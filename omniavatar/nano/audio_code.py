"""What the transformer hears: the code that its audio pack makes of speech, and the ideal one.

A transformer has learned what the code means, from an encoder that misheard now and then. One that
hears better helps it only by saying so in the same code. So encoder and pack are trained together,
towards the code that came, on the average over voices and sentences, with each movement of the
mouth: what was misheard is as often too much as too little, and cancels out.
"""

# b clips, t video frames (rows), f latent frames, a speech features, m numbers of twelve mouths

from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from einops import rearrange
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Wav2Vec2Model

from omniavatar.models.audio_encoder import encode_batch
from omniavatar.models.transformer import (
    FRAMES_PER_LATENT,
    AudioPack,
    OmniAvatarTransformer3DModel,
)
from omniavatar.nano.clips import SpeechWindows

MOUTH_NUMBERS = 3
_BATCH = 64


def code_of(pack: AudioPack, features: Tensor) -> Tensor:
    """What a transformer hears at latent frames that have neighbours on both sides.

    Args:
        features: of video frames, [b, t, a]; the first one stands alone, as in every video.

    Returns:
        [b, f - 3, hidden], where f latent frames fit into the t video frames.
    """
    return pack.encode(folded(pack, features))


def folded(pack: AudioPack, features: Tensor) -> Tensor:
    """What such a code is made of, [b, f - 3, 4a]."""
    return pack.fold(features[:, : _whole(features.shape[1])])[:, 2:-1]


def mouths_around(mouth: Tensor) -> Tensor:
    """Mouths [b, t, 3] at the same latent frames and their neighbours, [b, f - 3, m]."""
    rows = mouth[:, 1 : _whole(mouth.shape[1])]
    each = rearrange(rows, "b (f four) n -> b f (four n)", four=FRAMES_PER_LATENT)
    return torch.cat([each[:, :-2], each[:, 1:-1], each[:, 2:]], dim=-1)


def _whole(rows: int) -> int:
    return (rows - 1) // FRAMES_PER_LATENT * FRAMES_PER_LATENT + 1


class IdealCode(nn.Module):
    """The mean code of a mouth's movement, whoever says it, and the mouth read off a code.

    Args:
        transformer: whose blocks take the code; only what they take of it counts.
    """

    taken: Tensor
    scale: Tensor
    reading: Tensor

    def __init__(self, transformer: OmniAvatarTransformer3DModel) -> None:
        super().__init__()
        hidden = transformer.audio_proj.norm_out.normalized_shape[0]
        around = 3 * FRAMES_PER_LATENT * MOUTH_NUMBERS
        self.network = nn.Sequential(
            nn.Linear(around, 256),
            nn.GELU(),
            nn.Linear(256, 256),
            nn.GELU(),
            nn.Linear(256, hidden),
        )
        taken = transformer.audio_cond_projs.state_dict()
        weights = [tensor for name, tensor in taken.items() if name.endswith("weight")]
        self.register_buffer("taken", torch.cat(weights))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("reading", torch.zeros(hidden + 1, FRAMES_PER_LATENT * MOUTH_NUMBERS))

    @classmethod
    def fit(
        cls,
        transformer: OmniAvatarTransformer3DModel,
        encoder: Wav2Vec2Model,
        windows: SpeechWindows,
        *,
        generator: torch.Generator,
        steps: int = 2000,
    ) -> Self:
        """Learn the mean from an encoder that the transformer was trained with.

        Args:
            windows: clear speech, normalised.
        """
        device = windows.waveform.device
        ideal = cls(transformer).to(device)
        pack = transformer.audio_proj
        code, mouths = hear(pack, encoder, windows.waveform, windows.mouth)
        optimiser = torch.optim.AdamW(ideal.network.parameters(), lr=2e-3, weight_decay=0.0)
        rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for _ in range(steps):
            chosen = torch.randint(len(code), (4096,), generator=generator).to(device)
            loss = F.mse_loss(ideal.network(mouths[chosen]), code[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            rate.step()
        ideal.eval().requires_grad_(False)
        ideal.scale.copy_((ideal.network(mouths) @ ideal.taken.T).var(0).sum())
        ideal.reading.copy_(line_through(code, middle_of(mouths)))
        return ideal

    def loss(self, code: Tensor, mouth: Tensor) -> Tensor:
        """Squares of what blocks take too much or too little, over the variance of the ideal.

        Args:
            code: of `code_of`.
            mouth: true, [b, t, 3].
        """
        missed = code - self.network(mouths_around(mouth))
        return (missed @ self.taken.T).square().sum(-1).mean() / self.scale

    def read(self, code: Tensor) -> Tensor:
        """The mouth as a line through codes gives it, [b, 4 (f - 3), 3]."""
        return as_rows(read_off(code, self.reading))

    @staticmethod
    def mouth_of(mouth: Tensor) -> Tensor:
        """The rows of a mouth [b, t, 3] that `read` tells."""
        return as_rows(middle_of(mouths_around(mouth)))


@torch.no_grad()
def hear(
    pack: AudioPack, encoder: Wav2Vec2Model, waveform: Tensor, mouth: Tensor
) -> tuple[Tensor, Tensor]:
    """Codes [n, hidden] of normalised speech [b, s], and the mouths around each [n, m]."""
    rows = mouth.shape[1]
    code = torch.cat(
        [code_of(pack, encode_batch(encoder, part, frames=rows)) for part in waveform.split(_BATCH)]
    )
    return code.flatten(0, 1), mouths_around(mouth).flatten(0, 1)


def middle_of(mouths: Tensor) -> Tensor:
    """Of `mouths_around`, those of the latent frame itself."""
    return mouths.chunk(3, dim=-1)[1]


def as_rows(mouths: Tensor) -> Tensor:
    """Four mouths of each latent frame as those of its video frames, [b, f, m] -> [b, 4f, 3]."""
    return rearrange(mouths, "b f (four n) -> b (f four) n", four=FRAMES_PER_LATENT)


def line_through(given: Tensor, wanted: Tensor) -> Tensor:
    """Least squares, [n, x] and [n, y] -> [x + 1, y]; the last row is added."""
    # A normalised code is one number less than it has, and a card's solver wants all of them.
    return torch.linalg.lstsq(_with_one(given).cpu(), wanted.cpu()).solution


def read_off(code: Tensor, line: Tensor) -> Tensor:
    """What a line of `line_through` says of codes, [..., x] -> [..., y]."""
    return _with_one(code) @ line


def load_transformer(weights: Path, device: torch.device) -> OmniAvatarTransformer3DModel:
    """Read the exported transformer in float32; nothing of it is trained but its audio pack."""
    transformer = OmniAvatarTransformer3DModel.from_pretrained(
        weights / "transformer", torch_dtype=torch.float32
    )
    return transformer.eval().requires_grad_(False).to(device)


def write_pack(pack: AudioPack, weights: Path) -> None:
    """Put an audio pack into the exported transformer."""
    change_transformer(weights, {f"audio_proj.{k}": v for k, v in pack.state_dict().items()})


def change_transformer(weights: Path, changed: dict[str, Tensor]) -> None:
    """Change tensors of the exported transformer; all else of it stays, bit by bit."""
    file = weights / "transformer" / SAFETENSORS_WEIGHTS_NAME
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    for name, tensor in changed.items():
        tensors[name] = tensor.to(tensors[name].dtype).contiguous()
    save_file(tensors, file, metadata)


def _with_one(code: Tensor) -> Tensor:
    return F.pad(code, (0, 1), value=1.0)
