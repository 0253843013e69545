"""What `python -m omniavatar doctor` says of machines, and with which exit status."""

import json
import subprocess
from importlib import metadata
from types import SimpleNamespace

import pytest
import torch

from omniavatar import InputError, examine
from omniavatar.memory import Free
from omniavatar.serving import cli
from omniavatar.tiers import GIGABYTE


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """No weights of published models anywhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMNIAVATAR_WEIGHTS", str(tmp_path / "weights"))


@pytest.fixture
def gpu(monkeypatch):
    """A machine with a card, as far as choices go: what is free on it and beside it."""

    def have(device_gigabytes, host_gigabytes):
        free = Free(device=device_gigabytes * GIGABYTE, host=host_gigabytes * GIGABYTE)
        monkeypatch.setattr("omniavatar.doctor.free_memory", lambda *_: free)

    return have


@pytest.fixture
def disk(monkeypatch):
    """A disk with so much free, whatever the machine of the tests has left."""

    def have(gigabytes):
        usage = SimpleNamespace(free=gigabytes * GIGABYTE)
        monkeypatch.setattr("shutil.disk_usage", lambda _: usage)

    return have


def prospects(**options):
    return {prospect.model: prospect for prospect in examine(**options).prospects}


def test_bundled_model_is_ready_and_the_others_say_what_they_lack(tmp_path, gpu, disk):
    gpu(24, 128)
    disk(500)
    found = prospects(device="cpu")
    assert found["nano"].ready
    for model in ("1.3B", "14B"):
        assert not found[model].ready
        assert found[model].folder == tmp_path / "weights"
        assert any("text encoder" in sentence for sentence in found[model].missing)
        assert found[model].advice == (
            f"python -m omniavatar download {model} --to {tmp_path / 'weights'}"
        )


def test_each_model_is_told_its_arrangement_and_why(gpu):
    gpu(32, 128)
    large = prospects(device="cpu")["14B"]
    assert "transformer in fp8" in large.arrangement
    assert large.device_bytes < 32 * GIGABYTE
    gpu(16, 20)
    assert prospects(device="cpu")["14B"].arrangement is None
    assert "free host memory" in prospects(device="cpu")["14B"].advice


def test_a_machine_without_a_card_is_told_what_one_would_do(gpu, capsys):
    gpu(8, 64)
    found = prospects(device="cpu", memory="8GB")
    assert found["1.3B"].on_card.startswith("transformer in bfloat16 on the GPU, text encoder in")
    assert "transformer in fp8 streamed from host memory" in found["14B"].on_card
    larger = prospects(device="cpu", memory="12GB")["14B"]
    assert "transformer in bfloat16 streamed from host memory" in larger.on_card
    assert prospects(device="cpu")["14B"].on_card is None
    cli.main(["doctor", "--device", "cpu", "--memory", "24GB"])
    assert "on a card of 24GB: transformer in fp8 on the GPU" in capsys.readouterr().out
    gpu(8, 16)
    assert "25.3 GB of free host memory" in prospects(device="cpu", memory="8GB")["14B"].on_card


def test_a_full_disk_is_told(gpu, disk):
    gpu(80, 128)
    disk(10)
    advice = prospects(device="cpu")["14B"].advice
    assert "10 GB are free" in advice
    assert "--to FOLDER" in advice


def test_what_is_broken_is_essential_or_not(monkeypatch):
    def without(absent):
        version = metadata.version

        def found(name):
            if name == absent:
                raise metadata.PackageNotFoundError(name)
            return version(name)

        monkeypatch.setattr("omniavatar.doctor.metadata.version", found)
        return examine(["nano"])

    assert without("nothing").healthy
    assert without("gradio").healthy
    monkeypatch.undo()
    assert not without("diffusers").healthy


def test_ffmpeg_that_does_not_run_is_told(monkeypatch):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/absent/ffmpeg")
    found = examine(["nano"])
    (ffmpeg,) = (finding for finding in found.findings if finding.name == "ffmpeg")
    assert "imageio-ffmpeg" in ffmpeg.advice
    assert not found.healthy


def test_json_has_all_of_it(capsys):
    assert cli.main(["doctor", "--model", "nano", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["healthy"] is True
    assert told["models"][0]["model"] == "nano"
    assert {"torch", "device", "free memory", "ffmpeg"} <= {row["name"] for row in told["findings"]}


def test_exit_status_says_whether_a_named_model_works(capsys):
    assert cli.main(["doctor", "--model", "14B", "--device", "cpu"]) == 2
    captured = capsys.readouterr()
    assert "download 14B" in captured.out or "host memory" in captured.out
    assert captured.err.strip().endswith("14B can not make a video here yet.")
    assert cli.main(["doctor", "--model", "nano"]) == 0


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match="13B"):
        examine(["13B"])
    with pytest.raises(InputError, match="memory"):
        examine(["nano"], memory="7GB")


def test_a_driver_without_cuda_in_torch_is_told(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 570.86.10\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert subprocess.run(["nvidia-smi"], capture_output=True, check=True).stdout
    assert not torch.cuda.is_available()
    (finding,) = (f for f in examine(["nano"]).findings if f.name == "torch")
    assert "Install torch for CUDA" in finding.advice
