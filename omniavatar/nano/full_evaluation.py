"""Everything that the bundled model is held to, part by part: what `evaluate` measures.

Presenters, voices and sentences are none that training has seen; requests have the shipped default
settings. What is measured is kept in a JSON file, so that a run that was stopped goes on.
"""

# n clips, t video frames, h, w rows and columns in pixels, s samples

import hashlib
import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import omniavatar
from omniavatar import AvatarPipeline, Report, measure
from omniavatar.nano.architecture import CHUNK_FRAMES, TWO_CHUNKS, weights_folder
from omniavatar.nano.behaviours import behaviour_figures, load_judge
from omniavatar.nano.clips import SAMPLES_PER_ROW, Clips, sample_clips
from omniavatar.nano.debian import FOLDER as DEBIAN
from omniavatar.nano.figures import Figure, as_table, from_mapping, to_mapping
from omniavatar.nano.flite import find_flite
from omniavatar.nano.footage import (
    decibels,
    film,
    film_clips,
    square_size,
    through_vae,
    write_request,
)
from omniavatar.nano.identity import (
    Identity,
    identity_figures,
    measure_identity,
    part_masks,
    portrait_energy,
)
from omniavatar.nano.long_clip import Endurance, chunks_through_vae, long_figures, measure_endurance
from omniavatar.nano.mouths import closed_share, envelope, mouth_figures, read_mouths
from omniavatar.nano.observer import Observer, load_observer
from omniavatar.nano.other_hands import FOLDER as PICTURES
from omniavatar.nano.other_hands import (
    LEADING_SILENCE,
    Kept,
    after_vae,
    drawing_figures,
    load_pictures,
    measure_kept,
    photograph_figures,
    true_motion_inside,
    vae_ceiling,
)
from omniavatar.nano.presenters import Look
from omniavatar.nano.prompts import BEHAVIOURS, WIDE_BEHAVIOURS
from omniavatar.nano.reader import Reader, load_reader
from omniavatar.nano.recordings import cut_recordings, find_recordings, follow_loudness
from omniavatar.nano.regions import inside
from omniavatar.nano.sheet import write_rows
from omniavatar.nano.speech import ROWS_PER_SECOND, Manner, SpeechBank, speech_bank
from omniavatar.nano.training import RECORDS

logger = logging.getLogger(__name__)

SILENCE_FRAMES = 36
VAE_CLIPS = 64
LONG_SECONDS = 30
GUIDANCE = (1.0, 3.0)
SLIGHT_GUIDANCE = 1.5
"""By the prompt, while that by the speech is varied: without any, the speech has none either."""

MOMENTS = 8
"""Frames of each clip that a page shows."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is measured, and how much of it.

    Attributes:
        folder: the checkpoint, in the layout of the bundled one.
        clips: talking presenters; the other parts follow it.
        frames: of their clips, the portrait's own included.
        vae_clips: short ones on which the VAE is measured by itself.
        recordings: the user's folder of recorded speech, or None.
        sheets: where pages of pictures go, or None.
        seed: of presenters, sentences and voices; training used other seeds and other voices.
        look: of the presenters: the one that the checkpoint was trained on.
    """

    folder: Path
    clips: int
    frames: int = TWO_CHUNKS
    vae_clips: int = VAE_CLIPS
    look: Look = "drawn"
    recordings: Path | None = None
    sheets: Path | None = None
    seed: int = 2027

    @cached_property
    def pipeline(self) -> AvatarPipeline:
        return AvatarPipeline.from_pretrained("nano", folder=self.folder)

    @cached_property
    def reader(self) -> Reader:
        return load_reader(self.folder / "reader")

    @cached_property
    def size(self) -> int:
        return square_size(self.pipeline)

    @cached_property
    def bank(self) -> SpeechBank:
        return speech_bank(max(8, self.clips), 16.0, seed=self.seed, held_out=True)

    @cached_property
    def presenters(self) -> "Filmed":
        truth = self.draw(
            self.bank,
            count=self.clips,
            seed=self.seed,
            behaviours=self.behaviours,
            frames=self.frames,
        )
        made = film_clips(self.pipeline, truth, frames=self.frames)
        filmed = Filmed(truth, made, through_vae(self.pipeline.models.vae, truth.frames))
        if self.sheets is not None:
            rows = [
                [row[i] for i in _moments(self.frames - 1)]
                for clip, own in zip(made, truth.frames[:, 1:], strict=True)
                for row in (own, clip)
            ]
            write_rows(rows[:28], self.sheets / "presenters.webp")
        return filmed

    def share(self, part: float, *, least: int) -> int:
        """A number of clips that follows `clips`."""
        return max(least, round(self.clips * part))

    def draw(
        self,
        bank: SpeechBank,
        *,
        count: int,
        seed: int,
        behaviours: Sequence[str] | None,
        frames: int = TWO_CHUNKS,
    ) -> Clips:
        """First windows of presenters never seen."""
        return sample_clips(
            bank,
            count=count,
            frames=frames,
            height=self.size,
            width=self.size,
            generator=torch.Generator().manual_seed(seed),
            device="cpu",
            behaviours=behaviours,
            continuation_share=0.0,
            look=self.look,
        )

    def find_recordings(self) -> list[Path]:
        """See `recordings.find_recordings`."""
        return find_recordings(self.recordings, DEBIAN, count=self.share(0.2, least=2))

    @cached_property
    def observer(self) -> Observer:
        return load_observer(self.folder / "observer")

    @property
    def behaviours(self) -> tuple[str, ...]:
        """All that the checkpoint's observer can see people do."""
        return WIDE_BEHAVIOURS if self.observer.wide else BEHAVIOURS


