"""What is carried from round to round, and how a round moves it on."""

from server.state.advance import ServerState, advance, initial_state, no_masks, room_for
from server.state.checkpoint import (
    checkpoint_of,
    checkpoints,
    discard_old,
    load_checkpoint,
    resumable,
    round_of,
    save_checkpoint,
)
from server.state.reference import Reference
from server.state.round import Round, RoundInput

__all__ = [
    "Reference",
    "Round",
    "RoundInput",
    "ServerState",
    "advance",
    "checkpoint_of",
    "checkpoints",
    "discard_old",
    "initial_state",
    "load_checkpoint",
    "no_masks",
    "resumable",
    "room_for",
    "round_of",
    "save_checkpoint",
]
