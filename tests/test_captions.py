"""Captions: when words are said, how they are cut and written, and how they look in a video."""

import re

import imageio.v3 as iio
import numpy as np
import pytest
from media_files import describe

from omniavatar.errors import InputError, OutputError
from omniavatar.media.burn import burn_captions
from omniavatar.media.captions import (
    Caption,
    align_captions,
    align_words,
    from_srt,
    split_words,
    to_srt,
    wrap,
)
from omniavatar.media.speech import Speech
from omniavatar.media.video import Mp4Writer, read_settings
from omniavatar.nano.espeak import Synthesiser, Voice

TEXTS = (
    "Meet your new presenter! Give it a picture and a voice, and it will tell your story to the "
    "whole world.",
    "Good news sounds better when a friendly face tells it. Choose a portrait, record a few words, "
    "and a moment later you have a video for your shop, your lessons, or your team. No camera, no "
    "studio, and no second take.",
    "The quick brown fox jumps over the lazy dog while seven extraordinarily patient elephants "
    "watch from a considerable distance without saying anything at all",
)
VOICES = (Voice("en-us"), Voice("en-gb-scotland"), Voice("en-us", "f4"))
WORD_EVENT = 1


class Narrator(Synthesiser):
    """Also notes when each word of the text begins."""

    def _receive(self, wave, count, events):
        i = 0
        while events[i].type:
            if events[i].type == WORD_EVENT:
                self.begins.setdefault(events[i].text_position - 1, events[i].sample / 22050)
            i += 1
        return super()._receive(wave, count, events)


def narrate(text, voice, words_per_minute):
    """The speech, and by the number of a word when it begins, in seconds."""
    with Narrator() as narrator:
        narrator.begins = {}
        said = narrator.speak(text, voice=voice, words_per_minute=words_per_minute)
    starts = {match.start(): number for number, match in enumerate(re.finditer(r"\S+", text))}
    begins = {starts[at]: time for at, time in narrator.begins.items() if at in starts}
    return speech_of(said.samples), begins


def speech_of(samples):
    samples = np.asarray(samples, np.float32)
    return Speech(samples=samples, sample_rate=16000, duration_seconds=len(samples) / 16000)


def hum(*spans, seconds):
    """Sound in some spans of time."""
    times = np.arange(round(seconds * 16000)) / 16000
    heard = sum(((times >= start) & (times < stop)).astype(float) for start, stop in spans)
    return speech_of(0.3 * np.sin(2 * np.pi * 200 * times) * heard)


def test_words_are_placed_within_a_quarter_of_a_second_of_where_they_are_said():
    errors = []
    for text in TEXTS:
        for voice in VOICES:
            for speed in (130, 200):
                speech, begins = narrate(text, voice, speed)
                words = align_words(text, speech)
                assert len(begins) > 0.8 * len(words)
                errors += [abs(words[i].start_seconds - at) for i, at in begins.items()]
    assert np.mean(errors) < 0.12
    assert np.percentile(errors, 90) < 0.25


def test_sentences_begin_behind_the_pauses():
    speech = hum((0.5, 1.5), (2.5, 4.0), (4.6, 6.0), seconds=7)
    captions = align_captions("One, two. Three four five? Six seven eight!", speech)
    assert [caption.text for caption in captions] == [
        "One, two.", "Three four five?", "Six seven eight!"
    ]  # fmt: skip
    starts = [caption.start_seconds for caption in captions]
    assert starts == pytest.approx([0.5, 2.5, 4.6], abs=0.05)
    assert all(caption.stop_seconds > caption.start_seconds for caption in captions)


def test_captions_are_short_and_never_overlap():
    text = " ".join(TEXTS * 4)
    speech = hum(*((i * 3 + 0.2, i * 3 + 2.7) for i in range(30)), seconds=90)
    captions = align_captions(text, speech, line_characters=30)
    assert " ".join(caption.text for caption in captions).split() == text.split()
    for caption, following in zip(captions, [*captions[1:], None], strict=True):
        assert len(caption.text.splitlines()) <= 3
        assert max(map(len, caption.text.splitlines())) <= 30
        assert 0 < caption.stop_seconds - caption.start_seconds < 9
        assert following is None or caption.stop_seconds <= following.start_seconds + 1e-6


def test_lines_of_the_text_are_captions_of_their_own():
    captions = align_captions("one two\nthree four\n\nfive", hum((0, 5), seconds=5))
    assert [caption.text for caption in captions] == ["one two", "three four", "five"]


@pytest.mark.parametrize(
    "text",
    ["今天天气很好,我们去公园散步吧。好不好?", "Привет, как дела? Всё хорошо.", "مرحبا بكم",
     "a", "word " * 300, "!!! hello ???", "Wow 🎉 great", "2026 — 100 % sure", "tab\there"],
)  # fmt: skip
def test_any_text_is_placed_whole(text):
    speech = hum((0.2, 1.0), (1.5, 2.2), (2.6, 3.9), seconds=4)
    captions = align_captions(text, speech)
    assert "".join("".join(c.text for c in captions).split()) == "".join(text.split())
    assert captions[0].start_seconds >= 0
    assert captions[-1].stop_seconds <= 4.001


