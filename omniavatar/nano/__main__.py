"""Make the bundled model: data, training, export, evaluation. One command for each part.

    python -m omniavatar.nano speech          the bank of speech that the other parts use
    python -m omniavatar.nano data            a contact sheet of what training sees
    python -m omniavatar.nano speech-encoder  train wav2vec2
    python -m omniavatar.nano vae             train the VAE
    python -m omniavatar.nano reader          train evaluation's reader of mouths
    python -m omniavatar.nano export --only vae speech-encoder reader
    python -m omniavatar.nano takes           draw clips while the VAE is trained
    python -m omniavatar.nano windows         draw and encode the clips of the next part
    python -m omniavatar.nano transformer     train transformer and text encoder on what they give
    python -m omniavatar.nano fold            fold guidance into the transformer
    python -m omniavatar.nano export --only fold
    python -m omniavatar.nano emphasise       let the transformer do all of what it hears
    python -m omniavatar.nano expert          train a reader of mouths for the next part
    python -m omniavatar.nano lips --observer FOLDER  train low-rank changes on what is seen
    python -m omniavatar.nano export --only lips
    python -m omniavatar.nano lips --observer FOLDER --further  train more of them, over those
    python -m omniavatar.nano export --only lips-further
    python -m omniavatar.nano attune --further FOLDER  let it hear other speech, of a folder
    python -m omniavatar.nano prompts --observer FOLDER  let it do more of what prompts say
    python -m omniavatar.nano export --only prompts
    python -m omniavatar.nano films FILE.json ...  a contact sheet of videos made from requests
    python -m omniavatar.nano show            README's sheet and loop, of presenters never seen
    python -m omniavatar.nano evaluate        whether the bundled model talks and stays itself
    python -m omniavatar.nano evaluate --full  the bundled model against every bar, part by part
    python -m omniavatar.nano fetch           recorded speech and a second synthesiser for that
    python -m omniavatar.nano observer        train evaluation's observer of heads, eyes and smiles
    python -m omniavatar.nano judge           train its judge of behaviours, for that observer

A part of training that was stopped goes on from its checkpoint when it is called again. Speech
encoder, transformer, fold, lips and prompts can be trained on several GPUs of one machine:

    torchrun --nproc-per-node 2 -m omniavatar.nano transformer
"""

import argparse
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from omniavatar.errors import InputError, OmniAvatarError

if TYPE_CHECKING:
    import torch

    from omniavatar import GenerationRequest
    from omniavatar.nano.speech import SpeechBank

TRAINING_PARTS = {
    "speech-encoder": 170, "vae": 417, "reader": 90, "transformer": 900, "fold": 312,
    "expert": 150, "lips": 600, "prompts": 330,
}  # fmt: skip
"""Parts, and the seconds of each unless told otherwise, meant for such a card as trained the
bundled weights. What those took, in several runs, is in `training.json`."""

EXPORTED_PARTS = (*(part for part in TRAINING_PARTS if part != "expert"), "lips-further")

COURSE_NAMES = ("first", "wide", "drawn", "close", "short")
"""Of `course.COURSES`: to import that takes seconds."""

FULL_PARTS = (
    "speed", "vae", "speech", "identity", "behaviours", "flite", "recordings", "drawings",
    "photographs", "long", "guidance",
)  # fmt: skip
"""Of `evaluate --full`."""

BRIEF_PARTS = ("vae", "speech", "identity")
"""Of `evaluate` alone."""

_FOR_FULL = ("parts", "look", "recordings", "sheets")


