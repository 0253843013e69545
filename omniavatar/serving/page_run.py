"""From the press of Generate to the video: jobs are begun, followed, stopped and found again."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr
from gradio.events import Dependency
from gradio.processing_utils import save_file_to_cache

from omniavatar import GenerationRequest, InputError
from omniavatar.serving import controls
from omniavatar.serving.jobs import Jobs, JobView, told_as
from omniavatar.serving.loras import spec_of
from omniavatar.serving.page_history import History, agreement, known, show_history, show_news
from omniavatar.serving.page_inputs import (
    CONSENT,
    DRAFT_SECONDS,
    DRAFT_STEPS,
    HELPER,
    Form,
    Updates,
    placed,
    request_values,
    restored,
)
from omniavatar.serving.page_screen import Screen, show, show_nothing

FOLLOW: dict[str, Any] = {
    "trigger_mode": "multiple",
    "show_progress": "hidden",
    "concurrency_limit": None,
    "api_visibility": "private",
}
SHOW_STATUS = (
    "() => document.querySelector('#screen').scrollIntoView({block: 'nearest', behavior: 'smooth'})"
)
SHOW_FORM = (
    "(...given) => "
    "{ document.querySelector('#form').scrollIntoView({block: 'start'}); return given; }"
)
ARE_YOU_SURE = "(visit, job) => [confirm('Delete this video for good?') ? visit : null, job]"
GONE = "The video of this link is not here any more. Videos are deleted after some days."
NO_AGREEMENT = (
    "Tick the box above first: the person in the picture and the owner of the voice have agreed. "
    "It is asked once in each browser."
)


@dataclass(slots=True)
class _Watch:
    """Who shows a job on one page: the newest of those that `follow` one; those before it end."""

    newest: object = None


def connect_run(
    page: gr.Blocks, form: Form, screen: Screen, history: History, jobs: Jobs
) -> Dependency:
    """Buttons that begin or end a job, and the page's own opening.

    Returns:
        The event that a video was deleted.
    """
    asked_with = [history.visit, form.agreed, form.model, form.memory, *form.chosen]
    has_begun = gr.State(False)
    watch = gr.State(_Watch())  # of each page one, which what runs for that page shares
    nothing: Updates = {form.generate: gr.skip()}
    shown = [*screen.shown, *history.shown, form.generate, form.draft]

    def begin(
        visit: Any, agreed: bool, model: str, memory: str, *chosen: bool, **values: Any
    ) -> Updates:
        visit, consent = _consent(visit, agreed)
        return _submit(visit, model, request_values(values, *chosen), placed(memory), consent)

    def begin_draft(
        visit: Any, agreed: bool, model: str, memory: str, *chosen: bool, **values: Any
    ) -> Updates:
        whole = request_values(values, *chosen)
        steps = whole["steps"] or spec_of(model).steps
        draft = {
            "steps": max(1, round(steps * DRAFT_STEPS)),
            "audio_seconds": min(DRAFT_SECONDS, whole["audio_seconds"] or DRAFT_SECONDS),
        }
        options = placed(memory) | {"draft": {name: whole[name] for name in draft}}
        visit, consent = _consent(visit, agreed)
        return _submit(visit, model, whole | draft, options, consent)

    def begin_full(visit: Any, job: str) -> Updates:
        view = _find_own(visit, job)
        files = {"image": view.image, "audio": view.audio}
        values = {**view.settings, **files, **view.options["draft"]}
        options = {name: value for name, value in view.options.items() if name != "draft"}
        request = GenerationRequest.from_mapping(values)
        return _submit(known(visit), view.model, request, options, view.consent)

    def _submit(
        visit: dict[str, Any],
        model: str,
        request: Any,
        options: dict[str, Any],
        consent: Mapping[str, Any] | None,
    ) -> Updates:
        try:
            if consent is None:
                raise InputError(NO_AGREEMENT)
            job = jobs.submit(
                model,
                request,
                visitor=visit["visitor"],
                options=options,
                consent=consent,
                memory=options.get("memory"),
            )
        except Exception as error:
            sentence = controls.as_on_page(told_as(error))
            told = f"<p class='error' role='alert'>{escape(sentence)}</p>"
            return {has_begun: False, form.fault: gr.HTML(told, visible=True)}
        view = jobs.view(job)
        assert view is not None
        return {
            has_begun: True,
            form.fault: gr.HTML("", visible=False),
            history.visit: visit | {"job": job},
            form.settings["seed"]: view.seed,
            form.banner: gr.HTML(visible=False),
            **_busy(form, busy=True),
        }

    def _find(job: str) -> JobView:
        view = jobs.view(job)
        if view is None:
            raise gr.Error("This video is not here any more. Make it again.", print_exception=False)
        return view

    def _find_own(visit: Any, job: str) -> JobView:
        view = _find(job)
        if not jobs.is_of(job, visitor=known(visit)["visitor"]):
            raise gr.Error("Only the browser that made a video can do this.", print_exception=False)
        return view

    def follow_begun(visit: Any, watch: _Watch, begun: bool) -> Iterator[Updates]:
        if begun:
            yield from follow(visit, watch)
        else:
            yield nothing  # a generator that yields nothing at all empties everything

    def follow(visit: Any, watch: _Watch) -> Iterator[Updates]:
        visit, before = known(visit), None
        if not visit["job"]:
            yield nothing
            return
        watch.newest = this = object()
        is_own = jobs.is_of(visit["job"], visitor=visit["visitor"])
        try:
            for view in jobs.follow(visit["job"]):
                if watch.newest is not this:
                    yield nothing  # or Gradio would say again what was said last
                    return
                updates = show(view, screen, before, is_own=is_own)
                if before is None or view.ended:
                    updates |= _busy(form, busy=not view.ended)
                    updates |= show_history(jobs.history(visit["visitor"]), history)
                yield updates
                before = view
        except InputError:  # deleted since
            yield _busy(form, busy=False)

    def stop(visit: Any, job: str) -> Updates:
        jobs.cancel(_find_own(visit, job).id)
        return {screen.stop: gr.Button(interactive=False)}

    def arrive(visit: Any, browser: gr.Request) -> Updates:
        """A page is opened: by a new visitor, an old one, or somebody with the link to a video."""
        visit = known(visit)
        linked = str(browser.query_params.get("video") or "")
        is_gone = bool(linked) and jobs.view(linked) is None
        if linked:
            visit["job"] = "" if is_gone else linked
        return {
            screen.status: f"<p class='error' role='alert'>{GONE}</p>" if is_gone else gr.skip(),
            history.visit: visit,
            form.agreed: bool(visit["agreed"]),
            form.banner: gr.HTML(visible=not visit["agreed"]),
            **show_history(jobs.history(visit["visitor"]), history),
        }

    def look_again(visit: Any, ids: list[str], captions: list[str]) -> Updates:
        return show_news(jobs.history(known(visit)["visitor"]), history, ids, captions)

    def restore(visit: Any, job: str) -> Updates:
        """Bring the settings of a video back to the form, to change one of them."""
        view = _find(job)
        values = {**view.settings, **(view.options.get("draft") or {})}
        values = {name: value for name, value in values.items() if value is not None}
        if jobs.is_of(job, visitor=known(visit)["visitor"]):
            # The page may show what Gradio keeps; where jobs keep what was given it may not.
            for name, path in (("image", view.image), ("audio", view.audio)):
                if path.exists():
                    cache = form.settings[name].GRADIO_CACHE
                    values[name] = save_file_to_cache(path, cache_dir=cache)
        return restored(form, view.model, values)

    def delete(visit: Any, job: str) -> Updates:
        """Delete the video that is shown, if it is this browser's and its owner is sure."""
        if not visit:
            return {history.visit: gr.skip()}
        visit = known(visit)
        jobs.remove(_find_own(visit, job).id, visitor=visit["visitor"])
        if jobs.view(job) is not None:
            raise gr.Error(
                "This video is still being made. Try again when it has ended.",
                print_exception=False,
            )
        return {
            **show_nothing(screen),
            history.visit: visit | {"job": ""},
            **show_history(jobs.history(visit["visitor"]), history),
        }

    def choose(visit: Any, ids: list[str], chosen: gr.SelectData) -> Updates:
        if not 0 <= int(chosen.index) < len(ids):
            return {history.visit: gr.skip()}
        job = ids[chosen.index]
        return {history.visit: known(visit) | {"job": job}, **restore(visit, job)}

    begun = [
        *(has_begun, history.visit, form.settings["seed"], form.banner),
        *(form.generate, form.draft, form.fault),
    ]
    form.generate.click(None, js=SHOW_STATUS, **HELPER)
    for button, start in ((form.generate, begin), (form.draft, begin_draft)):
        button.click(
            start,
            asked_with,
            begun,
            inputs_kwargs=form.settings,
            preprocess=False,
            **HELPER,
        ).success(follow_begun, [history.visit, watch, has_begun], shown, **FOLLOW)
    of_shown = [history.visit, screen.job]
    screen.full.click(begin_full, of_shown, begun, **HELPER).success(
        follow_begun, [history.visit, watch, has_begun], shown, **FOLLOW
    )
    screen.again.click(restore, of_shown, form.restorable, js=SHOW_FORM, **HELPER)
    screen.stop.click(stop, of_shown, screen.stop, **HELPER)
    history.gallery.select(
        choose, [history.visit, history.jobs], [history.visit, *form.restorable], **HELPER
    ).success(follow, [history.visit, watch], shown, **FOLLOW)
    history.clock.tick(
        look_again, [history.visit, history.jobs, history.captions], history.shown, **HELPER
    )
    page.load(
        arrive,
        history.visit,
        [history.visit, form.agreed, form.banner, screen.status, *history.shown],
        **HELPER,
    ).then(follow, [history.visit, watch], shown, **FOLLOW)
    return screen.delete.click(
        delete,
        of_shown,
        [history.visit, *screen.shown, *history.shown],
        js=ARE_YOU_SURE,
        **HELPER,
    )


def _consent(visit: Any, agreed: bool) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The visit, and what is noted of the tick with a video; None without the tick."""
    if not agreed:
        return known(visit), None
    visit = agreement(known(visit))
    return visit, {"statement": CONSENT, "agreed": visit["agreed"]}


def _busy(form: Form, *, busy: bool) -> Updates:
    """The buttons while the job that is shown runs: another one is begun in another window."""
    return {
        form.generate: gr.Button(interactive=not busy),
        form.draft: gr.Button(interactive=not busy),
    }
