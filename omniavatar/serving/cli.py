"""The command line: `python -m omniavatar COMMAND`.

    exit status 0    done; what was made is named on standard output
                2    the request cannot be carried out; one sentence on standard error says why
                130  stopped by Ctrl-C; finished parts of a video are kept
                141  whoever read the output has gone

Progress goes to standard error. Whatever is slow to import is imported by the command that
needs it, so that `--help` answers at once. A new command is one entry of `COMMANDS`.
"""

import argparse
import io
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any, NoReturn, Self, get_args, get_type_hints

import omniavatar
from omniavatar import (
    AUTO,
    CATALOG,
    MEMORY_TIERS,
    ChunkDone,
    Event,
    Finished,
    GenerationRequest,
    InputError,
    ModelSpec,
    Notice,
    OmniAvatarError,
    OutputError,
    StepDone,
    choices_of,
    setting_of,
)
from omniavatar.serving import captioning, checkup, conversions, downloads, loras, wording
from omniavatar.serving.app_options import add_app_options, check_address, read_app_options

HEADINGS = {
    "input": "what goes in and what comes out",
    "basic": "settings",
    "advanced": "advanced settings",
    "compatibility": "differences from the published code, for comparing results with it",
}


EXAMPLES = Path(__file__).parents[2] / "examples"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One word after `python -m omniavatar`."""

    name: str
    help: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status of the process."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a letter shows its number
            stream.reconfigure(errors="backslashreplace")
    try:
        options = _parser().parse_args(arguments)
        options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output, such as `head`, has enough: nothing is left to write at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (OmniAvatarError, _BadOptionError) as error:
        print(f"omniavatar: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


# ---- generate


def _add_generate_options(parser: argparse.ArgumentParser) -> None:
    files = _add_request_options(parser)
    files.add_argument("--model", choices=tuple(CATALOG), help="checkpoint (default: nano)")
    files.add_argument(
        "--weights", metavar="FOLDER", type=Path, help="where the checkpoint's files are"
    )
    _add_memory_option(files)
    loras.add_options(files)


def _add_memory_option(parser: "argparse.ArgumentParser | argparse._ArgumentGroup") -> None:
    parser.add_argument(
        "--memory",
        choices=(AUTO, *MEMORY_TIERS),
        default=os.environ.get("OMNIAVATAR_MEMORY") or AUTO,
        help="arrange the networks for the GPU memory that is free, or as for a card of that size "
        "(default: $OMNIAVATAR_MEMORY or auto)",
    )


def _add_request_options(
    parser: argparse.ArgumentParser, *, makes_video: bool = True
) -> "argparse._ArgumentGroup":
    """All fields of the request, and what every command that makes a video takes."""
    parser.usage = f"{parser.prog} IMAGE AUDIO [--prompt TEXT] [--output OUT.mp4] [settings]"
    groups = {group: parser.add_argument_group(title) for group, title in HEADINGS.items()}
    for entry in fields(GenerationRequest):
        group = groups[setting_of(entry).group]
        if setting_of(entry).group == "input":
            group.add_argument(entry.name, metavar=entry.name.upper(), nargs="?", **_common(entry))
        else:
            group.add_argument(
                f"--{entry.name.replace('_', '-')}", **_common(entry), **_kind(entry)
            )
    files = groups["input"]
    files.add_argument(
        "--request",
        metavar="FILE.json",
        type=Path,
        help="take any of these, and the model, from a JSON object, such as `inspect` prints; what "
        "is given here wins",
    )
    if not makes_video:
        return files
    files.add_argument(
        "--output",
        metavar="OUT.mp4",
        type=Path,
        default=Path("avatar.mp4"),
        help="the video to write (default: %(default)s)",
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    return files


def _common(entry: Field[Any]) -> dict[str, Any]:
    """Help, and no value at all unless the user gives one, so that a request file's can stand."""
    setting = setting_of(entry)
    text = setting.help
    if setting.unit and setting.unit not in text:
        text += f", in {setting.unit}"
    if setting.group != "input":
        if entry.default not in (None, ""):
            text += f" (default: {entry.default})"
        elif entry.name in {own.name for own in fields(ModelSpec)}:
            text += " (default: the model's own)"
    return {"help": text.replace("%", "%%"), "default": argparse.SUPPRESS}


