"""How far a job is and how long the rest will take, from what this run measured itself."""

import time


class Progress:
    """Counts steps and decodes from the moment it is made, and extrapolates their mean durations.

    Until a chunk has been decoded, decoding counts as long as one step.
    """

    def __init__(self, *, chunks: int, steps: int) -> None:
        self._last = time.monotonic()
        self._all_steps, self._all_decodes = chunks * steps, chunks
        self._steps_of_chunk = steps
        self._steps = self._decodes = 0
        self._measured_steps = 0
        self._step_seconds = self._decode_seconds = 0.0

    def step_done(self) -> None:
        self._steps += 1
        self._measured_steps += 1
        self._step_seconds += self._lap()

    def decode_done(self) -> None:
        self._decodes += 1
        self._decode_seconds += self._lap()

    def chunk_lost(self) -> None:
        """The chunk that is being made begins anew, perhaps at another speed."""
        self._steps = self._decodes * self._steps_of_chunk
        self._measured_steps, self._step_seconds = 0, 0.0
        self._lap()

    @property
    def fraction(self) -> float:
        """Share of steps and decodes done, 0..1."""
        return (self._steps + self._decodes) / (self._all_steps + self._all_decodes)

    @property
    def remaining_seconds(self) -> float | None:
        """None until a step has been measured."""
        if not self._measured_steps:
            return None
        step = self._step_seconds / self._measured_steps
        decode = self._decode_seconds / self._decodes if self._decodes else step
        steps_left = self._all_steps - self._steps
        decodes_left = self._all_decodes - self._decodes
        return steps_left * step + decodes_left * decode

    def _lap(self) -> float:
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        return seconds
