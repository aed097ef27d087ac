"""Configurations by name: presets, files and overrides."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.config import CLIENTS, RunConfig
from common.data import absolute_source
from common.errors import UserError

PRESETS = Path(__file__).parents[1] / "presets"
PLACES = ("init", "evaluation.features")
"""Keys whose values may be ``KIND:PATH``."""


Source = str | Path | Mapping[str, Any] | RunConfig
"""What stands for a configuration."""


def load_config(source: Source, overrides: Sequence[str] = ()) -> RunConfig:
    """Return a configuration with some keys replaced.

    Args:
        source: A preset's name, the path of a file ending in ``.toml``, keys with their values
            (flat or in tables; the others are at their defaults), or a configuration.
        overrides: ``key=value`` with flattened keys, such as ``model.widths=32,64``.

    Relative files and folders are taken from here: Flower runs the app in a folder of its own.

    Raises:
        UserError: No such preset or file, the file is not TOML, or a key or value is not allowed.
    """
    changes = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise UserError(f"--set {override}: write it as key=value")
        changes[key.strip().replace("_", "-")] = value.strip()
    return changed_config(source, changes)


def changed_config(source: Source, changes: Mapping[str, Any]) -> RunConfig:
    """Return the configuration of a preset or a TOML file with some keys replaced.

    Args:
        source: As in `load_config`.
        changes: Values by flattened key, as TOML gives them or as texts.

    Raises:
        UserError: No such preset or file, the file is not TOML, or a key or value is not allowed.
    """
    if isinstance(source, RunConfig):
        config = source
    elif isinstance(source, Mapping):
        config = RunConfig.from_flat(source)
    else:
        config = RunConfig.from_tree(read_toml(_path_of(str(source))))
    flat = RunConfig.from_flat({**config.to_flat(), **changes}).to_flat()
    for key in PLACES:
        kind, colon, place = str(flat[key]).partition(":")
        if colon:
            flat[key] = f"{kind}:{Path(place).expanduser().absolute()}"
    flat["data"] = absolute_source(str(flat["data"]))
    return RunConfig.from_flat(flat)


def check_simulated(config: RunConfig) -> None:
    """Refuse clients that a simulation cannot have.

    Raises:
        UserError: They are to have images of their own, or are fewer than a round needs, or more
            than may come.
    """
    if config.data == CLIENTS:
        raise UserError(
            "data: simulated clients have no images of their own; name a data set, and let "
            "clients judge with evaluation.by=clients"
        )
    if not config.auto:
        return
    clients = config.simulation_clients
    if not config.min_clients <= clients <= config.max_clients:
        raise UserError(
            f"simulation-clients: {clients} is not from min-clients={config.min_clients} to "
            f"max-clients={config.max_clients}"
        )


def preset_names() -> list[str]:
    """Return the names of the presets that come with the program."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def preset_purpose(name: str) -> str:
    """Return the sentences with which a preset's file begins."""
    lines = (PRESETS / f"{name}.toml").read_text(encoding="utf-8").splitlines()
    return " ".join(line.removeprefix("#").strip() for line in lines if line.startswith("#"))


def _path_of(source: str) -> Path:
    if source.lower().endswith(".toml"):
        return Path(source)
    if source not in preset_names():
        raise UserError(
            f"preset '{source}' does not exist; there are {', '.join(preset_names())}, or name a "
            "file ending in .toml"
        )
    return PRESETS / f"{source}.toml"


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Raises:
        UserError: It cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not valid TOML ({error})") from None