def _kind(entry: Field[Any]) -> dict[str, Any]:
    """How argparse is to read the field's type."""
    hint = get_type_hints(GenerationRequest)[entry.name]
    if choices := choices_of(hint):
        return {"choices": choices}
    kinds = get_args(hint) or (hint,)
    if bool in kinds:
        return {"action": argparse.BooleanOptionalAction}
    if int in kinds:
        return {"type": _whole_number, "metavar": "N"}
    if float in kinds:
        return {"type": _number, "metavar": "X"}
    return {"metavar": "TEXT"}


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def _count(text: str) -> int:
    if (number := _whole_number(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return number


def _length(text: str) -> float:
    if not 0 < (number := _number(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def _generate(options: argparse.Namespace) -> None:
    request, model = _request(options)
    model = model or "nano"
    further = loras.chosen(options)
    spec = omniavatar.settle_spec(CATALOG[model], folder=options.weights, loras=further)
    if not options.quiet:
        loras.warn_of_missing_preset(spec, further)
    from omniavatar import AvatarPipeline

    warnings = () if options.quiet else omniavatar.preflight(request, spec).warnings
    before = _identity(options.output)
    try:
        with _Progress(shown=not options.quiet) as progress:
            progress.wait("Loading the model")
            pipeline = AvatarPipeline.from_pretrained(
                model,
                folder=options.weights,
                memory=options.memory,
                loras=further,
                report=downloads.DownloadScreen(shown=not options.quiet),
            )
            with closing(pipeline.stream(request, options.output)) as events:
                progress.show(next(events))
                for what in (*warnings, *_in_vain(spec, request)):
                    progress.show(Notice(what=what, elapsed_seconds=0.0))
                for event in events:
                    progress.show(event)
    except KeyboardInterrupt:
        made = _identity(options.output) not in (None, before)
        kept = f"what was finished is in {options.output}" if made else "nothing was made"
        print(f"omniavatar: stopped; {kept}.", file=sys.stderr)
        raise
    print(options.output)


def _in_vain(spec: ModelSpec, request: GenerationRequest) -> Iterator[str]:
    """A sentence for each setting that was changed in vain."""
    values = request.to_mapping()
    reasons = omniavatar.settings_without_effect(spec, values)
    for entry in fields(GenerationRequest):
        if entry.name in reasons and values.get(entry.name, entry.default) != entry.default:
            yield f"--{entry.name.replace('_', '-')} has no effect: {reasons[entry.name]}"


def _request(options: argparse.Namespace) -> tuple[GenerationRequest, str | None]:
    """What the options ask for, with files that can be read, and the model if one is named."""
    given = {} if options.request is None else _read_request(options.request)
    model = given.pop("model", None)
    if model is not None and (not isinstance(model, str) or model not in CATALOG):
        raise InputError(f"model is {model!r}. Use one of: {', '.join(CATALOG)}.", field="model")
    names = {entry.name for entry in fields(GenerationRequest)}
    given |= {name: value for name, value in vars(options).items() if name in names}
    request = GenerationRequest.from_mapping(given)
    # A checkpoint can take minutes to load: a file that cannot be read is told before that.
    from omniavatar import load_image, load_speech

    load_image(request.image)
    load_speech(request.audio, start_seconds=request.audio_start, seconds=request.audio_seconds)
    return request, options.model or model


def _identity(path: Path) -> tuple[int, int] | None:
    """Tells a file from the one that was there before it; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _read_request(path: Path) -> dict[str, Any]:
    """The object in a request file; its relative paths are relative to the file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}. Give a JSON file.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text in UTF-8. Save it as UTF-8.") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}.") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} holds no JSON object. Use {{'image': ..., 'audio': ...}}.")
    hints = get_type_hints(GenerationRequest)
    if "versions" in found:  # of a video, which remembers more than what can be asked for
        found = {name: value for name, value in found.items() if name in {*hints, "model"}}
    return {
        name: path.parent / value if hints.get(name) is Path and isinstance(value, str) else value
        for name, value in found.items()
    }


class _Progress:
    """One line that is rewritten on a terminal; elsewhere a line for every phase and part."""

    def __init__(self, *, shown: bool) -> None:
        self._shown = shown
        self._live = shown and sys.stderr.isatty()
        self._begun = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_fault: object) -> None:
        """Leave the last line when it tells of the end, and wipe one that was cut short."""
        if self._begun:
            self._write("", end="\r")

    def wait(self, words: str) -> None:
        """Say what is going on before there are events; a log can do without."""
        if self._live:
            self._write(words)

    def show(self, event: Event) -> None:
        words = wording.phase(event)
        if isinstance(event, StepDone | ChunkDone):
            words = f"{words}, {wording.timing(event)}"
        if self._live:
            stays = isinstance(event, Finished | Notice)
            self._write(_bar(event) + words, end="\n" if stays else "")
        elif self._shown and not isinstance(event, StepDone):
            print(words, file=sys.stderr, flush=True)

    def _write(self, words: str, *, end: str = "") -> None:
        width = shutil.get_terminal_size().columns - 1
        print(f"\r{words[:width]:<{width}}", end=end, file=sys.stderr, flush=True)
        self._begun = end != "\n"


