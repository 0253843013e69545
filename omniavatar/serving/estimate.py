"""How long a video takes: from what this machine was measured to need, or from its arithmetic.

What a run measured is remembered on disk for its model, device and length of chunk. Where nothing
is remembered, another length of chunk is taken in proportion to its arithmetic, and a model that
has not run here yet is guessed from its arithmetic and what the kind of device manages.
"""

import json
import logging
import re
import secrets
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from omniavatar import GenerationRequest, ModelSpec, VideoPlan, transformer_flops

logger = logging.getLogger(__name__)

NEWEST_SHARE = 0.5  # of a new measurement in what is remembered
CACHED_SHARE = 0.6  # of the forwards that a step cache leaves, before it was measured

# Operations a second of the transformer, and pixels a second of the VAE, on devices whose name
# holds a word: half a published peak or less; nano on two cores as measured. The first that fits.
SPEEDS: tuple[tuple[str, float, float], ...] = (
    ("H200", 400e12, 18e6),
    ("H100", 400e12, 18e6),
    ("B200", 700e12, 25e6),
    ("RTX PRO 6000", 200e12, 12e6),
    ("ZeroGPU", 200e12, 12e6),  # which lends half or all of such a card
    ("A100", 160e12, 10e6),
    ("L40", 120e12, 8e6),
    ("5090", 120e12, 8e6),
    ("4090", 100e12, 7e6),
    ("mps", 4e12, 0.5e6),
    ("cpu", 0.07e12, 0.5e6),
    ("", 50e12, 4e6),
)
_KEY = re.compile(r"[^|]+\|[^|]+\|[1-9][0-9]{0,8}\|[01]")  # model, device, tokens, if cached
LEAST_FORWARD, LEAST_DECODE = 0.015, 0.2  # seconds to begin all that a small model does on a card
SECONDS_AROUND = 2.0  # reading, encoding prompt and picture, writing; before it was measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a video takes, in counts.

    Attributes:
        chunks: of the video.
        forwards: of the transformer, over all chunks.
        tokens: of a chunk.
        pixels: of a chunk, over all its frames.
        cached: whether a step cache may skip forwards.
    """

    chunks: int
    forwards: int
    tokens: int
    pixels: int
    cached: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """What a machine needs, in seconds.

    Attributes:
        forward: for one forward of the transformer.
        decode: to decode and write a chunk.
        around: for the rest of a video.
    """

    forward: float
    decode: float
    around: float

    def seconds(self, work: Work) -> float:
        return self.forward * work.forwards + self.decode * work.chunks + self.around


def work_of(plan: VideoPlan, request: GenerationRequest, spec: ModelSpec) -> Work:
    """Count what a request takes, whose settings may be left to the model."""
    guidance = spec.guidance if request.guidance is None else request.guidance
    branches = 1 if guidance == 1 else 2
    if request.audio_guidance is not None and request.audio_guidance != guidance:
        branches = 3
    chunks = len(plan.chunks)
    pixels = plan.height * plan.width
    return Work(
        chunks=chunks,
        forwards=chunks * (request.steps or spec.steps) * branches,
        tokens=plan.chunks[0].latent_frames * pixels // 16**2,
        pixels=plan.chunk_frames * pixels,
        cached=request.step_cache > 0,
    )


class Rates:
    """What was measured on this machine; for use by several threads.

    Args:
        path: JSON file, made when there is something to remember; what can not be read is
            forgotten.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._known: dict[str, Rate] = {}
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            self._known = {
                key: Rate(**{k: float(v) for k, v in rate.items()})
                for key, rate in content.items()
                if _KEY.fullmatch(key)
            }
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, AttributeError) as error:
            logger.warning("%s can not be read, and begins anew: %s", path, error)

    def seconds(self, work: Work, spec: ModelSpec, *, device: str) -> float:
        """How long a video takes.

        Args:
            device: name of the device, or its kind.
        """
        with self._lock:
            return self._rate(work, spec, device).seconds(work)

    def is_measured(self, spec: ModelSpec, *, device: str) -> bool:
        """Whether this model has run here, so that an estimate is more than a guess."""
        with self._lock:
            return any(True for _ in self._others(spec, device))

    def learn(
        self, work: Work, spec: ModelSpec, timings: Mapping[str, float], *, device: str
    ) -> None:
        """Remember what a video took.

        Args:
            timings: seconds by stage, as `Finished` has them.
        """
        decode = timings.get("decode", 0.0) + timings.get("write", 0.0)
        denoise = timings.get("denoise", 0.0)
        measured = Rate(
            forward=denoise / work.forwards,
            decode=decode / work.chunks,
            around=max(0.0, timings["total"] - denoise - decode),
        )
        key = _key(spec, device, work.tokens, cached=work.cached)
        with self._lock:
            before = self._known.get(key, measured)
            self._known[key] = Rate(
                **{
                    name: (1 - NEWEST_SHARE) * value + NEWEST_SHARE * getattr(measured, name)
                    for name, value in asdict(before).items()
                }
            )
            self._save()

    def _rate(self, work: Work, spec: ModelSpec, device: str) -> Rate:
        if known := self._known.get(_key(spec, device, work.tokens, cached=work.cached)):
            return known
        share = CACHED_SHARE if work.cached else 1.0
        flops = transformer_flops(spec, tokens=work.tokens)
        others = sorted(self._others(spec, device), key=lambda each: abs(each[0] - work.tokens))
        if others:
            tokens, rate = others[0]
            return Rate(
                forward=share * rate.forward * flops / transformer_flops(spec, tokens=tokens),
                decode=rate.decode * work.tokens / tokens,
                around=rate.around,
            )
        speed = next((flop, pixel) for word, flop, pixel in SPEEDS if word in device)
        return Rate(
            forward=share * max(flops / speed[0], LEAST_FORWARD),
            decode=max(work.pixels / speed[1], LEAST_DECODE),
            around=SECONDS_AROUND,
        )

    def _others(self, spec: ModelSpec, device: str) -> Iterator[tuple[int, Rate]]:
        """Rates of this model and device without a step cache, by the tokens of a chunk."""
        for key, rate in self._known.items():
            name, place, tokens, cached = key.split("|")
            if (name, place, cached) == (spec.name, device, "0"):
                yield int(tokens), rate

    def _save(self) -> None:
        content = {key: asdict(rate) for key, rate in self._known.items()}
        draft = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}")
        try:
            draft.write_text(json.dumps(content, indent=1), encoding="utf-8")
            draft.replace(self._path)
        except OSError as error:
            logger.warning("what a video took could not be remembered: %s", error)
        finally:
            draft.unlink(missing_ok=True)


def _key(spec: ModelSpec, device: str, tokens: int, *, cached: bool) -> str:
    return f"{spec.name}|{device}|{tokens}|{int(cached)}"