def main(arguments: list[str] | None = None) -> int:
    """Run one part; 0 when it is done, 1 when evaluation misses a bar, 2 when it can not be run."""
    started = time.monotonic()
    options = _parser().parse_args(arguments)
    try:
        return _run(options, started)
    except (OmniAvatarError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2


def _run(options: argparse.Namespace, started: float) -> int:
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)7d %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if options.part == "evaluate":
        return _evaluate(options)
    if options.part == "speech":
        _make_speech(options)
    elif options.part == "data":
        _draw_sheet(options)
    elif options.part == "films":
        _make_films(options)
    elif options.part == "show":
        _show(options)
    elif options.part == "export":
        _export(options)
    elif options.part == "emphasise":
        _emphasise(options)
    elif options.part == "attune":
        _attune(options)
    elif options.part == "fetch":
        _fetch(options)
    elif options.part == "observer":
        _train_observer(options)
    elif options.part == "judge":
        _train_judge(options)
    else:
        deadline = started + options.stop_after if options.stop_after else float("inf")
        _train(options, deadline)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m omniavatar.nano",
        description="Make the bundled model.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=__doc__,
    )
    parser.add_argument("--runs", type=Path, default=Path("build/nano"), help="checkpoints")
    parts = parser.add_subparsers(dest="part", required=True)

    speech = parts.add_parser("speech", help="make the bank of speech")
    speech.add_argument("--streams", type=int, default=400, help="of a minute each")
    speech.add_argument("--held-out-streams", type=int, default=32)
    speech.add_argument("--seconds", type=float, default=60.0, help="length of a stream")
    speech.add_argument("--processes", type=int, default=1)
    speech.add_argument("--further", type=Path, help="folder of other speech, mono at 16 kHz")
    speech.add_argument("--weights", type=Path, help="whose speech encoder guesses its mouths")
    speech.add_argument("--device", default="cpu", help="for that")
    _add_course(speech)

    data = parts.add_parser("data", help="draw a contact sheet")
    data.add_argument("--sheet", type=Path, default=Path("build/nano/data.png"))
    data.add_argument("--clips", type=_at_least(1), default=14)
    data.add_argument("--seed", type=int, default=1)
    _add_course(data)

    for name, seconds in TRAINING_PARTS.items():
        part = parts.add_parser(name, help=f"train the {name}")
        part.add_argument("--seconds", type=float, default=seconds, help="whole budget")
        part.add_argument("--stop-after", type=float, help="leave this call after so many seconds")
        if name not in ("transformer", "fold", "lips", "prompts"):
            part.add_argument("--batch", type=int)
        part.add_argument("--device", default="cuda")
        _add_course(part)
        if name in ("transformer", "vae", "fold", "speech-encoder", "expert", "lips", "prompts"):
            part.add_argument("--weights", type=Path, help="where the other parts are exported")
        if name in ("vae", "reader", "expert"):
            part.add_argument("--clips", type=int, help="drawn before training")

        if name in ("transformer", "vae", "speech-encoder"):
            part.add_argument(
                "--from-weights", action="store_true", help="go on from what is exported"
            )
        if name == "lips":
            part.add_argument("--further", action="store_true", help="over exported changes")
        if name in ("lips", "prompts"):
            part.add_argument(
                "--observer",
                type=Path,
                required=True,
                help="folder of another than evaluation's; for prompts with its judge",
            )

    takes = parts.add_parser("takes", help="draw the transformer's clips before there is a VAE")
    takes.add_argument("--to", type=Path, required=True, help="folder, of 10 MB a clip")
    takes.add_argument("--clips", type=int, default=1800)
    takes.add_argument("--number", type=int, default=0, help="of this process, if many share")
    takes.add_argument("--stop-after", type=float, help="draw no more after so many seconds")
    takes.add_argument("--device", default="cuda")
    takes.set_defaults(seconds=0.0)
    _add_course(takes)

    windows = parts.add_parser("windows", help="draw and encode the transformer's clips")
    windows.add_argument("--takes", type=Path, help="folder of clips that are drawn already")
    windows.add_argument("--shares", type=int, default=1, help="processes that encode those")
    windows.add_argument("--weights", type=Path, help="where the VAE is exported")
    windows.add_argument("--clips", type=int, default=1800)
    windows.add_argument("--number", type=int, default=0, help="of this process, if many share")
    windows.add_argument("--stop-after", type=float, help="draw no more after so many seconds")
    windows.add_argument("--device", default="cuda")
    windows.set_defaults(seconds=0.0)
    _add_course(windows)

    export = parts.add_parser("export", help="write the bundled checkpoint")
    export.add_argument("--weights", type=Path, help="default: omniavatar/nano/weights")
    export.add_argument("--only", nargs="+", choices=EXPORTED_PARTS, help="parts to write")

    films = parts.add_parser("films", help="draw a contact sheet of videos")
    films.add_argument("requests", nargs="+", type=Path, help="request files to make them from")
    films.add_argument("--sheet", type=Path, default=Path("build/nano/films.png"))

    emphasise = parts.add_parser("emphasise", help="let the transformer do all of what it hears")
    emphasise.add_argument("--weights", type=Path, help="default: omniavatar/nano/weights")

    attune = parts.add_parser("attune", help="attune the audio pack to other speech")
    attune.add_argument("--further", type=Path, required=True, help="its folder, mono at 16 kHz")
    attune.add_argument(
        "--streams", type=int, default=64, help="of the bank, to keep what it knows"
    )
    attune.add_argument("--weights", type=Path, help="default: omniavatar/nano/weights")
    attune.add_argument("--device", default="cpu")

    show = parts.add_parser("show", help="film six presenters for README")
    show.add_argument("--sheet", type=Path, default=Path("docs/presenters.png"))
    show.add_argument("--loop", type=Path, default=Path("docs/presenters.webp"))
    show.add_argument("--seed", type=int, default=12)
    show.add_argument("--look", default="drawn", choices=("drawn", "wide"), help="of presenters")

    evaluate = parts.add_parser("evaluate", help="measure the bundled model")
    evaluate.set_defaults(refuse=evaluate.error)
    evaluate.add_argument("--json", type=Path, help="write figures here, and go on from them")
    evaluate.add_argument("--sheet", type=Path, help="write a contact sheet here")
    evaluate.add_argument(
        "--clips",
        type=_at_least(2),  # each is compared with the speech of another
        default=28,
        help="clips of two chunks",
    )
    evaluate.add_argument("--folder", type=Path, help="another checkpoint in the same layout")
    full = evaluate.add_argument_group("with --full")
    full.add_argument("--full", action="store_true", help="every bar")
    full.add_argument("--parts", nargs="+", choices=FULL_PARTS, help="only these")
    full.add_argument("--look", choices=("drawn", "wide"), help="of presenters; default: drawn")
    full.add_argument("--recordings", type=Path, help="folder of recorded speech")
    full.add_argument("--sheets", type=Path, help="folder for pages of pictures")

    fetch = parts.add_parser("fetch", help="download Debian packages that evaluation uses")
    fetch.add_argument("--to", type=Path, help="default: build/nano/debian")

    observer = parts.add_parser("observer", help="train the observer of heads, eyes and smiles")
    observer.add_argument("--weights", type=Path, help="default: omniavatar/nano/weights")
    observer.add_argument("--look", default="drawn", choices=("drawn", "wide"), help="of people")
    observer.add_argument("--presenters", type=int, default=1400, help="to learn from")
    observer.add_argument("--passes", type=int, default=20, help="over all of them")
    observer.add_argument("--seed", type=int, default=61, help="of the people that it sees")
    observer.add_argument("--device", default="cpu")

    judge = parts.add_parser("judge", help="train the judge of behaviours")
    judge.add_argument("--weights", type=Path, help="where the observer is")
    judge.add_argument("--clips", type=int, default=900, help="to draw")
    judge.add_argument("--seed", type=int, default=71, help="of those")
    judge.add_argument("--device", default="cpu")
    return parser


