"""Where the files of a checkpoint are, and whether all are there; nothing is read but headers.

A folder is in the published layout (`Wan2.1-T2V-14B/`, `OmniAvatar-14B/`, `wav2vec2-base-960h/`,
with the files that the hub has), holds the files of the first two directly, or is in the layout of
diffusers (`transformer/`, `vae/`, `text_encoder/`, `tokenizer/`, `speech_encoder/`). Parts of each
mix: every part is looked for by itself.
"""

import contextlib
import json
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path
from safetensors import SafetensorError, safe_open

from omniavatar.errors import WeightsError
from omniavatar.weights.catalog import ModelSpec, Published

CHANGES_FOLDER = "lora"
"""In the layout of diffusers: where low-rank changes of the transformer are, if it has some."""

Layout = tuple[tuple[str, str], ...]
"""Parts and their places in a folder; a place without a suffix is a safetensors file or several."""

BASE_LAYOUT: Layout = (
    ("transformer", "diffusion_pytorch_model"),
    ("VAE", "Wan2.1_VAE.pth"),
    ("VAE", "Wan2.1_VAE.safetensors"),
    ("text encoder", "models_t5_umt5-xxl-enc-bf16.pth"),
    ("tokenizer", "google/umt5-xxl/tokenizer_config.json"),
)
ADAPTER_LAYOUT: Layout = (("adapter", "pytorch_model.pt"), ("adapter", "pytorch_model"))
SPEECH_ENCODER_LAYOUT: Layout = (
    ("speech encoder", "model"),
    ("speech encoder", "pytorch_model.bin"),
)
DIFFUSERS_LAYOUT: Layout = (
    ("transformer", "transformer/diffusion_pytorch_model"),
    ("VAE", "vae/diffusion_pytorch_model"),
    ("text encoder", "text_encoder/model"),
    ("tokenizer", "tokenizer/tokenizer_config.json"),
    ("speech encoder", "speech_encoder/model"),
)

PLACE_VARIABLE = "OMNIAVATAR_WEIGHTS"
"""The environment variable that names the folder of all published checkpoints."""

TOKENIZERS = ("tokenizer.json", "spiece.model")
"""The words of a tokenizer; one of the two is enough."""

PICKLE = b"\x80"
"""The first byte of a file of torch that is no archive."""

_OF_TRANSFORMER = re.compile(r"(^|\.)blocks\.0\.ffn\.(0|net\.0\.proj)\.weight$")
"""A tensor that every Wan transformer has, and nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The files of each part of a checkpoint; a part's config, if it has one, lies beside them.

    Attributes:
        transformer: the base's, when there is an adapter.
        adapter: none when the transformer is complete without one.
        changes: of a complete transformer's own low-rank changes, if it has some; all are merged.
        tokenizer: one of the files in its folder.
    """

    transformer: tuple[Path, ...]
    adapter: tuple[Path, ...]
    changes: tuple[Path, ...]
    vae: tuple[Path, ...]
    text_encoder: tuple[Path, ...]
    tokenizer: tuple[Path, ...]
    speech_encoder: tuple[Path, ...]


def find_folder(spec: ModelSpec, folder: Path | str | None = None) -> Path:
    """The folder of a checkpoint's files, or the one that they are downloaded to.

    It is the one that is given; else, for a published checkpoint, the one that the environment
    variable OMNIAVATAR_WEIGHTS names, `pretrained_models` in the working directory when it has a
    part of the checkpoint, or a folder in the user's cache. A folder that is given or named may
    also be the one that holds such a `pretrained_models`, and nothing of the checkpoint beside it.
    """
    source = spec.source
    if not isinstance(source, Published):
        return source.folder if folder is None else Path(folder)
    named = folder or os.environ.get(PLACE_VARIABLE)
    place = Path(named or "").expanduser()
    within = place / source.folder
    if _is_started(spec, within) and not (named and _is_started(spec, place)):
        return within if named else within.absolute()
    return place if named else user_cache_path("omniavatar", appauthor=False) / "models"


