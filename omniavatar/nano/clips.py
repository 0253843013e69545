"""Talking clips: a drawn presenter, a voice, a prompt and the motion that joins them.

The layout is the published models': frame k of a video shows the speech of row k - 1 (a row is
40 ms of sound), and frame 0, the portrait, shows no speech at all.
"""

# n clips, t frames, h height, w width, s samples of a waveform

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omniavatar.nano.drawing import Pose, Regions, regions, render
from omniavatar.nano.espeak import SAMPLE_RATE
from omniavatar.nano.presenters import Look, Presenters, sample_presenters
from omniavatar.nano.prompts import BEHAVIOURS, MOODS, WIDE_BEHAVIOURS, WIDE_MOODS, sentence
from omniavatar.nano.speech import ROWS_PER_SECOND, VISEMES, SpeechBank

SAMPLES_PER_ROW = SAMPLE_RATE // ROWS_PER_SECOND
_EXTRA_STILL = 0.2
_WIDE_SHARES = {
    "plain": 2.0, "still": 4.0, "nodding": 3.5, "looking around": 3.0, "blinking often": 2.0,
    "smiling": 2.0, "serious": 2.0, "sad": 2.5, "waving": 4.0,
}  # fmt: skip
"""How often each is trained, in the wide look: more where a model this small learns slowly."""

