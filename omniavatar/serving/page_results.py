"""What can be done with a video that is there: captions, a link to it, the same by a program."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from html import escape
from urllib.parse import urlsplit

import gradio as gr

from omniavatar import OmniAvatarError, align_captions, burn_captions, load_speech, to_srt
from omniavatar.serving import controls, snippets
from omniavatar.serving.jobs import Jobs, JobView, told_as
from omniavatar.serving.page_inputs import HELPER, Updates
from omniavatar.serving.page_screen import Screen


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """What is folded away below a video."""

    text: gr.Textbox
    write: gr.Button
    burn: gr.Button
    told: gr.HTML
    srt: gr.DownloadButton
    captioned: gr.DownloadButton
    share: gr.Accordion
    link: gr.Textbox
    python: gr.Textbox
    curl: gr.Textbox


def build_extras() -> Extras:
    with gr.Accordion("Captions", open=False, elem_id="captions"):
        text = gr.Textbox(
            label="What is said",
            info="Paste the text of the recording; its words are placed by the pauses in it.",
            lines=3,
            elem_id="captions-text",
        )
        with gr.Row():
            write = gr.Button("Make subtitles (SRT)", size="md", elem_id="captions-write")
            burn = gr.Button("Write them into the picture", size="md", elem_id="captions-burn")
        told = gr.HTML(elem_id="captions-told")
        with gr.Row():
            srt = gr.DownloadButton("Download the subtitles", visible=False, elem_id="srt")
            captioned = gr.DownloadButton(
                "Download the captioned video", visible=False, elem_id="captioned"
            )
    with gr.Accordion("Share, or make it by a program", open=False, elem_id="share") as share:
        link = gr.Textbox(
            label="Link to this video",
            info="Whoever has it, and can open this page, can see the video until it is deleted.",
            buttons=["copy"],
            interactive=False,
            elem_id="link",
        )
        # Text, as Gradio's colours of code can not be read by everyone, nor its box be scrolled.
        python = gr.Textbox(
            label="Python", buttons=["copy"], interactive=False, max_lines=40, elem_id="python"
        )
        curl = gr.Textbox(
            label="curl", buttons=["copy"], interactive=False, max_lines=40, elem_id="curl"
        )
    return Extras(
        text=text,
        write=write,
        burn=burn,
        told=told,
        srt=srt,
        captioned=captioned,
        share=share,
        link=link,
        python=python,
        curl=curl,
    )


def connect_extras(extras: Extras, screen: Screen, jobs: Jobs) -> None:
    def fill(job: str, browser: gr.Request) -> Updates:
        view = jobs.view(job)
        if view is None:
            return {extras.link: ""}
        url = _page_address(browser)
        settings = snippets.call_settings(
            view.model, dict(view.settings), memory=view.options.get("memory")
        )
        names = (view.image.name, view.audio.name)
        return {
            extras.link: f"{url}?video={view.id}",
            extras.python: snippets.python_call(url, *names, settings),
            extras.curl: snippets.curl_call(url, *names, settings),
        }

    def write(job: str, text: str) -> Iterator[Updates]:
        yield from _captioned(job, text, burnt=False)

    def burn(job: str, text: str) -> Iterator[Updates]:
        yield from _captioned(job, text, burnt=True)

    def _captioned(job: str, text: str, *, burnt: bool) -> Iterator[Updates]:
        yield {extras.told: "<p>Placing the words …</p>"}
        try:
            yield _made(jobs.view(job), text, burnt=burnt)
        except Exception as error:
            told = told_as(error).replace(f"{jobs.store.files(job)}{os.sep}", "")
            told = escape(controls.as_on_page(told))
            yield {extras.told: f"<p class='error' role='alert'>{told}</p>"}

    def _made(view: JobView | None, text: str, *, burnt: bool) -> Updates:
        if view is None or view.video is None:
            raise OmniAvatarError("This video is not here any more. Make it again.")
        captions = align_captions(text, load_speech(view.video))
        count = "1 caption" if len(captions) == 1 else f"{len(captions)} captions"
        # Beside the video, with which it is deleted.
        folder = view.video.parent / f"captions-{sha256(text.encode()).hexdigest()[:16]}"
        folder.mkdir(exist_ok=True)
        if burnt:
            path = folder / "captioned.mp4"
            burn_captions(view.video, captions, path)
            made: Updates = {extras.captioned: gr.DownloadButton(value=str(path), visible=True)}
        else:
            path = folder / "captions.srt"
            path.write_text(to_srt(captions), encoding="utf-8")
            made = {extras.srt: gr.DownloadButton(value=str(path), visible=True)}
        return {**made, extras.told: f"<p>{count}. Look them over before you publish them.</p>"}

    def forget() -> Updates:
        """What was made for one video is not offered beside the next."""
        hidden = gr.DownloadButton(visible=False)
        return {extras.told: "", extras.srt: hidden, extras.captioned: hidden}

    shown = [extras.told, extras.srt, extras.captioned]
    calls = [extras.link, extras.python, extras.curl]
    extras.share.expand(fill, screen.job, calls, **HELPER)
    screen.job.change(fill, screen.job, calls, **HELPER)
    screen.job.change(forget, None, shown, **HELPER)
    for button, run in ((extras.write, write), (extras.burn, burn)):
        button.click(
            run,
            [screen.job, extras.text],
            shown,
            show_progress="hidden",
            api_visibility="private",
            concurrency_id="captions",
            concurrency_limit=2,
        )


def _page_address(browser: gr.Request) -> str:
    """Where the visitor's browser has this page, behind whatever proxy, without a query."""
    referer = urlsplit(str(browser.headers.get("referer") or ""))
    if referer.scheme in ("http", "https"):
        return f"{referer.scheme}://{referer.netloc}{referer.path}"
    return f"http://{browser.headers.get('host', '127.0.0.1:7860')}/"