@dataclass(frozen=True, slots=True)
class Filmed:
    """True clips [n, t, ...], those made [n, t - 1, ...], and the true ones after the VAE."""

    truth: Clips
    made: Tensor
    decoded: Tensor


def evaluate_fully(
    subject: Subject, *, parts: Sequence[str] | None = None, json_path: Path | None = None
) -> list[Figure]:
    """Measure the parts asked for, all by default, in the order of `PARTS`.

    Args:
        json_path: figures are written here after each part; a part that is there already, of the
            same weights, code, clips and seed, is not measured again.
    """
    key = _key(subject)
    known = _read(json_path, key)
    figures: list[Figure] = []
    for name in parts or PARTS:
        if name in known:
            logger.info("%s: measured before, from %s", name, json_path)
            figures += from_mapping(known[name]["figures"])
            continue
        began = time.monotonic()
        try:
            with torch.inference_mode():
                found = PARTS[name](subject)
        except FileNotFoundError as error:  # a tool or a recording that only this part needs
            logger.warning("%s: %s", name, error)
            missing = Figure(name=name, value=None, bar=0.0, note=str(error))
            figures.append(missing)
            continue
        seconds = time.monotonic() - began
        logger.info("%s: %.0f s\n%s", name, seconds, as_table(found))
        known[name] = {"seconds": round(seconds, 1), "figures": to_mapping(found)}
        if json_path is not None:
            json_path.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps({**key, "parts": known}, indent=1)
            json_path.write_text(text + "\n", encoding="utf-8")
        figures += found
    return figures


def _key(subject: Subject) -> dict[str, Any]:
    """What figures depend on."""
    package = Path(omniavatar.__file__).parent
    serving = package / "serving"
    code = [path for path in package.rglob("*.py") if not path.is_relative_to(serving)]
    files = [path for end in ("safetensors", "json") for path in subject.folder.rglob(f"*.{end}")]
    try:
        heard = subject.find_recordings()
    except FileNotFoundError:
        heard = []
    return {
        "weights": _digest(path for path in files if path.name != RECORDS),
        "code": _digest(code),
        "pictures": _digest(path for path in PICTURES.rglob("*") if path.is_file()),
        "recordings": _digest(heard),
        "clips": subject.clips,
        "frames": subject.frames,
        "vae_clips": subject.vae_clips,
        "seed": subject.seed,
        "look": subject.look,
    }


