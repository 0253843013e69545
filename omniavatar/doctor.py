"""What this machine would do with each model, and what it lacks: for `python -m omniavatar doctor`.

Nothing is loaded, downloaded or changed.
"""

import platform
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import torch

from omniavatar.errors import InputError, OmniAvatarError
from omniavatar.memory import (
    Free,
    Placement,
    arrange,
    choose_placement,
    describe,
    device_name,
    free_memory,
    needs,
)
from omniavatar.pipeline import longest_work
from omniavatar.speed import attention_kernel, compiler_problem
from omniavatar.tiers import GIGABYTE, tier_bytes
from omniavatar.weights.catalog import CATALOG, ModelSpec
from omniavatar.weights.files import find_faults, find_folder
from omniavatar.weights.sizes import footprint_of_spec

PACKAGES = (
    *("diffusers", "transformers", "accelerate", "safetensors", "peft", "sentencepiece", "einops"),
    *("huggingface-hub", "numpy", "pillow", "soundfile", "imageio-ffmpeg", "gradio", "spaces"),
)
ONLY_OF_THE_PAGE = frozenset({"gradio", "spaces"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: of the thing.
        found: what it is like, in words.
        advice: what to do about it, or None when it is as it should be.
        essential: no video can be made before the advice is followed.
    """

    name: str
    found: str
    advice: str | None = None
    essential: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospect:
    """What would become of one model here.

    Attributes:
        model: its name in the catalog.
        arrangement: where its networks would be; None when they fit nowhere.
        reason: why so, with numbers.
        device_bytes, host_bytes: what it would take; None when it fits nowhere.
        folder: where its files are, or would be downloaded to.
        missing: a sentence for each part whose files are not there.
        download_bytes: of all its files; 0 for those that come with the package.
        advice: what to do before it can make a video; None when it can.
        on_card: the arrangement on a card that was named and that this machine has not, or why
            there is none.
    """

    model: str
    arrangement: str | None
    reason: str
    device_bytes: int | None
    host_bytes: int | None
    folder: Path
    missing: tuple[str, ...]
    download_bytes: int
    advice: str | None
    on_card: str | None = None

    @property
    def ready(self) -> bool:
        """Whether it can make a video as things are."""
        return self.advice is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """All that was found."""

    findings: tuple[Finding, ...]
    prospects: tuple[Prospect, ...]

    @property
    def healthy(self) -> bool:
        """Whether a video can be made: with all models that were asked about, or else with one."""
        works = not any(finding.essential and finding.advice for finding in self.findings)
        return works and any(prospect.ready for prospect in self.prospects)

    def to_mapping(self) -> dict[str, Any]:
        """As values that JSON can hold."""
        return {
            "healthy": self.healthy,
            "findings": [asdict(finding) for finding in self.findings],
            "models": [
                {**asdict(prospect), "folder": str(prospect.folder), "ready": prospect.ready}
                for prospect in self.prospects
            ],
        }


def examine(
    models: Sequence[str] = tuple(CATALOG),
    *,
    folder: Path | str | None = None,
    device: str | None = None,
    memory: str = "auto",
) -> Diagnosis:
    """Look at this machine.

    Args:
        models: names in the catalog.
        folder: where their files are; None looks where `from_pretrained` does.
        device: as `from_pretrained` takes it.
        memory: "auto" or one of `MEMORY_TIERS`.

    Raises:
        InputError: there is no such model, device or tier.
    """
    for model in models:
        if model not in CATALOG:
            raise InputError(
                f"model is {model!r}. Use one of: {', '.join(CATALOG)}.", field="model"
            )
    placement = choose_placement(device=device)
    free = free_memory(placement.device, memory)
    return Diagnosis(
        findings=(
            _python(),
            _torch(),
            _device(placement),
            _memory(free, placement, memory),
            _attention(placement),
            _compiler(placement),
            _ffmpeg(),
            *_packages(),
        ),
        prospects=tuple(
            replace(
                _prospect(
                    CATALOG[model],
                    choose_placement(device=device, cpu_dtype=CATALOG[model].cpu_dtype),
                    free,
                    folder,
                ),
                on_card=_on_card(CATALOG[model], placement, free, memory),
            )
            for model in models
        ),
    )


# ---- the machine


def _python() -> Finding:
    fits = platform.python_version_tuple() >= ("3", "11")
    return Finding(
        name="Python",
        found=f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        advice=None if fits else "Use Python 3.11 or 3.12.",
        essential=True,
    )


def _torch() -> Finding:
    built = torch.version.cuda
    kind = f"for CUDA {built}" if built else "for the CPU"
    if torch.backends.mps.is_available():
        kind = "with Apple's MPS"
    advice = None
    if not torch.cuda.is_available() and _driver():
        advice = (
            "There is an NVIDIA driver, but torch can not use it. "
            + ("Update the driver" if built else "Install torch for CUDA: pip install torch")
            + " (https://pytorch.org/get-started/locally)."
        )
    return Finding(name="torch", found=f"{torch.__version__} {kind}", advice=advice)


def _device(placement: Placement) -> Finding:
    device = placement.device
    if device.type != "cuda":
        return Finding(
            name="device",
            found=device_name(device),
            advice="The published models need an NVIDIA GPU; nano does not."
            if device.type == "cpu"
            else None,
        )
    about = torch.cuda.get_device_properties(device)
    found = (
        f"{about.name}, {about.total_memory / GIGABYTE:.1f} GB, compute capability "
        f"{about.major}.{about.minor}, driver {_driver() or 'not told'}"
    )
    old = about.major < 8
    return Finding(
        name="device",
        found=found,
        advice="It has no bfloat16 arithmetic of its own, and will be slow." if old else None,
    )


def _memory(free: Free, placement: Placement, memory: str) -> Finding:
    host = "not told" if free.host is None else f"{free.host / GIGABYTE:.1f} GB"
    on_device = ""
    if free.device is not None and placement.device.type != "cpu":
        named = "" if memory == "auto" else f" (as for a card of {memory})"
        on_device = f"{free.device / GIGABYTE:.1f} GB on the GPU{named}, "
    return Finding(name="free memory", found=f"{on_device}{host} of the host's")


def _attention(placement: Placement) -> Finding:
    try:
        kernel = attention_kernel(placement.device, placement.dtype)
    except (RuntimeError, ValueError) as error:
        kernel = f"not told ({str(error).splitlines()[0]})"
    return Finding(name="attention", found=f"torch's own, kernel: {kernel}")


def _compiler(placement: Placement) -> Finding:
    if placement.device.type != "cuda":
        return Finding(name="compiler", found="not used without a CUDA GPU")
    problem = compiler_problem(placement.device)
    if problem is None:
        return Finding(name="compiler", found="works; long jobs run compiled")
    return Finding(
        name="compiler",
        found=problem,
        advice="Install a C compiler (Debian: apt-get install gcc libc6-dev); jobs run without it, "
        "but slower.",
    )


def _driver() -> str | None:
    """The version of NVIDIA's driver, if there is one."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(told.stdout.split()), None)


def _ffmpeg() -> Finding:
    try:
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-encoders"]
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        return Finding(
            name="ffmpeg",
            found=f"does not run ({error})",
            advice="pip install --force-reinstall imageio-ffmpeg",
            essential=True,
        )
    absent = [name for name in ("libx264", "aac") if not re.search(rf"\b{name}\b", told.stdout)]
    return Finding(
        name="ffmpeg",
        found=command[0],
        advice=f"It has no {' and no '.join(absent)}: unset IMAGEIO_FFMPEG_EXE."
        if absent
        else None,
        essential=True,
    )


def _packages() -> Iterator[Finding]:
    for name in PACKAGES:
        try:
            yield Finding(name=name, found=metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Finding(
                name=name,
                found="not installed",
                advice="pip install -r requirements.txt",
                essential=name not in ONLY_OF_THE_PAGE,
            )


# ---- the models


def _prospect(
    spec: ModelSpec, placement: Placement, free: Free, folder: Path | str | None
) -> Prospect:
    sizes, work = footprint_of_spec(spec), longest_work(spec)
    place = find_folder(spec, folder)
    # What to run is said once, with the room that it needs.
    missing = tuple(find_faults(spec, place).values())
    advice = _advice_on_files(spec, place) if missing else None
    try:
        chosen = arrange(placement, sizes, work, free, name=spec.name)
    except OmniAvatarError as error:
        return Prospect(
            model=spec.name,
            arrangement=None,
            reason=str(error),
            device_bytes=None,
            host_bytes=None,
            folder=place,
            missing=missing,
            download_bytes=spec.download_bytes,
            advice=str(error),
        )
    taken, plain = needs(chosen, sizes, work), needs(placement, sizes, work)
    return Prospect(
        model=spec.name,
        arrangement=describe(chosen),
        reason=_reason(chosen, placement, taken.device, plain.device, free),
        device_bytes=taken.device,
        host_bytes=taken.host,
        folder=place,
        missing=missing,
        download_bytes=spec.download_bytes,
        advice=advice,
    )


def _on_card(spec: ModelSpec, placement: Placement, free: Free, memory: str) -> str | None:
    """What a named card would do in a machine that has none, beside this machine's memory."""
    size = tier_bytes(memory)
    if size is None or placement.device.type != "cpu":
        return None
    card = Placement(device=torch.device("cuda"), dtype=torch.bfloat16)
    sizes, work = footprint_of_spec(spec), longest_work(spec)
    try:
        chosen = arrange(card, sizes, work, Free(device=size, host=free.host), name=spec.name)
    except InputError as error:
        return str(error)
    taken = needs(chosen, sizes, work)
    return (
        f"{describe(chosen)}; {taken.device / GIGABYTE:.1f} GB of it, and "
        f"{taken.host / GIGABYTE:.1f} GB of the host's"
    )


def _reason(chosen: Placement, plain: Placement, taken: int, whole: int, free: Free) -> str:
    if plain.device.type == "cpu":
        return f"on the CPU, {taken / GIGABYTE:.1f} GB; a GPU would be many times as fast"
    there = "" if free.device is None else f" of {free.device / GIGABYTE:.1f} GB that are free"
    if chosen == plain:
        return f"all of it takes {taken / GIGABYTE:.1f} GB{there}"
    return (
        f"all of it would take {whole / GIGABYTE:.1f} GB; so it takes "
        f"{taken / GIGABYTE:.1f} GB{there}"
    )


def _advice_on_files(spec: ModelSpec, folder: Path) -> str:
    """How the files come, and whether the disk has room for them."""
    if not spec.download_bytes:
        return "Install the package again, or give the folder that it is in."
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    room = shutil.disk_usage(there).free
    advice = f"python -m omniavatar download {spec.name} --to {folder}"
    if room < spec.download_bytes:
        return (
            f"Its files have {spec.download_bytes / GIGABYTE:.0f} GB, but {room / GIGABYTE:.0f} GB "
            f"are free at {there}. Give another place: {advice.rsplit(' ', 1)[0]} FOLDER"
        )
    return advice
