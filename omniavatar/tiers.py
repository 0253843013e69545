"""The cards that networks can be arranged for by name; apart, for command lines to know at once."""

from omniavatar.errors import InputError

AUTO = "auto"
"""The arrangement of a model's networks that its memory allows."""

MEMORY_TIERS = ("8GB", "12GB", "16GB", "24GB", "48GB", "80GB")
"""What `memory` may be, beside `AUTO`."""

GIGABYTE = 10**9


def tier_bytes(memory: str) -> int | None:
    """The memory of a card of that name, or None for "auto".

    Raises:
        InputError: there is no such tier.
    """
    if memory == AUTO:
        return None
    if memory not in MEMORY_TIERS:
        accepted = ", ".join((AUTO, *MEMORY_TIERS))
        raise InputError(f"memory is {memory!r}. Use one of: {accepted}.", field="memory")
    return int(memory.removesuffix("GB")) * GIGABYTE