def _digest(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _read(path: Path | None, key: dict[str, Any]) -> dict[str, Any]:
    if path is None or not path.exists():
        return {}
    stored = json.loads(path.read_text(encoding="utf-8"))
    changed = {name for name, value in key.items() if stored.get(name) != value}
    if not changed:
        return stored["parts"]
    # Only one part hears recordings: whoever gives them later keeps what the others took hours for.
    others = {name: part for name, part in stored["parts"].items() if name != "recordings"}
    return others if changed == {"recordings"} else {}


def _speech(subject: Subject) -> list[Figure]:
    filmed = subject.presenters
    return mouth_figures(
        filmed.truth.mouth[:, 1:],
        made=read_mouths(subject.reader, filmed.made, filmed.truth.presenters),
        true=read_mouths(subject.reader, filmed.truth.frames[:, 1:], filmed.truth.presenters),
        decoded=read_mouths(subject.reader, filmed.decoded[:, 1:], filmed.truth.presenters),
        speech="espeak-ng",
    )


def _flite(subject: Subject) -> list[Figure]:
    flite = find_flite(DEBIAN)
    count = subject.share(0.4, least=2)
    bank = speech_bank(
        count,
        24.0,  # so that clips begin at other places of what is said
        seed=subject.seed + 1,
        held_out=True,
        manner=Manner(flite_share=1.0),
        flite=flite,
    )
    truth = subject.draw(bank, count=count, seed=subject.seed + 1, behaviours=["plain", "still"])
    made = film_clips(subject.pipeline, truth, frames=TWO_CHUNKS)
    decoded = through_vae(subject.pipeline.models.vae, truth.frames)
    return mouth_figures(
        truth.mouth[:, 1:],
        made=read_mouths(subject.reader, made, truth.presenters),
        true=read_mouths(subject.reader, truth.frames[:, 1:], truth.presenters),
        decoded=read_mouths(subject.reader, decoded[:, 1:], truth.presenters),
        speech="flite",
    )


def _recordings(subject: Subject) -> list[Figure]:
    paths = subject.find_recordings()
    waveforms, is_silent = cut_recordings(
        paths, frames=TWO_CHUNKS - 1, silence_frames=SILENCE_FRAMES
    )
    truth = subject.draw(
        subject.bank, count=len(paths), seed=subject.seed + 2, behaviours=["plain"]
    )
    made = torch.stack(
        [
            film(subject.pipeline, portrait, samples, prompt=prompt, seed=number)
            for number, (portrait, samples, prompt) in enumerate(
                zip(truth.reference, waveforms, truth.prompts, strict=True)
            )
        ]
    )
    opening = read_mouths(subject.reader, made, truth.presenters)[..., 0]
    follows = follow_loudness(opening, waveforms)
    true_opening = read_mouths(subject.reader, truth.frames[:, 1:], truth.presenters)[..., 0]
    wanted = truth.mouth[:, 1:, 0]
    said = truth.waveform[:, : (TWO_CHUNKS - 1) * SAMPLES_PER_ROW]
    true_follows = follow_loudness(true_opening, said)
    return [
        Figure(
            name="recordings: opening follows loudness",
            value=sum(follows) / len(follows),
            true=sum(true_follows) / len(true_follows),
            bar=0.6,
            note=f"{len(paths)} recordings; true: drawn mouths of espeak-ng's speech",
        ),
        Figure(
            name="recordings: lowest of them",
            value=min(follows),
            note=paths[follows.index(min(follows))].name,
        ),
        Figure(
            name="recordings: closed in digital silence",
            value=closed_share(opening, is_silent),
            true=closed_share(true_opening, wanted < 0.02),
            bar=0.95,
        ),
    ]


def _vae(subject: Subject) -> list[Figure]:
    seed = subject.seed + 3
    truth = subject.draw(
        speech_bank(subject.vae_clips, 4.0, seed=seed, held_out=True),
        count=subject.vae_clips,
        seed=seed,
        behaviours=None,
        frames=9,
    )
    decoded = through_vae(subject.pipeline.models.vae, truth.frames)
    error = (decoded.float() - truth.frames.float()).square().mean(2)  # [n, t, h, w]
    mouth = inside(truth.regions.mouth, height=subject.size, width=subject.size)
    return [
        Figure(name="VAE, dB", value=decibels(error, torch.ones_like(mouth)), bar=32),
        Figure(name="VAE in the mouth's box, dB", value=decibels(error, mouth), bar=28),
    ]


def _identity(subject: Subject) -> list[Figure]:
    filmed = subject.presenters
    truth = filmed.truth
    masks = part_masks(truth)

    def each(clips: Tensor) -> list[Identity]:
        return [measure_identity(truth, n, clip, masks) for n, clip in enumerate(clips)]

    return identity_figures(
        truth,
        made=each(filmed.made),
        true=each(truth.frames[:, 1:]),
        decoded=each(filmed.decoded[:, 1:]),
        frozen=each(truth.reference[:, None].expand_as(filmed.made)),
        # Frame 0 depends on no other: it is the portrait as the VAE gives it back.
        decoded_energy=portrait_energy(truth, filmed.decoded[:, 0]),
    )


def _behaviours(subject: Subject) -> list[Figure]:
    filmed = subject.presenters
    truth = filmed.truth
    observer = subject.observer
    judge = load_judge(subject.folder / "observer")
    heads = truth.regions.head[:, 0]
    seen = [
        judge.judge(observer.observe(clips, truth.reference, heads))
        for clips in (filmed.made, truth.frames[:, 1:], filmed.decoded[:, 1:])
    ]
    return behaviour_figures(truth.behaviour, made=seen[0], true=seen[1], decoded=seen[2])


def _film_pictures(subject: Subject, kind: str) -> tuple[list[Kept], list[tuple[float, float]]]:
    """Every picture says a sentence after a moment of silence."""
    pictures = load_pictures(kind)
    said = _sentences(subject, len(pictures) + 1)
    loudness = envelope(said)
    vae = subject.pipeline.models.vae
    kept, ceilings, rows = [], [], []
    for number, picture in enumerate(pictures):
        portrait = picture.load(subject.size)
        decoded = after_vae(vae, portrait)
        frames = film(subject.pipeline, portrait, said[number], seed=number)
        kept.append(
            measure_kept(
                picture,
                frames,
                portrait=portrait,
                decoded=decoded,
                loudness=loudness[number],
                other_loudness=loudness[number + 1],
            )
        )
        logger.info("%s: %s", picture.name, kept[-1])
        ceilings.append(vae_ceiling(picture, portrait, decoded))
        rows.append([portrait, decoded, *(frames[i] for i in _moments(len(frames)))])
    if subject.sheets is not None:
        write_rows(rows, subject.sheets / f"{kind}.webp", gap_after=2)
    return kept, ceilings


def _sentences(subject: Subject, count: int) -> Tensor:
    """[n, s]: held-out speech of one clip's length, that begins with silence."""
    bank = speech_bank(count, 8.0, seed=subject.seed + 4, held_out=True)
    silent = LEADING_SILENCE * SAMPLES_PER_ROW
    length = (TWO_CHUNKS - 1) * SAMPLES_PER_ROW
    clips = torch.zeros(count, length)
    for clip, samples in zip(clips, bank.samples, strict=True):
        begin = int((samples.abs() > 0.01).float().argmax())
        part = samples[begin : begin + length - silent]
        clip[silent : silent + len(part)] = part
    return clips


def _drawings(subject: Subject) -> list[Figure]:
    kept, ceilings = _film_pictures(subject, "drawings")
    return drawing_figures(load_pictures("drawings"), kept, ceilings)


def _photographs(subject: Subject) -> list[Figure]:
    kept, ceilings = _film_pictures(subject, "photographs")
    true = subject.draw(
        subject.bank, count=4, seed=subject.seed + 5, behaviours=["plain"], frames=CHUNK_FRAMES
    )
    return photograph_figures(kept, ceilings, true_inside=true_motion_inside(true))


def _long(subject: Subject) -> list[Figure]:
    count, frames = subject.share(0.05, least=1), LONG_SECONDS * ROWS_PER_SECOND + 1
    bank = speech_bank(count, LONG_SECONDS + 4.0, seed=subject.seed + 6, held_out=True)
    truth = subject.draw(
        bank, count=count, seed=subject.seed + 6, behaviours=["plain", "still"], frames=frames
    )
    plan = _plan(subject, truth, frames)
    # The portrait's own frame is dropped from what is shown.
    joins = [chunk.start + chunk.known - 1 for chunk in plan.chunks[1:]]
    made: list[Endurance] = []
    true: list[Endurance] = []
    decoded: list[Endurance] = []
    for number in range(count):
        samples = truth.waveform[number, : (frames - 1) * SAMPLES_PER_ROW]
        shown = film(
            subject.pipeline, truth.reference[number], samples, prompt=truth.prompts[number]
        )
        after = chunks_through_vae(
            subject.pipeline.models.vae,
            truth.frames[number],
            chunk=plan.chunk_frames,
            overlap=plan.overlap_frames,
        )
        for results, clip in (
            (made, shown),
            (true, truth.frames[number, 1:]),
            (decoded, after[1:]),
        ):
            results.append(
                measure_endurance(
                    clip,
                    static=truth.static[number],
                    head=truth.regions.head[number, 0],
                    joins=joins,
                )
            )
        if subject.sheets is not None:
            write_rows([[shown[i] for i in _moments(len(shown), 10)]], subject.sheets / "long.webp")
    return long_figures(made, true, decoded)


def _plan(subject: Subject, truth: Clips, frames: int) -> Any:
    """Sizes and chunks as the pipeline plans them."""
    with tempfile.TemporaryDirectory() as name:
        samples = truth.waveform[0, : (frames - 1) * SAMPLES_PER_ROW]
        request = write_request(Path(name), truth.reference[0], samples, prompt="", seed=0)
        return subject.pipeline.check(request)


def _guidance(subject: Subject) -> list[Figure]:
    """More guidance is more of what it guides: lips for speech, motion for the prompt."""
    truth = subject.draw(
        subject.bank,
        count=subject.share(0.1, least=2),
        seed=subject.seed + 7,
        behaviours=["nodding"],
        frames=CHUNK_FRAMES,
    )
    observer = subject.observer
    spread, nods = [], []
    for strength in GUIDANCE:
        for by_speech in (True, False):
            settings: dict[str, Any] = {
                "guidance": SLIGHT_GUIDANCE if by_speech else strength,
                "audio_guidance": strength if by_speech else subject.pipeline.spec.guidance,
            }
            made = torch.stack(
                [
                    film(
                        subject.pipeline,
                        truth.reference[n],
                        truth.waveform[n, : (CHUNK_FRAMES - 1) * SAMPLES_PER_ROW],
                        prompt=truth.prompts[n],
                        **settings,
                    )
                    for n in range(len(truth.prompts))
                ]
            )
            if by_speech:
                spread.append(
                    read_mouths(subject.reader, made, truth.presenters)[..., 0].std().item()
                )
            else:
                seen = observer.observe(made, truth.reference, truth.regions.head[:, 0])
                nods.append(seen[..., 1].std(1).mean().item())
    low, high = GUIDANCE
    note = f"{high:g} over {low:g}"
    return [
        Figure(
            name="audio guidance: spread of opening",
            value=spread[1] / spread[0],
            bar=1,
            note=f"{note}, at a guidance of {SLIGHT_GUIDANCE:g}",
        ),
        Figure(name="prompt guidance: size of nods", value=nods[1] / nods[0], bar=1, note=note),
    ]


def _speed(subject: Subject) -> list[Figure]:
    report = measure(subject.pipeline)
    small = measure(subject.pipeline, resolution="small")
    figures = [
        _work(report),
        _work(small),
        Figure(
            name="first preview, seconds",
            value=report.first_preview_seconds,
            bar=5,
            at_least=False,
        ),
    ]
    if report.peak_memory_bytes is not None:
        figures.append(
            Figure(
                name="peak memory, GiB",
                value=report.peak_memory_bytes / 2**30,
                bar=2,
                at_least=False,
                note="of this process; alone only with --parts speed",
            )
        )
    return figures


def _work(report: Report) -> Figure:
    size = min(report.height, report.width)
    return Figure(
        name=f"work per second of video at {size} px",
        value=report.work_per_second,
        bar=1.0 if size <= 128 else 2.0,
        at_least=False,
        note=f"{report.threads} threads, {report.dtype}",
    )


def _moments(frames: int, count: int = MOMENTS) -> list[int]:
    return torch.linspace(0, frames - 1, count).long().tolist()


PARTS: dict[str, Callable[[Subject], list[Figure]]] = {
    "speed": _speed,
    "vae": _vae,
    "speech": _speech,
    "identity": _identity,
    "behaviours": _behaviours,
    "flite": _flite,
    "recordings": _recordings,
    "drawings": _drawings,
    "photographs": _photographs,
    "long": _long,
    "guidance": _guidance,
}
"""In the order in which they run: memory is told of a young process."""


def default_subject(*, folder: Path | None, clips: int, **more: Any) -> Subject:
    """The bundled checkpoint, or another in its layout."""
    return Subject(folder=folder or weights_folder(), clips=clips, **more)
