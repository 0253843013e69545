"""What the bundled model learns from: the look of the people, and the shapes of the videos."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from omniavatar.nano.languages import LANGUAGES
from omniavatar.nano.presenters import Look
from omniavatar.nano.prompts import WIDE_BEHAVIOURS
from omniavatar.nano.speech import PLAIN, Manner


@dataclass(frozen=True, slots=True)
class Shape:
    """Size of a video in pixels, multiples of 16, and its frames: 4n + 1."""

    height: int
    width: int
    frames: int

    @property
    def name(self) -> str:
        """Such as "192x256x65"."""
        return f"{self.height}x{self.width}x{self.frames}"

    @property
    def latent_frames(self) -> int:
        return (self.frames + 3) // 4

    @property
    def tokens(self) -> int:
        """Of the transformer, for a whole window."""
        return self.latent_frames * (self.height // 16) * (self.width // 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """One way to train.

    Attributes:
        look: of the people, see `presenters.sample_presenters`.
        shapes: of the windows that the transformer learns, in turn; one that stands twice has twice
            the share. The first is also the probe's.
        tokens: of one step of the transformer, over all windows of a batch.
        manner: in which the people speak.
        rough: whether half of the speech comes with noise, music and rooms.
        decoder_width: of the VAE, whose decoder is most of the work on a CPU.
        behaviours: in turn; None draws those of the look at random.
    """

    name: str
    look: Look
    shapes: tuple[Shape, ...]
    tokens: int = 70_000
    manner: Manner = PLAIN
    rough: bool = False
    decoder_width: int = 32
    behaviours: tuple[str, ...] | None = None

    def batch(self, shape: Shape) -> int:
        """Windows of this shape in one step."""
        return max(1, round(self.tokens / shape.tokens))


FIRST = Course(name="first", look="drawn", shapes=(Shape(128, 128, 65),))
WIDE = Course(
    name="wide",
    look="wide",
    shapes=(
        Shape(192, 192, 89),
        Shape(192, 256, 65),
        Shape(192, 192, 89),
        Shape(256, 192, 65),
        Shape(192, 192, 89),
        Shape(128, 128, 89),
    ),
    manner=Manner(
        languages=tuple(LANGUAGES),
        whispered_share=0.06,
        words_per_minute=(110, 260),
        pitch=(3, 97),
        pitch_range=(5, 95),
        longest_pause_seconds=3.0,
        pause_power=4,
        loudness=(0.2, 1.0),
        level=(0.03, 0.95),
        flite_share=0.4,
    ),
    rough=True,
    decoder_width=24,
)
DRAWN = replace(
    WIDE, name="drawn", look="drawn", tokens=53_000, rough=False, behaviours=WIDE_BEHAVIOURS
)
"""Clear speech, and people as the first course knew them, who do all of what the wide ones do."""

CLOSE = replace(DRAWN, name="close", shapes=(Shape(192, 192, 33),), tokens=2_600)
"""The same in windows of a second: what two CPU cores can train lips on in twenty minutes."""

SHORT = replace(
    WIDE,
    name="short",
    shapes=(Shape(192, 192, 25), Shape(128, 128, 41), Shape(192, 192, 25)),
    tokens=12_000,
)
"""The same in windows of a second: what two CPU cores can fold guidance on in half an hour."""
COURSES: Mapping[str, Course] = MappingProxyType(
    {one.name: one for one in (FIRST, WIDE, DRAWN, CLOSE, SHORT)}
)
