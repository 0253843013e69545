"""A whole video, warm: work for a second of it, and what its alternatives would take."""

import dataclasses
import statistics
import tempfile
import time
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from omniavatar.bench.machine import Machine, peak_host_bytes, seconds_of
from omniavatar.events import ChunkDone, Finished, StepDone
from omniavatar.models.whole_sequence import decode_whole
from omniavatar.pipeline import AvatarPipeline
from omniavatar.request import GenerationRequest
from omniavatar.speed import attention_kernel

Resolution = Literal["standard", "small", "large"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One run's figures.

    Attributes:
        model, device, dtype, threads, torch, machine: what ran where.
        attention: the kernel that torch chose for it.
        width, height, seconds: of the video that was made.
        stages: seconds of work by stage, warm.
        first_preview_seconds: from the request to the first picture, warm.
        forwards: calls of the transformer.
        step_seconds: median of the denoising steps.
        work_per_second: seconds of work for one second of video, warm.
        decode_ratio: the VAE's frame by frame loop over its single pass, same latents.
        guidance_ratio: a step with guidance over one without.
        peak_memory_bytes: most of the host's memory that the process held; None where it is not
            told.
        peak_device_bytes: most that was taken of the device's own memory; None where it has none.
    """

    model: str
    device: str
    dtype: str
    threads: int
    torch: str
    machine: Machine
    attention: str
    width: int
    height: int
    seconds: float
    stages: dict[str, float]
    first_preview_seconds: float
    forwards: int
    step_seconds: float
    work_per_second: float
    decode_ratio: float
    guidance_ratio: float
    peak_memory_bytes: int | None
    peak_device_bytes: int | None

    def to_mapping(self) -> dict[str, Any]:
        return {"kind": "video", **dataclasses.asdict(self)}


def measure(
    pipeline: AvatarPipeline, *, seconds: float = 3.0, resolution: Resolution = "standard"
) -> Report:
    """Make a video twice, the second time measured, and compare the alternatives.

    By then the picture has been read, and any face in it has been looked for.

    Args:
        seconds: length of the speech; a made-up one, since no figure depends on what is said.
        resolution: as a request has it.

    Raises:
        InputError: `seconds` is too short for a frame.
    """
    with tempfile.TemporaryDirectory() as name:
        request = _made_up_request(Path(name), seconds)
        request = dataclasses.replace(request, resolution=resolution)
        return _measure(pipeline, request, Path(name) / "bench.mp4")


def _measure(pipeline: AvatarPipeline, request: GenerationRequest, output: Path) -> Report:
    pipeline.generate(request, output)  # warms caches and lazy imports up
    forwards: list[int] = []
    hook = pipeline.models.transformer.register_forward_hook(lambda *_: forwards.append(1))
    steps: list[float] = []
    first_preview: float | None = None
    before: float | None = None
    began = time.perf_counter()
    for event in pipeline.stream(request, output):
        now = time.perf_counter()
        if isinstance(event, StepDone):
            first_preview = first_preview or now - began
            steps += [now - before] if before is not None else []
        before = now if isinstance(event, StepDone | ChunkDone) else None
    hook.remove()
    assert isinstance(event, Finished), "a stream ends with the finished video"
    finished = event
    guided = dataclasses.replace(request, guidance=2.0)
    unguided = dataclasses.replace(request, guidance=1.0)
    guidance_ratio = _ratio(
        lambda: pipeline.generate(guided, output).timings["denoise"],
        lambda: pipeline.generate(unguided, output).timings["denoise"],
    )
    total = finished.timings["total"]
    device = pipeline.placement.device
    is_cuda = device.type == "cuda"
    return Report(
        model=pipeline.spec.name,
        device=str(pipeline.placement.device),
        dtype=str(pipeline.placement.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        machine=Machine.of(device),
        attention=attention_kernel(
            device,
            pipeline.placement.dtype,
            head_dim=pipeline.models.transformer.config.attention_head_dim,
        ),
        width=finished.width,
        height=finished.height,
        seconds=finished.duration_seconds,
        stages=dict(finished.timings),
        first_preview_seconds=first_preview or total,
        forwards=len(forwards),
        step_seconds=statistics.median(steps),
        work_per_second=total / finished.duration_seconds,
        decode_ratio=_decode_ratio(pipeline, finished.height, finished.width),
        guidance_ratio=guidance_ratio,
        peak_memory_bytes=peak_host_bytes(),
        peak_device_bytes=torch.cuda.max_memory_reserved(device) if is_cuda else None,
    )


@torch.inference_mode()
def _decode_ratio(pipeline: AvatarPipeline, height: int, width: int) -> float:
    vae = pipeline.models.vae
    scale = vae.config.scale_factor_spatial
    latents = torch.randn(
        1, vae.config.z_dim, 5, height // scale, width // scale, dtype=vae.dtype, device=vae.device
    )
    return _ratio(
        lambda: seconds_of(lambda: vae.decode(latents), vae.device),
        lambda: seconds_of(lambda: decode_whole(vae, latents), vae.device),
    )


def _ratio(one: Callable[[], float], other: Callable[[], float]) -> float:
    """Median of `one` over median of `other`, run in the order one, other, other, one."""
    a, b, c, d = one(), other(), other(), one()
    return (a + d) / (b + c)


def _made_up_request(folder: Path, seconds: float) -> GenerationRequest:
    generator = np.random.default_rng(0)
    picture = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(picture).resize((512, 512)).save(folder / "picture.png")
    noise = generator.normal(0, 3000, round(seconds * 16000)).astype("<i2")
    with wave.open(str(folder / "speech.wav"), "wb") as sound:
        sound.setparams((1, 2, 16000, 0, "NONE", ""))
        sound.writeframes(noise.tobytes())
    return GenerationRequest(image=folder / "picture.png", audio=folder / "speech.wav")
