"""What is shown before anything is made: the framing, the waveform, warnings, the time it takes.

Each is about one file and the settings that bear on it, so that a picture is framed at once while
there is no voice yet. What can not be used is told when the video is asked for, beside its control.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import gradio as gr

from omniavatar import (
    GenerationRequest,
    ModelSpec,
    OmniAvatarError,
    Preflight,
    SpeechCheck,
    check_picture,
    check_speech,
    describe_bytes,
    load_speech,
    missing_bytes,
    preflight,
    read_inputs,
)
from omniavatar.serving import controls, drawings, wording
from omniavatar.serving.jobs import Jobs, told_as
from omniavatar.serving.loras import spec_of
from omniavatar.serving.page_inputs import HELPER, Form, Updates, request_values

OF_PICTURE = ("image", "aspect", "resolution", "fit", "focus_x", "focus_y")
OF_VOICE = (
    *("audio", "audio_start", "audio_seconds", "silence_seconds"),
    *("overlap_frames", "max_tokens", "aspect", "resolution"),
)
OF_TIME = (*OF_PICTURE[:3], *OF_VOICE[:-1], "steps", "guidance", "audio_guidance", "step_cache")


def connect_check(form: Form, jobs: Jobs) -> None:
    """Look at the files whenever they or their settings change."""
    settings = form.settings

    def look(model: str, *chosen: bool, **values: Any) -> Updates:
        values = request_values(values, *chosen)
        path = _path(values["image"])
        hidden: Updates = {form.framing_panel: gr.Group(visible=False)}
        if path is None:
            return hidden
        try:
            found = check_picture(
                path,
                spec_of(model).at_resolution(values["resolution"]),
                aspect=values["aspect"],
                fit=values["fit"],
                focus=(values["focus_x"], values["focus_y"]),
            )
        except Exception as error:
            return {
                form.framing: drawings.fault(controls.as_on_page(told_as(error))),
                form.framing_panel: gr.Group(visible=True),
                form.picture_warnings: gr.HTML(visible=False),
            }
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
            form.own_focus: gr.Checkbox(
                interactive=not found.is_whole,
                info="Nothing is cut off, so there is nothing to move." if found.is_whole else "",
            ),
            form.picture_warnings: _warnings(found.warnings),
        }

    def listen(model: str, *chosen: bool, **values: Any) -> Updates:
        values, spec = request_values(values, *chosen), spec_of(model)
        path = _path(values["audio"])
        hidden: Updates = {form.voice_panel: gr.Group(visible=False)}
        if path is None:
            return hidden
        part = {name: values[name] for name in ("audio_start", "audio_seconds", "silence_seconds")}
        try:
            with suppress(OmniAvatarError):  # no picture yet: the voice is told of by itself
                request = _request(values)
                whole = preflight(request, spec)
                return _shown(whole.speech, path, spec, part, whole)
            return _shown(check_speech(path, spec, **part), path, spec, part, None)
        except Exception as error:
            return {
                form.voice: drawings.fault(controls.as_on_page(told_as(error))),
                form.voice_panel: gr.Group(visible=True),
                form.voice_warnings: gr.HTML(visible=False),
            }

    def _shown(
        found: SpeechCheck, path: str, spec: ModelSpec, part: dict[str, Any], plan: Preflight | None
    ) -> Updates:
        cut = part["audio_start"] or part["audio_seconds"]
        samples = load_speech(path, sample_rate=spec.sample_rate).samples if cut else found.samples
        seconds = len(samples) / spec.sample_rate
        start = part["audio_start"] / seconds
        return {
            form.voice: drawings.waveform(
                samples,
                start=start,
                stop=start + found.speech_seconds / seconds,
                cuts=[each / seconds for each in (plan.cuts_seconds if plan else ())],
                words=wording.speech(found, plan.chunks if plan else None),
            ),
            form.voice_panel: gr.Group(visible=True),
            form.voice_warnings: _warnings(found.warnings),
        }

    def estimate(model: str, memory: str, *chosen: bool, **values: Any) -> str:
        try:
            spec = spec_of(model)
            inputs = read_inputs(_request(request_values(values, *chosen)), spec)
            seconds = jobs.estimate(model, inputs.request, inputs.plan, memory=memory)
        except Exception as error:
            told_as(error)  # which notes what is a fault of ours; the rest is told elsewhere
            return ""
        told = wording.about(seconds)
        is_measured = jobs.is_measured(model, memory=memory)
        measured = "as measured on this machine" if is_measured else "at a guess"
        size = missing_bytes(spec)
        more = f" It is downloaded first: {describe_bytes(size)}." if size else ""
        return f"<p>Takes {told}, {measured}.{more}</p>"

    def on_change(
        names: tuple[str, ...], run: Callable[..., Any], outputs: list[Any], *also: gr.Dropdown
    ) -> None:
        gr.on(
            [
                form.model.change,
                form.own_focus.change,
                *(each.change for each in also),
                *(settings[name].change for name in names),
            ],
            run,
            [form.model, *also, *form.chosen],
            outputs,
            inputs_kwargs=settings,
            preprocess=False,
            trigger_mode="always_last",
            **HELPER,
        )

    on_change(
        OF_PICTURE,
        look,
        [form.framing, form.framing_panel, form.own_focus, form.picture_warnings],
    )
    on_change(OF_VOICE, listen, [form.voice, form.voice_panel, form.voice_warnings])
    on_change(OF_TIME, estimate, [form.estimate], form.memory)


def _warnings(sentences: Sequence[str]) -> Any:
    told = [controls.as_on_page(sentence) for sentence in sentences]
    return gr.HTML(drawings.warnings(told), visible=bool(told))


def _path(upload: Any) -> str | None:
    """Where Gradio put an upload."""
    return upload.get("path") if isinstance(upload, dict) else None


def _request(values: Mapping[str, Any]) -> GenerationRequest:
    """The request of the form.

    Raises:
        InputError: something is missing or does not fit.
    """
    files = {name: _path(values[name]) for name in ("image", "audio")}
    return GenerationRequest.from_mapping({**values, **files})
