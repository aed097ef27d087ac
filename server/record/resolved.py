"""The configuration that a run directory holds, as it was resolved."""

from pathlib import Path

import tomli_w

from common.config import RunConfig
from common.files import atomic_write


def write_config(config: RunConfig, run_dir: Path) -> None:
    """Write the resolved configuration to the run's `config.toml`."""
    resolved = config.model_copy(update={"run_dir": str(run_dir)})
    atomic_write(run_dir / "config.toml", tomli_w.dumps(resolved.to_tree()).encode())
