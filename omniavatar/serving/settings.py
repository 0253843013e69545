"""What a worker is told by its environment: one frozen value, read once at the start."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from omniavatar import CATALOG, MEMORY_TIERS, PRESETS, InputError, LoraChoice
from omniavatar.serving.loras import LORAS_VARIABLE, PRESET_VARIABLE, from_environment

MEGABYTE = 1_000_000
WEEK_SECONDS = 7 * 24 * 3600


def _variable(name: str, default: Any, help: str, *, secret: bool = False) -> Any:
    return field(default=default, repr=not secret, metadata={"variable": name, "help": help})


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """The settings of one worker; each field's metadata has its variable and a line for people.

    Sizes of files are in millions of bytes. The bucket is used when all of its variables are set.
    """

    model: str = _variable(
        "OMNIAVATAR_MODEL", "nano", "checkpoint that the worker serves: nano, 1.3B or 14B"
    )
    weights: Path | None = _variable(  # noqa: RUF009 (it makes a `field`)
        "OMNIAVATAR_WEIGHTS", None, "folder of its files; empty: the package's or a cache's"
    )
    device: str | None = _variable(
        "OMNIAVATAR_DEVICE", None, "cuda, cuda:1, cpu, ...; empty: the best that is there"
    )
    memory: str = _variable(
        "OMNIAVATAR_MEMORY",
        "auto",
        "card that the networks are arranged for: " + ", ".join(MEMORY_TIERS) + "; auto takes the "
        "memory that is free",
    )
    loras: str | None = _variable(
        LORAS_VARIABLE, None, "LoRAs to merge: FILE[:STRENGTH], with commas between"
    )
    preset: str | None = _variable(
        PRESET_VARIABLE, None, "settings that go with a distilled LoRA: " + ", ".join(PRESETS)
    )
    max_tokens: int | None = _variable(
        "OMNIAVATAR_MAX_TOKENS",
        None,
        "longest chunk of a video, in tokens; shorter take less memory; empty: the model's own",
    )
    max_file_megabytes: float = _variable(
        "OMNIAVATAR_MAX_FILE_MB", 50.0, "largest picture and largest recording"
    )
    max_video_seconds: float = _variable(
        "OMNIAVATAR_MAX_VIDEO_SECONDS", 300.0, "longest video that a job may ask for"
    )
    max_steps: int = _variable("OMNIAVATAR_MAX_STEPS", 100, "most steps that a job may ask for")
    download_seconds: float = _variable(
        "OMNIAVATAR_DOWNLOAD_SECONDS", 60.0, "longest download of a picture or a recording"
    )
    private_addresses: bool = _variable(
        "OMNIAVATAR_PRIVATE_ADDRESSES",
        False,
        "1 lets jobs name addresses inside the worker's own network; for tests alone",
    )
    max_result_megabytes: float = _variable(
        "OMNIAVATAR_MAX_RESULT_MB",
        7.0,
        "largest MP4 in an answer; base64 adds a third, and the platform takes 10 MB (20 for "
        "/runsync); larger ones go to the bucket",
    )
    ready_file: Path | None = _variable(  # noqa: RUF009 (it makes a `field`)
        "OMNIAVATAR_READY_FILE", None, "file that is there while the model is loaded, for checks"
    )
    bucket_endpoint: str | None = _variable(
        "BUCKET_ENDPOINT_URL", None, "address of S3-compatible storage; empty: no bucket"
    )
    bucket_name: str | None = _variable("BUCKET_NAME", None, "bucket, which must exist")
    bucket_key: str | None = _variable(
        "BUCKET_ACCESS_KEY_ID", None, "may list the bucket, write to it and read from it"
    )
    bucket_secret: str | None = _variable(
        "BUCKET_SECRET_ACCESS_KEY", None, "secret of that key", secret=True
    )
    bucket_region: str | None = _variable(
        "BUCKET_REGION", None, "its region; empty: the one in the address, else auto"
    )
    bucket_link_seconds: int = _variable(
        "BUCKET_LINK_SECONDS",
        WEEK_SECONDS,
        "how long the address of a video works; a week at most",
    )

    def __post_init__(self) -> None:
        if self.model not in CATALOG:
            raise _unfit("model", self.model, f"one of: {', '.join(CATALOG)}")
        if self.weights is not None and not self.weights.is_dir():
            raise _unfit("weights", str(self.weights), "a folder that is there")
        if self.memory not in ("auto", *MEMORY_TIERS):
            raise _unfit("memory", self.memory, f"auto, or one of: {', '.join(MEMORY_TIERS)}")
        _ = self.lora_choices  # raises what is wrong with them
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, int | float) and not isinstance(value, bool) and value <= 0:
                raise _unfit(entry.name, value, "a number above 0")
        if self.bucket_link_seconds > WEEK_SECONDS:
            raise _unfit("bucket_link_seconds", self.bucket_link_seconds, "up to a week, 604800")
        given = [n for n in _BUCKET if getattr(self, n) is None]
        if 0 < len(given) < len(_BUCKET):
            missing = ", ".join(variable_of(name) for name in given)
            raise InputError(
                f"The bucket is set in part: {missing} is missing. Set all of it, or none.",
                field=variable_of(given[0]),
            )

    @property
    def lora_choices(self) -> tuple[LoraChoice, ...]:
        """The LoRAs that are merged into the model."""
        named = {LORAS_VARIABLE: self.loras or "", PRESET_VARIABLE: self.preset or ""}
        return from_environment(self.model, named)

    @property
    def has_bucket(self) -> bool:
        """Whether there is a place for videos that are too large for an answer."""
        return self.bucket_endpoint is not None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read the variables; one that is empty is not set.

        Raises:
            InputError: a value can not be used; `field` is the variable.
        """
        values = {}
        for entry in fields(cls):
            text = environment.get(entry.metadata["variable"], "").strip()
            if text:
                values[entry.name] = _read(entry.name, text)
        return cls(**values)