def _add_course(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--course", default="first", choices=COURSE_NAMES, help="wide: more of everything"
    )


def _at_least(least: int) -> Callable[[str], int]:
    """What argparse takes as a type."""

    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return int(text)

    return number


def _make_speech(options: argparse.Namespace) -> None:
    from omniavatar.nano.banks import write_speech
    from omniavatar.nano.course import COURSES
    from omniavatar.nano.debian import FOLDER
    from omniavatar.nano.flite import find_flite
    from omniavatar.nano.speech import speech_bank

    manner = COURSES[options.course].manner
    flite = find_flite(FOLDER) if manner.flite_share else None
    for held_out, streams in ((False, options.streams), (True, options.held_out_streams)):
        bank = speech_bank(
            streams,
            options.seconds,
            seed=7,
            processes=options.processes,
            held_out=held_out,
            manner=manner,
            flite=flite,
        )
        if options.further and not held_out:
            bank = _with_further_speech(bank, options)
        write_speech(bank, options.runs, held_out=held_out)


def _with_further_speech(bank: "SpeechBank", options: argparse.Namespace) -> "SpeechBank":
    import torch

    from omniavatar.nano.further_speech import further_speech
    from omniavatar.nano.windows import load_speech_encoder

    encoder = load_speech_encoder(_weights(options), torch.device(options.device))
    return bank.joined(further_speech(options.further, bank, encoder))


