"""Many videos at once: a table or files in, the state of each row, a zip out."""

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr
from gradio.events import Dependency

from omniavatar import InputError
from omniavatar.serving.batch_rows import gather, read_rows
from omniavatar.serving.batches import Batches, BatchView
from omniavatar.serving.jobs import Jobs, told_as
from omniavatar.serving.page_history import History, agreement, known
from omniavatar.serving.page_inputs import (
    CONSENT,
    EXAMPLE_FOLDER,
    HELPER,
    Form,
    Updates,
    placed,
    request_values,
)
from omniavatar.serving.page_screen import bar

HOW = (
    "<p>Upload pictures and recordings that belong together by name "
    "(<code>anna.png</code> with <code>anna.wav</code>), one picture with many recordings, or a "
    "table (CSV) with the columns <code>image</code>, <code>audio</code> and any setting, with "
    "the files that it names. A zip of all of it will do. What a table does not say is taken from "
    "the form of <em>One video</em>.</p>"
)
HEADERS = ["Row", "Video", "State", "Note"]
NO_AGREEMENT = "Tick first that everybody in these videos has agreed."


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchForm:
    files: gr.File
    agreed: gr.Checkbox
    start: gr.Button
    stop: gr.Button
    status: gr.HTML
    rows: gr.Dataframe
    archive: gr.DownloadButton


def build_batch() -> BatchForm:
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=340):
            gr.HTML(HOW, elem_id="batch-how")
            files = gr.File(
                label="Pictures, recordings, a table, or a zip",
                file_count="multiple",
                type="filepath",
                height=220,
                elem_id="batch-files",
            )
            gr.DownloadButton(
                "Download an example of a table",
                value=str(EXAMPLE_FOLDER / "table.csv"),
                size="sm",
                elem_id="batch-example",
            )
            agreed = gr.Checkbox(
                False,
                label="Everybody in these pictures and recordings has agreed to these videos",
                container=False,
                elem_id="batch-agreed",
            )
            start = gr.Button("Make all", variant="primary", size="lg", elem_id="batch-start")
        with gr.Column(scale=6, min_width=340):
            with gr.Row(elem_id="batch-status-row"):
                status = gr.HTML(
                    "<p>Each video has a row here as soon as you begin.</p>", elem_id="batch-status"
                )
                stop = gr.Button(
                    "Stop all", variant="stop", size="sm", visible=False, scale=0, min_width=90
                )
            rows = gr.Dataframe(
                headers=HEADERS,
                datatype="str",
                interactive=False,
                visible=False,
                wrap=True,
                show_label=False,
                buttons=[],
                column_widths=["12%", "28%", "25%", "35%"],
                elem_id="batch-rows",
            )
            archive = gr.DownloadButton(
                "Download all as a zip", variant="primary", visible=False, elem_id="batch-zip"
            )
    return BatchForm(
        files=files,
        agreed=agreed,
        start=start,
        stop=stop,
        status=status,
        rows=rows,
        archive=archive,
    )


def connect_batch(
    page: gr.Blocks,
    batch: BatchForm,
    form: Form,
    history: History,
    jobs: Jobs,
    deleted: Dependency,
) -> None:
    """What begins, ends and shows a batch.

    Args:
        deleted: a video was, which may be one of the batch that is shown.
    """
    batches = Batches(jobs)
    has_begun = gr.State(False)
    shown = [batch.status, batch.rows, batch.archive, batch.start, batch.stop]

    def begin(
        visit: Any,
        files: list[Any] | None,
        agreed: bool,
        model: str,
        memory: str,
        *chosen: bool,
        **values: Any,
    ) -> Updates:
        visit = known(visit)
        settings = request_values(values, *chosen)
        for name in ("image", "audio"):
            settings.pop(name)
        try:
            if not files:
                raise InputError("Upload pictures and recordings first, or a table with them.")
            if not agreed:
                raise InputError(NO_AGREEMENT)
            visit = agreement(visit)
            consent = {"statement": CONSENT, "agreed": visit["agreed"]}
            with TemporaryDirectory(prefix="omniavatar-") as folder:
                found = gather([Path(each["path"]) for each in files], Path(folder))
                rows = read_rows(
                    found, settings=settings, model=model, most=jobs.settings.batch_rows
                )
                started = batches.submit(
                    rows, visitor=visit["visitor"], options=placed(memory), consent=consent
                )
        except Exception as error:
            told = f"<p class='error' role='alert'>{escape(told_as(error))}</p>"
            return {has_begun: False, batch.status: told}
        return {
            has_begun: True,
            history.visit: visit | {"batch": started},
            history.clock: gr.Timer(active=True),
            batch.start: gr.Button(interactive=False),
        }

    def follow(visit: Any, begun: bool) -> Iterator[Updates]:
        visit, before = known(visit), None
        if not begun or not visit["batch"]:
            yield {batch.start: gr.skip()}  # a generator that yields nothing empties everything
            return
        try:
            for view in batches.follow(visit["batch"]):
                if view != before:
                    yield _show(view, batch)
                before = view
        except InputError:  # deleted since
            yield {batch.start: gr.Button(interactive=True)}

    def stop(visit: Any) -> Updates:
        batches.cancel(known(visit)["batch"])
        return {batch.stop: gr.Button(interactive=False)}

    followed: dict[str, Any] = {
        "show_progress": "hidden",
        "concurrency_limit": None,
        "api_visibility": "private",
    }
    batch.start.click(
        begin,
        [history.visit, batch.files, batch.agreed, form.model, form.memory, *form.chosen],
        [has_begun, history.visit, history.clock, batch.start, batch.status],
        inputs_kwargs=form.settings,
        preprocess=False,
        **HELPER,
    ).success(follow, [history.visit, has_begun], shown, **followed)
    batch.stop.click(stop, history.visit, batch.stop, **HELPER)
    for look_again in (page.load, deleted.success):
        look_again(follow, [history.visit, gr.State(True)], shown, **followed)


def _show(view: BatchView, batch: BatchForm) -> Updates:
    lines = [
        [str(row.number), row.name, row.phase, row.error or ("" if row.video is None else "ready")]
        for row in view.rows
    ]
    count = f"{view.finished} of {len(view.rows)} videos are finished"
    archive = None if view.archive is None else str(view.archive)
    return {
        batch.status: bar(count, fraction=None if view.ended else view.fraction),
        batch.rows: gr.Dataframe(lines, visible=True),
        batch.archive: gr.DownloadButton(value=archive, visible=archive is not None),
        batch.start: gr.Button(interactive=view.ended),
        batch.stop: gr.Button(visible=not view.ended, interactive=True),
    }
