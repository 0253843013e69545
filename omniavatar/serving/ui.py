"""The page and its API: a form on the left, the video on the right, and `/generate` for programs.

All events that compute share one place in the queue: the device.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from omniavatar import CATALOG, ChunkDone, Event, Finished, StepDone, setting_of
from omniavatar.serving import controls, wording
from omniavatar.serving.jobs import Jobs, Stopped
from omniavatar.serving.pipelines import Pipelines
from omniavatar.serving.theme import CSS, make_theme

DEFAULT_MODEL = "nano"
EXAMPLE_FOLDER = Path(__file__).parents[2] / "examples"
EXAMPLES = {"Examples": "presenter-*.json", "For the published models": "real-*.json"}
ON_DEVICE: dict[str, Any] = {"concurrency_id": "device", "concurrency_limit": 1}
SHOW_STATUS = (
    "() => { const status = document.querySelector('#status');"
    " status.scrollIntoView({block: 'nearest'}); }"
)
Updates = dict[Component, Any]


def build(pipelines: Pipelines) -> gr.Blocks:
    """The page with its events, and the API.

    Args:
        pipelines: where the models come from; kept for as long as the page is.
    """
    with gr.Blocks(
        title="OmniAvatar", analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)
    ) as page:
        gr.HTML(
            "<h1>OmniAvatar</h1>"
            "<p>A portrait and a voice become a video in which the portrait speaks.</p>",
            elem_id="title",
        )
        with gr.Row(equal_height=False):
            with gr.Column(min_width=340):
                form = _build_form()
            with gr.Column(min_width=340):
                screen = _build_screen()
                _add_examples(form)
        gr.Markdown(
            "Use only pictures and voices of people who have agreed. "
            "Every video says in its metadata that it was generated, and how.",
            elem_id="note",
        )
        jobs = Jobs(pipelines)
        _connect(form, screen, jobs)
        _add_api(jobs)
    return page


def launch(page: gr.Blocks) -> None:
    """Serve the page until the process is stopped."""
    page.queue(max_size=64).launch(
        theme=make_theme(),
        css=CSS,
        max_file_size="200mb",
        footer_links=["api", "settings"],
        run_history=False,
        enable_monitoring=False,
    )


# ---- what the page shows


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """The left side: what to make."""

    settings: dict[str, Component]
    model: gr.Radio
    own_audio_guidance: gr.Checkbox
    audio_guidance_panel: gr.Column
    new_seed: gr.Checkbox
    generate: gr.Button
    stop: gr.Button


@dataclass(frozen=True, slots=True, kw_only=True)
class _Screen:
    """The right side: what is being made, or was."""

    video: gr.Video
    preview: gr.Image
    status: gr.HTML
    used: gr.JSON
    used_panel: gr.Accordion


def _build_form() -> _Form:
    spec = CATALOG[DEFAULT_MODEL]
    settings: dict[str, Component] = {}

    def show(*names: str) -> None:
        settings.update({name: controls.page_component(name, spec) for name in names})

    def show_rest(group: str) -> None:
        names = [n for n, entry in controls.ENTRIES.items() if setting_of(entry).group == group]
        show(*(name for name in names if name not in settings))

    with gr.Row(equal_height=True):
        show("image", "audio")
    show("prompt")
    model = gr.Radio(
        [(each.title, name) for name, each in CATALOG.items()],
        value=DEFAULT_MODEL,
        label="Model",
        info=spec.description,
        elem_id="model",
    )
    with gr.Row():
        generate = gr.Button(
            "Generate", variant="primary", size="lg", scale=3, min_width=160, elem_id="generate"
        )
        stop = gr.Button(
            "Stop",
            variant="stop",
            size="lg",
            scale=1,
            min_width=80,
            elem_id="stop",
        )
    with gr.Accordion("Settings", open=False, elem_id="basic"):
        show("aspect", "steps", "guidance")
        own_audio_guidance = gr.Checkbox(
            False, label="Guide the speech apart from the prompt", elem_id="own_audio_guidance"
        )
        with gr.Column(visible=False) as audio_guidance_panel:
            show("audio_guidance")
        new_seed = gr.Checkbox(True, label="New seed for every video", elem_id="new_seed")
        show_rest("basic")
    with gr.Accordion("Advanced settings", open=False, elem_id="advanced"):
        show_rest("advanced")
        with gr.Accordion("Differences from the published code", open=False):
            show_rest("compatibility")
    return _Form(
        settings={name: settings[name] for name in controls.ENTRIES},
        model=model,
        own_audio_guidance=own_audio_guidance,
        audio_guidance_panel=audio_guidance_panel,
        new_seed=new_seed,
        generate=generate,
        stop=stop,
    )


def _build_screen() -> _Screen:
    video = gr.Video(
        label="Video",
        interactive=False,
        autoplay=True,
        height=460,
        buttons=["download"],
        elem_id="video",
    )
    preview = gr.Image(
        label="Preview",
        interactive=False,
        visible=False,
        height=460,
        buttons=[],
        elem_id="preview",
    )
    status = gr.HTML(_bar("Upload a portrait and a recording, then generate."), elem_id="status")
    with gr.Accordion("Settings of this video", open=False, visible=False) as used_panel:
        used = gr.JSON(show_label=False, elem_id="used")
    return _Screen(video=video, preview=preview, status=status, used=used, used_panel=used_panel)


def _add_examples(form: _Form) -> None:
    """Pictures to begin with: a click fills the form with the request file of one."""
    with gr.Row():
        for label, pattern in EXAMPLES.items():
            requests = [_read_example(path) for path in sorted(EXAMPLE_FOLDER.glob(pattern))]
            named = {name for request in requests for name in request}
            parts = {name: part for name, part in form.settings.items() if name in named}
            rows = [
                [request.get(n, part.value) for n, part in parts.items()] for request in requests
            ]
            if rows:
                with gr.Column(min_width=100 * len(rows)):
                    gr.Examples(rows, list(parts.values()), label=label, visible_columns=[0])


def _read_example(path: Path) -> dict[str, Any]:
    request: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return request | {name: str(path.parent / request[name]) for name in ("image", "audio")}


def _bar(words: str, time: str = "", *, fraction: float | None = None) -> str:
    """Progress as HTML: a bar when there is a fraction, words on its left and time on its right."""
    line = f"<p><span>{escape(words)}</span><span class='time'>{escape(time)}</span></p>"
    if fraction is None:
        return line
    return f"<div class='bar'><i style='width:{fraction:.1%}'></i></div>{line}"


def _show(event: Event | Stopped, screen: _Screen) -> Updates:
    """What an event changes on the screen."""
    match event:
        case Finished(path=path, settings=settings):
            made = f"Made in {wording.clock(event.timings['total'])}, seed {event.seed}"
            return {
                screen.video: gr.Video(str(path), visible=True),
                screen.preview: gr.Image(visible=False),
                screen.status: _bar(wording.phase(event), made, fraction=1.0),
                screen.used: dict(settings),
                screen.used_panel: gr.Accordion(visible=True),
            }
        case Stopped(path=None):
            return {screen.status: _bar("Stopped before the first part was finished.")}
        case Stopped(path=path):
            return {
                screen.video: gr.Video(str(path), visible=True),
                screen.preview: gr.Image(visible=False),
                screen.status: _bar("Stopped. The parts that were finished are kept."),
            }
        case StepDone() | ChunkDone():
            picture = event.preview if isinstance(event, StepDone) else event.frames[-1]
            bar = _bar(wording.phase(event), wording.timing(event), fraction=event.fraction)
            if picture is None:
                return {screen.status: bar}
            return {
                screen.preview: gr.Image(picture, visible=True),
                screen.video: gr.Video(visible=False),
                screen.status: bar,
            }
        case _:
            return {screen.status: _bar(f"{wording.phase(event)} …", fraction=0.0)}


# ---- what the page does


def _connect(form: _Form, screen: _Screen, jobs: Jobs) -> None:
    """Buttons and choices; none of these is part of the API."""
    chosen = [form.model, form.own_audio_guidance, form.new_seed]

    def run(
        model: str, own_audio_guidance: bool, new_seed: bool, browser: gr.Request, **values: Any
    ) -> Iterator[Updates]:
        if not own_audio_guidance:
            values["audio_guidance"] = None
        if new_seed:
            values["seed"] = random.randrange(2**31)
        yield {
            form.settings["seed"]: values["seed"],
            form.generate: gr.Button(interactive=False),
        }
        at_rest: Updates = {
            form.generate: gr.Button(interactive=True),
            screen.preview: gr.Image(None, visible=False),
            screen.video: gr.Video(visible=True),
        }
        try:
            for event in jobs.events(model, values, visitor=browser.session_hash):
                yield _show(event, screen)
        except gr.Error as error:
            yield {**at_rest, screen.status: _bar(error.message)}
            raise
        yield at_rest

    def check(
        _model: str, own_audio_guidance: bool, new_seed: bool, **values: Any
    ) -> list[dict[str, Any]]:
        if not own_audio_guidance:
            values["audio_guidance"] = None
        if new_seed:
            values["seed"] = 0
        return [gr.validate(True, "") for _ in chosen] + _validated(jobs, values)

    def stop(browser: gr.Request) -> None:
        if browser.session_hash is not None:
            jobs.stop(browser.session_hash)

    def use_model(model: str) -> Updates:
        spec = CATALOG[model]
        updates: Updates = {form.model: gr.Radio(info=spec.description)}
        for name in of_model:
            updates[form.settings[name]] = gr.update(**controls.page_default(name, spec))
        return updates

    def part_guidance(own: bool, guidance: float) -> Updates:
        return {
            form.audio_guidance_panel: gr.Column(visible=own),
            form.settings["audio_guidance"]: guidance,
        }

    of_model = [name for name in controls.ENTRIES if controls.follows_model(name)]
    helper: dict[str, Any] = {
        "queue": False,
        "show_progress": "hidden",
        "api_visibility": "private",
    }
    # The browser takes the listeners of a button one after the other, and waits for each.
    form.generate.click(None, js=SHOW_STATUS, **helper)
    running = form.generate.click(
        run,
        inputs=chosen,
        inputs_kwargs=form.settings,
        outputs=[
            form.settings["seed"],
            form.generate,
            screen.preview,
            screen.video,
            screen.status,
            screen.used,
            screen.used_panel,
        ],
        validator=check,
        preprocess=False,
        show_progress_on=screen.status,
        api_visibility="private",
        **ON_DEVICE,
    )
    # A job that runs ends by itself and shows what is finished; one that waits is taken away.
    form.stop.click(stop, **helper).then(None, None, None, cancels=[running], **helper)
    form.own_audio_guidance.change(
        part_guidance,
        [form.own_audio_guidance, form.settings["guidance"]],
        [form.audio_guidance_panel, form.settings["audio_guidance"]],
        **helper,
    )
    form.model.change(
        use_model, form.model, [form.model, *(form.settings[name] for name in of_model)], **helper
    )


def _validated(jobs: Jobs, values: dict[str, Any]) -> list[dict[str, Any]]:
    """Gradio's verdict for every setting, of which one at most is bad."""
    fault = jobs.check(values)
    field = None if fault is None else fault.field or "image"
    return [gr.validate(name != field, str(fault or "")) for name in values]


