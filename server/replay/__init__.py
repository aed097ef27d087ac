"""What narrow widths have learned from weak clients, drawn for the clients of wider ones."""

from server.replay.images import Replayer
from server.replay.plan import Lesson, Measured, plan
from server.replay.possible import replays

__all__ = ["Lesson", "Measured", "Replayer", "plan", "replays"]