@pytest.mark.timeout(60)  # trying how many words fit by joining all of them took hours
def test_text_without_punctuation_is_cut_at_any_length():
    text = "and so on " * 4000
    captions = align_captions(text, hum((0, 7), (8, 20), seconds=20))
    shown = [caption.text.replace("\n", " ") for caption in captions]
    assert " ".join(shown) == text.strip()
    assert {len(each) for each in shown[:-2]} <= {82, 83, 84}, "as full as they can be"


@pytest.mark.parametrize("text", ["", "  \n ", "...", "\x00\x07"])
def test_no_text_is_refused(text):
    with pytest.raises(InputError, match="no text"):
        align_captions(text, hum((0, 1), seconds=1))


def test_silence_and_too_much_text_are_refused():
    with pytest.raises(InputError, match="Nothing is heard"):
        align_captions("hello", speech_of(np.zeros(16000)))
    with pytest.raises(InputError, match="200000"):
        split_words("a " * 200_001)


def test_srt_is_written_and_read_back():
    captions = [Caption(0.0, 1.25, "One\ntwo"), Caption(3661.5, 3662.004, "Three")]
    text = to_srt(captions)
    assert text.startswith("1\n00:00:00,000 --> 00:00:01,250\nOne\ntwo\n\n2\n01:01:01,500 --> ")
    assert from_srt(text) == captions
    assert from_srt("\ufeff1\r\n00:00:01.5 --> 00:00:02.25\r\n<i>Hi</i>\r\n") == [
        Caption(1.5, 2.25, "Hi")
    ]
    with pytest.raises(InputError, match="SRT"):
        from_srt("hello")


def test_lines_are_balanced():
    assert wrap("a moment later you have a video for your shop", 42).splitlines() == [
        "a moment later you have", "a video for your shop"
    ]  # fmt: skip
    assert wrap("short", 42) == "short"


# ---- in the picture


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Three seconds of half black and half white."""
    path = tmp_path_factory.mktemp("captions") / "video.mp4"
    frame = np.zeros((192, 320, 3), np.uint8)
    frame[:, 160:] = (250, 240, 230)
    with Mp4Writer(path, width=320, height=192, fps=25, audio=None, settings={"seed": 5}) as writer:
        writer.write(np.repeat(frame[None], 75, 0))
    return path


def frames_of(path):
    return iio.imread(path, plugin="FFMPEG").astype(int)


def test_captions_stand_in_the_picture_from_start_to_stop_and_are_legible(video, tmp_path):
    burn_captions(video, [Caption(1.0, 2.0, "Legible everywhere")], tmp_path / "a.mp4")
    before, after = frames_of(video), frames_of(tmp_path / "a.mp4")
    assert before.shape == after.shape
    change = np.abs(before - after).max(axis=(1, 2, 3))
    shown = np.flatnonzero(change > 100)
    assert (shown[0], shown[-1]) == (25, 49)
    assert np.abs(before - after)[:, :120].mean() < 2, "colours elsewhere stay"
    for half in (np.s_[150:, 60:160], np.s_[150:, 160:260]):
        lit = after[30][half].mean(axis=-1)
        assert (lit > 230).mean() > 0.02, "white letters"
        assert (lit < 120).mean() > 0.2, "on a dark ground"


def test_settings_and_size_of_the_video_are_kept(video, tmp_path):
    burn_captions(video, [Caption(0, 3, "Hello")], tmp_path / "a.mp4")
    assert read_settings(tmp_path / "a.mp4") == {"seed": 5}
    assert "yuv420p(tv, bt709" in describe(tmp_path / "a.mp4")


def test_long_captions_stay_within_the_picture_and_are_shown_in_parts(video, tmp_path):
    burn_captions(video, [Caption(0, 3, "remarkable words " * 12 + "x" * 90)], tmp_path / "a.mp4")
    after = frames_of(tmp_path / "a.mp4")
    assert np.abs(after[5] - after[70])[100:].max() > 100, "another part at the end"
    for frame in after[[5, 40, 70]]:
        assert (frame[:, :4].mean(axis=-1) < 60).all(), "nothing touches the edge"


def test_text_without_a_font_is_refused_in_one_sentence(video, tmp_path):
    with pytest.raises(InputError, match="No font here has the character") as caught:
        burn_captions(video, [Caption(0, 1, "\U00012000\U00012001")], tmp_path / "a.mp4")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a.mp4").exists()
    with pytest.raises(InputError, match="not a font"):
        burn_captions(video, [Caption(0, 1, "a")], tmp_path / "a.mp4", font=video)


def test_what_is_no_video_is_refused(video, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    for path in (tmp_path / "text.mp4", tmp_path / "missing.mp4"):
        with pytest.raises(InputError):
            burn_captions(path, [Caption(0, 1, "a")], tmp_path / "a.mp4")
    with pytest.raises(OutputError):
        burn_captions(video, [Caption(0, 1, "a")], tmp_path / "a.avi")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.mp4"]
