"""What a user asks for: one portrait, one recording, and how to bring them together.

This is the only list of settings. The command line's options, the page's sliders and every
handler's checks are derived from the fields of `GenerationRequest` and their `Setting`.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

from omniavatar.errors import InputError

Group = Literal["input", "basic", "advanced", "compatibility"]

MOST_CHARACTERS = 10_000
"""Of a text. The models' encoders hear 512 tokens, and a video remembers all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How a field is shown and checked.

    Attributes:
        help: one line for people.
        group: "input" and "basic" are always shown, "advanced" on demand; "compatibility" holds
            the deliberate differences from the published code, each with its published value.
        minimum, maximum: inclusive range of a number.
        step: step of a slider.
        unit: what a bare number counts.
        published: the value with which results equal the published code's; None where every value
            does, or where there is no such thing.
    """

    help: str
    group: Group
    minimum: float | None = None
    maximum: float | None = None
    step: float | None = None
    unit: str | None = None
    published: Any = None


def _setting(default: Any, help: str, group: Group, **more: Any) -> Any:
    metadata = {"setting": Setting(help=help, group=group, **more)}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One video to make. A setting that is None takes the chosen model's own value.

    Raises:
        InputError: a setting is out of its range or of another type; `field` names it.
    """

    image: Path = field(
        metadata={"setting": Setting(help="portrait of the person who is to speak", group="input")}
    )
    audio: Path = field(
        metadata={"setting": Setting(help="recording of the speech", group="input")}
    )
    prompt: str = _setting("", "how the person behaves, in a sentence or two", "basic")
    negative_prompt: str | None = _setting(None, "what to keep away from", "advanced")
    aspect: Literal["auto", "portrait", "square", "landscape"] = _setting(
        "auto", "shape of the video; auto takes the one closest to the picture's", "basic"
    )
    fit: Literal["cover", "contain"] = _setting(
        "cover",
        "cover cuts off what does not fit the shape; contain shows the whole picture and continues "
        "its edges",
        "basic",
        published="cover",
    )
    focus_x: float | None = _setting(
        None,
        "what to keep in the middle when the sides are cut off, from left 0 to right 1; "
        "empty: the face, else the middle",
        "advanced",
        minimum=0.0,
        maximum=1.0,
        step=0.01,
        published=0.5,
    )
    focus_y: float | None = _setting(
        None,
        "the same when top and bottom are cut off, from top 0 to bottom 1",
        "advanced",
        minimum=0.0,
        maximum=1.0,
        step=0.01,
        published=0.5,
    )
    audio_start: float = _setting(
        0.0,
        "where in the recording the speech begins",
        "basic",
        minimum=0.0,
        maximum=7200.0,
        step=0.1,
        unit="seconds",
    )
    audio_seconds: float | None = _setting(
        None,
        "how much of the recording to use from there; empty: all of it",
        "basic",
        minimum=0.1,
        maximum=7200.0,
        step=0.1,
        unit="seconds",
    )
    resolution: Literal["standard", "small", "large"] = _setting(
        "standard",
        "small videos (nano) are quicker to make; large ones (1.3B and 14B, 720p) take about seven "
        "times the work, and their authors call them less stable",
        "advanced",
    )
    steps: int | None = _setting(
        None, "denoising steps: more is slower and finer", "basic", minimum=1, maximum=100, step=1
    )
    guidance: float | None = _setting(
        None,
        "how strongly prompt and speech are followed; 1 is off and twice as fast",
        "basic",
        minimum=1.0,
        maximum=15.0,
        step=0.1,
    )
    audio_guidance: float | None = _setting(
        None,
        "a strength of its own for the speech, at three forwards a step; empty: same as guidance",
        "basic",
        minimum=0.0,
        maximum=15.0,
        step=0.1,
    )
    seed: int = _setting(
        42,
        "the same seed and settings give the same video",
        "basic",
        minimum=0,
        maximum=2**31 - 1,
        step=1,
    )
    overlap_frames: int | None = _setting(
        None,
        "frames that one chunk hands to the next: 4n + 1",
        "advanced",
        minimum=1,
        maximum=1001,
        step=4,
        unit="frames",
    )
    max_tokens: int | None = _setting(
        None,
        "length of a chunk, in tokens of the transformer: longer needs more memory",
        "advanced",
        minimum=1,
        maximum=1_000_000,
        step=1,
        unit="tokens",
    )
    step_cache: float = _setting(
        0.0,
        "skip steps that change little (TeaCache threshold, about 0.05 to 0.15); 0 is off",
        "advanced",
        minimum=0.0,
        maximum=1.0,
        step=0.01,
    )
    silence_seconds: float = _setting(
        0.0,
        "silence to put in front of the speech",
        "advanced",
        minimum=0.0,
        maximum=30.0,
        step=0.1,
        unit="seconds",
    )
    vae_tiles: Literal["whole", "published"] = _setting(
        "whole",
        "decode each picture whole, or in the published code's tiles",
        "compatibility",
        published="published",
    )
    cache_coefficients: Literal["model", "14B"] = _setting(
        "model",
        "step cache constants: those measured for the model, or always those of 14B",
        "compatibility",
        published="14B",
    )
    cache_third_pass: bool = _setting(
        True,
        "let the step cache also skip the third forward of a separate audio guidance",
        "compatibility",
        published=False,
    )
    chunk_length: Literal["model", "fitted", "full"] = _setting(
        "model",
        "fitted makes chunks no longer than the recording needs, full always as long as max_tokens "
        "allows; model is as the model has it",
        "compatibility",
        published="full",
    )
    frame_count: Literal["published", "exact"] = _setting(
        "published",
        "count the frames of the speech in floating point as published, or exactly",
        "compatibility",
        published="published",
    )
    border: Literal["covered", "published"] = _setting(
        "covered",
        "scale the picture to cover the video, or leave the black line that rounding can make",
        "compatibility",
        published="published",
    )
    speech_windows: Literal["long", "whole"] = _setting(
        "long",
        "listen to recordings of many minutes in windows, or to all at once at any length",
        "compatibility",
        published="whole",
    )
    lead_frame: Literal["drop", "keep"] = _setting(
        "drop",
        "the portrait itself as an extra first frame, one frame ahead of the speech",
        "compatibility",
        published="keep",
    )
    join: Literal["smooth", "published"] = _setting(
        "smooth",
        "fade one chunk into the next over frames that both show, or cut",
        "compatibility",
        published="published",
    )
    sample_dtype: Literal["float32", "model"] = _setting(
        "float32",
        "precision of the latents and times between steps",
        "compatibility",
        published="model",
    )
    pixel_rounding: Literal["nearest", "truncate"] = _setting(
        "nearest",
        "how 0..1 becomes 0..255",
        "compatibility",
        published="truncate",
    )

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for entry in fields(self):
            value = _checked(entry, hints[entry.name], getattr(self, entry.name))
            object.__setattr__(self, entry.name, value)
        if self.overlap_frames is not None and self.overlap_frames % 4 != 1:
            nearest = self.overlap_frames // 4 * 4 + 1
            raise InputError(
                f"overlap_frames is {self.overlap_frames}, but each latent after the first holds "
                f"4 frames. Use 4n + 1, for example {nearest}.",
                field="overlap_frames",
            )

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Self:
        """Build a request from the values of a JSON object.

        Raises:
            InputError: a name is unknown, `image` or `audio` is missing, or a value does not fit.
        """
        known = [entry.name for entry in fields(cls)]
        for name in mapping:
            if name not in known:
                raise InputError(
                    f"{name!r} is not a setting. Settings are: {', '.join(known)}.", field=name
                )
        for name in ("image", "audio"):
            if mapping.get(name) in (None, ""):
                raise InputError(f"{name} is missing. Give the path of a file.", field=name)
        return cls(**mapping)

    def to_mapping(self) -> dict[str, Any]:
        """The request as values that JSON can hold; `from_mapping` reads them back."""
        return {
            entry.name: str(value) if isinstance(value, Path) else value
            for entry in fields(self)
            if (value := getattr(self, entry.name)) is not None
        }

    def with_defaults(self, **values: Any) -> Self:
        """A copy in which the settings that are None (or an empty prompt) take these values."""
        missing = {k: v for k, v in values.items() if getattr(self, k) in (None, "")}
        return replace(self, **missing)

    def as_published(self) -> Self:
        """A copy in which each deliberate difference takes the published code's value, and the
        picture is cut around its middle."""
        return replace(
            self,
            **{
                entry.name: setting_of(entry).published
                for entry in fields(self)
                if setting_of(entry).published is not None
            },
        )


