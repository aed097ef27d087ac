import re
import tomllib
from fractions import Fraction
from pathlib import Path

import pytest
import tomli_w

from common.config.earlier import CHOICES, KEYS, RENAMED
from common.config.fleet import parse_fleet
from common.config.run import RunConfig
from common.errors import UserError
from simulations.archive.configs import load_config, preset_names

ROOT = Path(__file__).parents[3]

# What other people's scripts and configuration files rely on. Adding is free, removing is not.
FIRM = {
    "data",
    "partition",
    "rounds",
    "local-steps",
    "batch-size",
    "learning-rate",
    "fleet",
    "policy",
    "weighting",
    "clock",
    "seed",
    "evaluate-every",
    "run-dir",
    "model.widths",
}


def test_the_promised_keys_are_there() -> None:
    assert set(RunConfig().to_flat()) >= FIRM


def test_the_flower_app_declares_exactly_these_keys_with_these_defaults() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    declared = RunConfig.from_tree(project["tool"]["flwr"]["app"]["config"])
    assert declared == RunConfig()
    flat = project["tool"]["flwr"]["app"]["config"]
    keys = {f"{k}.{leaf}" for k, v in flat.items() if isinstance(v, dict) for leaf in v}
    keys |= {k for k, v in flat.items() if not isinstance(v, dict)}
    assert keys == set(RunConfig().to_flat())


def test_the_default_preset_is_the_defaults() -> None:
    assert load_config("digits") == RunConfig()


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_under_its_own_name(name: str) -> None:
    assert load_config(name).name == name


