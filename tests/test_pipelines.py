from concurrent.futures import ThreadPoolExecutor

import pytest

from omniavatar import AvatarPipeline, InputError, WeightsError
from omniavatar.serving.pipelines import Pipelines


class Loaded:
    """Stands for a published model, which no test machine has the weights of."""

    def __init__(self, model, memory, options):
        self.model, self.memory, self.options, self.closed = model, memory, options, False

    def close(self):
        self.closed = True


@pytest.fixture
def loads(monkeypatch):
    """Each load that is asked for, in order; whether there is room beside others is `fits`."""

    class Loads(list):
        fits = False

    loads = Loads()

    def load(model, *, memory, **options):
        loads.append(Loaded(model, memory, options))
        return loads[-1]

    monkeypatch.setattr(AvatarPipeline, "from_pretrained", load)
    monkeypatch.setattr(AvatarPipeline, "fits_whole", lambda _model, **_options: loads.fits)
    return loads


def test_requests_at_the_same_time_share_one_load(monkeypatch):
    calls, load = [], AvatarPipeline.from_pretrained

    def counted(model, **options):
        calls.append(model)
        return load(model, **options)

    monkeypatch.setattr(AvatarPipeline, "from_pretrained", counted)
    pipelines = Pipelines()
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(pipelines.get, ["nano", "nano"])
    assert first is second
    assert calls == ["nano"]
    first.close()
    assert not hasattr(first, "models")


def test_a_load_that_fails_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pipelines = Pipelines({})
    for _ in range(2):
        with pytest.raises((WeightsError, InputError), match="14B"):
            pipelines.get("14B")


def test_a_model_without_room_takes_the_place_of_the_others(loads):
    pipelines = Pipelines({})
    for model in ("nano", "1.3B", "14B", "nano", "14B"):
        pipelines.get(model)
    nano, small, large = loads
    assert [loaded.model for loaded in loads] == ["nano", "1.3B", "14B"]
    assert small.closed
    assert not nano.closed
    assert not large.closed


def test_models_with_room_for_all_stay(loads):
    loads.fits = True
    pipelines = Pipelines({})
    for model in ("1.3B", "14B", "1.3B"):
        pipelines.get(model)
    assert len(loads) == 2
    assert not any(loaded.closed for loaded in loads)


def test_another_tier_is_another_load_in_the_place_of_the_first(loads):
    pipelines = Pipelines({"OMNIAVATAR_MEMORY": "24GB"})
    first = pipelines.get("14B")
    assert pipelines.get("14B", memory="24GB") is first
    second = pipelines.get("14B", memory="16GB")
    assert [loaded.memory for loaded in loads] == ["24GB", "16GB"]
    assert first.closed
    assert not second.closed


def test_a_shared_gpu_keeps_what_was_loaded_before_the_page(loads):
    pipelines = Pipelines({"SPACES_ZERO_GPU": "true", "OMNIAVATAR_MODELS": "1.3B, 14B,nano"})
    pipelines.preload("nano")
    assert [loaded.model for loaded in loads] == ["nano", "1.3B", "14B"]
    pipelines.get("1.3B")
    assert len(loads) == 3
    assert not any(loaded.closed for loaded in loads)
    assert {loaded.options["compile"] for loaded in loads} == {"off"}


def test_a_shared_gpu_offers_nothing_that_was_not_loaded(loads):
    pipelines = Pipelines({"SPACES_ZERO_GPU": "true"})
    pipelines.preload("nano")
    with pytest.raises(InputError, match=r"14B is not offered here.*OMNIAVATAR_MODELS"):
        pipelines.get("14B")
    assert len(loads) == 1