def _train(options: argparse.Namespace, deadline: float) -> None:
    import torch

    from omniavatar.nano.course import COURSES
    from omniavatar.nano.training import join_others

    device = join_others(torch.device(options.device))
    torch.backends.cudnn.benchmark = True
    speech = _speech(options.runs, device)
    held_out = _speech(options.runs, device, held_out=True)
    common = {
        "folder": options.runs,
        "seconds": options.seconds,
        "deadline": deadline,
        "device": device,
        "course": COURSES[options.course],
        **{
            name: value
            for name in ("batch", "clips")
            if (value := getattr(options, name, None)) is not None
        },
    }
    if options.part == "speech-encoder":
        from omniavatar.nano.train_speech_encoder import train_speech_encoder

        start = _weights(options) if options.from_weights else None
        train_speech_encoder(speech, held_out, from_weights=start, **common)
    elif options.part == "vae":
        from omniavatar.nano.train_vae import train_vae

        start = _weights(options) if options.from_weights else None
        train_vae(speech, held_out, from_weights=start, **common)
    elif options.part in ("reader", "expert"):
        from omniavatar.nano.train_reader import train_reader

        through = _weights(options) if options.part == "expert" else None
        train_reader(speech, held_out, through=through, **common)
    elif options.part == "windows":
        from omniavatar.nano.windows import write_windows

        del common["seconds"]
        write_windows(
            speech,
            _weights(options),
            number=options.number,
            shares=options.shares,
            takes=options.takes,
            **common,
        )
    elif options.part == "takes":
        from omniavatar.nano.windows import write_takes

        del common["seconds"]
        write_takes(speech, number=options.number, **{**common, "folder": options.to})
    elif options.part == "lips":
        from omniavatar.nano.train_lips import train_lips

        train_lips(
            held_out,
            _weights(options),
            observer=options.observer,
            further=options.further,
            **common,
        )
    elif options.part == "prompts":
        from omniavatar.nano.train_prompts import train_prompts

        train_prompts(held_out, _weights(options), observer=options.observer, **common)
    elif options.part == "fold":
        from omniavatar.nano.train_fold import fold_guidance

        fold_guidance(held_out, _weights(options), **common)
    else:
        from omniavatar.nano.train_transformer import train_transformer

        train_transformer(
            speech, held_out, _weights(options), from_weights=options.from_weights, **common
        )


def _draw_sheet(options: argparse.Namespace) -> None:
    import torch

    from omniavatar.nano.clips import sample_clips
    from omniavatar.nano.course import COURSES
    from omniavatar.nano.prompts import BEHAVIOURS, WIDE_BEHAVIOURS
    from omniavatar.nano.sheet import write_sheet
    from omniavatar.nano.speech import speech_bank

    course = COURSES[options.course]
    shape = course.shapes[0]
    clips = sample_clips(
        speech_bank(
            options.clips,
            8.0,
            seed=options.seed,
            manner=replace(course.manner, flite_share=0.0),
        ),
        count=options.clips,
        frames=shape.frames,
        height=shape.height,
        width=shape.width,
        generator=torch.Generator().manual_seed(options.seed),
        device="cpu",
        behaviours=WIDE_BEHAVIOURS if course.look == "wide" else BEHAVIOURS,
        look=course.look,
    )
    options.sheet.parent.mkdir(parents=True, exist_ok=True)
    write_sheet(clips.frames, None, options.sheet)
    for number, prompt in enumerate(clips.prompts, start=1):
        print(f"{number:3}  {prompt}")


def _make_films(options: argparse.Namespace) -> None:
    import tempfile

    from omniavatar import AvatarPipeline
    from omniavatar.nano.sheet import write_film_sheet

    requests = [_read_request(path) for path in options.requests]
    pipeline = AvatarPipeline.from_pretrained("nano")
    with tempfile.TemporaryDirectory() as folder:
        films = [
            pipeline.generate(request, Path(folder) / f"{number}.mp4").path
            for number, request in enumerate(requests)
        ]
        write_film_sheet([request.image for request in requests], films, options.sheet)


