"""This browser's videos: who the visitor is, what was made, and the way back to it.

The browser keeps a token that nobody can guess and the names of its last job and batch. The server
knows the visitor by that alone, so that a page which is closed, reloaded or cut off finds
everything again.
"""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from PIL import Image

from omniavatar import load_image
from omniavatar.serving.jobs import JobView

NOBODY = {"visitor": "", "job": "", "batch": "", "agreed": ""}
LONGEST = 24  # videos that are shown
THUMBNAIL = 256  # pixels a side, at most
LOOK_AGAIN_SECONDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What the browser remembers, and the gallery of its videos.

    Attributes:
        visit: token of the visitor, job that was opened last, and when the visitor agreed about
            consent.
        jobs: names of the jobs in the gallery, in its order; `captions`: what it says of them.
        clock: ticks while any of them is still to be made, which another page, a batch or a video
            opened meanwhile may be shown in place of.
    """

    visit: gr.BrowserState
    jobs: gr.State
    captions: gr.State
    clock: gr.Timer
    gallery: gr.Gallery
    empty: gr.HTML

    @property
    def shown(self) -> list[Any]:
        return [self.gallery, self.jobs, self.captions, self.clock, self.empty]


def build_history() -> History:
    # The key and the secret stay the same, or a server that starts again would know nobody. The
    # secret hides nothing: it comes with the page.
    visit = gr.BrowserState(NOBODY, storage_key="omniavatar", secret="omniavatar-visit")
    gr.HTML("<h2>Your videos</h2>", elem_id="history-title")
    empty = gr.HTML(
        "<p>What you make in this browser is kept here, with its settings.</p>",
        elem_id="history-empty",
    )
    gallery = gr.Gallery(
        label="Your videos",
        show_label=False,
        columns=4,
        fit_columns=False,
        height="auto",
        allow_preview=False,
        interactive=False,
        buttons=[],
        visible=False,
        elem_id="history",
    )
    return History(
        visit=visit,
        jobs=gr.State([]),
        captions=gr.State([]),
        clock=gr.Timer(LOOK_AGAIN_SECONDS, active=False),
        gallery=gallery,
        empty=empty,
    )


def known(visit: dict[str, Any] | None) -> dict[str, Any]:
    """What the browser remembers, with a token if it had none."""
    remembered = {name: str((visit or {}).get(name) or "") for name in NOBODY}
    return remembered | {"visitor": remembered["visitor"] or secrets.token_urlsafe(24)}


def agreement(visit: dict[str, Any]) -> dict[str, Any]:
    """The visit of somebody who has just ticked that all people in it agreed."""
    return visit | {"agreed": visit["agreed"] or time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def show_history(views: Sequence[JobView], history: History) -> dict[Any, Any]:
    """The newest videos first, those that are still to be made included; not those of which there
    is nothing."""
    shown = _of_gallery(views)
    captions = [_caption(view) for view in shown]
    pictures = [_picture(view) for view in shown]
    return {
        history.gallery: gr.Gallery(
            list(zip(pictures, captions, strict=True)), visible=bool(shown)
        ),
        history.jobs: [view.id for view in shown],
        history.captions: captions,
        history.clock: gr.Timer(active=any(not view.ended for view in views)),
        history.empty: gr.HTML(visible=not shown),
    }


def show_news(
    views: Sequence[JobView], history: History, ids: list[str], captions: list[str]
) -> dict[Any, Any]:
    """The same where it differs from what the gallery shows; else nothing."""
    showing = list(zip(ids, captions, strict=True))
    is_news = [(view.id, _caption(view)) for view in _of_gallery(views)] != showing
    if is_news or all(view.ended for view in views):
        return show_history(views, history)
    return {history.jobs: gr.skip()}


def _of_gallery(views: Sequence[JobView]) -> list[JobView]:
    return [view for view in views if view.poster is not None or not view.ended][:LONGEST]


def _picture(view: JobView) -> str | Image.Image:
    """A frame of the video, or the portrait while there is none."""
    if view.poster is not None:
        return str(view.poster)
    portrait = Image.fromarray(load_image(view.image))
    portrait.thumbnail((THUMBNAIL, THUMBNAIL))
    return portrait


def _caption(view: JobView) -> str:
    """When it was made, in the server's time, and what kind of video it is."""
    made = time.strftime("%d %b, %H:%M", time.localtime(view.created)).lstrip("0")
    kinds = ["draft"] if view.options.get("draft") else []
    if view.state != "finished":
        kinds.append("unfinished" if view.ended else "in the making")
    return " · ".join([made, *kinds])
