"""The checkpoints that this package knows, one frozen entry each.

An entry holds what a checkpoint was trained with and its published defaults. What its own files
tell (widths, layers, latent statistics) is read from them.

Sources: Omni-Avatar/OmniAvatar (configs, README), Apache-2.0; LatentRGB values of Wan2.1 from
Comfy-Org/ComfyUI latent_formats.py; step cache constants from ali-vilab/TeaCache, Apache-2.0.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from omniavatar.errors import InputError
from omniavatar.weights.presets import Preset

HubLayout = Literal["original", "diffusers"]
"""The two ways in which the hub has the files of Wan2.1."""

Colour = tuple[float, float, float]
LatentRGB = tuple[tuple[Colour, ...], Colour]
"""Red, green and blue, -1..1, of a unit of each latent channel, and of zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """A file of a repository, or several.

    Attributes:
        path: within the repository; `*` stands for any characters but "/".
        part: what it belongs to, in the words of `weights.files`.
        size: bytes, all together.
        stand_in: path of what is taken where the repository has no `path`.
    """

    path: str
    part: str
    size: int
    stand_in: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A repository on the Hugging Face hub, and those of its files that are needed.

    Attributes:
        name: owner and repository.
        files: the others are not downloaded.
        licence: of its files.
    """

    name: str
    files: tuple[HubFile, ...]
    licence: str = "Apache-2.0"

    @property
    def folder(self) -> str:
        """The folder of its files in the published layout."""
        return self.name.rsplit("/", 1)[1]

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundled:
    """A checkpoint that comes with the package, in the layout of diffusers.

    Attributes:
        path: folder, from the package's own.
    """

    path: str

    @property
    def folder(self) -> Path:
        return Path(__file__).parents[1] / self.path

    @property
    def latent_rgb(self) -> LatentRGB | None:
        return _read_latent_rgb(self.folder / "preview.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A checkpoint on the hub: a Wan2.1 text-to-video model and the OmniAvatar adapter over it.

    Attributes:
        base: transformer, VAE, text encoder and tokenizer.
        adapter: low-rank changes and audio modules.
        speech_encoder: wav2vec2.
        diffusers: the base in the layout of diffusers, which is read as well.
    """

    base: Repository
    adapter: Repository
    speech_encoder: Repository
    diffusers: Repository

    @property
    def folder(self) -> Path:
        """Where the published code keeps its files, from where it is started."""
        return Path("pretrained_models")

    def repositories(self, layout: HubLayout = "original") -> tuple[Repository, ...]:
        """All that the checkpoint needs, its base in one of two layouts."""
        base = self.base if layout == "original" else self.diffusers
        return base, self.adapter, self.speech_encoder

    def size(self, layout: HubLayout = "original") -> int:
        """Bytes of all files: what the disk must have room for."""
        return sum(repository.size for repository in self.repositories(layout))

    @property
    def latent_rgb(self) -> LatentRGB | None:
        return WAN_LATENT_RGB


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """Other sizes of a checkpoint than its standard ones.

    Attributes:
        name: "small" or "large".
        sizes: as in `ModelSpec`.
        max_tokens: its default at these sizes.
    """

    name: str
    sizes: tuple[tuple[int, int], ...]
    max_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One checkpoint.

    Attributes:
        name: what people call it by; its key in `CATALOG`.
        title, description: one line each, for people.
        source: where its files come from.
        sizes: (height, width) in pixels that it was trained for, in the published order.
        other_resolutions: what it makes besides "standard" videos, by name.
        fps, sample_rate: of its video and its speech.
        steps, guidance, overlap_frames, max_tokens: defaults.
        shift: of the noise schedule.
        prompt, negative_prompt: used when none is given.
        text_tokens: rows of the text embedding.
        cache_coefficients: polynomial of the step cache, highest power first; None when the cache
            is not calibrated for this checkpoint.
        speech_window_frames: longest speech, in video frames, that its speech encoder hears at
            once unless it is told to.
        speech_context_frames: frames to either side that a window of longer speech also hears.
        cpu_dtype: in which a CPU that has instructions for bfloat16 computes it; CUDA has bfloat16.
        keep_portrait: whether the portrait's own pixels are shown where a video does not move; for
            a VAE that softens them.
        calm_photographs: whether of a photograph only the face moves easily, and only a close-up is
            made of a face that is small in it; for a model that knows drawings alone.
        blink_prompt: stands in for the prompt in the moments when somebody blinks; None for a model
            that blinks by itself.
        fit_chunks: whether chunks are made no longer than a recording needs, where the published
            models make the end of the last one in vain.
        preset: of the distilled LoRA in its weights, whose numbers are in `steps`, `shift` and
            `guidance`; see `with_preset`.
    """

    name: str
    title: str
    description: str
    source: Bundled | Published
    sizes: tuple[tuple[int, int], ...]
    steps: int
    guidance: float
    max_tokens: int
    prompt: str
    negative_prompt: str
    speech_window_frames: int
    speech_context_frames: int
    cache_coefficients: tuple[float, ...] | None = None
    overlap_frames: int = 13
    shift: float = 5.0
    fps: int = 25
    sample_rate: int = 16000
    text_tokens: int = 512
    preset: Preset | None = None
    other_resolutions: tuple[Resolution, ...] = ()
    cpu_dtype: Literal["float32", "bfloat16"] = "float32"
    keep_portrait: bool = False
    calm_photographs: bool = False
    blink_prompt: str | None = None
    fit_chunks: bool = False

    def with_preset(self, preset: Preset) -> "ModelSpec":
        """This checkpoint with a distilled LoRA over it."""
        return replace(
            self,
            steps=preset.steps,
            shift=preset.shift,
            guidance=preset.guidance,
            preset=preset,
        )

    @property
    def resolutions(self) -> tuple[str, ...]:
        """Names of what it makes."""
        return "standard", *(other.name for other in self.other_resolutions)

    def at_resolution(self, name: str) -> "ModelSpec":
        """This checkpoint with the sizes, and the default of `max_tokens`, of a resolution.

        Raises:
            InputError: it makes no such videos.
        """
        if name == "standard":
            return self
        for other in self.other_resolutions:
            if other.name == name:
                return replace(self, sizes=other.sizes, max_tokens=other.max_tokens)
        raise InputError(
            f"resolution is {name!r}, which {self.name} does not make. "
            f"Use {' or '.join(self.resolutions)}.",
            field="resolution",
        )

    @property
    def download_bytes(self) -> int:
        """What its files take on disk; 0 when they come with the package."""
        return self.source.size() if isinstance(self.source, Published) else 0

    @property
    def latent_rgb(self) -> LatentRGB | None:
        """Colours of the latents for quick previews; None when they are not known."""
        return self.source.latent_rgb


# fmt: off
WAN_LATENT_RGB: LatentRGB = (
    (
        (-.1299, -.1692,  .2932), ( .0671,  .0406,  .0442), ( .3568,  .2548,  .1747),
        ( .0372,  .2344,  .1420), ( .0313,  .0189, -.0328), ( .0296, -.0956, -.0665),
        (-.3477, -.4059, -.2925), ( .0166,  .1902,  .1975), (-.0412,  .0267, -.1364),
        (-.1293,  .0740,  .1636), ( .0680,  .3019,  .1128), ( .0032,  .0581,  .0639),
        (-.1251,  .0927,  .1699), ( .0060, -.0633,  .0005), ( .3477,  .2275,  .2950),
        ( .1984,  .0913,  .1861),
    ),
    (-.1835, -.0868, -.3360),
)
# fmt: on

_NEGATIVE_PROMPT = (
    "Vivid color tones, background/camera moving quickly, screen switching, subtitles and special "
    "effects, mutation, overexposed, static, blurred details, subtitles, style, work, painting, "
    "image, still, overall grayish, worst quality, low quality, JPEG compression residue, ugly, "
    "incomplete, extra fingers, poorly drawn hands, poorly drawn face, deformed, disfigured, "
    "malformed limbs, fingers merging, motionless image, chaotic background, three legs, crowded "
    "background with many people, walking backward"
)
_PROMPT = (
    "A person faces the camera and talks naturally, with clear lip movements, lively eyes and "
    "small gestures. The camera and the background stay still."
)
_SIZES = ((400, 720), (720, 720), (720, 400))
# The published code's sizes with `max_hw: 1280`. At 30,000 tokens a chunk would add 0.8 seconds;
# its authors advise 60,000 to 80,000.
_LARGE = Resolution(
    name="large",
    sizes=((720, 720), (528, 960), (960, 528), (720, 1280), (1280, 720)),
    max_tokens=80_000,
)
_SPEECH_ENCODER = Repository(
    name="facebook/wav2vec2-base-960h",
    files=(
        HubFile(path="config.json", part="speech encoder", size=1_596),
        HubFile(
            path="model.safetensors",
            part="speech encoder",
            size=377_607_901,
            stand_in="pytorch_model.bin",
        ),
    ),
)
_WAN_FILES = (
    HubFile(path="models_t5_umt5-xxl-enc-bf16.pth", part="text encoder", size=11_361_920_418),
    HubFile(path="Wan2.1_VAE.pth", part="VAE", size=507_609_880),
    HubFile(path="google/umt5-xxl/special_tokens_map.json", part="tokenizer", size=6_623),
    HubFile(path="google/umt5-xxl/spiece.model", part="tokenizer", size=4_548_313),
    HubFile(path="google/umt5-xxl/tokenizer.json", part="tokenizer", size=16_837_417),
    HubFile(path="google/umt5-xxl/tokenizer_config.json", part="tokenizer", size=61_728),
)
_SHARD_SIZES = (
    9_887_603_256,
    9_839_059_648,
    9_839_059_744,
    9_839_059_744,
    9_839_059_744,
    7_910_235_256,
)


def _adapter(name: str, *, size: int) -> Repository:
    """An adapter; its size is that of its tensors in float32, the most that it can be."""
    return Repository(
        name=name,
        files=(
            HubFile(path="config.json", part="adapter", size=2_000),
            HubFile(path="pytorch_model.pt", part="adapter", size=size),
        ),
    )


def _diffusers(name: str, *, size: int) -> Repository:
    """A base in the layout of diffusers, whose text encoder is in float32.

    Args:
        size: bytes of the transformer, which is in float32 too.
    """
    return Repository(
        name=name,
        files=(
            HubFile(path="transformer/config.json", part="transformer", size=1_000),
            HubFile(
                path="transformer/diffusion_pytorch_model*.safetensors",
                part="transformer",
                size=size,
            ),
            HubFile(path="vae/config.json", part="VAE", size=1_000),
            HubFile(path="vae/diffusion_pytorch_model*.safetensors", part="VAE", size=507_591_892),
            HubFile(path="text_encoder/config.json", part="text encoder", size=1_000),
            HubFile(
                path="text_encoder/model*.safetensors", part="text encoder", size=22_723_641_344
            ),
            *(
                replace(file, path=file.path.replace("google/umt5-xxl/", "tokenizer/"))
                for file in _WAN_FILES
                if file.part == "tokenizer"
            ),
        ),
    )


NANO = ModelSpec(
    name="nano",
    title="Nano",
    description="Comes with the package: drawn characters at 192 pixels, on any computer.",
    source=Bundled(path="nano/weights"),
    sizes=((192, 192), (256, 192), (192, 256)),
    other_resolutions=(Resolution(name="small", sizes=((128, 128),), max_tokens=1472),),
    cpu_dtype="bfloat16",
    keep_portrait=True,
    calm_photographs=True,
    blink_prompt="A person is talking to the camera and keeps blinking the eyes.",
    fit_chunks=True,
    steps=2,
    guidance=1.0,
    max_tokens=3264,
    prompt="A person is talking to the camera.",
    negative_prompt="",
    speech_window_frames=250,
    speech_context_frames=50,
)

SMALL = ModelSpec(
    name="1.3B",
    title="OmniAvatar 1.3B",
    description="Published model over Wan2.1-T2V-1.3B: real people at 480p; needs a GPU.",
    source=Published(
        base=Repository(
            name="Wan-AI/Wan2.1-T2V-1.3B",
            files=(
                HubFile(path="config.json", part="transformer", size=249),
                HubFile(
                    path="diffusion_pytorch_model.safetensors",
                    part="transformer",
                    size=5_676_070_424,
                ),
                *_WAN_FILES,
            ),
        ),
        adapter=_adapter("OmniAvatar/OmniAvatar-1.3B", size=705_000_000),
        speech_encoder=_SPEECH_ENCODER,
        diffusers=_diffusers("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", size=5_676_070_424),
    ),
    sizes=_SIZES,
    other_resolutions=(_LARGE,),
    steps=50,
    guidance=4.5,
    max_tokens=30000,
    prompt=_PROMPT,
    negative_prompt=_NEGATIVE_PROMPT,
    cache_coefficients=(-5.21862437e4, 9.23041404e3, -5.28275948e2, 1.36987616e1, -4.99875664e-2),
    speech_window_frames=7500,
    speech_context_frames=250,
)

LARGE = replace(
    SMALL,
    name="14B",
    title="OmniAvatar 14B",
    description="Published model over Wan2.1-T2V-14B: the best quality; needs a large GPU.",
    source=Published(
        base=Repository(
            name="Wan-AI/Wan2.1-T2V-14B",
            files=(
                HubFile(path="config.json", part="transformer", size=250),
                *(
                    HubFile(
                        path=f"diffusion_pytorch_model-{number:05}-of-00006.safetensors",
                        part="transformer",
                        size=size,
                    )
                    for number, size in enumerate(_SHARD_SIZES, 1)
                ),
                *_WAN_FILES,
            ),
        ),
        adapter=_adapter("OmniAvatar/OmniAvatar-14B", size=2_460_000_000),
        speech_encoder=_SPEECH_ENCODER,
        diffusers=_diffusers("Wan-AI/Wan2.1-T2V-14B-Diffusers", size=sum(_SHARD_SIZES)),
    ),
    cache_coefficients=(-3.03318725e5, 4.90537029e4, -2.65530556e3, 5.87365115e1, -3.15583525e-1),
)

CATALOG: Mapping[str, ModelSpec] = MappingProxyType(
    {spec.name: spec for spec in (NANO, SMALL, LARGE)}
)


@cache
def _read_latent_rgb(file: Path) -> LatentRGB | None:
    if not file.is_file():
        return None
    content = json.loads(file.read_text())
    red, green, blue = content["bias"]
    return tuple((r, g, b) for r, g, b in content["weight"]), (red, green, blue)
