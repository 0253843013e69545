"""What `python -m omniavatar bench` measures: work per second of video, and ratios in one run.

Machines differ, so a figure means little alone: each comparison runs both sides in this process,
in turns, and reports their ratio; each rate stands beside what the same run's matrix product gave.
"""

from omniavatar.bench.accuracy import AccuracyReport, measure_accuracy
from omniavatar.bench.chunk import ChunkReport, measure_chunk
from omniavatar.bench.table import write_tables
from omniavatar.bench.tiers import TierReport, measure_tiers
from omniavatar.bench.video import Report, measure

__all__ = [
    "AccuracyReport",
    "ChunkReport",
    "Report",
    "TierReport",
    "measure",
    "measure_accuracy",
    "measure_chunk",
    "measure_tiers",
    "write_tables",
]
