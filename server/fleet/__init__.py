"""Who takes part, what each is assigned, and what each has been sent."""

from server.fleet.assignments import (
    Assignment,
    assignments,
    request_for,
    weight_of,
    widths_within,
)
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
from server.fleet.stretches import Seat, Seats, anchor_after, seated, seats_after
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
    "Seat",
    "Seats",
    "Task",
    "anchor_after",
    "assignments",
    "eligible",
    "fleet_of",
    "participants",
    "request_for",
    "required",
    "sampling_rate",
    "seated",
    "seats_after",
    "weight_of",
    "widths_within",
]
