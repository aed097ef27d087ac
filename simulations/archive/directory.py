"""Where runs live: `runs/NAME`, and `runs/latest` for the newest."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UserError
from common.files import PART

if TYPE_CHECKING:
    from common.config import RunConfig  # takes 0.2 s, and `scorequilt --help` does without

RUNS = Path("runs")
BEGINNINGS = {"config.toml", "log.txt", "failure.txt", "privacy", "live.json", "tracking.json"}
"""What a run that failed before its first round leaves; starting again may write over it."""


def find_run(text: str, base: Path = RUNS) -> Path:
    """Return the run directory that `text` names, as a path or as a name in `base`.

    Raises:
        UserError: neither holds a `config.toml`.
    """
    for folder in (Path(text), base / text):
        if (folder / "config.toml").is_file():
            return folder.resolve()
    raise UserError(f"run '{text}' does not exist: neither {text} nor {base / text} is a run")


def resolve_run_dir(config: RunConfig, base: Path) -> Path:
    """Make the directory of a new run and return it.

    It is `run-dir` where that is given, else the first of `base`/`name`, `name`-2, `name`-3, … in
    which no run has begun.

    Raises:
        UserError: a run has begun in `run-dir`, or something else is in it, or it cannot be made.
    """
    if config.name == "latest":
        raise UserError("name: 'latest' is the link to the newest run; choose another name")
    if config.run_dir:
        return _claim(Path(config.run_dir).absolute())
    for number in count(1):
        target = base / (config.name if number == 1 else f"{config.name}-{number}")
        if not occupied(target):
            break
    return _claim(target.absolute())


def occupied(target: Path) -> bool:
    """Say whether anything is there that a new run would write over."""
    if not target.is_dir():
        return target.exists()
    names = {each.name for each in target.iterdir() if not each.name.endswith(PART)}
    return bool(names - BEGINNINGS)


def _claim(target: Path) -> Path:
    """Make a directory unless something is in it."""
    try:
        target.mkdir(parents=True, exist_ok=True)
        taken = occupied(target)
    except OSError as error:
        raise UserError(f"run-dir: cannot make {target} ({error.strerror})") from None
    if taken:
        raise UserError(f"run-dir: {target} is not empty; choose --run-dir or --resume it")
    return target


def link_latest(run_dir: Path, base: Path) -> None:
    """Let `base`/latest point to `run_dir`; at no moment is there no link.

    Raises:
        UserError: there is a file or folder of that name.
    """
    base.mkdir(parents=True, exist_ok=True)
    aside, link = base / f".latest.{os.getpid()}", base / "latest"
    if link.exists() and not link.is_symlink():
        raise UserError(f"{link} is not a link; move it away")
    aside.unlink(missing_ok=True)
    aside.symlink_to(os.path.relpath(run_dir, base.resolve()))
    aside.replace(link)
