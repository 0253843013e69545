"""The API: named endpoints without state, each setting of a request a parameter of its own.

    /generate    a picture and a recording become a video; progress with the job's status
    /preflight   what that video would be like, and what may go wrong
    /estimate    how long it would take
    /batch       many videos, in one zip
    /captions    a known text as subtitles, and in the picture
    /submit      /generate without waiting: gives the ID of a job, for
    /job         how it is, and its video, and
    /cancel      to end it
    /models      the checkpoints, and what each makes of the settings

Parameters, ranges and help come from the fields of `GenerationRequest`. What waits for the device
is a generator that follows a job of `Jobs`, so that cancelling a call ends the job within a step.
"""

import logging
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import MISSING, dataclass
from inspect import Parameter, Signature
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_type_hints

import gradio as gr
from gradio.components import Component
from gradio.data_classes import FileData, ListFiles
from PIL import Image

from omniavatar import (
    AUTO,
    CATALOG,
    MEMORY_TIERS,
    GenerationRequest,
    InputError,
    align_captions,
    burn_captions,
    choices_of,
    load_speech,
    preflight,
    read_inputs,
    setting_of,
    settings_without_effect,
    tier_bytes,
    to_srt,
)
from omniavatar.serving import controls, wording
from omniavatar.serving.batch_rows import gather, read_rows
from omniavatar.serving.batches import Batches
from omniavatar.serving.jobs import UNKNOWN_FAULT, Jobs, JobView, read_request, told_as
from omniavatar.serving.loras import spec_of
from omniavatar.serving.page_inputs import DEFAULT_MODEL
from omniavatar.serving.uploads import uploaded_file

logger = logging.getLogger(__name__)

# Jobs wait for the device in a queue of their own, which is fair to all visitors: here they only
# must not hold each other up.
ON_DEVICE: dict[str, Any] = {"concurrency_id": "device", "concurrency_limit": 32}
QUICK: dict[str, Any] = {"concurrency_id": "quick", "concurrency_limit": 4}
CAPTIONS: dict[str, Any] = {"concurrency_id": "captions", "concurrency_limit": 2}


def _upload(help: str, *, multiple: bool = False) -> gr.File:
    """A file as a parameter of the API, of which anything may come: it is looked at here.

    Changed after it is made, because Gradio writes a file beside the module of a class of its own.
    """
    file = gr.File(label=help, file_count="multiple" if multiple else "single")
    told = (ListFiles if multiple else FileData).model_json_schema()
    file.api_info = lambda: told
    file.data_model = None  # by which Gradio would refuse what is no file, in many lines
    return file


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parameter:
    """One parameter of an endpoint.

    Attributes:
        help: for the page about the API and the tools of agents.
    """

    name: str
    hint: Any
    component: Component
    help: str
    default: Any = Parameter.empty


def add_api(jobs: Jobs) -> None:
    """Add the endpoints to the page that is being built."""
    with gr.Column(visible=False):
        _add_generate(jobs)
        _add_preflight(jobs)
        _add_estimate(jobs)
        _add_batch(jobs)
        _add_captions()
        _add_jobs(jobs)
        _add_models(jobs)


# ---- the endpoints


def _add_generate(jobs: Jobs) -> None:
    def generate(
        progress: gr.Progress, browser: gr.Request, values: dict[str, Any]
    ) -> Iterator[tuple[Any, ...]]:
        model, memory = values.pop("model"), _memory(values.pop("memory"))
        visitor = browser.session_hash or secrets.token_hex(16)
        job = jobs.submit(model, values, visitor=visitor, memory=memory)
        with closing(jobs.follow(job, cancel_on_close=True)) as views:
            for view in views:
                if view.error is not None:
                    raise gr.Error(view.error, print_exception=False)
                if not view.ended:
                    progress(view.fraction, desc=_words(view))
                    yield None, None
                elif view.video is None:
                    raise InputError("The video was stopped before a part of it was finished.")
                else:
                    yield (
                        str(view.video),
                        {**(view.used or {}), "timings": dict(view.timings or {})},
                    )

    _expose(
        generate,
        name="generate",
        about="Make a portrait speak a recording. "
        "Progress comes with the job's status; cancelling the job stops it within a step.",
        parameters=_request_parameters(),
        outputs=[gr.Video(label="Video"), gr.JSON(label="Settings")],
        returns="The video as MP4, and the settings that made it.",
        check=True,
        **ON_DEVICE,
    )


