"""Many videos asked for at once: uploads and a table become rows, before anything runs.

A row that can not be used says why and does not keep the others from being made. Names in a table
mean uploaded files and nothing else.
"""

import csv
import io
import lzma
import re
import shutil
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any, get_args, get_type_hints

from omniavatar import CATALOG, GenerationRequest, InputError, choices_of

PICTURES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"))
TABLE_BYTES = 1_000_000
UNPACKED_BYTES = 1_000_000_000  # of all zip files of a batch together, as is the next
UNPACKED_FILES = 1000

FILES = ("image", "audio")
TOO_MUCH = ""  # names what a line has beyond the columns
COLUMNS = (*FILES, "model", *(e.name for e in fields(GenerationRequest) if e.name not in FILES))
# What zipfile and what is behind it say of a file that is damaged.
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError, ValueError
)  # fmt: skip
_SWITCH = {"0": False, "false": False, "no": False, "1": True, "true": True, "yes": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One video of a batch.

    Attributes:
        number: from 1, as a table counts them below its line of names.
        name: of the video's file, without its ending; different from every other row's.
        model: name of a checkpoint.
        request: what to make; None when the row can not be used.
        error: why, in a sentence that names the row.
    """

    number: int
    name: str
    model: str
    request: GenerationRequest | None
    error: str | None


def gather(uploads: Sequence[Path], folder: Path) -> dict[str, Path]:
    """Name the files that were uploaded, and those in uploaded zip files.

    Args:
        folder: where zip files are unpacked.

    Returns:
        Places by name; a file of a zip is named by its path within it.

    Raises:
        InputError: a zip file is damaged, they hold too much, or two files have one name.
    """
    found: dict[str, Path] = {}
    room = _Room()
    for number, upload in enumerate(uploads):
        zipped = upload.suffix.lower() == ".zip"
        new = _unpack(upload, folder / str(number), room) if zipped else {upload.name: upload}
        twice = found.keys() & new.keys()
        if twice:
            raise _fault(f"There are two files called {min(twice)}. Rename one of them.")
        found |= new
    return found


def read_rows(
    files: Mapping[str, Path], *, settings: Mapping[str, Any], model: str, most: int
) -> list[Row]:
    """Make rows of a table (CSV) and the files that it names, or of files alone.

    Without a table one picture goes with every recording, one recording with every picture, and
    several of both go by their names: anna.png with anna.wav.

    Args:
        files: places by name, as `gather` gives them.
        settings: of rows whose table does not say otherwise, without image and audio.
        model: of the same.
        most: rows.

    Raises:
        InputError: the whole can not be understood; `field` is "files".
    """
    tables = [path for name, path in files.items() if name.lower().endswith((".csv", ".tsv"))]
    if len(tables) > 1:
        raise _fault(f"There are {len(tables)} tables. Give one CSV.")
    lines = _read_table(tables[0], most) if tables else _pair(files)
    if not lines:
        raise _fault("There is no row in it. Give at least one picture and one recording.")
    if len(lines) > most:
        raise _fault(f"These are {len(lines)} videos, but a batch has up to {most}. Split it.")
    names = _Names()
    return [
        _row(number, line, files, names, settings=settings, model=model)
        for number, line in enumerate(lines, start=1)
    ]


def _row(
    number: int,
    line: Mapping[str, str],
    files: Mapping[str, Path],
    names: "_Names",
    *,
    settings: Mapping[str, Any],
    model: str,
) -> Row:
    given = {name: text for name, text in line.items() if text}
    rest = given.pop(TOO_MUCH, None)
    model = given.pop("model", model)
    stems = [PurePosixPath(given[name]).stem for name in FILES if name in given]
    name = names.take("-".join(dict.fromkeys(stems)) or "video")
    request, error = None, None
    try:
        if rest is not None:
            raise InputError(
                f"there is no column for {rest[:40]!r}. Put a text that has commas into quotes."
            )
        if model not in CATALOG:
            raise InputError(f"model is {model!r}. Use one of: {', '.join(CATALOG)}.")
        places = {each: _find(each, given.pop(each, ""), files) for each in FILES}
        values = {each: _value(each, text) for each, text in given.items()}
        request = GenerationRequest.from_mapping({**settings, **values, **places})
    except InputError as fault:
        error = f"Row {number}: {fault}"
    return Row(number=number, name=name, model=model, request=request, error=error)


def _find(column: str, name: str, files: Mapping[str, Path]) -> Path:
    """An uploaded file by its path within a zip or, where only one is called so, by its name."""
    if not name:
        raise InputError(f"{column} is missing. Give the name of an uploaded file.", field=column)
    wanted = _plain(name)
    known = {_plain(each): path for each, path in files.items()}
    if wanted in known:
        return known[wanted]
    called = [path for each, path in known.items() if each.endswith("/" + wanted)]
    if len(called) == 1:
        return called[0]
    if called:
        raise InputError(
            f"{column} is {name!r}, and {len(called)} uploaded files are called so. Give its path.",
            field=column,
        )
    raise InputError(
        f"{column} is {name!r}, but no uploaded file is called so. Upload it too.", field=column
    )


def _plain(name: str) -> str:
    return name.strip().replace("\\", "/").removeprefix("./").casefold()


def _value(name: str, text: str) -> Any:
    """A cell as the setting's type; what does not fit is left for the request to refuse."""
    hint = get_type_hints(GenerationRequest)[name]
    kinds = set(get_args(hint) or (hint,))
    try:
        if kinds & {int, float}:
            return float(text)
        if bool in kinds and not choices_of(hint):
            return _SWITCH[text.casefold()]
    except (ValueError, KeyError):
        pass
    return text


def _read_table(path: Path, most: int) -> list[dict[str, str]]:
    """The lines of a CSV by the names of its columns, those that are empty left out."""
    if path.stat().st_size > TABLE_BYTES:
        raise _fault(f"{path.name} is larger than {TABLE_BYTES // 1_000_000} MB. Split it.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise _fault(f"{path.name} is not text in UTF-8. Save it as CSV in UTF-8.") from error
    first = text.partition("\n")[0]
    separator = max(",;\t", key=first.count)  # as spreadsheets of different countries write it
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        lines = [line for line in reader if any(line)]
    except csv.Error as error:
        raise _fault(f"{path.name} can not be read as CSV ({error}). Save it again.") from error
    if not lines:
        raise _fault(f"{path.name} is empty. Give a line of names: image, audio, prompt, ...")
    names = [name.strip().casefold() for name in lines[0]]
    for name in names:
        if name not in {each.casefold() for each in COLUMNS}:
            raise _fault(
                f"{path.name} has a column {name!r}, which is no setting. "
                f"Its first line names columns: {', '.join(COLUMNS)}."
            )
    for name in FILES:
        if name not in names:
            raise _fault(f"{path.name} has no column {name!r}. Add it, with the names of files.")
    if len(set(names)) < len(names):
        raise _fault(f"{path.name} has a column twice. Keep one of them.")
    own = {each.casefold(): each for each in COLUMNS}
    return [
        {own[name]: cell.strip() for name, cell in zip(names, line, strict=False)}
        | {TOO_MUCH: "".join(line[len(names) :]).strip()}
        for line in lines[1 : most + 2]
    ]


def _pair(files: Mapping[str, Path]) -> list[dict[str, str]]:
    """Which picture speaks which recording, without a table."""
    pictures = sorted(n for n in files if PurePosixPath(n).suffix.lower() in PICTURES)
    recordings = sorted(set(files) - set(pictures))
    if not pictures or not recordings:
        missing = "recording" if pictures else "picture"
        raise _fault(f"There is no {missing} among these files. Add one.")
    if len(pictures) == 1 or len(recordings) == 1:
        return [{"image": i, "audio": a} for i in pictures for a in recordings]
    by_stem = {PurePosixPath(name).stem.casefold(): name for name in recordings}
    stems = [PurePosixPath(name).stem.casefold() for name in pictures]
    if len(by_stem) < len(recordings) or sorted(stems) != sorted(by_stem):
        raise _fault(
            f"{len(pictures)} pictures and {len(recordings)} recordings do not go together by "
            "their names. Name them alike (anna.png, anna.wav), or say in a CSV what goes together."
        )
    return [
        {"image": name, "audio": by_stem[stem]} for name, stem in zip(pictures, stems, strict=True)
    ]


class _Room:
    """What may still be unpacked of a batch."""

    def __init__(self) -> None:
        self._bytes, self._files = UNPACKED_BYTES, UNPACKED_FILES

    def take(self, entries: Sequence[zipfile.ZipInfo]) -> None:
        """Set room aside for the files of a zip.

        Raises:
            InputError: there is too little.
        """
        self._bytes -= sum(entry.file_size for entry in entries)
        self._files -= len(entries)
        if self._files < 0 or self._bytes < 0:
            most = f"{UNPACKED_FILES} files" if self._files < 0 else f"{UNPACKED_BYTES / 1e9:g} GB"
            raise _fault(f"What was uploaded unpacks to more than {most}. Split it.")


def _unpack(archive: Path, folder: Path, room: _Room) -> dict[str, Path]:
    """Write the files of a zip under numbers, and give their places by their paths within it."""
    found: dict[str, Path] = {}
    try:
        with zipfile.ZipFile(archive) as content:
            entries = [each for each in content.infolist() if _is_wanted(each)]
            room.take(entries)
            for number, entry in enumerate(entries):
                # In a folder of its own, under its own name and nothing else of its path.
                place = folder / str(number) / _safe(PurePosixPath(entry.filename).name)
                place.parent.mkdir(parents=True)
                with content.open(entry) as source, place.open("wb") as target:
                    shutil.copyfileobj(source, target)  # ends at the size that the entry says
                found[entry.filename] = place
    except _DAMAGE as error:
        raise _fault(f"{archive.name} can not be unpacked ({error}). Zip it again.") from error
    return found


def _is_wanted(entry: zipfile.ZipInfo) -> bool:
    parts = PurePosixPath(entry.filename.replace("\\", "/")).parts
    hidden = any(part.startswith((".", "__MACOSX")) for part in parts)
    return not entry.is_dir() and not hidden


def _safe(name: str) -> str:
    return re.sub(r"[^\w .()+-]", "_", name)[-100:].lstrip(". ") or "file"


class _Names:
    """Names of files, each given once."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, wanted: str) -> str:
        name, number = _safe(wanted), 1
        while name.casefold() in self._taken:
            number += 1
            name = f"{_safe(wanted)}-{number}"
        self._taken.add(name.casefold())
        return name


def _fault(message: str) -> InputError:
    return InputError(message, field="files")
