"""From the press of Generate to the video: jobs are begun, followed, stopped and found again."""

from collections.abc import Iterator
from html import escape
from typing import Any

import gradio as gr
from gradio.processing_utils import save_file_to_cache

from omniavatar import GenerationRequest, InputError
from omniavatar.serving import controls
from omniavatar.serving.jobs import Jobs, JobView, told_as
from omniavatar.serving.loras import spec_of
from omniavatar.serving.page_history import History, agreement, known, show_history
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
    "show_progress": "hidden",
    "concurrency_limit": None,
    "api_visibility": "private",
}
SHOW_STATUS = (
    "() => document.querySelector('#screen').scrollIntoView({block: 'nearest', behavior: 'smooth'})"
)
SHOW_FORM = (
    "(visit) => { document.querySelector('#form').scrollIntoView({block: 'start'}); return visit; }"
)
ARE_YOU_SURE = "(visit) => confirm('Delete this video for good?') ? visit : null"
GONE = "The video of this link is not here any more. Videos are deleted after some days."
NO_AGREEMENT = (
    "Tick the box above first: the person in the picture and the owner of the voice have agreed. "
    "It is asked once in each browser."
)


def connect_run(page: gr.Blocks, form: Form, screen: Screen, history: History, jobs: Jobs) -> None:
    """Buttons that begin or end a job, and the page's own opening."""
    asked_with = [history.visit, form.agreed, form.model, form.memory, *form.chosen]
    has_begun = gr.State(False)
    shown = [*screen.shown, *history.shown, form.generate, form.draft]

    def begin(
        visit: Any, agreed: bool, model: str, memory: str, *chosen: bool, **values: Any
    ) -> Updates:
        return _submit(visit, model, request_values(values, *chosen), placed(memory), agreed)

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
        return _submit(visit, model, whole | draft, options, agreed)

    def begin_full(visit: Any) -> Updates:
        view = _find(visit)
        files = {"image": view.image, "audio": view.audio}
        values = {**view.settings, **files, **view.options["draft"]}
        options = {name: value for name, value in view.options.items() if name != "draft"}
        request = GenerationRequest.from_mapping(values)
        return _submit(visit, view.model, request, options, agreed=True)

    def _submit(
        visit: Any, model: str, request: Any, options: dict[str, Any], agreed: bool
    ) -> Updates:
        visit = known(visit)
        try:
            if not agreed:
                raise InputError(NO_AGREEMENT)
            visit = agreement(visit)
            consent = {"statement": CONSENT, "agreed": visit["agreed"]}
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

    def _find(visit: Any) -> JobView:
        view = jobs.view(known(visit)["job"])
        if view is None:
            raise gr.Error("This video is not here any more. Make it again.", print_exception=False)
        return view

    def follow_begun(visit: Any, begun: bool) -> Iterator[Updates]:
        if begun:
            yield from follow(visit)
        else:
            yield {form.generate: gr.skip()}  # a generator that yields nothing empties everything

    def follow(visit: Any) -> Iterator[Updates]:
        visit, before = known(visit), None
        if not visit["job"]:
            yield {form.generate: gr.skip()}  # see above
            return
        try:
            for view in jobs.follow(visit["job"]):
                updates = show(view, screen, before)
                if before is None or view.ended:
                    updates |= _busy(form, busy=not view.ended)
                    updates |= show_history(jobs.history(visit["visitor"]), history)
                yield updates
                before = view
        except InputError:  # deleted since
            yield _busy(form, busy=False)

    def stop(visit: Any) -> Updates:
        jobs.cancel(known(visit)["job"])
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

    def restore(visit: Any) -> Updates:
        """Bring the settings of the video that is shown back to the form, to change one of them."""
        visit = known(visit)
        view = _find(visit)
        values = {**view.settings, **(view.options.get("draft") or {})}
        values = {name: value for name, value in values.items() if value is not None}
        if any(view.id == own.id for own in jobs.history(visit["visitor"])):
            # The page may show what Gradio keeps; where jobs keep what was given it may not.
            for name, path in (("image", view.image), ("audio", view.audio)):
                if path.exists():
                    cache = form.settings[name].GRADIO_CACHE
                    values[name] = save_file_to_cache(path, cache_dir=cache)
        return restored(form, view.model, values)

    def delete(visit: Any) -> Updates:
        """Delete the video that is shown, if it is this browser's and its owner is sure."""
        if not visit:
            return {history.visit: gr.skip()}
        visit = known(visit)
        jobs.remove(_find(visit).id, visitor=visit["visitor"])
        if jobs.view(visit["job"]) is not None:
            raise gr.Error(
                "Only the browser that made a video can delete it.", print_exception=False
            )
        return {
            **show_nothing(screen),
            history.visit: visit | {"job": ""},
            **show_history(jobs.history(visit["visitor"]), history),
        }

    def choose(visit: Any, ids: list[str], chosen: gr.SelectData) -> Updates:
        if not 0 <= int(chosen.index) < len(ids):
            return {history.visit: gr.skip()}
        return {history.visit: known(visit) | {"job": ids[chosen.index]}}

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
        ).success(follow_begun, [history.visit, has_begun], shown, **FOLLOW)
    screen.full.click(begin_full, history.visit, begun, **HELPER).success(
        follow_begun, [history.visit, has_begun], shown, **FOLLOW
    )
    screen.again.click(restore, history.visit, form.restorable, js=SHOW_FORM, **HELPER)
    screen.delete.click(
        delete,
        history.visit,
        [history.visit, *screen.shown, *history.shown],
        js=ARE_YOU_SURE,
        **HELPER,
    )
    history.gallery.select(choose, [history.visit, history.jobs], history.visit, **HELPER).then(
        follow, history.visit, shown, **FOLLOW
    ).then(restore, history.visit, form.restorable, **HELPER)
    screen.stop.click(stop, history.visit, screen.stop, **HELPER)
    page.load(
        arrive,
        history.visit,
        [history.visit, form.agreed, form.banner, screen.status, *history.shown],
        **HELPER,
    ).then(follow, history.visit, shown, **FOLLOW)


def _busy(form: Form, *, busy: bool) -> Updates:
    """The buttons while a job of this page runs: another one is begun in another window."""
    return {
        form.generate: gr.Button(interactive=not busy),
        form.draft: gr.Button(interactive=not busy),
    }
