"""The page and its API, put together: a form on the left, the video on the right.

What is on the page stands in `page_inputs` (the form), `page_screen` (the video), `page_history`
and `page_batch`; what happens on it in `page_check` (before) and `page_run` (from the press on).
"""

import signal
import sys
from pathlib import Path

import gradio as gr

from omniavatar.serving.api import add_api
from omniavatar.serving.app_options import AppOptions, not_served
from omniavatar.serving.jobs import Jobs
from omniavatar.serving.page_batch import build_batch, connect_batch
from omniavatar.serving.page_check import connect_check
from omniavatar.serving.page_history import build_history
from omniavatar.serving.page_inputs import DEFAULT_MODEL, EXAMPLE_FOLDER, build_form, connect_form
from omniavatar.serving.page_results import build_extras, connect_extras
from omniavatar.serving.page_run import connect_run
from omniavatar.serving.page_screen import build_screen
from omniavatar.serving.theme import make_theme
from omniavatar.serving.uploads import Gate

__all__ = ["DEFAULT_MODEL", "build", "launch"]

STYLES = Path(__file__).with_name("page.css")
MOST_FOLLOWERS = 300  # each page that follows a job takes a thread, which waits most of the time
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
        add_api(jobs)  # first, so that its names are its own
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
        deleted = connect_run(page, form, screen, history, jobs)
        connect_extras(extras, screen, jobs)
        connect_batch(page, batch, form, history, jobs, deleted)
    return page


def launch(page: gr.Blocks, jobs: Jobs, options: AppOptions | None = None) -> None:
    """Serve the page until the process is told to end; what is being made then is kept as it is.

    Raises:
        InputError: it can not be served on the host and port that were asked for.
    """
    options = options or AppOptions()
    # Shown from where they are: a copy in Gradio's cache would outlive a video that is deleted.
    gr.set_static_paths(jobs.served)
    # As after Ctrl-C, so that jobs can be put in order.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        page.queue(max_size=256).launch(
            server_name=options.host,
            server_port=options.port,
            share=options.share,
            auth=list(options.accounts) or None,
            theme=make_theme(),
            css_paths=STYLES,
            allowed_paths=[str(jobs.served), str(EXAMPLE_FOLDER)],
            max_threads=MOST_FOLLOWERS,
            max_file_size="200mb",
            footer_links=["api", "settings"],
            run_history=False,
            enable_monitoring=False,
            mcp_server=options.mcp,
            # Looks at every call before Gradio does: a class, its arguments and its options.
            app_kwargs={"middleware": [(Gate, (), {"page": page, "folders": [jobs.served]})]},
        )
    except OSError as error:
        raise not_served(options, error.strerror or "no port is free") from error
    finally:
        jobs.close()
