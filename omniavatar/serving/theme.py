"""How the page looks: colours and type; the shapes that Gradio does not have are in `page.css`."""

import gradio as gr
from gradio.themes.utils import colors, sizes

FONT = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "sans-serif")


def make_theme() -> gr.themes.Base:
    """Slate and teal, light and dark, in the reader's own system font: nothing is fetched."""
    return gr.themes.Base(
        primary_hue=colors.teal,
        secondary_hue=colors.teal,
        neutral_hue=colors.slate,
        radius_size=sizes.radius_lg,
        spacing_size=sizes.spacing_md,
        text_size=sizes.text_md,
        font=FONT,
        font_mono=("ui-monospace", "Consolas", "monospace"),
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="#0b1215",
        block_background_fill="white",
        block_background_fill_dark="#121b20",
        background_fill_primary_dark="#121b20",
        background_fill_secondary_dark="#0f171b",
        block_border_width="1px",
        block_shadow="0 1px 2px rgb(15 23 42 / 0.05)",
        block_shadow_dark="none",
        block_label_background_fill="white",
        block_label_background_fill_dark="#121b20",
        block_label_border_width="0px",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_300",
        body_text_color_subdued="*neutral_500",
        block_title_text_weight="600",
        input_background_fill="*neutral_50",
        input_background_fill_dark="#0f171b",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
        button_primary_text_color="white",
        button_large_text_weight="600",
        slider_color="*primary_600",
        slider_color_dark="*primary_500",
    )
