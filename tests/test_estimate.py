import json
from dataclasses import replace

import pytest

from omniavatar import CATALOG, GenerationRequest
from omniavatar.plan import plan_video
from omniavatar.serving.estimate import Rates, work_of

NANO = replace(CATALOG["nano"], steps=4, guidance=1.8)
SMALL = CATALOG["1.3B"]
REQUEST = GenerationRequest(image="a.png", audio="a.wav")


def plan(spec, seconds, **changes):
    return plan_video(
        image_height=400,
        image_width=720,
        samples=round(seconds * 16000),
        **{
            "sizes": spec.sizes,
            "max_tokens": spec.max_tokens,
            "overlap_frames": spec.overlap_frames,
            "fps": spec.fps,
            "sample_rate": spec.sample_rate,
            **changes,
        },
    )


def work(spec, seconds, changes=None, **settings):
    return work_of(plan(spec, seconds, **(changes or {})), replace(REQUEST, **settings), spec)


def test_forwards_are_counted_by_chunk_step_and_branch():
    assert work(NANO, 2.0).forwards == 1 * 4 * 2
    assert work(NANO, 6.0).forwards == 3 * 4 * 2
    assert work(NANO, 2.0, guidance=1.0, steps=10).forwards == 10
    assert work(NANO, 2.0, audio_guidance=3.0).forwards == 1 * 4 * 3
    assert work(SMALL, 1.0).tokens == 27 * 25 * 45


def test_a_guess_grows_with_the_work_and_shrinks_with_the_device(tmp_path):
    rates = Rates(tmp_path / "rates.json")
    card = "NVIDIA H200"
    short, long = (rates.seconds(work(SMALL, n), SMALL, device=card) for n in (4.0, 40.0))
    assert 5 * short < long
    assert short < rates.seconds(work(SMALL, 4.0), SMALL, device="NVIDIA GeForce RTX 4090")
    assert short < rates.seconds(work(SMALL, 4.0), CATALOG["14B"], device=card)
    assert rates.seconds(work(SMALL, 4.0, steps=5), SMALL, device=card) < short
    assert not rates.is_measured(SMALL, device=card)
    assert rates.seconds(work(NANO, 2.0), NANO, device="a device of the future") > 0


def test_what_was_measured_is_believed_and_outlives_the_process(tmp_path):
    done = work(NANO, 6.0)
    measured = {"read": 0.5, "conditions": 1.0, "denoise": 48.0, "decode": 6.0, "write": 0.3}
    rates = Rates(tmp_path / "rates.json")
    rates.learn(done, NANO, {**measured, "total": 56.0}, device="cpu")
    again = Rates(tmp_path / "rates.json")
    assert again.is_measured(NANO, device="cpu")
    assert not again.is_measured(NANO, device="NVIDIA H200")
    assert again.seconds(done, NANO, device="cpu") == pytest.approx(56.0)
    assert again.seconds(work(NANO, 2.0), NANO, device="cpu") == pytest.approx(
        48 / 3 + 6.3 / 3 + 1.7
    )
    # A shorter chunk is taken in proportion, a cached run as a share of it.
    small = work(NANO, 1.0, {"max_tokens": 1200})
    assert again.seconds(small, NANO, device="cpu") < again.seconds(
        work(NANO, 1.0), NANO, device="cpu"
    )
    cached = again.seconds(work(NANO, 6.0, step_cache=0.1), NANO, device="cpu")
    assert 1.7 + 6.3 < cached < 56


def test_newer_runs_count_more(tmp_path):
    rates, done = Rates(tmp_path / "rates.json"), work(NANO, 2.0)
    for seconds in (100.0, 10.0, 10.0, 10.0):
        rates.learn(done, NANO, {"denoise": seconds, "total": seconds}, device="cpu")
    assert 10 < rates.seconds(done, NANO, device="cpu") < 25


@pytest.mark.parametrize("content", ["", "{", "[]", '{"nano|cpu|1088|0": 3}', '{"x": {}}', "null"])
def test_a_damaged_memory_begins_anew(tmp_path, content):
    (tmp_path / "rates.json").write_text(content)
    rates = Rates(tmp_path / "rates.json")
    assert not rates.is_measured(NANO, device="cpu")
    assert rates.seconds(work(NANO, 2.0), NANO, device="cpu") > 0


@pytest.mark.parametrize("key", ["nano", "nano|cpu|many|0", "nano|cpu|0|0", "a|nano|cpu|1088|0"])
def test_a_key_of_another_form_is_forgotten_and_the_others_are_kept(tmp_path, key):
    path = tmp_path / "rates.json"
    Rates(path).learn(work(NANO, 2.0), NANO, {"denoise": 4.0, "total": 9.0}, device="cpu")
    known = json.loads(path.read_text())
    path.write_text(json.dumps({key: next(iter(known.values())), **known}))
    rates = Rates(path)
    assert rates.is_measured(NANO, device="cpu")
    assert not rates.is_measured(SMALL, device="cpu")
    assert rates.seconds(work(NANO, 6.0), NANO, device="cpu") > 9
    path.write_text(json.dumps({key: next(iter(known.values()))}))
    assert not Rates(path).is_measured(NANO, device="cpu")
