"""OmniAvatar: a portrait and a voice in, a talking person out.

>>> from omniavatar import AvatarPipeline, GenerationRequest
>>> pipeline = AvatarPipeline.from_pretrained("nano")
>>> request = GenerationRequest(image="me.png", audio="speech.wav", prompt="A woman smiles.")
>>> pipeline.generate(request, "out.mp4")

Names are resolved on first use, so that a command line can answer before torch is loaded.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Read by torch when it first takes memory. A CPU that decodes spends a sixth of its time on getting
# memory in pages of 4 KiB; Linux gives larger ones to those that ask.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

if TYPE_CHECKING:
    from omniavatar.bench import (
        Report,
        measure,
        measure_accuracy,
        measure_chunk,
        measure_tiers,
        write_tables,
    )
    from omniavatar.checks import (
        PictureCheck,
        Preflight,
        SpeechCheck,
        check_picture,
        check_speech,
        preflight,
    )
    from omniavatar.doctor import Diagnosis, examine
    from omniavatar.effects import settings_without_effect
    from omniavatar.errors import (
        FullMemoryError,
        InputError,
        OmniAvatarError,
        OutputError,
        WeightsError,
    )
    from omniavatar.events import ChunkDone, Event, Finished, Notice, Preparing, StepDone
    from omniavatar.flops import transformer_flops
    from omniavatar.inputs import Inputs, read_inputs
    from omniavatar.media.burn import burn_captions
    from omniavatar.media.captions import Caption, align_captions, from_srt, to_srt
    from omniavatar.media.image import load_image
    from omniavatar.media.speech import load_speech, probe_speech
    from omniavatar.media.video import check_output, kept_pieces, read_settings, recover_video
    from omniavatar.memory import device_name
    from omniavatar.pipeline import AvatarPipeline
    from omniavatar.plan import VideoPlan
    from omniavatar.request import GenerationRequest, Setting, choices_of, setting_of
    from omniavatar.speed import attention_kernel, compiler_problem
    from omniavatar.tiers import AUTO, MEMORY_TIERS, tier_bytes
    from omniavatar.weights.catalog import CATALOG, ModelSpec
    from omniavatar.weights.converted import ConvertProgress, convert
    from omniavatar.weights.download import DownloadProgress, check_files, fetch, missing_bytes
    from omniavatar.weights.files import describe_bytes
    from omniavatar.weights.presets import PRESETS, LoraChoice, Preset, suggest_preset
    from omniavatar.weights.record import settle_spec

__version__ = "0.1.0"

_HOMES = {
    "AUTO": "tiers",
    "AvatarPipeline": "pipeline",
    "CATALOG": "weights.catalog",
    "Caption": "media.captions",
    "ChunkDone": "events",
    "ConvertProgress": "weights.converted",
    "Diagnosis": "doctor",
    "DownloadProgress": "weights.download",
    "Event": "events",
    "Finished": "events",
    "FullMemoryError": "errors",
    "GenerationRequest": "request",
    "InputError": "errors",
    "Inputs": "inputs",
    "LoraChoice": "weights.presets",
    "MEMORY_TIERS": "tiers",
    "ModelSpec": "weights.catalog",
    "Notice": "events",
    "OmniAvatarError": "errors",
    "OutputError": "errors",
    "PRESETS": "weights.presets",
    "PictureCheck": "checks",
    "Preflight": "checks",
    "Preparing": "events",
    "Preset": "weights.presets",
    "Report": "bench",
    "Setting": "request",
    "SpeechCheck": "checks",
    "StepDone": "events",
    "VideoPlan": "plan",
    "WeightsError": "errors",
    "align_captions": "media.captions",
    "attention_kernel": "speed",
    "burn_captions": "media.burn",
    "check_files": "weights.download",
    "check_output": "media.video",
    "check_picture": "checks",
    "check_speech": "checks",
    "choices_of": "request",
    "compiler_problem": "speed",
    "convert": "weights.converted",
    "describe_bytes": "weights.files",
    "device_name": "memory",
    "examine": "doctor",
    "fetch": "weights.download",
    "from_srt": "media.captions",
    "kept_pieces": "media.video",
    "load_image": "media.image",
    "load_speech": "media.speech",
    "measure": "bench",
    "measure_accuracy": "bench",
    "measure_chunk": "bench",
    "measure_tiers": "bench",
    "missing_bytes": "weights.download",
    "preflight": "checks",
    "probe_speech": "media.speech",
    "read_inputs": "inputs",
    "read_settings": "media.video",
    "recover_video": "media.video",
    "setting_of": "request",
    "settings_without_effect": "effects",
    "settle_spec": "weights.record",
    "suggest_preset": "weights.presets",
    "tier_bytes": "tiers",
    "to_srt": "media.captions",
    "transformer_flops": "flops",
    "write_tables": "bench",
}

__all__ = [
    "AUTO",
    "CATALOG",
    "MEMORY_TIERS",
    "PRESETS",
    "AvatarPipeline",
    "Caption",
    "ChunkDone",
    "ConvertProgress",
    "Diagnosis",
    "DownloadProgress",
    "Event",
    "Finished",
    "FullMemoryError",
    "GenerationRequest",
    "InputError",
    "Inputs",
    "LoraChoice",
    "ModelSpec",
    "Notice",
    "OmniAvatarError",
    "OutputError",
    "PictureCheck",
    "Preflight",
    "Preparing",
    "Preset",
    "Report",
    "Setting",
    "SpeechCheck",
    "StepDone",
    "VideoPlan",
    "WeightsError",
    "align_captions",
    "attention_kernel",
    "burn_captions",
    "check_files",
    "check_output",
    "check_picture",
    "check_speech",
    "choices_of",
    "compiler_problem",
    "convert",
    "describe_bytes",
    "device_name",
    "examine",
    "fetch",
    "from_srt",
    "kept_pieces",
    "load_image",
    "load_speech",
    "measure",
    "measure_accuracy",
    "measure_chunk",
    "measure_tiers",
    "missing_bytes",
    "preflight",
    "probe_speech",
    "read_inputs",
    "read_settings",
    "recover_video",
    "setting_of",
    "settings_without_effect",
    "settle_spec",
    "suggest_preset",
    "tier_bytes",
    "to_srt",
    "transformer_flops",
    "write_tables",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'omniavatar' has no attribute {name!r}")
    return getattr(import_module(f"omniavatar.{_HOMES[name]}"), name)
