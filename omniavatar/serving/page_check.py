"""What is shown before anything is made: the framing, the waveform, warnings, the time it takes.

Each is about one file and the settings that bear on it, so that a picture is framed at once while
there is no voice yet. What can not be used is told when the video is asked for, beside its control.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr

from omniavatar import (
    CATALOG,
    GenerationRequest,
    OmniAvatarError,
    check_picture,
    check_speech,
    load_speech,
    preflight,
)
from omniavatar.serving import drawings, wording
from omniavatar.serving.page_inputs import HELPER, Form, Updates, request_values

logger = logging.getLogger(__name__)

OF_PICTURE = ("image", "aspect", "fit", "focus_x", "focus_y")
OF_VOICE = (
    *("audio", "audio_start", "audio_seconds", "silence_seconds"),
    *("overlap_frames", "max_tokens", "aspect"),
)
OF_TIME = ("steps", "guidance", "audio_guidance", "step_cache")


def connect_check(form: Form) -> None:
    """Look at the files whenever they or their settings change."""
    settings = form.settings

    def look(model: str, *chosen: bool, **values: Any) -> Updates:
        values = request_values(*chosen, values)
        path = _path(values["image"])
        hidden: Updates = {form.framing_panel: gr.Group(visible=False)}
        if path is None:
            return hidden
        try:
            found = check_picture(
                path,
                CATALOG[model],
                aspect=values["aspect"],
                fit=values["fit"],
                focus=(values["focus_x"], values["focus_y"]),
            )
        except Exception as error:
            _log(error)
            return hidden
        if values["fit"] == "contain":
            drawn = drawings.frame(found.framing, words=wording.framing(found))
        else:
            faces = [(face.left, face.top, face.right, face.bottom) for face in found.faces]
            drawn = drawings.framing(
                found.picture, crop=found.crop, faces=faces, words=wording.framing(found)
            )
        return {
            form.framing: drawn,
            form.framing_panel: gr.Group(visible=True),
            form.picture_warnings: _warnings(found.warnings),
        }

    def listen(model: str, *chosen: bool, **values: Any) -> Updates:
        values = request_values(*chosen, values)
        path = _path(values["audio"])
        hidden: Updates = {form.voice_panel: gr.Group(visible=False)}
        if path is None:
            return hidden
        try:
            spec = CATALOG[model]
            found = check_speech(
                path,
                spec,
                audio_start=values["audio_start"] or 0.0,
                audio_seconds=values["audio_seconds"],
                silence_seconds=values["silence_seconds"] or 0.0,
            )
            whole = load_speech(path, sample_rate=spec.sample_rate)
        except Exception as error:
            _log(error)
            return hidden
        plan = _preflight(model, values)
        seconds = whole.duration_seconds
        start = (values["audio_start"] or 0.0) / seconds
        cuts = () if plan is None else plan.cuts_seconds
        return {
            form.voice: drawings.waveform(
                whole.samples,
                start=start,
                stop=start + found.speech_seconds / seconds,
                cuts=[cut / seconds for cut in cuts],
                words=wording.speech(found, None if plan is None else plan.chunks),
            ),
            form.voice_panel: gr.Group(visible=True),
            form.voice_warnings: _warnings(found.warnings),
        }

    def on_change(names: tuple[str, ...], run: Callable[..., Updates], outputs: list[Any]) -> None:
        gr.on(
            [
                form.model.change,
                form.own_focus.change,
                *(settings[name].change for name in names),
            ],
            run,
            [form.model, *form.chosen],
            outputs,
            inputs_kwargs=settings,
            preprocess=False,
            trigger_mode="always_last",
            **HELPER,
        )

    on_change(OF_PICTURE, look, [form.framing, form.framing_panel, form.picture_warnings])
    on_change(OF_VOICE, listen, [form.voice, form.voice_panel, form.voice_warnings])


def _warnings(sentences: Sequence[str]) -> Any:
    return gr.HTML(drawings.warnings(sentences), visible=bool(sentences))


def _path(upload: Any) -> str | None:
    """Where Gradio put an upload."""
    return upload.get("path") if isinstance(upload, dict) else None


def _preflight(model: str, values: Mapping[str, Any]) -> Any:
    """What the request would make; None while it can not be used."""
    files = {name: _path(values[name]) for name in ("image", "audio")}
    try:
        return preflight(GenerationRequest.from_mapping({**values, **files}), CATALOG[model])
    except Exception as error:
        _log(error)
        return None


def _log(error: Exception) -> None:
    """Note what is a fault of ours; what a visitor gave is told when the video is asked for."""
    if not isinstance(error, OmniAvatarError):
        logger.error("an input could not be looked at", exc_info=error)