def _add_preflight(jobs: Jobs) -> None:
    def look(
        _progress: gr.Progress, _browser: gr.Request, values: dict[str, Any]
    ) -> Iterator[tuple[Any, ...]]:
        spec, memory = spec_of(_known(values.pop("model"))), _memory(values.pop("memory"))
        request = read_request(values)
        told = preflight(request, spec)
        inputs = read_inputs(request, spec)
        seconds = jobs.estimate(spec.name, inputs.request, inputs.plan, memory=memory)
        with TemporaryDirectory(prefix="omniavatar-") as folder:
            path = Path(folder) / "framing.png"
            Image.fromarray(told.picture.framing).save(path)
            yield {**told.to_mapping(), "estimated_seconds": round(seconds, 1)}, str(path)

    _expose(
        look,
        name="preflight",
        about="Tell what a video would be like, without making it: its size, parts and length, the "
        "faces in the picture, what is shown of it, and warnings in words.",
        parameters=_request_parameters(),
        outputs=[gr.JSON(label="Report"), gr.Image(label="Framing", format="png")],
        returns="A report, and the picture with which the video would begin.",
        check=True,
        **QUICK,
    )


def _add_estimate(jobs: Jobs) -> None:
    def estimate(
        _progress: gr.Progress, _browser: gr.Request, values: dict[str, Any]
    ) -> Iterator[tuple[Any, ...]]:
        model, memory = _known(values.pop("model")), _memory(values.pop("memory"))
        inputs = read_inputs(read_request(values), spec_of(model))
        plan = inputs.plan
        seconds = jobs.estimate(model, inputs.request, plan, memory=memory)
        yield (
            {
                "seconds": round(seconds, 1),
                "measured": jobs.is_measured(model, memory=memory),
                "video_seconds": round(plan.audio_frames / plan.fps, 3),
                "chunks": len(plan.chunks),
            },
        )

    _expose(
        estimate,
        name="estimate",
        about="Tell how many seconds a video would take here once its turn has come; measured "
        "when the model has run here before, else guessed from its arithmetic.",
        parameters=_request_parameters(),
        outputs=[gr.JSON(label="Estimate")],
        returns="Seconds to make it, whether they are measured, its length and parts.",
        check=True,
        **QUICK,
    )


def _add_batch(jobs: Jobs) -> None:
    batches = Batches(jobs)

    def batch(
        progress: gr.Progress, browser: gr.Request, values: dict[str, Any]
    ) -> Iterator[tuple[Any, ...]]:
        model, memory = _known(values.pop("model")), _memory(values.pop("memory"))
        given = values.pop("files")
        if not isinstance(given, list) or not given:
            raise InputError("There are no files yet: please upload some.", field="files")
        files = [uploaded_file(each, field="files") for each in given]
        GenerationRequest.from_mapping({**values, "image": files[0], "audio": files[0]})
        visitor = browser.session_hash or secrets.token_hex(16)
        with TemporaryDirectory(prefix="omniavatar-") as folder:
            most = jobs.settings.batch_rows
            rows = read_rows(gather(files, Path(folder)), settings=values, model=model, most=most)
            options = {} if memory is None else {"memory": memory}
            started = batches.submit(rows, visitor=visitor, options=options)
        with closing(batches.follow(started, cancel_on_close=True)) as views:
            for view in views:
                told = f"{view.finished} of {len(view.rows)} videos are finished"
                progress(view.fraction, desc=told)
                yield (
                    [
                        {
                            "row": row.number,
                            "name": row.name,
                            "state": row.state,
                            "told": row.error or row.phase,
                        }
                        for row in view.rows
                    ],
                    None if view.archive is None else str(view.archive),
                )

    help = (
        "pictures and recordings that belong together by name, or a table (CSV) with the columns "
        "image, audio and any setting, with the files that it names; or a zip of that"
    )
    files = _Parameter(
        name="files", hint=list[str], component=_upload(help, multiple=True), help=help
    )
    rest = [each for each in _request_parameters() if each.name not in ("image", "audio")]
    _expose(
        batch,
        name="batch",
        about="Make many videos. A row that fails does not stop the others.",
        parameters=[files, *rest],
        outputs=[gr.JSON(label="Rows"), gr.File(label="Zip")],
        returns="The state of each row, and at the end a zip of the videos and a table.",
        **ON_DEVICE,
    )


