"""The command `captions`: a known text as subtitles of a video, and in its picture."""

import argparse
from pathlib import Path

import omniavatar
from omniavatar import InputError, OutputError


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Places a text that is known over the speech in which it is said, and writes it as SRT. "
        "Nothing is transcribed: words are placed by pauses, punctuation and length, to about a "
        "tenth of a second. Look the captions over before you publish them."
    )
    parser.add_argument("video", metavar="VIDEO", type=Path, help="a video, or a recording")
    said = parser.add_mutually_exclusive_group(required=True)
    said.add_argument("--text", metavar="TEXT", help="what is said in it")
    said.add_argument("--text-file", metavar="FILE.txt", type=Path, help="the same, from a file")
    said.add_argument("--srt", metavar="FILE.srt", type=Path, help="captions that are there")
    parser.add_argument(
        "--output", metavar="FILE.srt", type=Path, help="subtitles (default: beside the video)"
    )
    parser.add_argument(
        "--burn", metavar="OUT.mp4", type=Path, help="also write a video that shows the captions"
    )
    parser.add_argument("--font", metavar="FONT.ttf", type=Path, help="for --burn")


def run(options: argparse.Namespace) -> None:
    output = _subtitles(options)
    if options.srt is not None:
        captions = omniavatar.from_srt(_read(options.srt))
    else:
        text = options.text if options.text_file is None else _read(options.text_file)
        captions = omniavatar.align_captions(text, omniavatar.load_speech(options.video))
    if options.burn is not None:
        omniavatar.burn_captions(options.video, captions, options.burn, font=options.font)
    if output is not None:
        try:
            output.write_text(omniavatar.to_srt(captions), encoding="utf-8")
        except OSError as error:
            raise OutputError(
                f"{output} cannot be written: {error.strerror}. Use another place."
            ) from error
        print(output)
    if options.burn is not None:
        print(options.burn)


def _subtitles(options: argparse.Namespace) -> Path | None:
    """Where subtitles go, if they do: no place where something else would be lost."""
    if options.srt is not None and options.output is None:
        if options.burn is None:
            raise InputError(
                "--srt alone changes nothing. Add --burn OUT.mp4 or --output FILE.srt."
            )
        return None
    output: Path = options.output or options.video.with_suffix(".srt")
    omniavatar.check_output(output, None, suffix=".srt")
    if options.output is None and output.exists():
        raise OutputError(
            f"{output} is there already. Give --output {output} to write it anew, or another name."
        )
    return output


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}. Give a text file.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text in UTF-8. Save it as UTF-8.") from error