def setting_of(entry: Field[Any]) -> Setting:
    """The `Setting` of one of `dataclasses.fields(GenerationRequest)`."""
    setting = entry.metadata["setting"]
    assert isinstance(setting, Setting)
    return setting


def choices_of(hint: Any) -> tuple[Any, ...]:
    """The values that a `Literal` type admits; none for other types."""
    return get_args(hint) if get_origin(hint) is Literal else ()


def _checked(entry: Field[Any], hint: Any, value: Any) -> Any:
    """`value` as the field's type, or an InputError that says what is accepted."""
    name, setting, choices = entry.name, setting_of(entry), choices_of(hint)
    optional = type(None) in get_args(hint)
    if value is None and optional:
        return None
    if choices:
        if value not in choices:
            raise InputError(
                f"{name} is {_shown(value)}. Use one of: {', '.join(map(str, choices))}.",
                field=name,
            )
        return value
    kind = next(kind for kind in (get_args(hint) or (hint,)) if kind is not type(None))
    if kind is Path:
        if not isinstance(value, str | Path) or str(value) == "":
            raise InputError(f"{name} is {_shown(value)}. Give the path of a file.", field=name)
        return Path(value)
    if kind in (int, float):
        return _checked_number(name, kind, setting, value)
    if not isinstance(value, kind):
        raise InputError(
            f"{name} is {_shown(value)}. Use a value of type {kind.__name__}.", field=name
        )
    if isinstance(value, str):
        _check_text(name, value)
    return value


def _check_text(name: str, text: str) -> None:
    if len(text) > MOST_CHARACTERS:
        raise InputError(
            f"{name} has {len(text)} characters. Use up to {MOST_CHARACTERS}; a model reads less.",
            field=name,
        )
    if re.search("[\ud800-\udfff]", text):
        raise InputError(
            f"{name} holds half a character (a lone surrogate). Send it as UTF-8.", field=name
        )


def _shown(value: Any) -> str:
    """A value in a message, which stays a sentence whatever was given."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _checked_number(name: str, kind: type, setting: Setting, value: Any) -> int | float:
    accepted = f"{setting.minimum:.12g} to {setting.maximum:.12g}"
    whole = "a whole number" if kind is int else "a number"
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or (isinstance(value, float) and not math.isfinite(value))
        or (kind is int and value != int(value))
    ):
        raise InputError(f"{name} is {_shown(value)}. Use {whole} from {accepted}.", field=name)
    assert setting.minimum is not None
    assert setting.maximum is not None
    if not setting.minimum <= value <= setting.maximum:
        told = repr(value) if abs(value) < 1e15 else "too large"
        raise InputError(f"{name} is {told}. Use {whole} from {accepted}.", field=name)
    return kind(value)
