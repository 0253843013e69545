"""The page and its API, put together: a form on the left, the video on the right.

What is on the page stands in `page_inputs` (the form), `page_screen` (the video), `page_history`
and `page_batch`; what happens on it in `page_check` (before) and `page_run` (from the press on).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from omniavatar import CATALOG, ChunkDone, Finished, StepDone
from omniavatar.serving import controls, wording
from omniavatar.serving.app_options import AppOptions
from omniavatar.serving.jobs import Jobs, Stopped
from omniavatar.serving.page_batch import build_batch, connect_batch
from omniavatar.serving.page_check import connect_check
from omniavatar.serving.page_history import build_history
from omniavatar.serving.page_inputs import DEFAULT_MODEL, EXAMPLE_FOLDER, build_form, connect_form
from omniavatar.serving.page_results import build_extras, connect_extras
from omniavatar.serving.page_run import connect_run
from omniavatar.serving.page_screen import build_screen
from omniavatar.serving.theme import make_theme

STYLES = Path(__file__).with_name("page.css")
ON_DEVICE: dict[str, Any] = {"concurrency_id": "device", "concurrency_limit": 1}
TITLE = (
    "<h1>OmniAvatar</h1><p>A portrait and a voice become a video in which the portrait speaks.</p>"
)


def build(jobs: Jobs) -> gr.Blocks:
    """The page with its events, and the API.

    Args:
        jobs: which carry out what is asked; kept for as long as the page is.
    """
    with gr.Blocks(
        title="OmniAvatar", analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)
    ) as page:
        gr.HTML(TITLE, elem_id="title")
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab("One video"), gr.Row(equal_height=False, elem_id="create"):
                with gr.Column(scale=5, min_width=340, elem_id="form"):
                    form = build_form()
                with gr.Column(scale=6, min_width=340, elem_id="screen"):
                    screen = build_screen()
                    with screen.results:
                        extras = build_extras()
                    history = build_history()
            with gr.Tab("Many at once", elem_id="batch"):
                batch = build_batch()
        connect_form(form)
        connect_check(form, jobs)
        connect_run(page, form, screen, history, jobs)
        connect_extras(extras, history, jobs)
        connect_batch(page, batch, form, history, jobs)
        _add_api(jobs)
    return page


def launch(page: gr.Blocks, jobs: Jobs, options: AppOptions | None = None) -> None:
    """Serve the page until the process is stopped."""
    options = options or AppOptions()
    page.queue(max_size=256).launch(
        server_name=options.host,
        server_port=options.port,
        share=options.share,
        auth=list(options.accounts) or None,
        theme=make_theme(),
        css_paths=STYLES,
        allowed_paths=[str(jobs.served), str(EXAMPLE_FOLDER)],
        max_file_size="200mb",
        footer_links=["api", "settings"],
        run_history=False,
        enable_monitoring=False,
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