_SAD_WHATEVER_THEY_DO = 0.12
_OFTEN = 1.6
_EYES_SECONDS, _HEAD_SECONDS = 0.16, 0.4
"""In which a glance goes to its next place, and the head after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechWindows:
    """Pieces of speech with what the mouth does, to train the speech encoder on.

    Attributes:
        waveform: [n, rows * 640] float32, 16 kHz, not normalised.
        mouth: [n, rows, 3] opening, width and rounding, each about 0..1.
        classes: [n, rows] int64, index into `speech.VISEMES`.
    """

    waveform: Tensor
    mouth: Tensor
    classes: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Clips:
    """A batch of clips on one device.

    Attributes:
        frames: [n, t, 3, h, w] uint8.
        reference: [n, 3, h, w] uint8, the portrait: frame 0 itself, or in a continuation window
            the same presenter 0.6 to 20 s before it.
        mouth: [n, t, 3] float32, the truth drawn: opening, width and rounding.
        waveform: [n, (t + context) * 640] float32, 16 kHz, not normalised.
        first_row: [n] int64. Frame k shows waveform row `first_row + k - 1`; -1 (frame 0 of a
            first window, whose waveform begins with the row of frame 1) stands for the zero row.
        prompts: n sentences.
        behaviour: [n] int64, index into `prompts.WIDE_BEHAVIOURS`.
        mood: [n] int64, index into `prompts.WIDE_MOODS`.
        pose: tracks of head, eyes, brows, mouth and smile, each [n, t] (mouth [n, t, 3]).
        regions: boxes of mouth, eyes and head in pixels, [n, t, 4] each.
        static: [n, h, w] bool, pixels equal in all frames and in the reference.
        is_continuation: [n] bool.
        presenters: who is drawn.
    """

    frames: Tensor
    reference: Tensor
    mouth: Tensor
    waveform: Tensor
    first_row: Tensor
    prompts: tuple[str, ...]
    behaviour: Tensor
    mood: Tensor
    pose: Pose
    regions: Regions
    static: Tensor
    is_continuation: Tensor
    presenters: Presenters

    def audio_rows(self) -> Tensor:
        """[n, t] int64: the waveform row of every frame, -1 for the zero row."""
        steps = torch.arange(self.frames.shape[1], device=self.first_row.device)
        return self.first_row[:, None] + steps - 1


def _cut(values: Tensor, stream: Tensor, first: Tensor, length: int) -> Tensor:
    """[streams, n, ...] -> [count, length, ...], from `first` on in the chosen streams."""
    steps = first[:, None] + torch.arange(length, device=values.device)
    return values[stream[:, None], steps]


def sample_speech(
    bank: SpeechBank,
    *,
    count: int,
    rows: int,
    generator: torch.Generator,
    device: torch.device | str,
) -> SpeechWindows:
    """Cut `count` random windows of `rows` rows out of the bank."""
    draw = _Draw(generator)
    stream = draw.integers(count, bank.samples.shape[0]).to(bank.samples.device)
    first = draw.integers(count, bank.mouth.shape[1] - rows + 1).to(bank.samples.device)
    samples = _cut(bank.samples, stream, first * SAMPLES_PER_ROW, rows * SAMPLES_PER_ROW)
    return SpeechWindows(
        waveform=samples.to(device),
        mouth=_cut(bank.mouth, stream, first, rows).to(device),
        classes=_cut(bank.classes, stream, first, rows).to(device),
    )


class _Draw:
    """Random CPU tensors from a generator of any device."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """[*shape] float32 in low..high."""
        drawn = torch.rand(shape, generator=self.generator, device=self.generator.device)
        return (drawn * (high - low) + low).cpu()

    def integers(self, count: int, below: int) -> Tensor:
        """[count] int64 in 0..below - 1."""
        device = self.generator.device
        return torch.randint(below, (count,), generator=self.generator, device=device).cpu()


def _behaviours(
    draw: _Draw, count: int, names: Sequence[str] | None, look: Look
) -> tuple[Tensor, Tensor]:
    """Number of the behaviour and of the mood, [count] each."""
    known = WIDE_BEHAVIOURS if look == "wide" or names is not None else BEHAVIOURS
    if names is None and look == "wide":
        bounds = torch.tensor([_WIDE_SHARES[name] for name in known]).cumsum(0)
        behaviour = torch.bucketize(draw.uniform(count) * bounds[-1], bounds[:-1], right=True)
    elif names is None:
        behaviour = draw.integers(count, len(known))
        still = draw.uniform(count) < _EXTRA_STILL
        behaviour[still] = BEHAVIOURS.index("still")
    else:
        numbers = [known.index(name) for name in names]
        behaviour = torch.tensor([numbers[i % len(numbers)] for i in range(count)])
    free = draw.uniform(count)
    mood = (free > 0.5).long() + (free > 0.75).long()
    if names is None and look == "wide":
        mood[free > 1 - _SAD_WHATEVER_THEY_DO] = WIDE_MOODS.index("sad")
    mood[behaviour == known.index("plain")] = MOODS.index("neutral")
    for name in set(known) & set(WIDE_MOODS):
        mood[behaviour == known.index(name)] = WIDE_MOODS.index(name)
    return behaviour, mood


def _sway(draw: _Draw, times: Tensor) -> Tensor:
    """[n, t] slow wandering about 0: three sines of 0.1 to 0.5 Hz, together within about 1."""
    count = times.shape[0]
    rate = draw.uniform(3, count, 1, low=0.1, high=0.5)
    phase = draw.uniform(3, count, 1, high=2 * math.pi)
    weight = draw.uniform(3, count, 1, low=0.4, high=1.0)
    return (weight * (2 * math.pi * rate * times + phase).sin()).sum(0) / weight.sum(0)


def _blinks(draw: _Draw, times: Tensor, per_second: Tensor, last: float) -> Tensor:
    """[n, t] how far the eyes are closed: a blink closes in 60 ms, holds, and opens in 120 ms."""
    count = times.shape[0]
    most = int(last * _OFTEN * 1.5) + 8
    starts = draw.uniform(count, most, low=-1.0, high=last)
    happens = draw.uniform(count, most) < per_second[:, None] * (last + 1) / most
    since = times[:, :, None] - starts[:, None, :]
    closed = torch.minimum(since / 0.06, (0.24 - since) / 0.12).clamp(0, 1)
    return (closed * happens[:, None, :]).amax(2)


def _glances(
    draw: _Draw, times: Tensor, hold_seconds: Tensor, last: float
) -> tuple[Tensor, Tensor]:
    """[n, t, 2] each: gaze that jumps from place to place, -1..1, and a head that turns after."""
    count = times.shape[0]
    most = int(last / float(hold_seconds.min())) + 3
    places = draw.uniform(count, most, 2, low=-1.0, high=1.0)
    at = times / hold_seconds[:, None] + draw.uniform(count, 1)
    place = at.floor().long().clamp(0, most - 2)
    people = torch.arange(count)[:, None]
    since = (at - place) * hold_seconds[:, None]

    def arriving(seconds: float) -> Tensor:
        share = (since / seconds).clamp(0, 1)[..., None]
        smooth = share * share * (3 - 2 * share)
        return places[people, place].lerp(places[people, place + 1], smooth)

    return arriving(_EYES_SECONDS), arriving(_HEAD_SECONDS)


def _waving(draw: _Draw, times: Tensor) -> tuple[Tensor, Tensor]:
    """[n, t] each: how far a hand is raised, and its swing. Half of the hands are up before."""
    count = times.shape[0]
    comes = draw.uniform(count, 1) < 0.5
    since = times - draw.uniform(count, 1, low=0.0, high=0.6)
    raised = torch.where(comes, (since / 0.5).clamp(0, 1), torch.ones_like(times))
    raised = raised * raised * (3 - 2 * raised)
    rate = draw.uniform(count, 1, low=0.9, high=1.6)
    phase = draw.uniform(count, 1, high=2 * math.pi)
    return raised, (2 * math.pi * rate * times + phase).sin() * raised


def _slow(values: Tensor, frames: int = 9) -> Tensor:
    """[n, t] smoothed in time."""
    window = torch.hann_window(frames + 2, periodic=False)[1:-1]
    padded = torch.nn.functional.pad(values[:, None], (frames // 2, frames // 2), mode="replicate")
    return torch.nn.functional.conv1d(padded, (window / window.sum())[None, None])[:, 0]


def _pose(draw: _Draw, times: Tensor, mouth: Tensor, behaviour: Tensor, mood: Tensor) -> Pose:
    """Calm motion: larger turns of the head are more than a model this small can follow.

    Args:
        draw: all that is random.
        times: [n, 1 + t] seconds since the portrait: of the reference, then of the frames.
        mouth: [n, 1 + t, 3].
        behaviour, mood: [n] each.
    """
    count = times.shape[0]
    last = float(times.max()) + 1

    def does(name: str) -> Tensor:
        return (behaviour == WIDE_BEHAVIOURS.index(name)).float()[:, None]

    calm = 1 - 0.88 * does("still")
    around, nods = does("looking around"), does("nodding")
    phase = draw.uniform(count, 1, high=2 * math.pi)
    nod = (2 * math.pi * draw.uniform(count, 1, low=0.6, high=1.0) * times + phase).sin() * nods
    spoken = _slow(mouth[:, 1:, 0]) - 0.2
    # The portrait is a first frame itself, or one of another time, when nothing is known of speech.
    at_portrait = torch.where(times[:, 1:2] == 0, spoken[:, :1], -0.2)
    spoken = torch.cat([at_portrait, spoken], 1)
    per_second = (0.3 - 0.18 * does("still") + (_OFTEN - 0.3) * does("blinking often"))[:, 0]
    glance, turn = _glances(draw, times, draw.uniform(count, low=0.7, high=1.6), last)
    far = 0.12 * calm + 0.88 * around
    gaze = glance * far[..., None]
    ramps = (draw.uniform(count, 1) < 0.5).float()
    ramp = 1 - ramps * (1 - (times / 0.8).clamp(0, 1))
    feeling = torch.tensor([0.0, 1.0, -1.0, 0.0])[mood][:, None]
    sad = (mood == WIDE_MOODS.index("sad")).float()[:, None]
    strength = draw.uniform(count, 1, low=0.7, high=1.0)
    wave = swing = torch.zeros_like(times)
    if does("waving").any():
        wave, swing = _waving(draw, times)
        wave, swing = wave * does("waving"), swing * does("waving")
    return Pose(
        head_x=0.03 * calm * _sway(draw, times),
        head_y=0.018 * calm * _sway(draw, times) + 0.024 * nod,
        roll=0.035 * calm * _sway(draw, times),
        yaw=0.12 * calm * _sway(draw, times) + 0.40 * around * far * turn[..., 0],
        pitch=0.10 * calm * _sway(draw, times) + 0.20 * nod + 0.10 * calm * spoken,
        eyes_closed=_blinks(draw, times, per_second, last),
        gaze_x=gaze[..., 0],
        gaze_y=gaze[..., 1] * 0.7,
        brow=(0.45 * _sway(draw, times) + 1.1 * spoken) * (0.4 + 0.6 * calm),
        smile=feeling * strength * ramp,
        sad=sad * strength * ramp,
        wave=wave,
        swing=swing,
        mouth=mouth,
    )


def sample_moments(
    count: int, moments: int, *, generator: torch.Generator, look: Look = "drawn"
) -> Pose:
    """Poses at random times of all behaviours in all moods; the first is the portrait's.

    Returns:
        Tracks of [n, t].
    """
    draw = _Draw(generator)
    is_wide = look == "wide"
    moods = WIDE_MOODS if is_wide else MOODS
    # Hands would seldom be seen otherwise: with two more, three of eleven people wave.
    known = (*WIDE_BEHAVIOURS, "waving", "waving") if is_wide else BEHAVIOURS
    behaviour, _ = _behaviours(draw, count, known, look)
    mood = draw.integers(count, len(moods))
    times = draw.uniform(count, moments, low=0.0, high=8.0)
    times[:, 0] = 0.0
    shapes = torch.tensor(list(VISEMES.values()))
    one, other = (shapes[draw.integers(count * moments, len(shapes))] for _ in range(2))
    mouth = one.lerp(other, draw.uniform(count * moments, 1)).view(count, moments, 3)
    return _pose(draw, times, mouth, behaviour, mood)


def _reference_mouth(draw: _Draw, bank: SpeechBank, natural: Tensor) -> Tensor:
    """[n, 3] the mouth of a portrait: closed in 40 %, as speech goes on in 40 %, else any."""
    count = natural.shape[0]
    kind = draw.uniform(count, 1)
    stream = draw.integers(count, bank.mouth.shape[0]).to(bank.mouth.device)
    row = draw.integers(count, bank.mouth.shape[1]).to(bank.mouth.device)
    other = bank.mouth[stream, row].cpu()
    closed = torch.tensor(VISEMES["rest"])
    return torch.where(kind < 0.4, closed, torch.where(kind < 0.8, natural, other))


def sample_clips(
    bank: SpeechBank,
    *,
    count: int,
    frames: int,
    height: int,
    width: int,
    generator: torch.Generator,
    device: torch.device | str,
    behaviours: Sequence[str] | None = None,
    continuation_share: float = 1 / 3,
    context_rows: int = 25,
    look: Look = "drawn",
) -> Clips:
    """Draw clips of presenters who say pieces of the bank.

    Args:
        bank: speech on any device (keep it on `device` for speed); streams must be longer than
            `frames + context_rows` rows.
        count, frames, height, width: sizes; height and width are multiples of 8.
        generator: all that is random; a CPU generator gives the same clips on every device.
        device: where the clips are drawn and stay.
        behaviours: names from `prompts.WIDE_BEHAVIOURS`, taken in turn; None draws those of the
            look at random, some more often than others.
        continuation_share: share of windows that continue a video.
        context_rows: rows of speech in the waveform beyond those shown.
        look: see `presenters.sample_presenters`.

    Raises:
        ValueError: the bank's streams are too short.
    """
    rows = frames + context_rows
    if bank.mouth.shape[1] < rows + 2:
        raise ValueError(f"streams have {bank.mouth.shape[1]} rows, at least {rows + 2} are needed")
    draw = _Draw(generator)
    presenters = sample_presenters(count, generator=generator, device=device, look=look)
    behaviour, mood = _behaviours(draw, count, behaviours, look)
    presenters = presenters.with_waving((behaviour == WIDE_BEHAVIOURS.index("waving")).tolist())
    continues = draw.uniform(count) < continuation_share
    stream = draw.integers(count, bank.mouth.shape[0])
    first_in_bank = draw.integers(count, bank.mouth.shape[1] - rows - 1) + 1
    lead = (draw.uniform(count) * (context_rows - 1)).long() + 1
    first_row = torch.where(continues, lead, 0)

    home = bank.mouth.device
    # Frame k shows row first_row + k - 1 of the waveform. In a first window that is for frame 0
    # the row before the waveform.
    begin = first_in_bank + first_row - 1
    shown = _cut(bank.mouth, stream.to(home), begin.to(home), frames).cpu()
    portrait = _reference_mouth(draw, bank, shown[:, 0])
    mouth = shown.clone()
    mouth[~continues, 0] = portrait[~continues]
    began = torch.where(continues, draw.uniform(count, low=0.6, high=20.0), 0)
    times = began[:, None] + torch.arange(frames) / ROWS_PER_SECOND
    times = torch.cat([torch.zeros(count, 1), times], 1)
    pose = _pose(draw, times, torch.cat([portrait[:, None], mouth], 1), behaviour, mood)

    pictures = render(presenters, pose, height=height, width=width, as_bytes=True)
    shown_pose = pose.map(lambda track: track[:, 1:].to(device))
    seed = torch.randint(2**62, (1,), generator=generator, device=generator.device)
    chance = random.Random(int(seed))
    prompts = tuple(
        sentence(traits, behaviour=WIDE_BEHAVIOURS[b], mood=WIDE_MOODS[m], chance=chance)
        for traits, b, m in zip(presenters.traits, behaviour.tolist(), mood.tolist(), strict=True)
    )
    samples = _cut(
        bank.samples,
        stream.to(home),
        first_in_bank.to(home) * SAMPLES_PER_ROW,
        rows * SAMPLES_PER_ROW,
    )
    return Clips(
        frames=pictures[:, 1:],
        reference=pictures[:, 0],
        mouth=shown_pose.mouth,
        waveform=samples.to(device),
        first_row=first_row.to(device),
        prompts=prompts,
        behaviour=behaviour.to(device),
        mood=mood.to(device),
        pose=shown_pose,
        regions=regions(presenters, shown_pose, height=height, width=width),
        static=(pictures == pictures[:, :1]).all(2).all(1),
        is_continuation=continues.to(device),
        presenters=presenters,
    )
