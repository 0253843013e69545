"""Downloads from a hub on this machine, in processes of their own: huggingface_hub reads its
settings when it is imported."""

import hashlib
import signal
import subprocess
import sys
import time

import pytest
import torch
from hub_server import Hub, published_files
from safetensors.torch import save_file

from omniavatar import CATALOG, missing_bytes

BASE = "Wan2.1-T2V-14B"
SHARD = "diffusion_pytorch_model-00002-of-00006.safetensors"
NEEDED = {
    "Wan-AI/Wan2.1-T2V-14B": {
        "config.json",
        *(f"diffusion_pytorch_model-0000{n}-of-00006.safetensors" for n in range(1, 7)),
        "models_t5_umt5-xxl-enc-bf16.pth",
        "Wan2.1_VAE.pth",
        "google/umt5-xxl/special_tokens_map.json",
        "google/umt5-xxl/spiece.model",
        "google/umt5-xxl/tokenizer.json",
        "google/umt5-xxl/tokenizer_config.json",
    },
    "OmniAvatar/OmniAvatar-14B": {"config.json", "pytorch_model.pt"},
    "facebook/wav2vec2-base-960h": {"config.json", "model.safetensors"},
}


@pytest.fixture
def hub():
    with Hub(published_files()) as hub:
        yield hub


def download(hub, tmp_path, *words, check=0, **more):
    return hub.run("download", "14B", "--to", tmp_path, *words, home=tmp_path, check=check, **more)


def content_of(hub, folder):
    """What is in a folder and what the hub has under the same names."""
    here = {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.glob("*/**/*")
        if file.is_file()
    }
    there = {
        f"{repository.split('/')[1]}/{path}": content
        for repository, files in hub.files.items()
        for path, content in files.items()
    }
    return here, {name: there[name] for name in here}


def write_all(hub, folder, *, without=()):
    """The published layout, as other tools leave it."""
    for repository, paths in NEEDED.items():
        for path in paths - set(without):
            place = folder / repository.split("/")[1] / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(hub.files[repository][path])


def test_only_the_files_that_are_needed_come_and_are_the_hubs(hub, tmp_path):
    done = download(hub, tmp_path)
    assert done.stdout == f"{tmp_path}\n"
    assert sorted(hub.asked) == sorted(path for paths in NEEDED.values() for path in paths)
    here, there = content_of(hub, tmp_path)
    assert here == there
    assert len(here) == sum(map(len, NEEDED.values()))


def test_size_and_place_are_told_first_then_how_far_it_is(hub, tmp_path):
    said = download(hub, tmp_path).stderr.splitlines()
    total = sum(len(hub.files[name][path]) for name, paths in NEEDED.items() for path in paths)
    assert said[0] == f"Downloading 14B: {total / 1e6:.3g} MB to {tmp_path}"
    assert said[-1].startswith("100%  2 MB of 2 MB, ")
    assert "/s, about 0:00 left" in said[-1]


def test_a_transformer_by_another_name_is_pointed_at_before_it_is_downloaded(hub, tmp_path):
    base = tmp_path / BASE
    base.mkdir()
    save_file({"blocks.0.ffn.0.weight": torch.zeros(1)}, base / "wan14b.safetensors")
    said = download(hub, tmp_path).stderr.splitlines()
    assert f"If {base / 'wan14b.safetensors'} is that of" in said[0]
    assert said[1].startswith("Downloading 14B")


def test_second_download_asks_for_nothing(hub, tmp_path):
    download(hub, tmp_path)
    hub.asked.clear()
    hub.refusal = 500
    assert download(hub, tmp_path).stderr == ""
    assert hub.asked == []


def test_dropped_connections_are_taken_up_where_they_ended(hub, tmp_path):
    hub.drops = {SHARD: [70_000, 50_000], "models_t5_umt5-xxl-enc-bf16.pth": [1]}
    download(hub, tmp_path)
    here, there = content_of(hub, tmp_path)
    assert here == there
    assert hub.asked.count(SHARD) == 3
    assert hub.served[SHARD] == len(hub.files["Wan-AI/Wan2.1-T2V-14B"][SHARD])
    assert not list(tmp_path.rglob("*.incomplete"))


