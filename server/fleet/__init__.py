"""Who takes part, and what each has been sent."""

from server.fleet.members import Client, muster, participants, request_for, required
from server.fleet.roster import Roster
from server.fleet.tasks import GRACE, Parcels, Task, Tasks

__all__ = [
    "GRACE",
    "Client",
    "Parcels",
    "Roster",
    "Task",
    "Tasks",
    "muster",
    "participants",
    "request_for",
    "required",
]
