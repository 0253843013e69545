"""The fields of a request as Gradio components, so that the page has no list of its own.

The page shows controls that stand at the chosen model's values. The API has plain typed
parameters, in which a setting that is left out takes the model's own value.
"""

import re
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Any, get_args, get_type_hints

import gradio as gr
from gradio.components import Component

from omniavatar import (
    GenerationRequest,
    ModelSpec,
    choices_of,
    setting_of,
    settings_without_effect,
)

ENTRIES = {entry.name: entry for entry in fields(GenerationRequest)}
LONGEST_SLIDER = 200  # positions; a number that has more of them is typed

# What the page calls a setting or a choice where its own name would puzzle.
LABELS = {
    "image": "Picture",
    "audio": "Voice",
    "prompt": "What the person does",
    "aspect": "Shape",
    "cover": "Fill the frame",
    "contain": "Whole picture",
    "focus_x": "Focus, from left to right",
    "focus_y": "Focus, from top to bottom",
    "audio_start": "Start at second",
    "audio_seconds": "Seconds to use",
    "silence_seconds": "Seconds of silence in front",
}
# Controls that stand beside a drawing of what they do, and need no words.
SHOWN = ("aspect", "fit", "focus_x", "focus_y", "audio_start", "audio_seconds")


def page_component(name: str, spec: ModelSpec) -> Component:
    """The control of one setting on the page, with the model's default in it."""
    setting, kind = setting_of(ENTRIES[name]), _kind(name)
    shown = {"label": page_label(name), "elem_id": name, **page_default(name, spec)}
    if kind is Path:
        return _file_component(name, **shown)
    shown |= page_effect(name, settings_without_effect(spec, {}).get(name))
    if kind in (int, float):
        assert setting.minimum is not None
        assert setting.maximum is not None
        step = setting.step or 1
        shown |= {"minimum": setting.minimum, "maximum": setting.maximum, "step": step}
        if (setting.maximum - setting.minimum) / step <= LONGEST_SLIDER:
            return gr.Slider(**shown)
        if name == "audio_seconds":
            shown["placeholder"] = "all"
            shown["minimum"] = 0.0  # which means the same, see `request_values`
        return gr.Number(**shown, precision=0 if kind is int else None)
    return _plain_component(name, **shown)


def page_default(name: str, spec: ModelSpec) -> dict[str, Any]:
    """What a control shows until the user changes it: a value, or a text's grey hint."""
    default = _default(ENTRIES[name])
    if not follows_model(name):
        # A slider always stands somewhere: where it changes nothing.
        return {"value": setting_of(ENTRIES[name]).published if default is None else default}
    own = getattr(spec, name)
    return {"value": "", "placeholder": own} if _kind(name) is str else {"value": own}


def page_effect(name: str, reason: str | None) -> dict[str, Any]:
    """Whether a control can be used, and its help, or the reason why it would change nothing."""
    help = setting_of(ENTRIES[name]).help
    told = "" if name in SHOWN else f"{help[:1].upper()}{help[1:]}."
    return {"interactive": reason is None, "info": reason or told}


def follows_model(name: str) -> bool:
    """Whether what a control shows depends on the chosen model."""
    named = name in {own.name for own in fields(ModelSpec)}
    return named and _default(ENTRIES[name]) in (None, "")


def api_component(name: str) -> Component:
    """The same setting as a parameter of the API, empty when the model decides."""
    kind = _kind(name)
    # Never seen but on the page about the API, where the label is all that explains a parameter.
    shown = {"label": describe(ENTRIES[name]), "value": _default(ENTRIES[name])}
    if kind is Path:
        return _file_component(name, **shown)
    if kind in (int, float):
        return gr.Number(**shown, precision=0 if kind is int else None)
    return _plain_component(name, **shown)


def name_parameters(endpoint: Callable[..., Any], **more: str) -> None:
    """Replace `**values` in a signature by the request's fields and `more`, for Gradio to read.

    Args:
        endpoint: changed in place.
        more: further parameters with their defaults.
    """
    hints = get_type_hints(GenerationRequest)
    own = [p for p in signature(endpoint).parameters.values() if p.kind != p.VAR_KEYWORD]
    for name, entry in ENTRIES.items():
        default = Parameter.empty if entry.default is MISSING else entry.default
        own.append(Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=hints[name]))
    for name, default in more.items():
        own.append(Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=str))
    endpoint.__signature__ = Signature(own)  # type: ignore[attr-defined]


def api_arguments() -> str:
    """The "Args:" of the endpoint's documentation."""
    return "\n".join(f"    {name}: {describe(entry)}" for name, entry in ENTRIES.items())


def describe(entry: Field[Any]) -> str:
    """Help, range and unit of a setting in one line."""
    setting = setting_of(entry)
    text = setting.help
    if setting.unit and setting.unit not in text:
        text += f", in {setting.unit}"
    if setting.minimum is not None:
        text += f" ({setting.minimum:.12g} to {setting.maximum:.12g})"
    return text


def page_label(name: str) -> str:
    """What the page calls a setting or one of its choices."""
    return LABELS.get(name) or label(name)


def as_on_page(sentence: str) -> str:
    """A sentence of the request's, with its names of settings and fits as the page has them."""
    names = [name for name in ENTRIES if "_" in name] + ["contain"]
    return re.sub(rf"\b({'|'.join(names)})\b", lambda m: f"“{page_label(m[1])}”", sentence)


def label(name: str) -> str:
    """Turn `overlap_frames` into `Overlap frames`."""
    return name[:1].upper() + name[1:].replace("_", " ")


def _file_component(name: str, **shown: Any) -> Component:
    if name == "image":
        return gr.Image(
            **shown,
            type="filepath",
            image_mode=None,
            sources=["upload", "webcam", "clipboard"],
            webcam_options=gr.WebcamOptions(mirror=False),
            height=264,
        )
    return gr.Audio(
        **shown,
        type="filepath",
        sources=["upload", "microphone"],
        editable=False,  # what the page cuts, it cuts without writing a file
        buttons=[],
    )


def _plain_component(name: str, **shown: Any) -> Component:
    if choices := choices_of(get_type_hints(GenerationRequest)[name]):
        return gr.Radio(**shown, choices=[(page_label(choice), choice) for choice in choices])
    if _kind(name) is bool:
        return gr.Checkbox(**shown)
    return gr.Textbox(**shown)


def _kind(name: str) -> type:
    """The one type in the field's annotation that is not None; str for a set of words."""
    hint = get_type_hints(GenerationRequest)[name]
    if choices_of(hint):
        return str
    return next(kind for kind in (get_args(hint) or (hint,)) if kind is not type(None))


def _default(entry: Field[Any]) -> Any:
    return None if entry.default is MISSING else entry.default
