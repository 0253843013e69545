"""Which predictions a step needs, and how they become one.

Source: Omni-Avatar/OmniAvatar wan_video.py, Apache-2.0; classifier-free guidance, arXiv 2207.12598.
"""

# b batch, c channels, f latent frames, h, w latent rows and columns

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """One forward of a step: with the prompt or the negative prompt, with speech or silence."""

    prompt: bool
    speech: bool


FULL = Branch(prompt=True, speech=True)
SILENT = Branch(prompt=True, speech=False)
NEITHER = Branch(prompt=False, speech=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guidance:
    """One scale for prompt and speech together, or one for each.

    Attributes:
        text: 1 is no push and needs one forward; 4 to 6 is recommended for the published models.
        audio: None or equal to `text` pushes speech together with the prompt, in two forwards;
            another value takes three. Without a push by `text` it has no effect, as published.
    """

    text: float
    audio: float | None = None

    @property
    def branches(self) -> tuple[Branch, ...]:
        """The forwards of one step, in the order that `combine` expects."""
        if self.text == 1:
            return (FULL,)
        if self._is_joint:
            return (FULL, NEITHER)
        return (FULL, NEITHER, SILENT)

    def combine(self, predictions: Sequence[Tensor]) -> Tensor:
        """[b, c, f, h, w] of each branch -> the guided prediction, of the same shape."""
        if self.text == 1:
            return predictions[0]
        if self._is_joint:
            full, neither = predictions
            return neither + self.text * (full - neither)
        full, neither, silent = predictions
        assert self.audio is not None
        return neither + self.text * (silent - neither) + self.audio * (full - silent)

    @property
    def _is_joint(self) -> bool:
        return self.audio is None or self.audio == self.text