def _read_request(path: Path) -> "GenerationRequest":
    import json

    from omniavatar import GenerationRequest

    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        files = {name: path.parent / values[name] for name in ("image", "audio")}
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{path} is no request: give a JSON object with the files image and audio."
        ) from error
    return GenerationRequest.from_mapping({**values, **files})


def _show(options: argparse.Namespace) -> None:
    from omniavatar import AvatarPipeline
    from omniavatar.nano.showcase import film_presenters, write_loop, write_presenter_sheet

    pipeline = AvatarPipeline.from_pretrained("nano")
    films = film_presenters(pipeline, seed=options.seed, look=options.look)
    write_presenter_sheet(films, options.sheet)
    write_loop(films, options.loop)
    for path in (options.sheet, options.loop):
        print(f"{path}  {path.stat().st_size / 1e6:.2f} MB")


def _evaluate(options: argparse.Namespace) -> int:
    without_effect = [name for name in _FOR_FULL if getattr(options, name) is not None]
    if without_effect and not options.full:
        options.refuse(f"--{without_effect[0]} has no effect without --full: add that.")
    if options.sheet and options.full:
        options.refuse("--sheet has no effect with --full: use --sheets FOLDER.")
    from omniavatar.nano.figures import as_table
    from omniavatar.nano.full_evaluation import default_subject, evaluate_fully
    from omniavatar.nano.sheet import write_sheet

    subject = default_subject(
        folder=options.folder,
        clips=options.clips,
        look=options.look or "drawn",
        recordings=options.recordings,
        sheets=options.sheets,
    )
    parts = options.parts if options.full else BRIEF_PARTS
    figures = evaluate_fully(subject, parts=parts, json_path=options.json)
    if options.sheet is not None:
        filmed = subject.presenters
        write_sheet(filmed.made, filmed.truth.frames[:, 1:], options.sheet)
    print(as_table(figures))
    return 1 if any(figure.is_met is False for figure in figures) else 0


def _fetch(options: argparse.Namespace) -> None:
    from omniavatar.nano.debian import FOLDER, PACKAGES, fetch_packages

    folder = options.to or FOLDER
    fetch_packages(folder)
    print(f"{', '.join(PACKAGES)}: in {folder}")


def _train_observer(options: argparse.Namespace) -> None:
    from omniavatar.nano.train_observer import train_observer

    scores = train_observer(
        _weights(options) / "observer",
        look=options.look,
        presenters=options.presenters,
        passes=options.passes,
        seed=options.seed,
        device=options.device,
    )
    for name, agreement in scores.items():
        print(f"{name:12} {agreement:.3f}")


def _train_judge(options: argparse.Namespace) -> None:
    from omniavatar.nano.train_judge import train_judge

    shares = train_judge(
        _weights(options) / "observer",
        clips=options.clips,
        seed=options.seed,
        device=options.device,
    )
    for name, share in shares.items():
        print(f"{name:16} {share:.0%}")


def _export(options: argparse.Namespace) -> None:
    import torch

    from omniavatar.nano.export import PARTS, export

    export(
        options.runs,
        _weights(options),
        speech=_speech(options.runs, torch.device("cpu"), held_out=True),
        only=tuple(options.only or PARTS),
    )


def _emphasise(options: argparse.Namespace) -> None:
    import torch

    from omniavatar.nano.emphasis import emphasise

    emphasise(_weights(options), _speech(options.runs, torch.device("cpu")))


def _attune(options: argparse.Namespace) -> None:
    import torch

    from omniavatar.nano.attunement import attune
    from omniavatar.nano.further_speech import further_speech
    from omniavatar.nano.windows import load_speech_encoder

    weights, cpu = _weights(options), torch.device("cpu")
    bank = _speech(options.runs, cpu).first(options.streams)
    held_out = _speech(options.runs, cpu, held_out=True)
    encoder = load_speech_encoder(weights, torch.device(options.device))
    further = further_speech(options.further, bank, encoder)
    attune(weights, bank, further, held_out, encoder=encoder)


def _weights(options: argparse.Namespace) -> Path:
    from omniavatar.nano.architecture import weights_folder

    return options.weights or weights_folder()


def _speech(runs: Path, device: "torch.device", *, held_out: bool = False) -> "SpeechBank":
    from omniavatar.nano.banks import read_speech

    return read_speech(runs, held_out=held_out).to(device)


if __name__ == "__main__":
    sys.exit(main())
