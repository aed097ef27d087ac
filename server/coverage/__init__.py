"""What was trained, and the report of it."""

from server.coverage.report import (
    by_layer,
    coordinates,
    course_summary,
    mask_changes,
    round_summary,
)
from server.coverage.sums import Coverage

__all__ = ["Coverage", "by_layer", "coordinates", "course_summary", "mask_changes", "round_summary"]