def _bar(event: Event) -> str:
    if isinstance(event, StepDone | ChunkDone):
        done = round(event.fraction * 24)
        return f"[{'#' * done}{'-' * (24 - done)}] {event.fraction:4.0%}  "
    return ""


# ---- check


def _add_check_options(parser: argparse.ArgumentParser) -> None:
    files = _add_request_options(parser, makes_video=False)
    parser.usage = f"{parser.prog} IMAGE AUDIO [settings]"
    files.add_argument("--model", choices=tuple(CATALOG), help="checkpoint (default: nano)")
    files.add_argument(
        "--framing",
        metavar="OUT.png",
        type=Path,
        help="write the picture that the video begins with",
    )
    files.add_argument("--json", action="store_true", help="print all of it as JSON")


def _check(options: argparse.Namespace) -> None:
    request, model = _request(options)
    spec = CATALOG[model or "nano"]
    told = omniavatar.preflight(request, spec)
    if options.framing is not None:
        _save_picture(told.picture.framing, options.framing)
    if options.json:
        print(json.dumps(told.to_mapping(), indent=2))
        return
    picture = told.picture
    found = "1 face" if len(picture.faces) == 1 else f"{len(picture.faces) or 'no'} faces"
    print(f"{picture.width} x {picture.height} pixels; {found} found in the picture")
    if picture.crop != (0.0, 0.0, 1.0, 1.0):
        edges = zip(("left", "top", "right", "bottom"), picture.crop, strict=True)
        print("shown of it: " + ", ".join(f"{name} {edge:.2f}" for name, edge in edges))
    print(wording.speech(told.speech, told.chunks))
    for warning in (*told.warnings, *_in_vain(spec, request)):
        print(f"note: {warning}")


def _save_picture(pixels: Any, path: Path) -> None:
    from PIL import Image

    if not path.absolute().parent.is_dir():
        raise OutputError(f"The folder {path.parent} does not exist. Make it, or use another.")
    try:
        Image.fromarray(pixels).save(path)
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be written. Give the name of a PNG file.") from error


# ---- inspect, models


def _add_inspect_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("video", metavar="VIDEO.mp4", type=Path)