def test_flat_form_and_toml_come_back_the_same(tmp_path: Path) -> None:
    config = load_config("digits", ["model.widths=16, 32", "rounds=3", "scaler=false"])
    assert config.model.widths == (16, 32)
    assert not config.scaler
    flat = config.to_flat()
    assert all(isinstance(value, bool | int | float | str) for value in flat.values())
    assert RunConfig.from_flat(flat) == config
    path = tmp_path / "config.toml"
    path.write_text(tomli_w.dumps(config.to_tree()))
    assert load_config(str(path)) == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("polcy=static", "unknown key 'polcy'; did you mean 'policy'"),
        ("model.width=3", "unknown key 'model.width'; did you mean 'model.widths'"),
        ("rounds=0", r"rounds: .*greater than or equal to 1 \(got '0'\)"),
        ("rounds=many", "rounds: .*integer"),
        ("partition=zipf", "partition: .*'iid', 'dirichlet', 'classes', .* or 'grouped-natural'"),
        ("model.widths=32,x", "model.widths: .*integer"),
        ("rounds.x=1", "rounds.x: 'rounds' is a value"),
        ("rounds", "--set rounds: write it as key=value"),
        ("fleet=1/2*3", r"fleet: '1/2\*3' is not a rate times a count"),
        ("fleet=2x1", r"fleet: '2x1' needs a rate in \(0, 1\]"),
        ("fleet=1/2x0", "fleet: '1/2x0' needs .* a count of at least 1"),
        ("fleet=1/0x2", "fleet: '1/0x2' is not"),
        ("fleet=", "fleet: empty"),
        ("fleet=auto 2", r"fleet: '2' is not a rate in \(0, 1\]"),
        ("ema.half-life=", "ema.half-life: .*at least 1 item"),
        ("ema.half-life=5,5", "ema.half-life: half-lives are different"),
        ("ema.half-life=-1", "ema.half-life: half-lives are .* none negative"),
        ("name=../up", "name: .*pattern"),
        ("privacy.clip=0", r"privacy.clip: .*greater than 0"),
        ("privacy.delta=1", r"privacy.delta: .*less than 1"),
        ("privacy.noise-multiplier=inf", r"privacy.noise-multiplier: .*finite"),
        ("learning-rate=inf", r"learning-rate: .*finite"),
        ("partition-alpha=nan", r"partition-alpha: .*finite"),
        ("round-timeout=inf", r"round-timeout: .*finite"),
        ("lr=1", "unknown key 'lr'; did you mean 'learning-rate'"),
        ("epochs=1", "unknown key 'epochs'; did you mean 'local-steps'"),
        ("clients=3", "unknown key 'clients'; did you mean 'fleet'"),
        ("batch=3", "unknown key 'batch'; did you mean 'batch-size'"),
        ("local_stpes=3", "unknown key 'local-stpes'; did you mean 'local-steps'"),
        ("fleet=1x1000000000", "fleet: '1x1000000000' is too many; .* at most 100000"),
        ("evaluation.samples=63", r"evaluation.samples: .*equal to 64 \(got .63.\)"),
    ],
)
def test_bad_input_is_one_line_that_names_the_key(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_config("digits", [override])
    assert "\n" not in str(caught.value)


def test_keys_may_be_written_as_in_python_and_lists_as_in_toml(tmp_path: Path) -> None:
    config = load_config("digits", ["local_steps=7", "model.widths=[8, 16]", "ema.half_life=5"])
    assert (config.local_steps, config.model.widths, config.ema.half_life) == (7, (8, 16), (5,))
    path = tmp_path / "MINE.TOML"
    path.write_bytes(b"\xef\xbb\xbflocal_steps = 7\n[model]\nnum_classes = 3\n")
    config = load_config(str(path))
    assert (config.local_steps, config.model.num_classes) == (7, 3)
    path.write_text("local_steps = 7\nlocal-steps = 8\n")
    with pytest.raises(UserError, match="local-steps: stands there twice"):
        load_config(str(path))


def test_more_clients_than_there_may_be_cannot_be_waited_for() -> None:
    with pytest.raises(UserError, match="min-clients: 5 is more than max-clients=3"):
        load_config("digits", ["fleet=auto", "min-clients=5", "max-clients=3"])


def test_the_widths_of_a_fleet() -> None:
    def widths(fleet: str, atom: int = 8) -> list[str]:
        return list(map(str, RunConfig(fleet=fleet).widths(atom)))

    assert widths("1x2 1/4x3 1/2") == ["1/4", "1/2", "1"]
    assert widths("auto") == ["1/8", "1/4", "1/2", "1"]
    assert widths("auto", 12) == ["1/4", "1/2", "1"], "3 channels of 12 are an odd number"
    assert widths("auto 1 1/2 1/4") == ["1/4", "1/2", "1"]
    auto = RunConfig(fleet="auto 1/2 1/4", simulation_clients=3)
    assert auto.auto
    assert auto.client_rates == (Fraction(1, 2),) * 3
    assert not RunConfig(fleet="1x2").auto


PRIVATE = ["privacy.noise-multiplier=0.5", "weighting=uniform"]


@pytest.mark.parametrize(
    ("override", "instead"),
    [
        ("weighting=examples", "weighting=uniform"),
        ("aggregation=median", "aggregation=mean"),
        ("aggregation=trimmed", "aggregation=mean"),
        ("update-check=clip", "update-check=off"),
        ("update-check=reject", "update-check=off"),
        ("min-replies=2", "min-replies=0"),
        ("min-replies=0.5", "min-replies=0"),
        ("round-budget=3", "round-budget=0"),
    ],
)
def test_what_privacy_does_not_cover_is_refused_with_what_to_set(
    override: str, instead: str
) -> None:
    assert load_config("digits", PRIVATE).privacy.on
    key = override.partition("=")[0]
    if key != "weighting":  # which the default is
        load_config("digits", [override])
    with pytest.raises(UserError, match=rf"^{key}: with privacy.* set {instead}$") as line:
        load_config("digits", [*PRIVATE, override])
    assert "\n" not in str(line.value)
    with pytest.raises(UserError, match=rf"^{key}: "):
        RunConfig.from_flat(load_config("digits", PRIVATE).to_flat() | dict([override.split("=")]))


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"preset 'digit' does not exist; there are .*, digits, "):
        load_config("digit")
    with pytest.raises(UserError, match=r"no\.toml: cannot be read"):
        load_config(str(tmp_path / "no.toml"))
    broken = tmp_path / "broken.toml"
    broken.write_text("rounds = = 3")
    with pytest.raises(UserError, match=r"broken\.toml: not valid TOML"):
        load_config(str(broken))


