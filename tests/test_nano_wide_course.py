"""The wide course: three shapes, rough speech, heads cut out, another decoder, less forwards."""

import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from omniavatar.models.whole_sequence import encode_whole
from omniavatar.nano import rough_speech, windows
from omniavatar.nano.architecture import (
    build_speech_encoder,
    build_tokenizer,
    build_transformer,
    build_vae,
    weights_folder,
)
from omniavatar.nano.course import WIDE, Course, Shape
from omniavatar.nano.drawing import Pose, Presenters, regions, render, sample_presenters
from omniavatar.nano.face_view import face_view
from omniavatar.nano.generator import Generator
from omniavatar.nano.probe import Probe
from omniavatar.nano.prompts import (
    BEHAVIOURS,
    VOCABULARY,
    WIDE_BEHAVIOURS,
    WIDE_MOODS,
    sentence,
    words_of,
)
from omniavatar.nano.reader import SIDE, load_reader
from omniavatar.nano.regions import inside
from omniavatar.nano.rough_speech import roughen
from omniavatar.nano.speech import VISEMES, SpeechBank, speech_bank
from omniavatar.nano.train_fold import STEPS, fold_loss, sample_steps
from omniavatar.nano.train_transformer import (
    add_noise,
    drop_conditions,
    empty_prompt,
    new_clips_a_step,
)
from omniavatar.nano.train_vae import _take_weights
from omniavatar.nano.windows import (
    KNOWN_LATENTS,
    PROMPT_ROWS,
    Latents,
    Windows,
    load_speech_encoder,
    read_windows,
    tokenize,
    write_windows,
)

CHANGES = ("_in_a_room", "_with_music", "_with_coloured_noise", "_filtered")
SMALL = Course(
    name="small",
    look="wide",
    shapes=(Shape(32, 32, 17), Shape(32, 48, 17)),
    rough=True,
    decoder_width=16,
)


@pytest.fixture(scope="module")
def bank() -> SpeechBank:
    return speech_bank(4, 8.0, seed=11)


def envelope(waveform: Tensor) -> np.ndarray:
    """Loudness of every row, [b, rows]."""
    return waveform.unflatten(1, (-1, 640)).square().mean(-1).sqrt().numpy()


def energies_agree(one: Tensor, other: Tensor) -> list[float]:
    """Correlation of the energies over time of each clip."""
    pairs = zip(envelope(one), envelope(other), strict=True)
    return [float(np.corrcoef(a, b)[0, 1]) for a, b in pairs]


@pytest.mark.parametrize("name", CHANGES)
def test_rough_speech_is_still_that_speech(bank: SpeechBank, name: str) -> None:
    torch.manual_seed(0)
    change: Callable[[Tensor], Tensor] = getattr(rough_speech, name)
    changed = change(bank.samples)
    assert changed.shape == bank.samples.shape
    assert changed.isfinite().all()
    assert ((changed - bank.samples).abs().amax(1) > 1e-4).all()
    assert min(energies_agree(changed, bank.samples)) > 0.75


def test_some_clips_are_roughened_and_the_same_seed_does_the_same(bank: SpeechBank) -> None:
    samples = bank.samples.repeat(8, 1)[:, : 4 * 16000]
    torch.manual_seed(1)
    first = roughen(samples)
    torch.manual_seed(1)
    assert torch.equal(roughen(samples), first)
    assert not torch.equal(roughen(samples), first)
    untouched = (first == samples).all(1).sum()
    assert 0 < untouched < len(samples) / 2
    torch.manual_seed(1)
    assert torch.equal(roughen(samples, share=0.0), samples)


def test_silence_stays_quiet() -> None:
    torch.manual_seed(2)
    assert roughen(torch.zeros(8, 32000), share=1.0).abs().max() < 1e-3


def test_a_room_adds_nothing_before_the_sound() -> None:
    torch.manual_seed(3)
    waveform = torch.zeros(4, 16000)
    waveform[:, 8000] = 1.0
    heard = rough_speech._in_a_room(waveform)
    assert heard[:, :8000].abs().max() < 1e-5
    assert (heard[:, 8000] - 1).abs().max() < 1e-5
    assert (heard[:, 8001:].abs().amax(1) > 1e-3).all()
    assert heard[:, 8000 + round(0.36 * 16000) :].abs().max() < 1e-5


def test_music_lies_as_far_under_the_speech_as_is_said(bank: SpeechBank) -> None:
    torch.manual_seed(4)
    music = rough_speech._with_music(bank.samples) - bank.samples
    under = 20 * (bank.samples.square().mean(1) / music.square().mean(1)).sqrt().log10()
    assert (under > 5.9).all()
    assert (under < 30.1).all()