# ---- the API


def _add_api(jobs: Jobs) -> None:
    """`/generate`, with one typed parameter for each setting and one for the model."""

    def generate(
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (Gradio looks for it here)
        **values: Any,
    ) -> Iterator[tuple[str | None, dict[str, Any] | None]]:
        model = values.pop("model")
        for event in jobs.events(model, values):
            match event:
                case Finished():
                    yield str(event.path), {**event.settings, "timings": dict(event.timings)}
                case StepDone() | ChunkDone():
                    words = f"{wording.phase(event)}, {wording.timing(event)}"
                    progress(event.fraction, desc=words)
                    yield None, None
                case Stopped():
                    raise AssertionError("only a page can stop a job; programs cancel it")
                case _:
                    progress(0.0, desc=wording.phase(event))
                    yield None, None

    def check(**values: Any) -> list[dict[str, Any]]:
        model = values.pop("model")
        known = gr.validate(model in CATALOG, f"Use one of: {', '.join(CATALOG)}.")
        return [*_validated(jobs, values), known]

    generate.__doc__ = (
        "Make a portrait speak a recording.\n\n"
        "Progress comes with the job's status; cancelling the job stops it within a step.\n\n"
        f"Args:\n{controls.api_arguments()}\n"
        f"    model: {', '.join(CATALOG)}\n\n"
        "Returns:\n    The video as MP4.\n    The settings that made it.\n"
    )
    controls.name_parameters(generate, model=DEFAULT_MODEL)
    with gr.Column(visible=False):
        parameters = {name: controls.api_component(name) for name in controls.ENTRIES}
        parameters["model"] = gr.Radio(list(CATALOG), value=DEFAULT_MODEL, label="Model")
        gr.Button().click(
            generate,
            inputs_kwargs=parameters,
            outputs=[gr.Video(label="Video"), gr.JSON(label="Settings")],
            validator=check,
            preprocess=False,
            api_name="generate",
            **ON_DEVICE,
        )