REMOVED = {"model.keep-whole": "time", "rates.weight": "1", "rates.learning-rate": "0.5"}
"""Keys of earlier versions, each with a value at which it did something."""


def test_keys_taken_out_are_passed_over_where_they_changed_nothing(tmp_path: Path) -> None:
    assert set(REMOVED) == set(KEYS)
    flat = RunConfig(rounds=3).to_flat()
    assert not set(flat) & set(KEYS)
    assert RunConfig.from_flat(flat | KEYS) == RunConfig(rounds=3)
    tree = RunConfig(rounds=3).to_tree()
    for key, neutral in KEYS.items():
        table, leaf = key.split(".")
        tree[table][leaf] = neutral
    path = tmp_path / "config.toml"
    path.write_text(tomli_w.dumps(tree))
    assert load_config(str(path), ["rates.weight=0"]) == RunConfig(rounds=3)


def test_a_key_is_read_under_the_name_that_it_once_had() -> None:
    assert load_config("digits", ["density=log-normal"]).training_times == "log-normal"
    older = RunConfig(training_times="log-normal").to_flat()
    for name, key in RENAMED.items():
        older[name] = older.pop(key)
    assert RunConfig.from_flat(older) == RunConfig(training_times="log-normal")
    with pytest.raises(UserError, match=r"^training-times: .*'clock' or 'log-normal'"):
        load_config("digits", ["density=uniform"])


@pytest.mark.parametrize(("key", "value"), REMOVED.items())
def test_keys_taken_out_are_refused_where_they_would_do_something(key: str, value: str) -> None:
    with pytest.raises(UserError, match=rf"^{key}: this key was taken out.*leave it out$"):
        load_config("digits", [f"{key}={value}"])
    with pytest.raises(UserError, match=rf"^{key}: this key was taken out"):
        RunConfig.from_flat({key: [value]})


@pytest.mark.parametrize(("key", "choice"), CHOICES)
def test_choices_taken_out_are_refused_with_what_to_choose_instead(key: str, choice: str) -> None:
    with pytest.raises(UserError, match=rf"^{key}: '{choice}' was taken out.*; choose ") as line:
        load_config("digits", [f"{key}={choice}"])
    assert "\n" not in str(line.value)


def test_fleets() -> None:
    assert parse_fleet("1x2 1/2x1 0.25") == (1, 1, Fraction(1, 2), Fraction(1, 4))


def test_the_rates_are_those_of_the_fleet_that_a_copy_was_given() -> None:
    config = RunConfig(fleet="1x1 1/2x2")
    assert config.client_rates == (1, Fraction(1, 2), Fraction(1, 2))
    assert config.client_rates is config.client_rates, "parsed once"
    assert config.model_copy(update={"fleet": "1/4"}).client_rates == (Fraction(1, 4),)


def test_every_key_is_documented_with_its_default() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z0-9.-]+)` \|(.*?)\|", page, flags=re.MULTILINE))
    shown = {k: str(v).lower() if isinstance(v, bool) else str(v) for k, v in _defaults().items()}
    assert {key: text.strip() for key, text in rows.items()} == shown


def _defaults() -> dict[str, bool | int | float | str]:
    return RunConfig().to_flat()


def test_the_page_says_of_every_key_what_it_means_and_its_default() -> None:
    lines = (ROOT / "docs" / "configuration.md").read_text().splitlines()
    rows = [line.strip("|").split("|") for line in lines if line.startswith("| `")]
    written = {key.strip(" `"): default.strip(" `") for key, default, *_ in rows}
    for key, default in RunConfig().to_flat().items():
        shown = str(default).lower() if isinstance(default, bool) else str(default)
        assert written.get(key, "missing") == shown, key
