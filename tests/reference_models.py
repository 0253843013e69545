"""The tiny networks of a folder of reference values, built by the code that loads real ones."""

import json

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from omniavatar.models import Models
from omniavatar.weights import build
from omniavatar.weights.convert import text_encoder_config, text_encoder_key
from omniavatar.weights.lora import read_adapter


def read_json(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def read_tensors(folder, name):
    return load_file(folder / f"{name}.safetensors")


def build_transformer(folder, name="wan_dit"):
    config = read_json(folder, name)["config"]
    return build.build_transformer(
        read_tensors(folder, f"{name}.weights"), heads=config["num_heads"], eps=config["eps"]
    )


def adapter_config(folder, name="wan_dit_lora"):
    """The adapter's config.json."""
    lora = read_json(folder, name)["lora"]
    return {
        "lora_rank": lora["rank"],
        "lora_alpha": lora["alpha"],
        "lora_target_modules": lora["targets"],
    }


def read_lora_adapter(folder, name="wan_dit_lora"):
    return read_adapter(read_tensors(folder, f"{name}.adapter"), adapter_config(folder, name))


def build_lora_transformer(folder, name="wan_dit_lora", *, merge=True):
    config = read_json(folder, name)["config"]
    return build.build_transformer(
        read_tensors(folder, f"{name}.base"),
        read_lora_adapter(folder, name),
        heads=config["num_heads"],
        eps=config["eps"],
        merge=merge,
    )


def build_vae(folder):
    config = read_json(folder, "wan_vae")["config"]
    names = ("z_dim", "dim_mult", "num_res_blocks", "attn_scales", "temperal_downsample")
    return build.build_vae(
        read_tensors(folder, "wan_vae.weights"),
        config={"base_dim": config["dim"]} | {name: config[name] for name in names},
    )


def build_text_encoder(folder):
    tensors, info = read_tensors(folder, "text_encoder.weights"), read_json(folder, "text_encoder")
    shapes = {text_encoder_key(name): tuple(tensor.shape) for name, tensor in tensors.items()}
    distance = {"relative_attention_max_distance": info["max_dist"]}
    return build.build_text_encoder(tensors, config=text_encoder_config(shapes) | distance)


def build_speech_encoder(folder):
    config = read_json(folder, "wav2vec")["config"]
    return build.build_speech_encoder(read_tensors(folder, "wav2vec.weights"), config=config)


def make_tokenizer(folder):
    """A tokenizer for the texts of `write_prompt`: each word is its own token's number."""
    vocabulary = read_json(folder, "text_encoder")["config"]["vocab"]
    tokenizer = Tokenizer(WordLevel({f"t{n}": n for n in range(vocabulary)}, unk_token="t0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="t0", unk_token="t0")


def write_prompt(ids, mask):
    """Token ids and their mask, [1, l], as a text from which `make_tokenizer` reads them back."""
    return " ".join(f"t{number}" for number in ids[mask.to(torch.bool)].tolist())


def build_models(folder):
    """All networks of a set, as a checkpoint has them."""
    return Models(
        transformer=build_lora_transformer(folder),
        vae=build_vae(folder),
        text_encoder=build_text_encoder(folder),
        tokenizer=make_tokenizer(folder),
        speech_encoder=build_speech_encoder(folder),
    )
