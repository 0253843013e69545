import logging
from concurrent.futures import ThreadPoolExecutor

import pytest

from omniavatar import WeightsError
from omniavatar.serving.pipelines import Pipelines


def test_requests_at_the_same_time_share_one_load(caplog):
    caplog.set_level(logging.INFO, "omniavatar.weights.load")
    pipelines = Pipelines()
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(pipelines.get, ["nano", "nano"])
    assert first is second
    assert sum("loading nano" in line for line in caplog.messages) == 1


def test_a_load_that_fails_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pipelines = Pipelines()
    for _ in range(2):
        with pytest.raises(WeightsError, match="14B"):
            pipelines.get("14B")
