"""The right side of the page: what is being made, or was, and what can be done with it.

Everything on it is made from a `JobView`, so that a page that is opened again, or follows a link,
shows the same as the one that began the job.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr
from gradio.components import Component

from omniavatar.serving import controls, wording
from omniavatar.serving.jobs import JobView

Updates = dict[Component, Any]

EMPTY = (
    "<div class='stage'><div><strong>Your video appears here</strong>"
    "<ol><li>Choose a picture of one person, seen from the front</li>"
    "<li>Choose a recording of the voice, or speak into the microphone</li>"
    "<li>Press Generate, and watch it come into being</li></ol></div></div>"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Screen:
    """The parts of the right side.

    Attributes:
        job: ID of the job that is shown, or nothing.
        empty: what stands there before the first video.
        parts, parts_panel: the finished parts of a video that is not yet whole.
        stop: ends the job and keeps what is finished.
        results: all that can be done with a video.
        full: makes the whole of what was a draft.
        again: brings the settings of the video back to the form.
        delete: takes the video out of the history, and off the server.
    """

    job: gr.State
    empty: gr.HTML
    video: gr.Video
    preview: gr.Image
    status: gr.HTML
    stop: gr.Button
    parts: gr.HTML
    parts_panel: gr.Accordion
    results: gr.Column
    full: gr.Button
    again: gr.Button
    delete: gr.Button
    download: gr.DownloadButton
    poster: gr.DownloadButton
    used: gr.HTML

    @property
    def shown(self) -> list[Component]:
        """What `show` may change."""
        return [
            self.job,
            self.empty,
            self.video,
            self.preview,
            self.status,
            self.stop,
            self.parts,
            self.parts_panel,
            self.results,
            self.full,
            self.delete,
            self.download,
            self.poster,
            self.used,
        ]


def build_screen() -> Screen:
    """An empty screen; `results` takes more from those who enter it."""
    empty = gr.HTML(EMPTY, elem_id="empty")
    video = gr.Video(
        label="Video",
        interactive=False,
        autoplay=True,
        visible=False,
        buttons=[],
        elem_id="video",
    )
    preview = gr.Image(
        label="Preview",
        height=420,
        interactive=False,
        visible=False,
        buttons=[],
        alt_text="A rough view of the part that is being made",
        elem_id="preview",
    )
    with gr.Row(elem_id="status-row"):
        status = gr.HTML(elem_id="status")
        stop = gr.Button(
            "Stop", variant="stop", size="sm", visible=False, min_width=80, scale=0, elem_id="stop"
        )
    with gr.Accordion("Finished so far", open=False, visible=False) as parts_panel:
        parts = gr.HTML(
            value=[],
            html_template=PLAYER,
            js_on_load=PLAY_IN_TURN,
            elem_id="parts",
        )
    with gr.Column(visible=False, elem_id="results") as results:
        with gr.Row(elem_id="result-actions"):
            full = gr.Button(
                "Make the full version", variant="primary", visible=False, elem_id="full"
            )
            download = gr.DownloadButton("Download", size="md", min_width=100, elem_id="download")
            poster = gr.DownloadButton("Poster frame", size="md", min_width=110, elem_id="poster")
            again = gr.Button("Change and run again", size="md", min_width=210, elem_id="again")
            delete = gr.Button("Delete", size="md", scale=0, min_width=80, elem_id="delete")
        with gr.Accordion("Settings of this video", open=False):
            used = gr.HTML(elem_id="used")
    return Screen(
        job=gr.State(""),
        empty=empty,
        video=video,
        preview=preview,
        status=status,
        stop=stop,
        parts=parts,
        parts_panel=parts_panel,
        results=results,
        full=full,
        again=again,
        delete=delete,
        download=download,
        poster=poster,
        used=used,
    )


def bar(words: str, time: str = "", *, fraction: float | None = None) -> str:
    """Progress as HTML: a bar when there is a fraction, words on its left and time on its right."""
    line = f"<p><span>{escape(words)}</span><span class='time'>{escape(time)}</span></p>"
    if fraction is None:
        return line
    return (
        "<div class='bar' role='progressbar' aria-label='Progress' "
        f"aria-valuemin='0' aria-valuemax='100' aria-valuenow='{round(fraction * 100)}'>"
        f"<i style='width:{fraction:.1%}'></i></div>{line}"
    )


def show(view: JobView, screen: Screen, before: JobView | None = None, *, is_own: bool) -> Updates:
    """What a job changes on the screen.

    Args:
        view: of the job as it is.
        before: as it was when the screen last showed it; what is the same is not sent again.
        is_own: whether who looks made it, and may stop, finish and delete it.
    """
    updates: Updates = {screen.status: _status(view)}
    nothing_yet: Updates = {
        screen.preview: gr.Image(None, visible=False),
        screen.parts: [],
        screen.parts_panel: gr.Accordion(visible=False, open=False),
    }
    if before is None:  # whatever was shown until now goes
        updates |= {
            screen.job: view.id,
            screen.empty: gr.HTML(visible=False),
            screen.video: gr.Video(visible=False),
            **nothing_yet,
        }
    if before is None or before.ended != view.ended:
        updates[screen.stop] = gr.Button(visible=is_own and not view.ended, interactive=True)
        updates[screen.results] = gr.Column(visible=view.video is not None)
    if not view.ended:
        if view.preview is not None and (before is None or before.preview != view.preview):
            updates[screen.preview] = gr.Image(str(view.preview), visible=True)
        if view.segments and (before is None or len(before.segments) != len(view.segments)):
            count = f"{len(view.segments)} of {view.chunks}"
            updates[screen.parts] = [_address(path) for path in view.segments]
            updates[screen.parts_panel] = gr.Accordion(
                label=f"Watch what is finished: part {count}", visible=True
            )
        return updates
    updates |= nothing_yet
    if view.video is None:
        return updates | {screen.empty: gr.HTML(visible=True)}
    poster = None if view.poster is None else str(view.poster)
    return updates | {
        screen.video: gr.Video(str(view.video), visible=True),
        screen.download: gr.DownloadButton(value=str(view.video)),
        screen.poster: gr.DownloadButton(value=poster, visible=poster is not None),
        screen.full: gr.Button(visible=is_own and bool(view.options.get("draft"))),
        screen.delete: gr.Button(visible=is_own),
        screen.used: _table({"model": view.model, **(view.used or view.settings)}),
    }


def show_nothing(screen: Screen) -> Updates:
    """The screen as it is before the first video."""
    return {
        screen.job: "",
        screen.empty: gr.HTML(visible=True),
        screen.video: gr.Video(None, visible=False),
        screen.results: gr.Column(visible=False),
        screen.status: "",
    }


def _status(view: JobView) -> str:
    """One line about the job, with a bar while it runs, and what should be known beside it."""
    more = "".join(f"<p class='notice'>{escape(notice)}</p>" for notice in view.notices)
    if view.state == "queued":
        return bar(view.phase, wording.waiting(view.position, view.wait_seconds), fraction=0) + more
    if not view.ended:
        time = wording.times(view.elapsed_seconds, view.remaining_seconds)
        return bar(view.phase, time, fraction=view.fraction) + more
    if view.error is not None:
        sentence = controls.as_on_page(view.error)
        return f"<p class='error' role='alert'>{escape(sentence)}</p>" + more
    outcome = wording.outcome(
        view.state,
        elapsed_seconds=view.elapsed_seconds,
        seed=view.seed,
        kept=view.video is not None,
    )
    if view.state == "finished":
        return bar(view.phase, outcome) + more
    return bar(outcome) + more


def _table(used: Mapping[str, Any]) -> str:
    """The settings of a video in the order and the words of the form; no empty ones."""
    names = ["model", *(name for name in controls.ENTRIES if name in used)]
    rows = [
        f"<tr><th scope='row'>{escape(controls.page_label(name))}</th>"
        f"<td>{escape(_plain(used[name]))}</td></tr>"
        for name in dict.fromkeys([*names, *used])
        if used[name] not in (None, "")
    ]
    return f"<table>{''.join(rows)}</table>"


def _plain(value: Any) -> str:
    """A value as people write it."""
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}"
        case Mapping():
            return ", ".join(f"{name}: {_plain(each)}" for name, each in value.items())
        case _:
            return str(value)


def _address(path: Path) -> str:
    """Where a browser finds a file, from the page's own address."""
    return f"gradio_api/file={quote(str(path))}"


PLAYER = "<video controls playsinline aria-label='Finished parts'></video><p></p>"
PLAY_IN_TURN = """
const video = element.querySelector('video'), line = element.querySelector('p');
let shown = -1;
const play = (number, start) => {
    shown = number;
    video.src = props.value[number];
    line.textContent = `Part ${number + 1} of ${props.value.length} that are finished`;
    if (start) video.play();
};
const follow = () => {
    if (!props.value.length) { shown = -1; video.removeAttribute('src'); return; }
    if (shown < 0) play(0, false);
    else if (video.ended && shown + 1 < props.value.length) play(shown + 1, true);
};
video.addEventListener('ended', follow);
watch('value', follow);
follow();
"""
