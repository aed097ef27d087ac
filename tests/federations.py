"""Small whole federations in this process, for tests: one thread, no engine."""

from pathlib import Path
from typing import Any

from common.config.run import RunConfig
from common.network.unet import layout_of
from server.app import federate
from server.record.history import Row, read_rows
from server.state.advance import ServerState
from server.state.checkpoint import checkpoints, load_checkpoint
from tests.local_grid import LocalGrid

TINY = RunConfig.from_flat(
    {
        "rounds": 3,
        "local-steps": 2,
        "batch-size": 8,
        "fleet": "1x1 1/2x2 1/4x1",
        "policy": "balanced",
        "model.widths": "8,16",
        "model.groups": 2,
        "evaluation.samples": 64,
        "evaluation.evaluations": 2,
        "evaluation.widths": "full",  # of which there are tests of their own
    }
)
TIMES = ("seconds_train", "seconds_aggregate", "seconds_evaluate", "seconds_slowest")


def tiny_with(**changes: Any) -> RunConfig:
    """Return the small run with some fields changed."""
    return TINY.model_copy(update=changes)


def run(config: RunConfig, run_dir: Path, **grid: Any) -> tuple[ServerState, list[Row]]:
    """Run it, and return where it ended and its history."""
    federate(LocalGrid(config, **grid), config, run_dir)
    return final_state(config, run_dir), rows_of(run_dir)


def final_state(config: RunConfig, run_dir: Path) -> ServerState:
    """Return the last checkpoint."""
    return load_checkpoint(
        checkpoints(run_dir / "checkpoints")[-1], config, layout_of(config.model, 1)
    )


def rows_of(run_dir: Path) -> list[Row]:
    """Return the history without what differs from run to run."""
    rows = read_rows(run_dir / "history.jsonl")
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]
