"""Who is drawn: proportions, colours, hair, clothes and surroundings of cartoon presenters."""

# n presenters

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

_RANGES = {
    "size": (0.40, 0.56),  # half the head's width, in half the picture's shorter side
    "centre_x": (-0.07, 0.07),
    "centre_y": (-0.16, 0.02),
    "length": (1.12, 1.34),  # from here on in half head widths
    "square": (2.0, 2.7),
    "taper": (0.06, 0.24),
    "eye_x": (0.37, 0.46),
    "eye_y": (-0.16, 0.02),
    "eye_width": (0.185, 0.235),
    "eye_height": (0.105, 0.150),
    "eye_slant": (-0.12, 0.22),
    "iris": (0.095, 0.120),
    "brow_gap": (0.20, 0.29),
    "brow_width": (0.20, 0.27),
    "brow_thick": (0.026, 0.060),
    "brow_arch": (0.03, 0.10),
    "brow_tilt": (-0.18, 0.10),
    "nose_y": (0.26, 0.38),
    "nose_size": (0.09, 0.16),
    "mouth_y": (0.64, 0.74),
    "mouth_width": (0.37, 0.45),
    "lip_upper": (0.035, 0.075),
    "lip_lower": (0.045, 0.100),
    "ear": (0.15, 0.23),
    "hairline": (-0.72, -0.50),
    "hair_volume": (0.03, 0.16),
    "hair_length": (1.1, 2.3),
    "parting": (-1.0, 1.0),
    "neck": (0.40, 0.52),
    "shoulder_y": (1.62, 1.80),
    "shoulder_width": (1.75, 2.35),
    "light": (-1.0, 1.0),
    "wall_angle": (0.0, 3.14),
    "wall_period": (0.18, 0.60),
    "wall_phase": (0.0, 6.28),
    "wall_contrast": (0.25, 0.70),
    "object_x": (0.72, 0.95),
    "object_y": (-0.75, 0.15),
    "object_size": (0.16, 0.30),
    "second_x": (-0.95, -0.72),
    "second_y": (-0.75, 0.15),
    "second_size": (0.16, 0.30),
}

_WIDE_RANGES = {
    "size": (0.24, 0.62),
    "centre_x": (-0.22, 0.22),
    "centre_y": (-0.34, 0.06),
    "turn": (0.0, 0.0),  # radians by which the head is turned away, for good
    "line": (1.0, 1.0),  # thickness of outlines
    "hand_side": (-1.0, 1.0),
    "phase": (0.0, 6.28),  # tells the grain of one presenter's surfaces from another's
}
"""What a wider choice of presenters has in place of `_RANGES`, or besides."""

_OTHER_HAND_RANGES = {
    "size": (0.30, 0.74),
    "length": (0.95, 1.40),
    "square": (1.9, 3.2),
    "taper": (0.0, 0.26),
    "turn": (-0.48, 0.48),
    "eye_x": (0.26, 0.46),
    "eye_y": (-0.20, 0.12),
    "eye_width": (0.10, 0.23),
    "eye_height": (0.08, 0.20),
    "iris": (0.045, 0.120),
    "brow_thick": (0.014, 0.080),
    "nose_y": (0.20, 0.40),
    "nose_size": (0.06, 0.20),
    "mouth_y": (0.50, 0.78),
    "mouth_width": (0.18, 0.52),
    "lip_upper": (0.0, 0.05),
    "lip_lower": (0.0, 0.06),
    "ear": (0.10, 0.28),
    "line": (0.6, 2.4),
}
"""The same for cartoons as others draw them: big heads, turned ones, tiny or wide mouths without
lips, pupils like dots, thin and thick lines."""

_OTHER_HAND_SHARE = 0.5

_PHOTOGRAPHIC_RANGES = {
    "length": (1.24, 1.46),
    "square": (2.0, 2.35),
    "taper": (0.16, 0.32),
    "eye_x": (0.36, 0.43),
    "eye_y": (-0.14, -0.02),
    "eye_width": (0.15, 0.20),
    "eye_height": (0.085, 0.120),
    "iris": (0.085, 0.105),
    "brow_gap": (0.17, 0.25),
    "nose_y": (0.30, 0.40),
    "nose_size": (0.15, 0.22),
    "mouth_y": (0.66, 0.78),
    "mouth_width": (0.32, 0.42),
    "lip_upper": (0.035, 0.080),
    "lip_lower": (0.055, 0.110),
    "neck": (0.46, 0.66),
    "turn": (-0.55, 0.55),
    "light_x": (-0.80, 0.80),
    "light_y": (-0.65, 0.15),
    "ambient": (0.25, 0.80),
    "light_level": (0.0, 1.0),
    "skin_grain": (0.0, 0.07),
    "hair_grain": (0.15, 0.55),
    "cloth_grain": (0.04, 0.25),
    "teeth": (0.75, 1.05),
    "clutter": (0.0, 1.0),
    "bokeh": (0.2, 4.0),  # pixels, as is the next, of a picture of 128
    "blur": (0.1, 0.9),
    "vignette": (0.0, 0.16),
    "exposure": (0.72, 1.22),
    "warmth": (-0.10, 0.12),
    "gamma": (0.75, 1.30),
    "saturation": (-0.20, 0.95),  # below 0 is grey
    "grain": (0.0, 0.018),
}
"""The same for presenters drawn as a camera would see them."""