def _add_captions() -> None:
    def captions(
        progress: gr.Progress, _browser: gr.Request, values: dict[str, Any]
    ) -> Iterator[tuple[Any, ...]]:
        video = uploaded_file(values["video"], field="video")
        text, burn = values["text"], values["burn"]
        if not isinstance(text, str) or not isinstance(burn, bool):
            raise InputError("text is not a text, or burn is neither true nor false.", field="text")
        progress(0.0, desc="Placing the words")
        yield None, None, None
        try:
            placed = align_captions(text, load_speech(video))
        except InputError as error:
            field = "video" if error.field == "audio" else error.field
            raise InputError(str(error), field=field) from error
        with TemporaryDirectory(prefix="omniavatar-") as folder:
            srt, captioned = Path(folder) / "captions.srt", Path(folder) / "captioned.mp4"
            srt.write_text(to_srt(placed), encoding="utf-8")
            if burn:
                progress(0.5, desc="Writing them into the picture")
                burn_captions(video, placed, captioned)
            told = [
                {"start": round(each.start_seconds, 3), "stop": round(each.stop_seconds, 3),
                 "text": each.text}
                for each in placed
            ]  # fmt: skip
            yield told, str(srt), str(captioned) if burn else None

    _expose(
        captions,
        name="captions",
        about="Place a text that is known over the speech in which it is said. Nothing is "
        "transcribed: words are placed by pauses, punctuation and length, to about a tenth of a "
        "second.",
        parameters=[
            _Parameter(
                name="video",
                hint=str,
                component=_upload("video or recording"),
                help="video, or a recording when nothing is written into a picture",
            ),
            _Parameter(
                name="text",
                hint=str,
                component=gr.Textbox(label="what is said"),
                help="what is said in it; its lines become captions of their own",
            ),
            _Parameter(
                name="burn",
                hint=bool,
                component=gr.Checkbox(False, label="also write the captions into the picture"),
                help="also write the captions into the picture",
                default=False,
            ),
        ],
        outputs=[
            gr.JSON(label="Captions"),
            gr.File(label="Subtitles (SRT)"),
            gr.Video(label="Captioned video"),
        ],
        returns="The captions with their times, as SRT, and the captioned video or nothing.",
        **CAPTIONS,
    )


