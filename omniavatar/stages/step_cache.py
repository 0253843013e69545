"""When a step may reuse what the transformer's blocks added in an earlier one (TeaCache).

The decision looks only at how far the time modulation moved, so it is the same for all branches and
chunks, and known before sampling starts.

Source: TeaCache, arXiv 2411.19108; Omni-Avatar/OmniAvatar wan_video.py, Apache-2.0.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from torch import Tensor


def plan_skips(
    modulations: Sequence[Tensor], *, threshold: float, coefficients: Sequence[float]
) -> tuple[bool, ...]:
    """Decide for each step whether it reuses the last residual.

    Args:
        modulations: the time modulation of each step, all of one shape, in order.
        threshold: accumulated rescaled distance up to which steps are skipped; 0 skips none.
        coefficients: polynomial that rescales a distance, highest power first; measured per model.

    Returns:
        One flag a step; the first and the last are never skipped.
    """
    steps = len(modulations)
    if threshold <= 0:
        return (False,) * steps
    rescale = np.poly1d(np.asarray(coefficients, dtype=np.float64))
    skips = [False]
    accumulated = 0.0
    for before, now in pairwise(modulations):
        distance = ((now - before).abs().mean() / before.abs().mean()).item()
        accumulated += float(rescale(distance))
        skip = accumulated < threshold and len(skips) < steps - 1
        if not skip:
            accumulated = 0.0
        skips.append(skip)
    return tuple(skips)
