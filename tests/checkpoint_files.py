"""Checkpoints as the hub has them, at the tiny widths of the reference values, written to disk."""

import json

import torch
from reference_models import (
    adapter_config,
    build_lora_transformer,
    build_speech_encoder,
    build_text_encoder,
    build_vae,
    make_tokenizer,
    read_json,
    read_tensors,
)
from safetensors.torch import save_file

from omniavatar.weights.convert import transformer_key


def write_json(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def write_shards(tensors, folder, stem, count):
    """safetensors in several parts, with the index that goes with them."""
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(tensors)
    index = {}
    for number in range(count):
        file = f"{stem}-{number + 1:05}-of-{count:05}.safetensors"
        part = {name: tensors[name] for name in names[number::count]}
        save_file(part, folder / file)
        index |= dict.fromkeys(part, file)
    write_json(folder / f"{stem}.safetensors.index.json", {"weight_map": index})


def write_base(references, folder, *, parts=3):
    """Wan2.1-T2V-14B: transformer in parts, VAE, text encoder, tokenizer."""
    config = read_json(references, "wan_dit_lora")["config"]
    base = read_tensors(references, "wan_dit_lora.base")
    write_shards(base, folder, "diffusion_pytorch_model", parts)
    write_json(folder / "config.json", {**config, "in_dim": 16, "model_type": "t2v"})
    torch.save(read_tensors(references, "wan_vae.weights"), folder / "Wan2.1_VAE.pth")
    torch.save(
        read_tensors(references, "text_encoder.weights"),
        folder / "models_t5_umt5-xxl-enc-bf16.pth",
    )
    make_tokenizer(references).save_pretrained(folder / "google" / "umt5-xxl")


def write_adapter(references, folder):
    write_json(folder / "config.json", {**adapter_config(references), "use_audio": True})
    torch.save(read_tensors(references, "wan_dit_lora.adapter"), folder / "pytorch_model.pt")


def write_speech_encoder(references, folder, *, old=False):
    write_json(folder / "config.json", read_json(references, "wav2vec")["config"])
    tensors = read_tensors(references, "wav2vec.weights")
    if old:
        torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    else:
        save_file(tensors, folder / "model.safetensors")


def write_published(references, folder):
    write_base(references, folder / "Wan2.1-T2V-14B")
    write_adapter(references, folder / "OmniAvatar-14B")
    write_speech_encoder(references, folder / "wav2vec2-base-960h")


def write_flat(references, folder):
    """The files of base and adapter in one folder: the adapter's config.json stays."""
    write_base(references, folder)
    heads = json.loads((folder / "config.json").read_text())["num_heads"]
    write_adapter(references, folder)
    write_json(folder / "config.json", {**adapter_config(references), "num_heads": heads})
    write_speech_encoder(references, folder / "wav2vec2-base-960h", old=True)


def write_diffusers_base(references, folder):
    """Wan2.1-T2V-14B-Diffusers beside the adapter and the speech encoder."""
    config = read_json(references, "wan_dit_lora")["config"]
    base = folder / "Wan2.1-T2V-14B-Diffusers"
    tensors = read_tensors(references, "wan_dit_lora.base")
    renamed = {transformer_key(name): tensor for name, tensor in tensors.items()}
    write_shards(renamed, base / "transformer", "diffusion_pytorch_model", 2)
    write_json(
        base / "transformer" / "config.json",
        {
            "_class_name": "WanTransformer3DModel",
            "num_attention_heads": config["num_heads"],
            "eps": config["eps"],
        },
    )
    build_vae(references).save_pretrained(base / "vae")
    build_text_encoder(references).save_pretrained(base / "text_encoder")
    make_tokenizer(references).save_pretrained(base / "tokenizer")
    write_adapter(references, folder / "OmniAvatar-14B")
    write_speech_encoder(references, folder / "wav2vec2-base-960h")


def write_converted(references, folder, *, half=False):
    """What `save_pretrained` of each network writes: the layout of the bundled model."""
    networks = reference_networks(references)
    for name, network in networks.items():
        (network.half() if half else network).save_pretrained(folder / name)
    make_tokenizer(references).save_pretrained(folder / "tokenizer")


def reference_networks(references):
    return {
        "transformer": build_lora_transformer(references),
        "vae": build_vae(references),
        "text_encoder": build_text_encoder(references),
        "speech_encoder": build_speech_encoder(references),
    }