def _add_jobs(jobs: Jobs) -> None:
    def submit(
        _progress: gr.Progress, browser: gr.Request, values: dict[str, Any]
    ) -> Iterator[tuple[Any, ...]]:
        model, memory = values.pop("model"), _memory(values.pop("memory"))
        visitor = browser.session_hash or secrets.token_hex(16)
        yield (jobs.submit(model, values, visitor=visitor, memory=memory),)

    def tell(
        _progress: gr.Progress, _browser: gr.Request, values: dict[str, Any]
    ) -> Iterator[tuple[Any, ...]]:
        view = _found(jobs, values["job"])
        video = None if view.video is None else str(view.video)
        yield _told(view), video

    def cancel(
        _progress: gr.Progress, _browser: gr.Request, values: dict[str, Any]
    ) -> Iterator[tuple[Any, ...]]:
        view = _found(jobs, values["job"])
        if view.consent is not None:  # its ID is in the link that is shared
            raise InputError("This video was begun on the page: only there it can be stopped.")
        jobs.cancel(view.id)
        yield (_told(_found(jobs, values["job"])),)

    job = _Parameter(
        name="job",
        hint=str,
        component=gr.Textbox(label="ID of a job, from /submit"),
        help="ID of a job, from /submit",
    )
    _expose(
        submit,
        name="submit",
        about="Begin a video without waiting for it: it is made whether or not anybody listens.",
        parameters=_request_parameters(),
        outputs=[gr.Textbox(label="Job")],
        returns="The ID of the job, for /job and /cancel.",
        check=True,
        **QUICK,
    )
    _expose(
        tell,
        name="job",
        about="Tell how a job is; when it has ended, with its video.",
        parameters=[job],
        outputs=[gr.JSON(label="Job"), gr.Video(label="Video")],
        returns="Its state, progress and settings; the video, or what was finished of it.",
        **QUICK,
    )
    _expose(
        cancel,
        name="cancel",
        about="End a job within a step. What is finished of its video is kept.",
        parameters=[job],
        outputs=[gr.JSON(label="Job")],
        returns="The job as it is then.",
        **QUICK,
    )


def _add_models(jobs: Jobs) -> None:
    def models(
        _progress: gr.Progress, _browser: gr.Request, _values: dict[str, Any]
    ) -> Iterator[tuple[Any, ...]]:
        yield ([_model(name, jobs) for name in CATALOG],)

    _expose(
        models,
        name="models",
        about="List the checkpoints: sizes, defaults, and the settings with their ranges.",
        parameters=[],
        outputs=[gr.JSON(label="Models")],
        returns="A list of checkpoints.",
        **QUICK,
    )


def _model(name: str, jobs: Jobs) -> dict[str, Any]:
    spec = spec_of(name)
    without = settings_without_effect(spec, {})
    settings, hints = {}, get_type_hints(GenerationRequest)
    for each, entry in controls.ENTRIES.items():
        setting = setting_of(entry)
        own = getattr(spec, each, None) if controls.follows_model(each) else None
        default = None if entry.default is MISSING else entry.default
        told = {
            "help": setting.help,
            "default": default if own is None else own,
            "minimum": setting.minimum,
            "maximum": setting.maximum,
            "unit": setting.unit,
            "choices": list(choices_of(hints[each])) or None,
            "without_effect": without.get(each),
        }
        settings[each] = {key: value for key, value in told.items() if value is not None}
    return {
        "name": name,
        "title": spec.title,
        "description": spec.description,
        "sizes": [{"width": width, "height": height} for height, width in spec.sizes],
        "fps": spec.fps,
        "measured": jobs.is_measured(name),
        "settings": settings,
    }


# ---- what they share


def _request_parameters() -> list[_Parameter]:
    """The fields of a request, the model and its arrangement."""
    hints = get_type_hints(GenerationRequest)
    parameters = [
        _Parameter(
            name=name,
            hint=str if hints[name] is Path else hints[name],
            component=_upload(controls.describe(entry))
            if hints[name] is Path
            else controls.api_component(name),
            help=controls.describe(entry),
            default=Parameter.empty if entry.default is MISSING else entry.default,
        )
        for name, entry in controls.ENTRIES.items()
    ]
    model = _Parameter(
        name="model",
        hint=str,
        component=gr.Radio(list(CATALOG), value=DEFAULT_MODEL, label="Model"),
        help=f"checkpoint: {', '.join(CATALOG)}",
        default=DEFAULT_MODEL,
    )
    memory = _Parameter(
        name="memory",
        hint=str,
        component=gr.Radio([AUTO, *MEMORY_TIERS], value=AUTO, label="Memory"),
        help=f"how much memory of a GPU may be used: {', '.join((AUTO, *MEMORY_TIERS))}",
        default=AUTO,
    )
    return [*parameters, model, memory]