def _inspect(options: argparse.Namespace) -> None:
    from omniavatar import read_settings

    plain = not (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    print(json.dumps(read_settings(options.video), indent=2, ensure_ascii=plain))


def _add_no_options(_parser: argparse.ArgumentParser) -> None:
    """For commands without options."""


def _models(_options: argparse.Namespace) -> None:
    for spec in CATALOG.values():
        sizes = ", ".join(f"{width}x{height}" for height, width in spec.sizes)
        print(f"{spec.name:<6} {spec.title}. {spec.description}")
        print(f"       {spec.steps} steps, guidance {spec.guidance:g}; {sizes}")
        if spec.download_bytes:
            print(f"       {omniavatar.describe_bytes(spec.download_bytes)} to download")


# ---- bench


def _add_bench_options(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--model", choices=tuple(CATALOG), default="nano", help="make a video with a checkpoint"
    )
    what.add_argument(
        "--random-weights",
        metavar="MODEL",
        choices=tuple(CATALOG),
        help="measure one chunk with random weights of a checkpoint's full sizes",
    )
    what.add_argument(
        "--accuracy", action="store_true", help="measure the error of bfloat16 on nano"
    )
    what.add_argument(
        "--table", metavar="FOLDER", type=Path, help="turn the JSON files there into a README.md"
    )
    parser.add_argument("--weights", metavar="FOLDER", type=Path, help="where its files are")
    parser.add_argument(
        "--memory",
        choices=MEMORY_TIERS,
        help="arrange the networks as for this card; with --random-weights, torch is held to it",
    )
    parser.add_argument(
        "--seconds", type=_length, default=3.0, metavar="X", help="length of the speech"
    )
    parser.add_argument(
        "--resolution",
        choices=choices_of(get_type_hints(GenerationRequest)["resolution"]),
        default="standard",
        help="of the video",
    )
    chunk = parser.add_argument_group("with --random-weights")
    chunk.add_argument("--tokens", type=_count, metavar="N", help="of the chunk (default: its own)")
    chunk.add_argument(
        "--steps", type=_count, default=4, metavar="N", help="timed at a time (default: 4)"
    )
    chunk.add_argument(
        "--compare", choices=("diffusers",), help="take turns with the library's own transformer"
    )
    chunk.add_argument(
        "--tiers",
        nargs="*",
        choices=MEMORY_TIERS,
        metavar="TIER",
        help="measure these memory tiers (default: each), torch held to their size",
    )
    chunk.add_argument("--uncompiled", action="store_true", help="do not compile the blocks")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures here as well")


def _bench(options: argparse.Namespace) -> None:
    if options.table is not None:
        if not options.table.is_dir():
            raise InputError(f"{options.table} is not a folder. Give one with the files of --json.")
        print(omniavatar.write_tables(options.table))
        return
    if options.json is not None:  # not after minutes of work
        if not options.json.absolute().parent.is_dir():
            raise OutputError(f"The folder {options.json.parent} does not exist. Make it first.")
        if options.json.is_dir():
            raise OutputError(f"{options.json} is a folder. Give the name of a file.")
    figures = _measured(options)
    _print_figures(figures)
    if options.json is not None:
        try:
            options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{options.json} cannot be written: {error.strerror}.") from error


def _measured(options: argparse.Namespace) -> dict[str, Any]:
    from omniavatar import (
        AvatarPipeline,
        measure,
        measure_accuracy,
        measure_chunk,
        measure_tiers,
    )

    if options.accuracy:
        return measure_accuracy().to_mapping()
    if options.random_weights is None:
        pipeline = AvatarPipeline.from_pretrained(
            options.model,
            folder=options.weights,
            memory=options.memory or AUTO,
            report=downloads.DownloadScreen(),
        )
        report = measure(pipeline, seconds=options.seconds, resolution=options.resolution)
        return report.to_mapping()
    spec = CATALOG[options.random_weights]
    if options.tiers is not None or options.memory:
        return measure_tiers(
            spec,
            tiers=(options.memory,) if options.memory else options.tiers or MEMORY_TIERS,
            tokens=options.tokens,
            steps=options.steps,
            compile_blocks=not options.uncompiled,
        ).to_mapping()
    return measure_chunk(
        spec,
        tokens=options.tokens,
        steps=options.steps,
        compile_blocks=not options.uncompiled,
        compare=options.compare is not None,
    ).to_mapping()


def _print_figures(figures: Mapping[str, Any], *, indent: str = "") -> None:
    for name, value in figures.items():
        title = f"{indent}{name.replace('_', ' '):<24}"
        if isinstance(value, dict):
            print(title.rstrip())
            _print_figures(value, indent=f"{indent}  ")
        elif isinstance(value, list | tuple):
            for entry in value:
                _print_figures({name: entry}, indent=indent)
        else:
            print(title, f"{value:.4g}" if isinstance(value, float) else value)


# ---- app


def _app(options: argparse.Namespace) -> None:
    settings = read_app_options(options)
    check_address(settings)
    import spaces  # noqa: F401 (before anything that looks for a GPU)

    from omniavatar.serving import ui
    from omniavatar.serving.jobs import Jobs
    from omniavatar.serving.pipelines import Pipelines

    pipelines = Pipelines()
    pipelines.preload(ui.DEFAULT_MODEL)
    jobs = Jobs(pipelines)
    ui.launch(ui.build(jobs), jobs, settings)


# ---- remote, acceptance


def _add_remote_options(parser: argparse.ArgumentParser) -> None:
    files = _add_request_options(parser)
    files.add_argument(
        "--endpoint",
        metavar="WHERE",
        action="append",
        required=True,
        help="runpod:ID, replicate:OWNER/NAME or the http(s):// address of an app; "
        "given several times, the next one stands in for one that fails "
        "($RUNPOD_API_KEY, $REPLICATE_API_TOKEN, and $OMNIAVATAR_REMOTE_AUTH for an app "
        "with a password: user:password)",
    )
    files.add_argument(
        "--model", choices=tuple(CATALOG), help="checkpoint (default: the endpoint's)"
    )
    files.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_length,
        default=3600.0,
        help="longest wait for an endpoint (default: %(default)g)",
    )