def find_files(spec: ModelSpec, folder: Path) -> Files:
    """Find every part of a checkpoint, before any is loaded.

    Raises:
        WeightsError: a part is missing or damaged; the message says where it is expected.
    """
    found, faults, _ = _look(spec, folder)
    for fault in faults.values():
        raise WeightsError(f"{fault} {_remedy(spec, folder)}")
    return Files(
        transformer=found["transformer"],
        adapter=found["adapter"],
        changes=_own_changes(spec, folder),
        vae=found["VAE"],
        text_encoder=found["text encoder"],
        tokenizer=found["tokenizer"],
        speech_encoder=found["speech encoder"],
    )


def find_faults(spec: ModelSpec, folder: Path) -> Mapping[str, str]:
    """Parts of a checkpoint that are missing or damaged, each with a sentence that says so."""
    return _look(spec, folder)[1]


def find_damage(spec: ModelSpec, folder: Path) -> Sequence[str]:
    """Those of the sentences that are about a part of which there is something."""
    return _look(spec, folder)[2]


def find_shards(folder: Path, stem: str) -> tuple[Path, ...]:
    """The safetensors files of `stem` in a folder: one file, or the parts of a split one.

    Empty when there is none. Parts are counted against the total in their names, so that an
    interrupted download is found here.

    Raises:
        WeightsError: a part is missing.
    """
    whole = folder / f"{stem}.safetensors"
    if whole.is_file():
        return (whole,)
    parts = sorted(folder.glob(f"{stem}-?????-of-?????.safetensors"))
    if not parts:
        return ()
    total = int(parts[0].stem.rsplit("-", 1)[1])
    expected = [folder / f"{stem}-{n:05}-of-{total:05}.safetensors" for n in range(1, total + 1)]
    missing = [part.name for part in expected if part not in parts]
    if missing:
        raise WeightsError(f"{', '.join(missing)} of {total} parts are missing in {folder}.")
    return tuple(expected)


def is_readable(file: Path) -> bool:
    """Whether a file has all the bytes that it speaks of, as far as its kind tells.

    A file of torch ends with the table of what is in it, so that a cut one has none; those of torch
    before 1.6, which are no archives, are known by their first byte alone.
    """
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, framework="np"):
                return True
        except (SafetensorError, OSError):
            return False
    if file.suffix in (".pt", ".pth", ".bin"):
        with file.open("rb") as content:
            return content.read(1) == PICKLE or zipfile.is_zipfile(content)
    if file.suffix == ".json":
        try:
            json.loads(file.read_bytes())
        except ValueError:
            return False
    return True


def gguf_fault(file: Path) -> str | None:
    """A sentence that refuses a GGUF file, whatever its name; None for another one."""
    with contextlib.suppress(OSError), file.open("rb") as content:
        if content.read(4) == b"GGUF":
            return (
                f"{file} is a GGUF file, which is not read. Use safetensors of the same weights, "
                "in bf16 or fp8."
            )
    return None


def has_config(file: Path) -> bool:
    """Whether a VAE or a text encoder comes with a config.

    In the published layout they have none: the config.json beside them is the transformer's.
    """
    return all(file.name != place for _, place in BASE_LAYOUT)