_BUCKET = ("bucket_endpoint", "bucket_name", "bucket_key", "bucket_secret")
_KINDS: Mapping[str, type] = {
    "weights": Path,
    "ready_file": Path,
    "max_tokens": int,
    "max_steps": int,
    "bucket_link_seconds": int,
    "max_file_megabytes": float,
    "max_video_seconds": float,
    "download_seconds": float,
    "max_result_megabytes": float,
    "private_addresses": bool,
}
_SWITCH = {"0": False, "false": False, "no": False, "1": True, "true": True, "yes": True}


def variable_of(name: str) -> str:
    """The environment variable of a field of `WorkerSettings`."""
    return next(str(e.metadata["variable"]) for e in fields(WorkerSettings) if e.name == name)


def settings_table() -> str:
    """All variables with their defaults, as the Markdown of the guides."""
    rows = ["| variable | default | what it sets |", "|---|---|---|"]
    for entry in fields(WorkerSettings):
        default = "" if entry.default is None else entry.default
        shown = f"{default:g}" if isinstance(default, float) else f"{default}"
        if isinstance(default, bool):
            shown = f"{int(default)}"
        shown = f"`{shown}`" if shown else ""
        rows.append(f"| `{entry.metadata['variable']}` | {shown} | {entry.metadata['help']} |")
    return "\n".join(rows)


def _read(name: str, text: str) -> Any:
    kind = _KINDS.get(name, str)
    if kind is bool:
        if text.lower() not in _SWITCH:
            raise _unfit(name, text, "0 or 1")
        return _SWITCH[text.lower()]
    try:
        value = kind(text)
    except ValueError:
        raise _unfit(name, text, "a whole number" if kind is int else "a number") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise _unfit(name, text, "a number")
    return value


def _unfit(name: str, value: Any, accepted: str) -> InputError:
    variable = variable_of(name)
    return InputError(f"{variable} is {value!r}. Use {accepted}.", field=variable)
