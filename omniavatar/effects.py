"""Which settings change nothing about a video, given the others, and why."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from omniavatar.request import GenerationRequest
from omniavatar.weights.catalog import CATALOG, ModelSpec


def settings_without_effect(spec: ModelSpec, values: Mapping[str, Any]) -> Mapping[str, str]:
    """Tell which settings have no effect on a video, or can not be used for it.

    Args:
        spec: the checkpoint, with its preset, if it has one.
        values: settings by their names in `GenerationRequest`; one that is missing, None or empty
            takes the model's own value. Other names are passed over.

    Returns:
        The reason for each such setting, in one short sentence.
    """
    known = {entry.name: entry.default for entry in fields(GenerationRequest)}
    defaults = {
        name: getattr(spec, name, default) if default in (None, "") else default
        for name, default in known.items()
    }
    given = {name: value for name, value in values.items() if value not in (None, "")}
    chosen = {name: given.get(name, default) for name, default in defaults.items()}
    if spec.preset is not None:
        chosen |= spec.preset.built_in
    return {name: reason for name, reason in _reasons(spec, chosen) if name in known}


def _reasons(spec: ModelSpec, chosen: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if not spec.other_resolutions:
        yield "resolution", f"All videos of {spec.name} are of standard resolution."
    if chosen["resolution"] in spec.resolutions:
        spec = spec.at_resolution(chosen["resolution"])
    if len(spec.sizes) == 1:
        ((height, width),) = spec.sizes
        yield "aspect", f"All such videos of {spec.name} are {width}x{height} pixels."
    yield from _reasons_of_guidance(spec, chosen)
    yield from _reasons_of_step_cache(spec, chosen)
    if chosen.get("fit") == "contain":
        for name in ("focus_x", "focus_y"):
            yield name, "The whole picture is shown, so nothing is cut."


def _reasons_of_guidance(spec: ModelSpec, chosen: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """See `stages.guidance`: a guidance of 1 needs one forward, with prompt and speech."""
    cause = f"Guidance is {chosen['guidance']:g}, which is off"
    if spec.preset is not None:
        cause = f"The preset {spec.preset.name} has guidance {chosen['guidance']:g} built in"
        yield "guidance", f"{cause}."
        if "steps" in spec.preset.built_in:
            yield "steps", f"The preset {spec.preset.name} has {chosen['steps']} steps of its own."
    if chosen["guidance"] == 1:
        yield "negative_prompt", f"{cause}, so there is nothing to keep away from."
        yield "audio_guidance", f"{cause}, and the speech has none of its own then."


def _reasons_of_step_cache(spec: ModelSpec, chosen: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """See `stages.step_cache`: the first and the last step are never skipped."""
    uncalibrated = chosen["cache_coefficients"] == "model" and spec.cache_coefficients is None
    off = not chosen["step_cache"]
    if spec.preset is not None:
        off = True
        yield "step_cache", f"The steps of the preset {spec.preset.name} are too few to skip any."
    elif uncalibrated:
        off = True
        yield "step_cache", f"The step cache is not calibrated for {spec.name}."
    elif chosen["steps"] <= 2:
        off = True
        yield "step_cache", "The first and the last step are never skipped, and there is no other."
    separate = chosen["audio_guidance"] not in (None, chosen["guidance"])
    if off:
        yield "cache_third_pass", "The step cache is off."
    elif chosen["guidance"] == 1 or not separate:
        yield "cache_third_pass", "There is no third forward without an audio guidance of its own."
    if spec.cache_coefficients == CATALOG["14B"].cache_coefficients:
        yield "cache_coefficients", f"The constants of {spec.name} are those of 14B."
    elif spec.preset is not None or not (chosen["step_cache"] or uncalibrated):
        # Without constants of its own, a model's step cache can still be used with those of 14B.
        yield "cache_coefficients", "The step cache is off."