HAIR_COLOURS = {
    "black": (34, 28, 30),
    "brown": (92, 58, 38),
    "blond": (222, 186, 104),
    "red": (168, 70, 34),
    "gray": (140, 140, 146),
    "white": (226, 224, 220),
    "pink": (222, 120, 160),
    "blue": (70, 100, 180),
}
COLOURS = {
    "red": (200, 58, 54),
    "orange": (232, 138, 58),
    "yellow": (238, 202, 92),
    "green": (82, 150, 92),
    "teal": (58, 148, 150),
    "blue": (70, 112, 190),
    "purple": (128, 88, 170),
    "pink": (232, 150, 172),
    "white": (236, 234, 228),
    "gray": (138, 142, 150),
    "black": (44, 44, 52),
    "brown": (134, 98, 72),
}
_SKINS = (
    (255, 224, 200), (246, 204, 172), (232, 182, 140), (206, 152, 108),
    (170, 116, 78), (128, 84, 56), (88, 58, 42),
)  # fmt: skip
_SKINS_OF_PAPER = (
    (255, 255, 255), (250, 246, 236), (255, 217, 61), (238, 172, 190), (196, 200, 208),
    (168, 205, 232), (172, 214, 160),
)  # fmt: skip
"""Of cartoons alone: left white, yellow, pink, grey and stranger ones."""

_IRISES = ((70, 46, 32), (110, 72, 40), (72, 110, 150), (80, 122, 86), (96, 102, 112))
_FRAMES = ((36, 34, 38), (110, 66, 40), (170, 44, 50), (52, 76, 140), (190, 160, 90))
_LIPSTICKS = ((190, 50, 66), (206, 92, 110), (150, 48, 76), (196, 104, 84))

_HAIR = {
    "bald": 9, "buzzed": 6, "short": 14, "parted": 14, "fringe": 10, "curly": 9, "afro": 6,
    "bob": 10, "long": 13, "wavy": 10, "ponytail": 7, "bun": 7, "pigtails": 4, "mohawk": 2,
}  # fmt: skip
_LONG_HAIR = frozenset(("long", "wavy", "ponytail", "pigtails"))
_HEADWEAR = {
    "none": 72, "beanie": 6, "cap": 6, "brimmed hat": 4, "hard hat": 3, "headscarf": 5,
    "turban": 2, "headband": 2, "headphones": 3,
}  # fmt: skip
_CLOTHES = {
    "t-shirt": 22, "v-neck": 14, "shirt": 18, "jacket": 16, "hoodie": 12, "turtleneck": 10,
    "striped shirt": 10,
}  # fmt: skip
_WALLS = {
    "plain": 25, "gradient": 25, "striped": 16, "panelled": 10, "dotted": 6, "glowing": 12,
    "curtain": 6,
}  # fmt: skip
_STYLES = {"flat": 38, "outlined": 24, "shaded": 38}
_WIDE_STYLES = {"flat": 18, "outlined": 16, "shaded": 20, "photographic": 46}
_OBJECTS = {"none": 50, "picture": 14, "window": 10, "plant": 12, "lamp": 8, "shelf": 6}