def _remote(options: argparse.Namespace) -> None:
    from omniavatar.serving import remote

    request, model = _request(options)
    work = remote.stream(
        request,
        options.output,
        endpoints=options.endpoint,
        model=model,
        seconds=options.timeout,
    )
    said = ""
    with closing(work) as events:
        for event in events:
            if isinstance(event, remote.RemoteProgress):
                words = wording.remote_progress(
                    event.phase, event.fraction, event.remaining_seconds
                )
                if words != said and not options.quiet:
                    print(words, file=sys.stderr, flush=True)
                said = words
    print(options.output)


def _add_acceptance_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--endpoint",
        metavar="WHERE",
        default="local",
        help="local, runpod:ID, replicate:OWNER/NAME or http(s)://... (default: %(default)s)",
    )
    parser.add_argument("--image", metavar="IMAGE", type=Path, default=EXAMPLES / "presenter-1.png")
    parser.add_argument("--audio", metavar="AUDIO", type=Path, default=EXAMPLES / "speech-1.wav")
    parser.add_argument("--model", choices=tuple(CATALOG), default="nano", help="checkpoint")
    parser.add_argument("--weights", metavar="FOLDER", type=Path, help="where its files are")
    _add_memory_option(parser)
    parser.add_argument("--steps", metavar="N", type=_whole_number, help="denoising steps")
    parser.add_argument(
        "--seconds",
        metavar="X",
        type=_number,
        nargs="+",
        default=[5.0, 30.0, 60.0],
        help="lengths of the recordings (default: 5 30 60)",
    )
    parser.add_argument(
        "--price", metavar="X", type=_number, default=0.0, help="dollars an hour, for the costs"
    )
    parser.add_argument(
        "--report",
        metavar="NAME",
        type=Path,
        default=Path("acceptance"),
        help="write NAME.md and NAME.json (default: %(default)s)",
    )
    parser.add_argument(
        "--guide",
        metavar="FILE",
        type=Path,
        help="put the table of an accepted run between the marks of this Markdown file as well",
    )


