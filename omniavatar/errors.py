"""Every error that this package raises on purpose.

    OmniAvatarError
    ├── InputError     what the user gave cannot be used: a file, a setting, a combination
    ├── WeightsError   a checkpoint is missing, incomplete or not what its name says
    ├── FullMemoryError  the device's memory ran out, in every arrangement that there is
    └── OutputError    the video cannot be written

Each message is one sentence that says what came, what is accepted and what to try.
"""


class OmniAvatarError(Exception):
    """Base of all errors that a person can do something about."""


class InputError(OmniAvatarError):
    """A file or a setting that the user gave cannot be used.

    Attributes:
        field: name of the request's field at fault, or None when several are.
    """

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class WeightsError(OmniAvatarError):
    """A checkpoint is missing, incomplete, or holds other tensors than its name says."""


class FullMemoryError(OmniAvatarError):
    """The device's memory ran out, and no other arrangement takes less of it."""


class OutputError(OmniAvatarError):
    """The video cannot be written to the place that was asked for."""
