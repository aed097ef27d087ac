"""The command line without an engine: what users get wrong, where runs go, what they see."""

import io
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from common.config.run import RunConfig
from common.errors import UserError
from server.record.resolved import write_config
from simulations import cli
from simulations.archive.configs import load_config, preset_names
from simulations.archive.directory import find_run, link_latest, resolve_run_dir
from simulations.engine.progress import Progress
from simulations.engine.simulate import RunFailed, RunResult


def _invoke(*words: str) -> Any:
    return CliRunner().invoke(cli.app, words)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replaces the engine; what it does is the list's first item, what it was given the second."""
    plan: list[Any] = [None]

    def fake(config: Any, clients: int, app: Path, run_dir: Path, on_progress: Any) -> RunResult:
        plan.append((config, clients, app, run_dir))
        if plan[0] is not None:
            raise plan[0]
        (run_dir / "history.jsonl").write_text(
            json.dumps({"round": 0, "loss": None, "frechet_ema": 12.3456}) + "\n"
        )
        on_progress("running")
        return RunResult("finished:completed", "", 1.0)

    monkeypatch.setattr("simulations.engine.simulate.run_simulation", fake)
    monkeypatch.setattr(cli, "deliver", lambda run_dir: [])
    return plan


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("run", "no-such-preset"), "no-such-preset"),
        (("run", "missing.toml"), "missing.toml"),
        (("run", "--set", "rounds=many"), "rounds"),
        (("run", "--set", "colour=red"), "colour"),
        (("run", "--set", "fleet=1/3x2"), "rate 1/3: this model's atoms of 4 channels allow 1/4"),
        (("run", "--set", "fleet=1of2"), "fleet: '1of2'"),
        (("run", "--set", "fleet=auto 1x2"), "fleet: '1x2' is not a rate in (0, 1]; after auto"),
        (
            ("run", "--set", "fleet=auto", "--set", "simulation-clients=2000"),
            "simulation-clients: 2000 is not from min-clients=1 to max-clients=1000",
        ),
        (("run", "--set", "fleet=auto 1/3"), "fleet: rate 1/3: this model's atoms of 4 channels"),
        (
            ("run", "--set", "fleet=auto", "--set", "policy=quarters"),
            "policy: quarters gives each of ten clients its part",
        ),
        (("run", "--set", "min-clients=2"), "min-clients: 2 of a fixed fleet"),
        (("run", "--set", "fleet=1/4x2000"), "fleet: 2000 clients cannot share the 1437 images"),
        (("run", "--set", "data=cats"), "data: no data set 'cats'"),
        (("run", "--set", "policy=fancy"), "policy: 'fancy'"),
        (("run", "--set", "model.widths=32,64,64,64,64"), "model.widths: 5 levels"),
        (("run", "--set", "model.groups=7"), "model.groups: 7 groups do not divide"),
        (("run", "--set", "model.num-classes=3"), "model.num-classes: digits has 10 classes"),
        (("run", "--set", "model.label-dropout=0.1"), "model.label-dropout: there are no labels"),
        (("run", "--set", "evaluation.guidance=1"), "evaluation.guidance: needs a network that"),
        (("run", "--set", "train.flip=true"), "train.flip: mirrored images of digits"),
        (("run", "--set", "train.accumulate=65"), "train.accumulate: 65 micro-batches of a batch"),
        (("run", "--set", "privacy.noise-multiplier=1"), "weighting: with privacy.noise-multipli"),
        (("run", "--resume", "nothing"), "nothing"),
        (("run", "digits", "--resume", "nothing"), "--resume"),
        (("plot", "nothing"), "nothing"),
        (("export", "nothing"), "nothing"),
        (("sample", "nothing"), "nothing"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(words: tuple[str, ...], named: str) -> None:
    result = _invoke(*words)
    assert result.exit_code == 2
    assert named in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not Path("runs").exists()


def _commands(command: click.Command, *words: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command of a group, and what it takes, with the words that name it."""
    yield words, command.params
    for name, each in getattr(command, "commands", {}).items():
        yield from _commands(each, *words, name)


def test_help_explains_every_argument_and_option() -> None:
    named = dict(_commands(typer.main.get_command(cli.app)))
    assert len(named) > 15
    for words, takes in named.items():
        shown = CliRunner().invoke(cli.app, [*words, "--help"], env={"COLUMNS": "200"}).stdout
        lines = [" ".join(line.split()) for line in shown.splitlines()]
        for each in takes:
            assert each.help, (words, each.name)
            assert any(each.help in line for line in lines), (words, each.name)


def test_what_can_be_named_is_listed() -> None:
    presets = _invoke("presets").stdout
    for name in preset_names():
        assert re.search(rf"^{name} +\S", presets, re.MULTILINE)
    listed = dict(line.split(maxsplit=1) for line in _invoke("keys").stdout.splitlines()[:-1])
    assert set(listed) == set(RunConfig().to_flat())
    assert listed["aggregation"].split(maxsplit=1) == ["mean", "mean | trimmed | median"]
    assert listed["trim"].endswith("number >= 0 < 0.5")
    assert _invoke("runs").stderr.startswith("scorequilt: there is no run below")
    write_config(RunConfig(name="a", rounds=3, policy="rolling"), Path("runs/a"))
    Path("runs/a/history.jsonl").write_text(
        json.dumps({"round": 2, "loss": 1.0, "frechet_ema": 12.3456}) + "\n"
    )
    Path("runs/b").mkdir()
    Path("runs/b/config.toml").write_text("colour = 1")
    shown = CliRunner().invoke(cli.app, ["runs"], env={"COLUMNS": "200"}).stdout.splitlines()
    assert re.split(r"  +", shown[1].strip())[:4] == ["a", "2/3", "12.35", "rolling"]
    assert "cannot be read: unknown key 'colour'" in shown[2]


def test_completion_of_the_shell_is_offered() -> None:
    shown = (
        CliRunner()
        .invoke(cli.app, [], prog_name="scorequilt", env={"_SCOREQUILT_COMPLETE": "source_bash"})
        .stdout
    )
    assert "complete -o default -F _scorequilt_completion scorequilt" in shown


def test_a_hint_can_be_pasted_where_the_path_holds_blanks(engine: list[Any]) -> None:
    engine[0] = RunFailed("round 3: no usable reply")
    target = Path("zwei Wörter's").absolute()
    said = _invoke("run", "--run-dir", str(target)).stderr
    *_, command = said.strip().partition("go on with: ")
    assert shlex.split(command) == ["scorequilt", "run", "--resume", str(target)]


def test_version() -> None:
    assert _invoke("--version").stdout.startswith("scorequilt ")


def test_run_makes_the_directory_and_hands_the_engine_the_configuration(engine: list[Any]) -> None:
    result = _invoke("run", "--set", "rounds=3", "--set", "fleet=1 1/2x2", "--set", "name=mine")
    assert result.exit_code == 0, result.stderr
    config, clients, app, run_dir = engine[1]
    assert (config["rounds"], clients, run_dir) == (3, 3, Path("runs/mine").absolute())
    assert (app / "pyproject.toml").is_file()
    assert Path("runs/latest").resolve() == run_dir
    assert load_config(str(run_dir / "config.toml")).rounds == 3
    assert "Fréchet EMA 12.35" in result.stdout


def test_run_does_not_write_over_a_run_but_resumes_it(engine: list[Any]) -> None:
    assert _invoke("run", "--run-dir", "mine", "--set", "rounds=3").exit_code == 0
    again = _invoke("run", "--run-dir", "mine")
    assert again.exit_code == 2
    assert "--resume" in again.stderr
    assert _invoke("run", "--resume", "mine", "--set", "rounds=5").exit_code == 0
    assert engine[2][0]["rounds"] == 5
    assert engine[2][3] == engine[1][3]


def test_running_again_takes_the_next_free_directory(engine: list[Any]) -> None:
    assert _invoke("run").exit_code == 0
    assert _invoke("run").exit_code == 0
    third = Path("runs/digits-3").absolute()
    assert _invoke("run").stderr.splitlines()[0] == f"writing to {third}"
    assert [each[3].name for each in engine[1:]] == ["digits", "digits-2", "digits-3"]
    assert Path("runs/latest").resolve().name == "digits-3"


def test_a_failed_run_is_one_line(engine: list[Any]) -> None:
    engine[0] = RunFailed("round 3: no usable\nreply")
    result = _invoke("run")
    resuming = f"go on with: scorequilt run --resume {Path('runs/digits').absolute()}"
    said = f"scorequilt: round 3: no usable reply; {resuming}\n"
    assert (result.exit_code, result.stderr) == (2, said)


def test_what_a_write_that_was_killed_left_behind_is_no_obstacle(engine: list[Any]) -> None:
    left = Path("here/.config.toml.0123.part")
    left.parent.mkdir()
    left.touch()
    assert _invoke("run", "--run-dir", "here").exit_code == 0


def test_an_interrupted_run_says_how_to_go_on(engine: list[Any]) -> None:
    engine[0] = KeyboardInterrupt()
    result = _invoke("run", "--run-dir", "here")
    assert result.exit_code == 130
    assert f"--resume {Path('here').absolute()}" in result.stderr
    assert not Path("runs").exists()


def test_a_bug_keeps_its_traceback(engine: list[Any]) -> None:
    engine[0] = ZeroDivisionError()
    assert isinstance(_invoke("run").exception, ZeroDivisionError)


def test_resolve_run_dir(tmp_path: Path) -> None:
    named = RunConfig(name="a")
    assert resolve_run_dir(named, tmp_path) == tmp_path / "a"
    (tmp_path / "a" / "failure.txt").touch()
    assert resolve_run_dir(named, tmp_path) == tmp_path / "a"  # it never got to its first round
    elsewhere = RunConfig(run_dir=str(tmp_path / "b" / "c"))
    assert resolve_run_dir(elsewhere, tmp_path) == tmp_path / "b" / "c"
    (tmp_path / "a" / "history.jsonl").touch()
    assert resolve_run_dir(named, tmp_path) == tmp_path / "a-2"
    with pytest.raises(UserError, match="run-dir"):
        resolve_run_dir(RunConfig(run_dir=str(tmp_path / "a")), tmp_path)
    with pytest.raises(UserError, match="latest"):
        resolve_run_dir(RunConfig(name="latest"), tmp_path)
    with pytest.raises(UserError, match="run-dir"):
        resolve_run_dir(RunConfig(run_dir=str(tmp_path / "a" / "history.jsonl")), tmp_path)


def test_latest_follows_the_newest_run_and_never_replaces_a_folder(tmp_path: Path) -> None:
    base = tmp_path / "runs"
    for name in ("one", "two"):
        (base / name).mkdir(parents=True)
        link_latest(base / name, base)
        assert (base / "latest").resolve() == base / name
    assert str((base / "latest").readlink()) == "two"  # so that runs/ can be moved
    assert sorted(each.name for each in base.iterdir()) == ["latest", "one", "two"]
    (base / "latest").unlink()
    (base / "latest").mkdir()
    with pytest.raises(UserError, match="latest"):
        link_latest(base / "one", base)


def test_find_run_takes_a_path_or_a_name(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "a"
    write_config(RunConfig(name="a"), folder)
    assert find_run("a", tmp_path / "runs") == folder
    assert find_run(str(folder), tmp_path / "other") == folder
    with pytest.raises(UserError, match="'b'"):
        find_run("b", tmp_path / "runs")


def _row(number: int) -> str:
    return json.dumps({"round": number, "loss": 1 / (number + 1), "frechet_ema": None}) + "\n"


def test_progress_prints_each_round_once_and_waits_for_whole_lines(tmp_path: Path) -> None:
    history, out = tmp_path / "history.jsonl", io.StringIO()
    progress = Progress(history, 3, Console(file=out, width=80))
    with progress:
        progress.update("starting")
        assert progress.figures() == ""
        history.write_text(_row(0) + _row(1)[:9])
        progress.update("running")
        history.write_text(_row(0) + _row(1))
        progress.update("running")
        progress.update("running")
    assert out.getvalue().split("\n")[:2] == ["round 0  loss 1", "round 1  loss 0.5"]
    assert out.getvalue().count("round") == 2
    assert progress.figures() == "loss 0.5"


def test_progress_of_a_resumed_run_shows_only_what_is_new(tmp_path: Path) -> None:
    history, out = tmp_path / "history.jsonl", io.StringIO()
    history.write_text(_row(0) + _row(1))
    progress = Progress(history, 3, Console(file=out, width=80))
    progress.update("running")
    history.write_text(_row(0) + _row(1) + _row(2))
    progress.update("running")
    assert out.getvalue().split() == ["round", "2", "loss", "0.3333"]


def test_clients_that_fail_show_while_it_happens_and_at_the_end(tmp_path: Path) -> None:
    history, out = tmp_path / "history.jsonl", io.StringIO()
    progress = Progress(history, 3, Console(file=out, width=200))
    failing: list[dict[str, str]] = [{}, {}, {"5": "[memory]"}, {"5": "[memory]", "2": "no reply"}]
    for round, failures in enumerate(failing):
        numbers = {"clients_asked": 4, "clients_replied": 4 - len(failures)}
        row = {"round": round, "loss": 1.0, "failures": failures, **numbers}
        with history.open("a") as file:
            file.write(json.dumps({**row, "clients_failed": len(failures)}) + "\n")
        progress.update("running")
    assert out.getvalue().splitlines() == [
        *("round 0  loss 1", "round 1  loss 1", "round 2  loss 1  3 of 4 clients"),
        "round 2: client 5 failed: [memory]",
        "round 3  loss 1  2 of 4 clients",
        "round 3: client 2 failed: no reply",  # that 5 still fails has been said
    ]
    assert progress.failures() == (
        "failed: client 5 in 2 of 3 rounds ([memory]), client 2 in 1 of 3 rounds (no reply)"
    )
    assert Progress(tmp_path / "none", 3, Console(file=out)).failures() == ""


def test_progress_bar_shows_rounds_and_quiet_shows_nothing(tmp_path: Path) -> None:
    history = tmp_path / "history.jsonl"
    history.write_text(_row(0) + _row(1))
    shown = {}
    for quiet in (False, True):
        out = io.StringIO()
        with Progress(history, 3, Console(file=out, width=80, force_terminal=True), quiet) as bar:
            bar.update("running")
        shown[quiet] = out.getvalue()
    assert "round 1 of 3" in shown[False]
    assert "0.5" in shown[False]
    assert shown[True] == ""
