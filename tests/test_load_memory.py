"""Loading holds a checkpoint in memory once, and converting it one file at a time.

Counted is what a process has of its own (RssAnon): pages of mapped files belong to nobody.
"""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from checkpoint_files import write_json, write_published, write_shards

from omniavatar.models.transformer import OmniAvatarTransformer3DModel
from omniavatar.weights import build

MEGABYTE = 1_000_000
SHARD = 16 * MEGABYTE
SLACK = 20 * MEGABYTE
"""For a few tensors in float32, 6.6 MB each, and for what libraries allocate on first use."""

PROGRAM = """
import ctypes, gc, json, re, sys, threading, time
from pathlib import Path

import torch
from omniavatar.weights.catalog import CATALOG
from omniavatar.weights.converted import convert
from omniavatar.weights.load import load_models

torch.set_num_threads(1)
folder, destination = Path(sys.argv[1]), Path(sys.argv[2])
CPU = torch.device("cpu")


def load(**options):
    return load_models(
        CATALOG["14B"], folder=folder, device=CPU, dtype=torch.bfloat16, **options
    )


def own_bytes():
    return 1024 * int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])


def measure(work):
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed is no room for what comes
    before = highest = own_bytes()
    done = threading.Event()

    def watch():
        nonlocal highest
        while not done.wait(0.001):
            highest = max(highest, own_bytes())

    thread = threading.Thread(target=watch)
    thread.start()
    models = work()
    done.set()
    thread.join()
    networks = () if isinstance(models, Path) else (
        models.transformer, models.vae, models.text_encoder, models.speech_encoder
    )
    kept = sum(t.nbytes for network in networks for t in network.state_dict().values())
    return highest - before, kept


load_models(CATALOG["nano"], device=CPU, dtype=torch.bfloat16)  # what libraries do on first use
print(json.dumps({
    "convert": measure(
        lambda: convert(CATALOG["14B"], destination, folder=folder, shard_bytes=16_000_000)
    ),
    "fp8": measure(lambda: load(fp8=("transformer",))),
    "bf16": measure(load),
}))
"""


@pytest.fixture(scope="module")
def folder(reference_dir, tmp_path_factory):
    """The published layout, with a transformer of 53 million parameters in float32, in parts."""
    place = tmp_path_factory.mktemp("pretrained_models")
    write_published(reference_dir, place)
    network = build.empty(
        lambda: OmniAvatarTransformer3DModel(
            num_attention_heads=5, ffn_dim=2560, num_layers=8, text_dim=64, audio_features=128
        )
    )
    whole = {name: torch.full(t.shape, 0.01) for name, t in network.state_dict().items()}
    own = {name: whole.pop(name) for name in list(whole) if name.startswith("audio_")}
    own["patch_embedding.weight"] = whole["patch_embedding.weight"]
    whole["patch_embedding.weight"] = own["patch_embedding.weight"][:, :16].clone()
    base = place / "Wan2.1-T2V-14B"
    for file in base.glob("diffusion_pytorch_model*"):
        file.unlink()
    write_shards(whole, base, "diffusion_pytorch_model", 4)
    write_json(base / "config.json", {"num_heads": 5, "eps": 1e-6})
    for name, tensor in whole.items():
        layer = name.removesuffix(".weight")
        if tensor.ndim == 2 and layer != name and re.search(r"to_\w+|ffn", layer):
            own[f"{layer}.lora_A.weight"] = torch.ones(8, tensor.shape[1])
            own[f"{layer}.lora_B.weight"] = torch.ones(tensor.shape[0], 8)
    config = {"lora_rank": 8, "lora_alpha": 4.0, "lora_target_modules": "q,k,v,o,ffn.0,ffn.2"}
    write_json(place / "OmniAvatar-14B" / "config.json", config)
    torch.save(own, place / "OmniAvatar-14B" / "pytorch_model.pt")
    return place


@pytest.fixture(scope="module")
def measured(folder, tmp_path_factory):
    """Bytes at the highest, and of the loaded weights, by what was done."""
    copy = tmp_path_factory.mktemp("converted") / "copy"
    # As with layers of full size, which are larger than any threshold, a tensor that is freed goes
    # back to the system at once, instead of leaving a gap in the heap.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), str(copy)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(list((copy / "transformer").glob("*.safetensors"))) > 5
    return json.loads(done.stdout)


def test_loading_holds_the_weights_once(measured):
    highest, kept = measured["bf16"]
    assert kept > 105 * MEGABYTE
    assert highest < kept + SLACK


def test_loading_in_8_bits_never_holds_more(measured):
    highest, kept = measured["fp8"]
    assert kept < 65 * MEGABYTE
    assert highest < kept + SLACK


def test_converting_holds_one_file(measured):
    highest, _ = measured["convert"]
    assert highest < 2 * SHARD + SLACK