Look = Literal["drawn", "wide"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What can be named about one presenter."""

    style: str
    hair: str
    hair_colour: str
    headwear: str
    headwear_colour: str
    glasses: str
    beard: str
    eyes: str
    nose: str
    ears: str
    cheeks: str
    clothes: str
    clothes_colour: str
    wall: str
    wall_colour: str
    objects: tuple[str, str]
    lipstick: bool
    waves: bool = False

    @property
    def has_long_hair(self) -> bool:
        """Whether hair falls past the chin and is seen."""
        return self.hair in _LONG_HAIR and self.headwear != "headscarf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Presenters:
    """Presenters to draw.

    Attributes:
        numbers: name -> [n], see `_RANGES`.
        colours: name -> [n, 3] in 0..1.
        traits: what can be named, one for each.
        framing: (centre x, centre y, size) of each, as in `numbers`, known without a device.
    """

    numbers: Mapping[str, Tensor]
    colours: Mapping[str, Tensor]
    traits: tuple[Traits, ...]
    framing: tuple[tuple[float, float, float], ...]

    def __len__(self) -> int:
        return len(self.traits)

    def to(self, device: torch.device | str) -> "Presenters":
        """The same presenters with their tensors on a device."""
        return Presenters(
            numbers={name: value.to(device) for name, value in self.numbers.items()},
            colours={name: value.to(device) for name, value in self.colours.items()},
            traits=self.traits,
            framing=self.framing,
        )

    def with_waving(self, waves: Iterable[bool]) -> "Presenters":
        """The same presenters, of whom some have a hand to wave."""
        chosen = zip(self.traits, waves, strict=True)
        traits = tuple(replace(one, waves=does) if does else one for one, does in chosen)
        # Only a wide choice of presenters has a side for it; to the others the light gives one.
        numbers = {"hand_side": self.numbers["light"], **self.numbers}
        return replace(self, traits=traits, numbers=numbers)

    def take(self, rows: Iterable[int]) -> "Presenters":
        """Some of the presenters, in the order asked."""
        chosen = list(rows)
        index = torch.tensor(chosen, device=self.numbers["size"].device)
        return Presenters(
            numbers={name: value[index] for name, value in self.numbers.items()},
            colours={name: value[index] for name, value in self.colours.items()},
            traits=tuple(self.traits[row] for row in chosen),
            framing=tuple(self.framing[row] for row in chosen),
        )


def _weighted(weights: Mapping[str, int], chance: random.Random) -> str:
    return chance.choices(list(weights), list(weights.values()))[0]


def _traits(chance: random.Random, styles: Mapping[str, int]) -> Traits:
    hair = _weighted(_HAIR, chance)
    headwear = _weighted(_HEADWEAR, chance)
    can_wear_beard = hair not in _LONG_HAIR | {"bob", "bun"} and headwear != "headscarf"
    beards = {"none": 50, "stubble": 14, "full": 16, "goatee": 8, "moustache": 12}
    beard = _weighted(beards, chance) if can_wear_beard else "none"
    return Traits(
        style=_weighted(styles, chance),
        hair=hair,
        hair_colour=_weighted(
            {
                "black": 26,
                "brown": 26,
                "blond": 14,
                "red": 9,
                "gray": 9,
                "white": 5,
                "pink": 5,
                "blue": 5,
            },
            chance,
        ),
        headwear=headwear,
        headwear_colour=chance.choice(list(COLOURS)),
        glasses=_weighted({"none": 70, "round": 14, "square": 16}, chance),
        beard=beard,
        eyes=_weighted({"almond": 48, "round": 32, "dot": 20}, chance),
        nose=_weighted({"line": 28, "shadow": 26, "button": 24, "nostrils": 22}, chance),
        ears=_weighted({"plain": 80, "studs": 12, "hoops": 8}, chance),
        cheeks=_weighted({"plain": 70, "blush": 20, "freckles": 10}, chance),
        clothes=_weighted(_CLOTHES, chance),
        clothes_colour=chance.choice(list(COLOURS)),
        wall=_weighted(_WALLS, chance),
        wall_colour=chance.choice(list(COLOURS)),
        objects=(_weighted(_OBJECTS, chance), _weighted(_OBJECTS, chance)),
        lipstick=beard == "none" and chance.random() < 0.28,
    )


def _near(colour: tuple[int, int, int], spread: float, chance: random.Random) -> list[float]:
    shared = chance.uniform(-spread, spread)
    own = [c / 255 + shared + chance.uniform(-spread, spread) / 2 for c in colour]
    return [min(max(c, 0.02), 0.98) for c in own]


def _mixed(first: list[float], second: list[float], share: float) -> list[float]:
    return [a + (b - a) * share for a, b in zip(first, second, strict=True)]


def _colours(traits: Traits, chance: random.Random) -> dict[str, list[float]]:
    tone = chance.uniform(0, len(_SKINS) - 1.001)
    low = int(tone)
    skin = _mixed([c / 255 for c in _SKINS[low]], [c / 255 for c in _SKINS[low + 1]], tone - low)
    natural = _mixed([skin[0] * 0.87, skin[1] * 0.60, skin[2] * 0.62], skin, chance.random() * 0.3)
    hair = _near(HAIR_COLOURS[traits.hair_colour], 0.07, chance)
    wall = _near(COLOURS[traits.wall_colour], 0.10, chance)
    # Walls are quieter than people: part way to gray, and to a lighter or darker shade.
    quiet = _mixed(wall, [chance.uniform(0.15, 0.95)] * 3, chance.uniform(0.05, 0.55))
    other = _near(COLOURS[chance.choice(list(COLOURS))], 0.10, chance)
    lipstick = _near(chance.choice(_LIPSTICKS), 0.05, chance)
    return {
        "skin": skin,
        "lips": lipstick if traits.lipstick else natural,
        "hair": hair,
        "brows": _mixed(hair, [0.12, 0.08, 0.07], 0.35),
        "headwear": _near(COLOURS[traits.headwear_colour], 0.08, chance),
        "clothes": _near(COLOURS[traits.clothes_colour], 0.09, chance),
        "inner": _near(
            COLOURS[chance.choice(("white", "gray", "black", "blue", "pink"))], 0.06, chance
        ),
        "accent": _near(COLOURS[chance.choice(list(COLOURS))], 0.08, chance),
        "iris": _near(chance.choice(_IRISES), 0.05, chance),
        "frames": _near(chance.choice(_FRAMES), 0.04, chance),
        "wall": quiet,
        "wall_other": _mixed(quiet, other, chance.uniform(0.2, 0.6)),
        "object": _near(COLOURS[chance.choice(list(COLOURS))], 0.10, chance),
        "second": _near(COLOURS[chance.choice(list(COLOURS))], 0.10, chance),
    }


def sample_presenters(
    count: int,
    *,
    generator: torch.Generator,
    device: torch.device | str,
    look: Look = "drawn",
) -> Presenters:
    """Invent presenters; one draw of `generator` seeds them all, so any device gets the same.

    Args:
        look: "drawn" cartoons in the middle of the picture, or "wide": besides those, people as a
            camera sees them, heads turned away, any framing from the face to the half body.
    """
    seed = torch.randint(2**62, (1,), generator=generator, device=generator.device)
    chance = random.Random(int(seed))
    styles = _STYLES if look == "drawn" else _WIDE_STYLES
    traits = tuple(_traits(chance, styles) for _ in range(count))
    numbers = {
        name: torch.tensor([chance.uniform(low, high) for _ in range(count)])
        for name, (low, high) in _RANGES.items()
    }
    if look == "wide":
        is_other_hand = [
            one.style != "photographic" and chance.random() < _OTHER_HAND_SHARE for one in traits
        ]
        numbers |= _wide_numbers(traits, numbers, torch.tensor(is_other_hand), chance)
    colours = [_colours(one, chance) for one in traits]
    if look == "wide":
        for own, is_other in zip(colours, is_other_hand, strict=True):
            if is_other and chance.random() < 0.35:
                own["skin"] = [c / 255 for c in chance.choice(_SKINS_OF_PAPER)]
    framing = zip(*(numbers[name].tolist() for name in ("centre_x", "centre_y", "size")),
                  strict=True)  # fmt: skip
    return Presenters(
        numbers={name: value.to(device) for name, value in numbers.items()},
        colours={
            name: torch.tensor([one[name] for one in colours]).to(device) for name in colours[0]
        },
        traits=traits,
        framing=tuple(framing),
    )


def _wide_numbers(
    traits: tuple[Traits, ...],
    numbers: Mapping[str, Tensor],
    is_other_hand: Tensor,
    chance: random.Random,
) -> dict[str, Tensor]:
    count = len(traits)
    wide = {
        name: torch.tensor([chance.uniform(low, high) for _ in range(count)])
        for name, (low, high) in _WIDE_RANGES.items()
    }
    is_photographic = torch.tensor([one.style == "photographic" for one in traits])
    for ranges, is_so in (
        (_OTHER_HAND_RANGES, is_other_hand),
        (_PHOTOGRAPHIC_RANGES, is_photographic),
    ):
        for name, (low, high) in ranges.items():
            drawn = torch.tensor([chance.uniform(low, high) for _ in range(count)])
            other = wide.get(name, numbers.get(name, torch.zeros(count)))
            wide[name] = torch.where(is_so, drawn, other)
    # Small heads stand higher in the picture, so that what is below them is body; of large ones
    # no more is cut off than hair.
    wide["centre_y"] = wide["centre_y"] - 0.5 * (0.45 - wide["size"]).clamp(min=0)
    room = (1.05 - 1.15 * wide["size"]).clamp(min=0)
    wide["centre_y"] = wide["centre_y"].maximum(-room).minimum(room)
    wide["centre_x"] = wide["centre_x"].maximum(-room).minimum(room)
    return wide