def _expose(
    work: Callable[[gr.Progress, gr.Request, dict[str, Any]], Iterator[tuple[Any, ...]]],
    *,
    name: str,
    about: str,
    parameters: Sequence[_Parameter],
    outputs: Sequence[Component],
    returns: str,
    check: bool = False,
    **queue: Any,
) -> None:
    """Make an endpoint of a generator, whose faults become sentences.

    Args:
        check: whether the values are a request, to be refused before they wait in the queue.
    """

    def endpoint(
        browser: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (Gradio looks for it here)
        **values: Any,
    ) -> Iterator[Any]:
        try:
            for made in work(progress, browser, values):
                yield made if len(made) > 1 else made[0]
        except Exception as error:
            raise gr.Error(told_as(error), print_exception=False) from error

    def validator(**values: Any) -> list[dict[str, Any]]:
        fault = _fault(values)
        at = None if fault is None else fault.field if fault.field in values else next(iter(values))
        return [gr.validate(each != at, str(fault or "")) for each in values]

    own = [
        Parameter("browser", Parameter.POSITIONAL_OR_KEYWORD, annotation=gr.Request),
        Parameter(
            "progress",
            Parameter.POSITIONAL_OR_KEYWORD,
            default=gr.Progress(),
            annotation=gr.Progress,
        ),
        *(
            Parameter(p.name, Parameter.KEYWORD_ONLY, default=p.default, annotation=p.hint)
            for p in parameters
        ),
    ]
    endpoint.__signature__ = Signature(own)  # type: ignore[attr-defined]
    endpoint.__name__ = name
    arguments = "".join(f"    {each.name}: {each.help}\n" for each in parameters)
    endpoint.__doc__ = (
        f"{about}\n\n"
        + (f"Args:\n{arguments}\n" if arguments else "")
        + f"Returns:\n    {returns}\n"
    )
    gr.Button().click(
        endpoint,
        inputs_kwargs={each.name: each.component for each in parameters},
        outputs=list(outputs),
        validator=validator if check else None,
        preprocess=False,
        api_name=name,
        **queue,
    )


def _fault(values: Mapping[str, Any]) -> InputError | None:
    """What is wrong with a request and its files."""
    values = dict(values)
    try:
        model = _known(values.pop("model"))
        _memory(values.pop("memory"))
        read_inputs(read_request(values), spec_of(model))
    except InputError as error:
        return error
    except Exception:
        logger.exception("checking a call failed")
        return InputError(UNKNOWN_FAULT)
    return None


def _known(model: Any) -> str:
    if not isinstance(model, str) or model not in CATALOG:
        raise InputError(
            f"model is {str(model)[:60]!r}. Use one of: {', '.join(CATALOG)}.", field="model"
        )
    return model


def _memory(tier: Any) -> str | None:
    """What `Jobs.submit` takes."""
    name = str(tier)[:60]
    return None if tier_bytes(name) is None else name


def _found(jobs: Jobs, job: Any) -> JobView:
    view = jobs.view(job) if isinstance(job, str) else None
    if view is None:
        raise InputError(
            "There is no such job here, or it was deleted. Make it again.", field="job"
        )
    return view


def _words(view: JobView) -> str:
    """How a job is, in a line."""
    if view.state == "queued":
        return f"Waiting, {wording.waiting(view.position, view.wait_seconds)}"
    return f"{view.phase}, {wording.times(view.elapsed_seconds, view.remaining_seconds)}"


def _told(view: JobView) -> dict[str, Any]:
    return {
        "job": view.id,
        "state": view.state,
        "phase": view.phase,
        "fraction": round(view.fraction, 4),
        "position": view.position,
        "wait_seconds": view.wait_seconds,
        "elapsed_seconds": round(view.elapsed_seconds, 2),
        "remaining_seconds": view.remaining_seconds,
        "chunk": view.chunk,
        "chunks": view.chunks,
        "error": view.error,
        "model": view.model,
        "settings": dict(view.used or view.settings),
    }
