"""The left side of the page: a picture, a voice, what the person does, and the button.

Three things and a press are enough. What goes beyond them is folded away, and what would change
nothing is switched off with the reason in place of its help.
"""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from omniavatar import AUTO, CATALOG, MEMORY_TIERS, setting_of, settings_without_effect
from omniavatar.serving import controls
from omniavatar.serving.behaviour import ROWS, Chip, Row, with_sentence
from omniavatar.serving.loras import spec_of

DEFAULT_MODEL = "nano"
EXAMPLE_FOLDER = Path(__file__).parents[2] / "examples"
EXAMPLES = {
    "Or start from an example": "presenter-*.json",
    "A photograph, for 1.3B and 14B": "real-*.json",
}
HELPER: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
CONSENT = "The person in the picture and the owner of the voice have agreed to this video"
CONSENT_BANNER = (
    "<strong>Before your first video</strong>"
    "<p>Use only pictures and voices of people who have agreed to be shown and heard like this. "
    "Your tick is noted with every video, and every video says in its metadata that it was "
    "generated, and how.</p>"
)
DRAFT_SECONDS = 3.0
DRAFT_STEPS = 0.5  # of those of the full version
DRAFT_HELP = (
    f"<p>Quick draft: the first {DRAFT_SECONDS:g} seconds in half the steps, to see whether you "
    "like it.</p>"
)
Updates = dict[Component, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What to make.

    Attributes:
        settings: the control of each field of the request, in their order.
        model, memory: what makes it.
        own_focus, own_audio_guidance: whether those settings are set at all, or left to the model.
        new_seed: whether each video draws its seed.
        agreed: the tick about consent.
    """

    settings: dict[str, Component]
    model: gr.Radio
    memory: gr.Dropdown
    own_focus: gr.Checkbox
    own_audio_guidance: gr.Checkbox
    new_seed: gr.Checkbox
    dice: gr.Button
    agreed: gr.Checkbox
    banner: gr.HTML
    framing: gr.HTML
    framing_panel: gr.Group
    focus_panel: gr.Row
    voice: gr.HTML
    voice_panel: gr.Group
    picture_warnings: gr.HTML
    voice_warnings: gr.HTML
    audio_guidance_panel: gr.Column
    generate: gr.Button
    draft: gr.Button
    fault: gr.HTML
    estimate: gr.HTML

    @property
    def restorable(self) -> list[Component]:
        """What `restored` may change."""
        extra = [self.audio_guidance_panel, self.focus_panel]
        return [self.model, *self.chosen, *extra, *self.settings.values()]

    @property
    def chosen(self) -> list[Component]:
        """What a request is made of besides its own fields; see `request_values`."""
        return [self.own_focus, self.own_audio_guidance, self.new_seed]


def request_values(values: Mapping[str, Any], *chosen: bool) -> dict[str, Any]:
    """The fields of a request from the controls: what is not to be set is None, the seed drawn.

    Args:
        values: of the controls in `Form.settings`.
        chosen: of those in `Form.chosen`, in their order.
    """
    own_focus, own_audio_guidance, new_seed = chosen
    values = dict(values)
    if not own_focus:
        values["focus_x"] = values["focus_y"] = None
    if not own_audio_guidance:
        values["audio_guidance"] = None
    values["audio_seconds"] = values["audio_seconds"] or None
    values["audio_start"] = values["audio_start"] or 0.0
    values["silence_seconds"] = values["silence_seconds"] or 0.0
    if new_seed:
        values["seed"] = random.randrange(2**31)
    return values


def placed(memory: str) -> dict[str, Any]:
    """The options of a job whose networks are arranged for a card, or as the server does."""
    return {} if memory == AUTO else {"memory": memory}


def restored(form: Form, model: str, values: Mapping[str, Any]) -> Updates:
    """The form as it was when a video was asked for, its seed included.

    Args:
        values: fields of the request; what is missing was left to the model.
    """
    spec = spec_of(model)
    updates: Updates = {
        form.model: gr.Radio(value=model, info=spec.description),
        form.own_focus: "focus_x" in values or "focus_y" in values,
        form.own_audio_guidance: "audio_guidance" in values,
        form.audio_guidance_panel: gr.Column(visible="audio_guidance" in values),
        form.focus_panel: gr.Row(visible="focus_x" in values or "focus_y" in values),
        form.new_seed: False,
    }
    for name, control in form.settings.items():
        shown = controls.page_default(name, spec)
        if name in values:
            shown["value"] = values[name]
        updates[control] = gr.update(**shown)
    return updates


def build_form() -> Form:
    """All controls, at the default model's values."""
    spec = spec_of(DEFAULT_MODEL)
    settings: dict[str, Component] = {}

    def show(*names: str) -> None:
        settings.update({name: controls.page_component(name, spec) for name in names})

    def show_rest(group: str) -> None:
        names = [n for n, entry in controls.ENTRIES.items() if setting_of(entry).group == group]
        show(*(name for name in names if name not in settings))

    with gr.Row(equal_height=True, elem_id="sources"):
        show("image", "audio")
    examples = gr.Row(elem_id="examples")
    with gr.Group(visible=False, elem_id="framing-panel") as framing_panel:
        with gr.Row(equal_height=True):
            framing = gr.HTML(elem_id="framing", js_on_load=_CLICK_ON_PICTURE)
            with gr.Column(min_width=150, elem_id="framing-choices"):
                show("aspect", "fit")
                own_focus = gr.Checkbox(False, label="Move the focus", elem_id="own_focus")
        with gr.Row(visible=False) as focus_panel:
            show("focus_x", "focus_y")
        picture_warnings = gr.HTML(visible=False, elem_classes="warnings")
    with gr.Group(visible=False, elem_id="voice-panel") as voice_panel:
        with gr.Row(equal_height=True):
            voice = gr.HTML(elem_id="voice")
            with gr.Row(elem_id="trim"):
                show("audio_start", "audio_seconds")
        voice_warnings = gr.HTML(visible=False, elem_classes="warnings")
    with gr.Group(elem_id="prompting"):
        show("prompt")
        _build_chips(settings["prompt"])
    banner = gr.HTML(CONSENT_BANNER, elem_id="consent-banner")
    agreed = gr.Checkbox(False, label=CONSENT, elem_id="agreed", container=False)
    with gr.Row(elem_id="actions"):
        generate = gr.Button(
            "Generate", variant="primary", size="lg", scale=3, min_width=160, elem_id="generate"
        )
        draft = gr.Button("Quick draft", size="lg", scale=2, min_width=120, elem_id="draft")
    fault = gr.HTML(visible=False, elem_id="fault")
    estimate = gr.HTML(elem_id="estimate")
    gr.HTML(DRAFT_HELP, elem_id="draft-help")
    with gr.Accordion("Advanced settings", open=False, elem_id="advanced"):
        model = gr.Radio(
            [(each.title, name) for name, each in CATALOG.items()],
            value=DEFAULT_MODEL,
            label="Model",
            info=spec.description,
            elem_id="model",
        )
        show("steps", "guidance")
        own_audio_guidance = gr.Checkbox(
            False, label="Guide the speech apart from the prompt", elem_id="own_audio_guidance"
        )
        with gr.Column(visible=False) as audio_guidance_panel:
            show("audio_guidance")
        show("negative_prompt")
        with gr.Row(equal_height=True, elem_id="seeds"):
            with gr.Column(scale=3, min_width=160):
                show("seed")
            with gr.Column(scale=2, min_width=140):
                new_seed = gr.Checkbox(True, label="New seed for every video", elem_id="new_seed")
                dice = gr.Button("Roll the dice", size="sm", elem_id="dice")
        show_rest("basic")
        show_rest("advanced")
        memory = gr.Dropdown(
            [AUTO, *MEMORY_TIERS],
            value=AUTO,
            label="Memory",
            info="How much memory of a GPU may be used; auto takes what is free.",
            elem_id="memory",
        )
        with gr.Accordion("Differences from the published code", open=False):
            show_rest("compatibility")
    with examples:
        _build_examples(settings, own_focus, focus_panel)
    return Form(
        settings={name: settings[name] for name in controls.ENTRIES},
        model=model,
        memory=memory,
        own_focus=own_focus,
        own_audio_guidance=own_audio_guidance,
        new_seed=new_seed,
        dice=dice,
        agreed=agreed,
        banner=banner,
        framing=framing,
        framing_panel=framing_panel,
        focus_panel=focus_panel,
        voice=voice,
        voice_panel=voice_panel,
        picture_warnings=picture_warnings,
        voice_warnings=voice_warnings,
        audio_guidance_panel=audio_guidance_panel,
        generate=generate,
        draft=draft,
        fault=fault,
        estimate=estimate,
    )


def connect_form(form: Form) -> None:
    """What the controls do to each other; none of it makes a video."""
    settings = form.settings
    of_model = [name for name in controls.ENTRIES if controls.follows_model(name)]
    effective = [name for name in controls.ENTRIES if name not in ("image", "audio")]

    def use_model(model: str) -> Updates:
        spec = spec_of(model)
        updates: Updates = {form.model: gr.Radio(info=spec.description)}
        for name in of_model:
            shown = controls.page_default(name, spec)
            if "placeholder" in shown:
                shown.pop("value")  # what people wrote stays: only the grey hint is the model's
            updates[settings[name]] = gr.update(**shown)
        return updates

    def show_effects(model: str, *chosen: bool, **values: Any) -> Updates:
        without = settings_without_effect(spec_of(model), request_values(values, *chosen))
        return {
            settings[name]: gr.update(**controls.page_effect(name, without.get(name)))
            for name in effective
        } | {
            form.own_audio_guidance: gr.Checkbox(
                interactive="audio_guidance" not in without,
                info=without.get("audio_guidance", ""),
            )
        }

    def part_guidance(own: bool, guidance: float) -> Updates:
        return {
            form.audio_guidance_panel: gr.Column(visible=own),
            settings["audio_guidance"]: guidance,
        }

    def focus_on(click: gr.EventData) -> Updates:
        return {
            form.own_focus: True,
            form.focus_panel: gr.Row(visible=True),
            settings["focus_x"]: round(float(click.x), 2),
            settings["focus_y"]: round(float(click.y), 2),
        }

    form.model.input(
        use_model, form.model, [form.model, *(settings[n] for n in of_model)], **HELPER
    )
    causes = ["steps", "guidance", "audio_guidance", "step_cache", "cache_coefficients", "fit"]
    gr.on(
        [
            form.model.change,
            form.own_audio_guidance.change,
            *(settings[name].change for name in causes),
        ],
        show_effects,
        [form.model, *form.chosen],
        [*(settings[name] for name in effective), form.own_audio_guidance],
        inputs_kwargs=settings,
        preprocess=False,
        trigger_mode="always_last",
        **HELPER,
    )
    form.own_audio_guidance.input(
        part_guidance,
        [form.own_audio_guidance, settings["guidance"]],
        [form.audio_guidance_panel, settings["audio_guidance"]],
        **HELPER,
    )
    form.own_focus.input(
        lambda own: gr.Row(visible=own), form.own_focus, form.focus_panel, **HELPER
    )
    # What was cut from one recording, or centred in one picture, is not meant for the next.
    settings["audio"].input(
        lambda: (0, None), None, [settings["audio_start"], settings["audio_seconds"]], **HELPER
    )
    settings["image"].input(
        lambda: (False, gr.Row(visible=False)), None, [form.own_focus, form.focus_panel], **HELPER
    )
    form.framing.click(
        focus_on,
        None,
        [form.own_focus, form.focus_panel, settings["focus_x"], settings["focus_y"]],
        **HELPER,
    )
    form.dice.click(
        lambda: (random.randrange(2**31), False), None, [settings["seed"], form.new_seed], **HELPER
    )
    settings["seed"].input(lambda: False, None, form.new_seed, **HELPER)


def _build_chips(prompt: Component) -> None:
    """Rows of small buttons, each of which writes its sentence."""
    with gr.Column(elem_id="chips"):
        for row in ROWS:
            with gr.Row(elem_classes="chips"):
                gr.HTML(row.title, elem_classes="chips-title")
                for chip in row.chips:
                    button = gr.Button(chip.label, size="sm", min_width=0, elem_classes="chip")
                    button.click(partial(_press, row, chip), prompt, prompt, **HELPER)


def _press(row: Row, chip: Chip, prompt: str) -> str:
    return with_sentence(prompt, row, chip)


def _build_examples(
    settings: Mapping[str, Component], own_focus: gr.Checkbox, focus_panel: gr.Row
) -> None:
    """Pictures to begin with: a press fills the form with the request file of one."""
    for label, pattern in EXAMPLES.items():
        if not (paths := sorted(EXAMPLE_FOLDER.glob(pattern))):
            continue
        with gr.Column(min_width=0):
            gr.HTML(label)
            with gr.Row():
                for path in paths:
                    request = _read_example(path)
                    button = gr.Button(
                        f"Example {path.stem.replace('-', ' ')}",
                        icon=request["image"],
                        min_width=0,
                        elem_classes="example",
                    )
                    # What was set for the picture and the voice before does not stay with these.
                    unset = {"audio_start": 0, "audio_seconds": None, "silence_seconds": 0}
                    begun: Updates = {
                        settings[name]: value for name, value in (unset | request).items()
                    }
                    begun |= {own_focus: False, focus_panel: gr.update(visible=False)}
                    button.click(partial(dict, begun), None, [*begun], **HELPER)


def _read_example(path: Path) -> dict[str, Any]:
    request: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return request | {name: str(path.parent / request[name]) for name in ("image", "audio")}


_CLICK_ON_PICTURE = """
element.addEventListener('click', (event) => {
    const picture = event.target.closest('.picture');
    if (!picture) return;
    const place = picture.getBoundingClientRect();
    trigger('click', {
        x: Math.min(Math.max((event.clientX - place.left) / place.width, 0), 1),
        y: Math.min(Math.max((event.clientY - place.top) / place.height, 0), 1),
    });
});
"""