def _acceptance(options: argparse.Namespace) -> None:
    from omniavatar.serving import acceptance

    def tell(check: acceptance.Check) -> None:
        words = {True: "passed", False: "FAILED", None: "-"}[check.passed]
        print(f"{words:<7} {check.name}: {check.measured}", file=sys.stderr, flush=True)

    if not options.report.absolute().parent.is_dir():  # not after ten minutes of work
        raise OutputError(f"The folder {options.report.parent} does not exist. Make it first.")
    if options.guide is not None:
        acceptance.put_into(options.guide, None)
    report = acceptance.run(
        options.endpoint,
        image=options.image,
        speech=options.audio,
        model=options.model,
        weights=options.weights,
        memory=options.memory,
        steps=options.steps,
        audio_seconds=options.seconds,
        price_per_hour=options.price,
        tell=tell,
    )
    acceptance.write(report, options.report)
    print(report.to_markdown(), end="")
    if not report.passed:
        failed = ", ".join(check.name for check in report.checks if check.passed is False)
        raise AcceptanceError(f"not accepted: {failed}")
    if options.guide is not None:
        acceptance.put_into(options.guide, report.to_markdown())


class AcceptanceError(OmniAvatarError):
    """A check of the list has failed."""


# ---- the parser


class _BadOptionError(Exception):
    """The command line itself cannot be understood."""


class _Parser(argparse.ArgumentParser):
    """argparse, with one sentence for a bad option instead of the usage and a sentence."""

    def error(self, message: str) -> NoReturn:
        raise _BadOptionError(f"{message}; see `{self.prog} --help`.")


COMMANDS = (
    Command(
        name="generate",
        help="make a portrait speak a recording",
        add_options=_add_generate_options,
        run=_generate,
    ),
    Command(
        name="check",
        help="tell what a video would be like, without making it",
        add_options=_add_check_options,
        run=_check,
    ),
    Command(
        name="captions",
        help="lay a known text over a video, as subtitles or in its picture",
        add_options=captioning.add_options,
        run=captioning.run,
    ),
    Command(
        name="inspect",
        help="print the settings that made a video, as JSON",
        add_options=_add_inspect_options,
        run=_inspect,
    ),
    Command(
        name="models",
        help="list the checkpoints",
        add_options=_add_no_options,
        run=_models,
    ),
    Command(
        name="download",
        help="download a checkpoint, or check it",
        add_options=downloads.add_options,
        run=downloads.run,
    ),
    Command(
        name="convert",
        help="save a checkpoint with its LoRAs merged, for quicker starts",
        add_options=conversions.add_options,
        run=conversions.run,
    ),
    Command(
        name="doctor",
        help="tell how each model would run here, and what is missing",
        add_options=checkup.add_options,
        run=checkup.run,
    ),
    Command(
        name="bench",
        help="measure the speed of a model on this machine",
        add_options=_add_bench_options,
        run=_bench,
    ),
    Command(
        name="app",
        help="serve the page and its API",
        add_options=add_app_options,
        run=_app,
    ),
    Command(
        name="remote",
        help="have an endpoint elsewhere make the video",
        add_options=_add_remote_options,
        run=_remote,
    ),
    Command(
        name="acceptance",
        help="go through the checklist of a release, here or on an endpoint",
        add_options=_add_acceptance_options,
        run=_acceptance,
    ),
)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m omniavatar",
        description="A portrait and a voice recording become a video in which the portrait speaks.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        sub = commands.add_parser(
            command.name,
            help=command.help,
            description=f"{command.help[:1].upper()}{command.help[1:]}.",
            allow_abbrev=False,
        )
        command.add_options(sub)
        sub.set_defaults(run=command.run)
    return parser