def describe_bytes(size: int) -> str:
    """1234567890 -> "1.2 GB", in powers of ten, as disks are sold."""
    number = float(size)
    for unit in ("bytes", "kB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.1f} GB"


def _look(
    spec: ModelSpec, folder: Path
) -> tuple[dict[str, tuple[Path, ...]], dict[str, str], list[str]]:
    """The files of each part that is whole, what is wrong with the others, and what is damaged."""
    found: dict[str, tuple[Path, ...]] = {"adapter": ()}
    faults: dict[str, str] = {}
    damage = []
    for part, options in _places(spec, folder).items():
        wrong = []
        for place in options:
            try:
                files = _files_at(place)
            except WeightsError as error:
                wrong.append(str(error))
                continue
            fault = _fault(part, files) if files else None
            if files and fault is None:
                found[part] = files
                break
            wrong += [fault] if fault else []
        else:
            missing = _missing(spec, part, options[0])
            other = _other_transformer(spec, options) if part == "transformer" else None
            wrong += [f"{missing} {other}"] if other else []
            damage += wrong[:1]
            faults[part] = wrong[0] if wrong else missing
    if "transformer" in found and is_complete(_tensor_names(found["transformer"])):
        found["adapter"] = ()
        faults.pop("adapter", None)
    return found, faults, damage


def _own_changes(spec: ModelSpec, folder: Path) -> tuple[Path, ...]:
    """The files of a complete checkpoint's own low-rank changes, if it has some."""
    if isinstance(spec.source, Published):
        return ()
    return tuple(sorted((folder / CHANGES_FOLDER).glob("*.safetensors")))


def _fault(part: str, files: tuple[Path, ...]) -> str | None:
    """What is wrong with the files of a part, if anything."""
    for file in files:
        if fault := gguf_fault(file):
            return fault
        if not is_readable(file):
            return f"{file} is damaged or incomplete."
    if part == "tokenizer":
        return _fault_beside(files[0], *TOKENIZERS)
    # The transformer can do without.
    config_is_needed = part in ("adapter", "speech encoder") or (
        part in ("VAE", "text encoder") and has_config(files[0])
    )
    return _fault_beside(files[0], "config.json") if config_is_needed else None


def _fault_beside(file: Path, *names: str) -> str | None:
    """What is wrong with the first file of these names beside another one; one is enough."""
    for name in names:
        beside = file.with_name(name)
        if beside.is_file():
            return None if is_readable(beside) else f"{beside} is damaged or incomplete."
    return f"There is no {names[0]} in {file.parent}."


def is_complete(names: Iterable[str]) -> bool:
    """Whether tensors are a whole OmniAvatar transformer, or a plain one that wants its adapter."""
    return any(name.endswith("audio_proj.proj.weight") for name in names)


def _tensor_names(files: tuple[Path, ...]) -> Iterator[str]:
    for file in files:
        with safe_open(file, framework="np") as tensors:
            yield from tensors.keys()


def _places(spec: ModelSpec, folder: Path) -> dict[str, list[Path]]:
    """Where each part may be: first the place that is named when it is nowhere."""
    source = spec.source
    if isinstance(source, Published):
        base, adapter = folder / source.base.folder, folder / source.adapter.folder
        layouts = [
            (BASE_LAYOUT, (base, folder)),
            (ADAPTER_LAYOUT, (adapter, folder)),
            (SPEECH_ENCODER_LAYOUT, (folder / source.speech_encoder.folder,)),
            (DIFFUSERS_LAYOUT, (folder, base, folder / source.diffusers.folder)),
        ]
    else:
        layouts = [(DIFFUSERS_LAYOUT, (folder,))]
    places: dict[str, list[Path]] = {}
    for layout, roots in layouts:
        for part, place in layout:
            places.setdefault(part, []).extend(root / place for root in roots)
    return places


def _files_at(place: Path) -> tuple[Path, ...]:
    if place.suffix:
        return (place,) if place.is_file() else ()
    return find_shards(place.parent, place.name)


def _is_started(spec: ModelSpec, folder: Path) -> bool:
    return any(_is_begun(place) for places in _places(spec, folder).values() for place in places)


def _is_begun(place: Path) -> bool:
    """Whether there is anything of what belongs to a place, be it one part of several."""
    try:
        return bool(_files_at(place))
    except WeightsError:
        return True


def _missing(spec: ModelSpec, part: str, place: Path) -> str:
    file = place.name if place.suffix else f"{place.name}*.safetensors"
    return f"The {part} of {spec.name} is missing: there is no {file} in {place.parent}."


def _other_transformer(spec: ModelSpec, places: Sequence[Path]) -> str | None:
    """A sentence about a transformer that is there under a name that is not looked for."""
    if not isinstance(spec.source, Published):
        return None
    for folder in dict.fromkeys(place.parent for place in places):
        for file in sorted(folder.glob("*.safetensors")):
            if is_readable(file) and any(map(_OF_TRANSFORMER.search, _tensor_names((file,)))):
                return (
                    f"If {file} is that of {spec.source.base.folder} in bf16, or in fp8 without "
                    f"scales, move it to {places[0]}.safetensors; else it is not read."
                )
        for file in sorted(folder.glob("*.gguf")):
            if fault := gguf_fault(file):
                return fault
    return None


def _remedy(spec: ModelSpec, folder: Path) -> str:
    if isinstance(spec.source, Published):
        return f"Run `python -m omniavatar download {spec.name} --to {folder}`."
    return "Install the package again, or give the folder that it is in."