@torch.no_grad()
def test_a_shape_has_as_many_tokens_as_the_transformer_makes_of_it() -> None:
    small = Shape(32, 48, 5)
    latents = encode_whole(build_vae().eval(), torch.zeros(1, 3, 5, 32, 48))
    assert latents.shape[2] == small.latent_frames
    into_tokens = build_transformer().patch_embedding
    shapes = [(small, tuple(latents.shape[2:]))]
    shapes += [(s, (s.latent_frames, s.height // 8, s.width // 8)) for s in WIDE.shapes]
    for shape, sizes in shapes:
        tokens = into_tokens(torch.zeros(1, 33, *sizes))
        assert tokens[0, 0].numel() == shape.tokens


def test_full_sized_shapes_are_alike_in_work_and_each_aspect_has_one() -> None:
    large = [shape for shape in WIDE.shapes if min(shape.height, shape.width) == 192]
    ratios = {shape.width / shape.height for shape in large}
    assert {math.copysign(1, math.log(r)) if r != 1 else 0 for r in ratios} == {-1, 0, 1}
    tokens = [shape.tokens for shape in large]
    assert max(tokens) <= 1.05 * min(tokens)
    assert {(s.height, s.width) for s in WIDE.shapes if s not in large} == {(128, 128)}
    for shape in WIDE.shapes:
        assert shape.frames % 4 == 1
        assert shape.height % 16 == shape.width % 16 == 0
        assert WIDE.batch(shape) * shape.tokens == pytest.approx(WIDE.tokens, rel=0.05)
    assert (
        Course(name="one", look="drawn", shapes=WIDE.shapes, tokens=10).batch(WIDE.shapes[0]) == 1
    )


def test_new_clips_are_counted_over_all_shapes() -> None:
    # In 40 turns of six steps: five of each full size, eleven of the small one.
    assert new_clips_a_step(WIDE) == pytest.approx((5 * 5 + 11) / 240)


def test_a_probe_shows_what_its_course_teaches(
    nano_bank: SpeechBank, nano_latents: Latents
) -> None:
    weights, device = weights_folder(), torch.device("cpu")
    encoder, reader = load_speech_encoder(weights, device), load_reader(weights / "reader")
    course = replace(SMALL, look="drawn", shapes=(Shape(32, 32, 5),), behaviours=("waving", "sad"))
    probe = Probe(nano_bank, nano_latents, encoder, reader, course=course, clips=2, device=device)
    assert [WIDE_BEHAVIOURS[n] for n in probe._clips.behaviour] == ["waving", "sad"]


def framed(person: Presenters, *, size: float, x: float, y: float) -> Presenters:
    """The same person elsewhere in the picture."""
    numbers = {
        **person.numbers,
        **{
            name: torch.full_like(person.numbers["size"], value)
            for name, value in (("size", size), ("centre_x", x), ("centre_y", y))
        },
    }
    return replace(person, numbers=numbers, framing=((x, y, size),) * len(person))


def as_frames(mask: Tensor) -> Tensor:
    """[n, h, w] bool -> a white patch on black, [n, 1, 3, h, w] uint8."""
    return (mask[:, None, None].expand(-1, 1, 3, -1, -1) * 255).to(torch.uint8)


def share_within(pictures: Tensor, box: Tensor) -> Tensor:
    """Of all change from the first picture to the second, [n]."""
    change = (pictures[:, 1].float() - pictures[:, 0].float()).abs().sum(1)
    return (change * box).sum((1, 2)) / change.sum((1, 2))


def test_heads_of_any_framing_are_seen_at_one_place_and_size() -> None:
    people = sample_presenters(
        40, generator=torch.Generator().manual_seed(3), device="cpu", look="wide"
    )
    drawn = [i for i, traits in enumerate(people.traits) if traits.style == "flat"][:4]
    people = people.take(drawn)
    mouth = torch.tensor([VISEMES["rest"], VISEMES["ah"]]).expand(len(drawn), 2, 3)
    pose = replace(Pose.at_rest(len(drawn), 2), mouth=mouth)
    found = []
    for size, x, y, height, width in (
        (0.55, 0.0, 0.0, 128, 128),
        (0.35, 0.2, -0.2, 160, 160),
        (0.42, -0.15, -0.1, 144, 192),
        (0.42, 0.1, -0.1, 192, 144),
    ):
        framing = framed(people, size=size, x=x, y=y)
        pictures = render(framing, pose, height=height, width=width, as_bytes=True)
        views = face_view(pictures, framing)
        assert views.shape == (len(drawn), 2, 3, SIDE, SIDE)
        moved = (views[:, 1].float() - views[:, 0].float()).abs().sum(1) > 60  # [n, SIDE, SIDE]
        rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
        for one in moved:
            place = (columns[one].float().mean(), rows[one].float().mean(), one.sum().sqrt())
            found.append(torch.stack(place))

        boxes = regions(framing, pose, height=height, width=width).mouth[:, 1]
        box = inside(boxes, height=height, width=width)
        seen = face_view(as_frames(box), framing)[:, 0, 0] / 255
        edge = torch.cat([seen[:, 0], seen[:, -1], seen[:, :, 0], seen[:, :, -1]], dim=1)
        assert not edge.any()
        # As much of what speech moves lies in the box as in the picture itself: most of it.
        share_seen = share_within(views, seen)
        assert (share_seen - share_within(pictures, box.float())).abs().max() < 0.06
        assert share_seen.min() > 0.6
    places = torch.stack(found).unflatten(0, (-1, len(drawn)))  # [framings, n, (x, y, size)]
    assert (places - places.mean(0)).abs().max() < 2  # pixels of 128


def test_heads_of_the_first_look_are_seen_at_the_same_size_too() -> None:
    people = sample_presenters(2, generator=torch.Generator().manual_seed(0), device="cpu")
    small, large = (framed(people, size=size, x=0.0, y=0.0) for size in (0.4, 0.56))
    rest = Pose.at_rest(2, 1)
    one, other = (
        face_view(render(who, rest, height=192, width=192, as_bytes=True), who).float()
        for who in (small, large)
    )
    middle = slice(SIDE // 4, -SIDE // 4)  # the face: what is around it is framed otherwise
    assert (one - other)[..., middle, middle].abs().mean() < 12


def some_windows(count: int) -> Windows:
    """Random ones, of 4 x 4 cells and 5 latent frames; every second goes on."""
    known = torch.tensor([1, KNOWN_LATENTS] * count)[:count]
    prompts = ("A man talks and nods.", "A woman is smiling.") * count
    return Windows(
        latents=torch.randn(count, 16, 5, 4, 4),
        prefix=torch.randn(count, 16, KNOWN_LATENTS, 4, 4),
        reference=torch.randn(count, 16, 4, 4),
        speech=torch.randn(count, 20, 768),
        rows=torch.arange(-1, 16).expand(count, -1).clone(),
        prompt=tokenize(build_tokenizer(VOCABULARY), prompts[:count]),
        weights=torch.rand(count, 5, 4, 4) + 1,
        mouth=torch.rand(count, 17, 3),
        face=torch.tensor([0.0, 0.0, 0.5]).expand(count, -1).clone(),
        heads=torch.tensor([4, 4, 28, 28]).expand(count, 17, -1).clone(),
        known=known,
    )


@pytest.fixture(scope="module")
def teacher() -> Generator:
    torch.manual_seed(5)
    network = Generator().eval().requires_grad_(False)
    nn.init.normal_(network.transformer.proj_out.weight, std=0.1)
    return network


def test_the_student_learns_where_two_guided_steps_of_the_teacher_lead(teacher: Generator) -> None:
    windows = some_windows(4)
    student = Generator()  # says nothing but zeros yet, so its error is the target's square
    torch.manual_seed(7)
    found = fold_loss(student, teacher, windows, guidance=1.8)
    found.backward()
    assert any(p.grad is not None and p.grad.any() for p in student.parameters())
    assert all(p.grad is None for p in teacher.parameters())

    torch.manual_seed(7)
    start, middle, stop = sample_steps(4, torch.device("cpu"))
    noised = add_noise(windows, start)
    told = drop_conditions(windows)
    empty = teacher.encode_prompt(empty_prompt(windows.prompt))

    @torch.no_grad()
    def guided(hidden: Tensor, sigma: Tensor) -> Tensor:
        told_all = teacher(hidden, sigma, told.context(teacher), told.audio)
        told_nothing = teacher(hidden, sigma, empty, torch.zeros_like(told.audio))
        return 1.8 * told_all - 0.8 * told_nothing

    def over(values: Tensor) -> Tensor:
        return values[:, None, None, None, None]

    given = (torch.arange(5) < windows.known[:, None])[:, None, :, None, None]
    begin = noised.hidden[:, :16]
    halfway = begin + over(middle - start) * guided(noised.hidden, start) * ~given
    hidden = torch.cat([halfway, noised.hidden[:, 16:]], dim=1)
    end = halfway + over(stop - middle) * guided(hidden, middle)
    velocity = (end - begin) / over(stop - start)
    counted = noised.weights[:, None] * ~given
    wanted = (counted * velocity.square()).sum() / (counted.sum() * 16)
    assert found.item() == pytest.approx(wanted.item(), rel=0.03)  # half precision


def test_most_steps_are_those_of_the_default_schedule() -> None:
    torch.manual_seed(8)
    start, middle, stop = sample_steps(4000, torch.device("cpu"))
    line = torch.linspace(1, 0, STEPS + 1)
    default = 5 * line / (1 + 4 * line)
    met = (start[:, None] - default).abs().amin(1) < 1e-6
    assert met.float().mean() == pytest.approx(0.75, abs=0.05)
    assert (start > middle).all()
    assert (middle > stop).all()
    assert start.max() <= 1
    assert stop.min() >= 0


def test_a_narrower_decoder_is_left_new_behind_the_same_encoder(tmp_path: Path) -> None:
    torch.manual_seed(9)
    exported = build_vae(decoder_width=16)
    exported.save_pretrained(tmp_path / "vae")
    theirs = exported.state_dict()

    same = build_vae(decoder_width=16)
    assert not _take_weights(same, tmp_path)
    assert all(torch.equal(value, theirs[name]) for name, value in same.state_dict().items())

    other = build_vae(decoder_width=8)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    assert _take_weights(other, tmp_path)
    for name, value in other.state_dict().items():
        wanted = before if name.startswith("decoder.") else theirs
        assert torch.equal(value, wanted[name]), name


def test_windows_of_each_shape_are_kept_apart_and_processes_share_them(
    bank: SpeechBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(10)
    build_vae(decoder_width=SMALL.decoder_width).save_pretrained(tmp_path / "vae")
    for number in (0, 1):
        write_windows(
            bank,
            tmp_path,
            folder=tmp_path,
            clips=3,
            number=number,
            course=SMALL,
            deadline=math.inf,
            device=torch.device("cpu"),
        )
    assert not list(tmp_path.glob("*.partial"))
    encoder, device = build_speech_encoder().eval(), torch.device("cpu")
    for shape, count in zip(SMALL.shapes, (6, 2), strict=True):
        read = read_windows(tmp_path, shape, encoder, device)
        assert len(read) == count
        assert read.latents.shape == (count, 16, 5, shape.height // 8, shape.width // 8)
        assert read.speech.shape[-1] == 768  # heard
        assert read.prompt.shape == (count, PROMPT_ROWS)
        assert not torch.equal(read.latents[0], read.latents[count // 2])  # of the other number
    with pytest.raises(FileNotFoundError, match="64x32x17"):
        read_windows(tmp_path, Shape(64, 32, 17), encoder, device)

    # Of two files, two processes read one each, and of four each takes its share of both.
    shape = SMALL.shapes[0]
    whole = read_windows(tmp_path, shape, encoder, device).latents
    for count, lengths in ((2, [3, 3]), (4, [2, 2, 1, 1])):
        monkeypatch.setattr(windows, "processes", lambda count=count: count)
        shares = []
        for number in range(count):
            monkeypatch.setattr(windows, "rank", lambda number=number: number)
            shares.append(read_windows(tmp_path, shape, encoder, device).latents)
        assert [len(share) for share in shares] == lengths
        found = {latents.sum().item() for latents in torch.cat(shares)}
        assert found == {latents.sum().item() for latents in whole}


def test_every_word_of_every_prompt_is_known() -> None:
    people = sample_presenters(
        150, generator=torch.Generator().manual_seed(4), device="cpu", look="wide"
    )
    chance, known = random.Random(2), set(VOCABULARY)
    for traits in people.traits:
        for behaviour in WIDE_BEHAVIOURS:
            for mood in WIDE_MOODS:
                text = sentence(traits, behaviour=behaviour, mood=mood, chance=chance)
                assert set(words_of(text)) <= known, text
                assert len(words_of(text)) < PROMPT_ROWS - 1


def test_words_keep_the_numbers_of_the_shipped_tokenizer() -> None:
    shipped = type(build_tokenizer(VOCABULARY)).from_pretrained(weights_folder() / "tokenizer")
    numbers = shipped.get_vocab()
    assert len(numbers) > 100
    assert [VOCABULARY[number] for number in numbers.values()] == list(numbers)
    assert sorted(numbers.values()) == list(range(len(numbers)))
    assert len(set(VOCABULARY)) == len(VOCABULARY) <= 256
    again = build_tokenizer(VOCABULARY)
    text = "A woman with long brown hair is talking, smiling and nods."
    assert again(text)["input_ids"] == shipped(text)["input_ids"]
    assert WIDE_BEHAVIOURS[: len(BEHAVIOURS)] == BEHAVIOURS
