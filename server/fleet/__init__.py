"""Who takes part, what each is assigned, and what each has been sent."""

from server.fleet.assignments import Assignment, assignments, request_for, widths_within
from server.fleet.classes import ClassNames
from server.fleet.members import (
    Client,
    eligible,
    fleet_of,
    participants,
    required,
    sampling_rate,
)
from server.fleet.roster import Roster
from server.fleet.stretches import anchor_after
from server.fleet.tasks import GRACE, OpenTasks, Overdue, Packer, Task

__all__ = [
    "GRACE",
    "Assignment",
    "ClassNames",
    "Client",
    "OpenTasks",
    "Overdue",
    "Packer",
    "Roster",
    "Task",
    "anchor_after",
    "assignments",
    "eligible",
    "fleet_of",
    "participants",
    "request_for",
    "required",
    "sampling_rate",
    "widths_within",
]