def test_download_of_a_killed_process_goes_on(hub, tmp_path):
    """Not one byte that was on disk is sent again."""
    size = len(hub.files["Wan-AI/Wan2.1-T2V-14B"][SHARD])
    hub.drops = {SHARD: [150_000, *[0] * 100]}
    first = subprocess.Popen(
        [sys.executable, "-m", "omniavatar", "download", "14B", "--to", str(tmp_path)],
        env=hub.environment(tmp_path),
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    while hub.asked.count(SHARD) < 2:
        assert first.poll() is None
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    (half,) = tmp_path.rglob(f"{SHARD}.*.incomplete")
    assert half.stat().st_size == 150_000
    assert not (half.parent / SHARD).exists()
    hub.drops = {}
    download(hub, tmp_path)
    here, there = content_of(hub, tmp_path)
    assert here == there
    assert hub.served[SHARD] == size


def test_ctrl_c_ends_a_download_at_once_and_keeps_what_has_come(hub, tmp_path):
    hub.drops = {SHARD: [150_000, *[0] * 100]}
    process = subprocess.Popen(
        [sys.executable, "-m", "omniavatar", "download", "14B", "--to", str(tmp_path)],
        env=hub.environment(tmp_path),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    while hub.asked.count(SHARD) < 2:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert "Traceback" not in process.stderr.read()
    assert list(tmp_path.rglob(f"{SHARD}.*.incomplete"))


def test_hub_that_can_not_continue_a_file_sends_it_again(hub, tmp_path):
    hub.ranges = False
    hub.drops = {SHARD: [70_000]}
    download(hub, tmp_path)
    here, there = content_of(hub, tmp_path)
    assert here == there


def test_file_that_comes_damaged_is_named_and_not_kept(hub, tmp_path):
    hub.damaged = {SHARD}
    done = download(hub, tmp_path, check=2)
    assert f"{SHARD} came damaged twice" in done.stderr.splitlines()[-1]
    assert hub.asked.count(SHARD) == 2
    assert not (tmp_path / BASE / SHARD).exists()


def test_two_processes_at_once_download_each_file_once(hub, tmp_path):
    hub.drops = {SHARD: [50_000]}  # so that the first is still there when the second begins
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "omniavatar", "download", "14B", "--to", str(tmp_path)],
            env=hub.environment(tmp_path),
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    assert [process.wait() for process in processes] == [0, 0], processes[0].stderr.read()
    here, there = content_of(hub, tmp_path)
    assert here == there
    assert sum(hub.served.values()) == sum(map(len, here.values()))


# ---- before it begins


def test_too_little_room_is_told_before_the_first_byte(hub, tmp_path):
    hub.sizes = {SHARD: 10**17}
    said = download(hub, tmp_path, check=2).stderr
    assert said.startswith(f"omniavatar: 14B needs 100000000.0 GB more in {tmp_path} (")
    assert SHARD in said
    assert "are free there. Make room" in said
    assert said.count("\n") == 1
    assert hub.asked == []


def test_offline_says_what_is_missing_and_where_it_is_looked_for(hub, tmp_path):
    write_all(hub, tmp_path, without=["Wan2.1_VAE.pth", "pytorch_model.pt"])
    said = download(hub, tmp_path, check=2, HF_HUB_OFFLINE="1").stderr
    assert said.startswith(f"omniavatar: 14B needs 3.0 GB more in {tmp_path}, but HF_HUB_OFFLINE")
    assert "Wan2.1-T2V-14B/Wan2.1_VAE.pth" in said
    assert "OmniAvatar-14B/pytorch_model.pt" in said
    assert "model.safetensors" not in said
    assert said.count("\n") == 1
    assert hub.asked == []
    nowhere = tmp_path / "nowhere"
    hub.run("download", "14B", "--to", nowhere, home=tmp_path, check=2, HF_HUB_OFFLINE="1")
    assert not nowhere.exists()


def test_offline_names_what_is_damaged_and_asks_for_no_more_than_that(hub, tmp_path):
    write_all(hub, tmp_path)
    file = tmp_path / BASE / SHARD
    file.write_bytes(file.read_bytes()[:-40])
    (tmp_path / "OmniAvatar-14B" / "config.json").unlink()
    said = download(hub, tmp_path, check=2, HF_HUB_OFFLINE="1").stderr
    assert said.startswith(f"omniavatar: 14B needs 9.8 GB more in {tmp_path}, but HF_HUB_OFFLINE")
    assert f"{file} is damaged or incomplete." in said
    assert f"There is no config.json in {tmp_path / 'OmniAvatar-14B'}." in said
    assert f"Put {BASE}/{SHARD}, OmniAvatar-14B/config.json there, or" in said
    assert said.count("\n") == 1


def test_hub_that_does_not_answer_is_told_with_size_and_place(hub, tmp_path):
    said = download(hub, tmp_path, check=2, HF_ENDPOINT="http://127.0.0.1:9").stderr
    assert said.startswith(f"omniavatar: 14B needs 71.9 GB more in {tmp_path}, but ")
    assert "cannot be reached" in said
    assert said.count("\n") == 1


def test_refusal_of_the_hub_asks_for_a_token_and_is_not_repeated(hub, tmp_path):
    hub.refusal = 401
    said = download(hub, tmp_path, check=2, HF_TOKEN="hf_of_the_test").stderr
    assert "Set HF_TOKEN" in said
    assert "hf_of_the_test" not in said
    assert "Bearer hf_of_the_test" in hub.tokens


def test_refusal_of_one_file_ends_the_download_and_keeps_the_others(hub, tmp_path):
    hub.refused = {"pytorch_model.pt"}
    said = download(hub, tmp_path, check=2).stderr.splitlines()[-1]
    assert said.startswith("omniavatar: pytorch_model.pt is not complete: ")
    assert "answers 403" in said
    assert hub.asked.count("pytorch_model.pt") == 1
    hub.refused = set()
    download(hub, tmp_path)
    here, there = content_of(hub, tmp_path)
    assert here == there


def test_what_is_missing_is_known_without_the_hub(tmp_path):
    spec = CATALOG["1.3B"]
    assert missing_bytes(spec, tmp_path) == spec.download_bytes
    assert missing_bytes(CATALOG["nano"], tmp_path) == 0


def test_bundled_model_needs_no_download(hub, tmp_path):
    said = hub.run("download", "nano", home=tmp_path, check=2).stderr
    assert said == ("omniavatar: nano comes with the package: there is nothing to download.\n")


# ---- what is there already


def test_only_missing_files_are_fetched_into_a_published_layout(hub, tmp_path):
    write_all(hub, tmp_path, without=[SHARD])
    (tmp_path / "wav2vec2-base-960h" / "model.safetensors").unlink()
    download(hub, tmp_path)
    assert sorted(hub.asked) == [SHARD, "model.safetensors"]


def test_cut_file_is_named_and_fetched_again(hub, tmp_path):
    write_all(hub, tmp_path)
    for path in (SHARD, "Wan2.1_VAE.pth"):
        file = tmp_path / BASE / path
        file.write_bytes(file.read_bytes()[:-40])
    (tmp_path / BASE / "models_t5_umt5-xxl-enc-bf16.pth").write_text("<html>404</html>")
    said = download(hub, tmp_path).stderr
    damaged = [SHARD, "Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth"]
    assert sorted(hub.asked) == sorted(damaged)
    for path in damaged:
        assert f"{tmp_path / BASE / path} is damaged or incomplete" in said
    here, there = content_of(hub, tmp_path)
    assert here == there


def test_whole_file_of_somebody_else_is_not_replaced(hub, tmp_path):
    write_all(hub, tmp_path, without=["diffusion_pytorch_model-00001-of-00006.safetensors"])
    other = published_files(size=1000)["Wan-AI/Wan2.1-T2V-14B"][SHARD]
    (tmp_path / BASE / SHARD).write_bytes(other)
    said = download(hub, tmp_path, check=2).stderr
    assert f"{tmp_path / BASE / SHARD} has {len(other)} bytes" in said
    assert "it is another file" in said
    assert (tmp_path / BASE / SHARD).read_bytes() == other


def test_check_finds_a_changed_byte_and_changes_nothing(hub, tmp_path):
    write_all(hub, tmp_path)
    assert download(hub, tmp_path, "--check").stdout == "14B is complete.\n"
    assert "only whether" in download(hub, tmp_path, "--check", HF_HUB_OFFLINE="1").stderr
    file = tmp_path / BASE / SHARD
    content = bytearray(file.read_bytes())
    content[-1000] ^= 1
    file.write_bytes(content)
    (tmp_path / BASE / "Wan2.1_VAE.pth").unlink()
    said = download(hub, tmp_path, "--check", check=2).stderr
    assert f"{file} is not what Wan-AI/Wan2.1-T2V-14B has on the hub" in said
    assert "VAE of 14B is missing" in said
    assert said.endswith("14B is not complete: 2 faults.\n")
    assert hub.asked == []
    assert file.read_bytes() == content


def test_half_files_are_never_taken_for_whole_ones(hub, tmp_path):
    write_all(hub, tmp_path, without=[SHARD])
    (tmp_path / BASE / f"{SHARD}.0123456789ab.incomplete").write_bytes(b"half")
    said = download(hub, tmp_path, check=2, HF_HUB_OFFLINE="1").stderr
    assert "diffusion_pytorch_model" in said


def test_files_in_the_hubs_own_cache_are_used(hub, tmp_path):
    """Another program has fetched the VAE; so it is had offline, too."""
    write_all(hub, tmp_path, without=["Wan2.1_VAE.pth"])
    cache = tmp_path / ".cache" / "huggingface" / "hub" / "models--Wan-AI--Wan2.1-T2V-14B"
    snapshot = cache / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("c0ffee")
    (snapshot / "Wan2.1_VAE.pth").write_bytes(hub.files["Wan-AI/Wan2.1-T2V-14B"]["Wan2.1_VAE.pth"])
    download(hub, tmp_path, HF_HUB_OFFLINE="1")
    assert hub.asked == []


def test_text_encoder_of_the_other_model_is_not_fetched_twice(hub, tmp_path):
    write_all(hub, tmp_path)
    hub.files |= {
        name: files for name, files in published_files("1.3B").items() if name not in hub.files
    }
    hub.run("download", "1.3B", "--to", tmp_path, home=tmp_path)
    assert "models_t5_umt5-xxl-enc-bf16.pth" not in hub.asked
    assert "Wan2.1_VAE.pth" not in hub.asked
    assert "diffusion_pytorch_model.safetensors" in hub.asked
    digests = {
        hashlib.sha256(file.read_bytes()).hexdigest()
        for file in tmp_path.glob("Wan2.1-*/models_t5_umt5-xxl-enc-bf16.pth")
    }
    assert len(digests) == 1


def test_older_repository_without_safetensors_gives_its_other_file(hub, tmp_path):
    del hub.files["facebook/wav2vec2-base-960h"]["model.safetensors"]
    download(hub, tmp_path)
    assert "pytorch_model.bin" in hub.asked


def test_layout_of_diffusers_can_be_chosen(hub, tmp_path):
    download(hub, tmp_path, "--layout", "diffusers")
    here, there = content_of(hub, tmp_path)
    assert here == there
    base = {name for name in here if name.startswith("Wan2.1-T2V-14B")}
    assert all(name.startswith("Wan2.1-T2V-14B-Diffusers/") for name in base)
    assert len(base) == 11
    hub.refusal = 500
    assert download(hub, tmp_path, "--layout", "diffusers").stderr == ""
    assert download(hub, tmp_path).stderr == "", "all parts are there, in one layout or the other"


# ---- where it goes


def test_place_is_the_option_then_the_variable_then_the_working_folder_then_the_cache(
    hub, tmp_path
):
    fetched = [hub.run("download", "14B", home=tmp_path).stdout.strip()]
    assert fetched == [str(tmp_path / ".cache" / "omniavatar" / "models")]
    write_all(hub, tmp_path / "pretrained_models", without=[SHARD])
    write_all(hub, tmp_path / "volume")
    hub.asked.clear()
    here = hub.run("download", "14B", home=tmp_path).stdout.strip()
    assert here == str(tmp_path / "pretrained_models")
    assert hub.asked == [SHARD]
    there = {"OMNIAVATAR_WEIGHTS": str(tmp_path / "volume")}
    assert hub.run("download", "14B", home=tmp_path, **there).stdout.strip() == str(
        tmp_path / "volume"
    )


def test_place_that_can_not_be_written_is_named(hub, tmp_path):
    (tmp_path / "file").write_text("")
    said = hub.run("download", "14B", "--to", tmp_path / "file" / "x", home=tmp_path, check=2)
    assert f"{tmp_path}/file/x cannot be written" in said.stderr
