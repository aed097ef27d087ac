"""A sweep's file, read: which runs it asks for, under which names.

Every table of the file's `[grid]` key, and every array of named cases such as `[[method]]`, is an
*axis*; a sweep has a run for each combination of one setting from each axis.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from common.config import RunConfig
from common.config.run import flat_keys
from common.errors import UserError
from simulations.archive.configs import changed_config, read_toml

OURS = ("name", "run-dir")
"""Keys that a sweep gives its runs itself."""

SEED = "seed"
LONGEST_NAME = 120

Keys = dict[str, Any]
"""Values by flattened key of the configuration."""


class Setting(NamedTuple):
    """One place on an axis: what it is called, what it is in the names of runs, and its keys."""

    label: str
    word: str
    keys: Keys


@dataclass(frozen=True)
class PlannedRun:
    """A run of a sweep.

    Attributes:
        name: Its folder below the sweep's.
        labels: By axis, where it stands on it.
        config: Its configuration, whose `name` is this one's.
    """

    name: str
    labels: Mapping[str, str]
    config: RunConfig


@dataclass(frozen=True)
class Plan:
    """What a sweep's file asks for.

    Attributes:
        name: The sweep's.
        axes: The axes' names, as they stand in the file, the seed last.
        columns: What its summary shows, empty for the usual.
        runs: The runs, in the order in which they are started: seed by seed, so that there is
            something to see of everything soon.
    """

    name: str
    axes: Sequence[str]
    columns: Sequence[str]
    runs: Sequence[PlannedRun]


def read_plan(path: Path) -> Plan:
    """Return what a sweep's file asks for.

    Raises:
        UserError: The file cannot be read, something in it is not known, the configuration refuses
            a value, or two runs have one name; the line names the file and the place.
    """
    tree = read_toml(path)
    try:
        base, columns = _text(tree, "base", "digits"), _columns(tree)
        name = _name("name", _text(tree, "name", path.stem))
        everywhere = _keys("[set]", _table(tree, "set"))
        axes = {**_cases(tree), **_grid(_table(tree, "grid"))}
        _check_axes(axes)
        if SEED in axes:
            axes[SEED] = axes.pop(SEED)
        runs = list(_runs(base, everywhere, axes))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return Plan(name, list(axes), columns, sorted(runs, key=lambda run: run.config.seed))


def _runs(
    base: str, everywhere: Keys, axes: Mapping[str, Sequence[Setting]]
) -> Iterator[PlannedRun]:
    seen: set[str] = set()
    for settings in product(*axes.values()):
        name = _name("run", "_".join(setting.word for setting in settings))
        if name in seen:
            raise UserError(f"two runs are called {name}; give them different names or values")
        seen.add(name)
        keys = {**everywhere, "name": name}
        for setting in settings:
            keys |= setting.keys
        try:
            config = changed_config(base, keys)
        except UserError as error:
            raise UserError(f"run {name}: {error}") from None
        labels = {axis: each.label for axis, each in zip(axes, settings, strict=True)}
        yield PlannedRun(name, labels, config)


def _cases(tree: Keys) -> dict[str, list[Setting]]:
    """Return the axes of named cases: every array of tables is one."""
    axes = {}
    for axis, cases in tree.items():
        if axis in ("base", "name", "columns", "set", "grid"):
            continue
        if not isinstance(cases, list) or not all(isinstance(case, dict) for case in cases):
            raise UserError(
                f"'{axis}' is not known; keys of all runs stand in [set], lists of values in "
                f"[grid], and named cases in [[{axis}]]"
            )
        axes[axis] = [_case(axis, dict(case)) for case in cases]
    return axes


def _case(axis: str, case: Keys) -> Setting:
    name = case.pop("name", None)
    if not isinstance(name, str) or not name:
        raise UserError(f"[[{axis}]]: every case needs a name")
    return Setting(name, _word(name), _keys(f"[[{axis}]] {name}", case))


def _grid(table: Keys) -> dict[str, list[Setting]]:
    axes = {}
    for key, values in _keys("[grid]", table).items():
        if not isinstance(values, list) or not values:
            raise UserError(f"[grid]: {key} needs a list of values, such as [{values!r}]")
        axes[key] = [
            Setting(_shown(value), _word(f"{key}-{_shown(value)}"), {key: value})
            for value in values
        ]
    return axes


def _check_axes(axes: Mapping[str, Sequence[Setting]]) -> None:
    """Refuse a sweep of nothing, and one in which two axes have a say in the same key."""
    if not axes:
        raise UserError("nothing to sweep over; add [grid] with lists of values, or [[case]]")
    whose: dict[str, str] = {}
    for axis, settings in axes.items():
        for key in {key for setting in settings for key in setting.keys}:
            if key in whose:
                raise UserError(f"{key}: both {whose[key]} and {axis} set it; leave it to one")
            whose[key] = axis


def _keys(place: str, table: Keys) -> Keys:
    """Return a table's values by flattened key.

    Raises:
        UserError: A key is the sweep's to give. Unknown ones are refused with a run's.
    """
    flat = dict(_flat(table))
    known = flat_keys()
    for key in flat:
        if key in OURS:
            raise UserError(f"{place}: {key} is given by the sweep itself; leave it out")
        if key not in known:  # the configuration says what is near it
            RunConfig.from_flat({key: flat[key]})
    return flat


def _flat(table: Keys, before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield before + key, value


def _columns(tree: Keys) -> list[str]:
    columns = tree.get("columns", [])
    if not isinstance(columns, list) or not all(isinstance(each, str) for each in columns):
        raise UserError('columns: write a list of names, such as ["frechet_ema", "loss"]')
    return columns


def _text(tree: Keys, key: str, otherwise: str) -> str:
    value = tree.get(key, otherwise)
    if not isinstance(value, str):
        raise UserError(f"{key}: {value!r} is not a text")
    return value


def _table(tree: Keys, key: str) -> Keys:
    table = tree.get(key, {})
    if not isinstance(table, dict):
        raise UserError(f"{key}: write a table, [{key}]")
    return table


def _name(what: str, text: str) -> str:
    """Refuse what cannot be a folder's and a run's name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", text) or len(text) > LONGEST_NAME:
        raise UserError(
            f"{what} {text}: a name has at most {LONGEST_NAME} letters, digits, dots, dashes and "
            "underscores; named cases, as in [[case]], make shorter ones"
        )
    return text


def _word(text: str) -> str:
    """Return a text as a part of a name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
