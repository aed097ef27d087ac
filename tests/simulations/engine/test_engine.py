"""`scorequilt run` and `flwr run` with Flower's real simulation engine."""

import json
import signal
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from server.record.history import read_rows
from simulations import cli
from simulations.engine.processes import Processes
from tests.engines import (
    BIN,
    ROOT,
    TINY,
    alive,
    as_words,
    assert_all_replied,
    descendants,
    engine,
    in_process,
    linux,
    mentioning,
    outcome,
    superlink,
    tiny,
    wait_for,
    write_toml,
)

# An engine takes ten seconds to start on a quiet machine, and a minute on a busy one.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
FEDERATION = "num-supernodes=2 client-resources-num-cpus=1"


def _start(processes: Processes, *words: str) -> subprocess.Popen[bytes]:
    return processes.start(str(BIN / "scorequilt"), "run", *words)


def _rounds(run_dir: Path) -> list[int]:
    history = run_dir / "history.jsonl"
    return [row["round"] for row in read_rows(history)] if history.exists() else []


def _home_of(family: set[psutil.Process]) -> str:
    """The private folder of the engine that is in `family`."""
    for process in family:
        if home := process.environ().get("FLWR_HOME"):
            return str(home)
    raise AssertionError("no engine has started")


def test_run_leaves_a_complete_directory_and_the_bits_of_a_run_without_engine(
    tmp_path: Path,
) -> None:
    # In round 2 clients add what they kept in round 1, so the engine has to keep it for them.
    config = tiny(codec="int4", policy="static")
    with engine(tmp_path) as (processes, output):
        code = _start(processes, str(write_toml(config, tmp_path))).wait()
    said = output.read_text()
    assert code == 0, said
    run_dir = tmp_path / "runs" / "tiny"
    assert (tmp_path / "runs" / "latest").resolve() == run_dir

    assert_all_replied(run_dir, config)
    files = {str(each.relative_to(run_dir)) for each in run_dir.rglob("*")}
    assert files >= {"config.toml", "log.txt", "summary.json", "model", "plots"}
    assert files >= {f"samples/round-{i:04d}.png" for i in range(3)} | {"samples/final.png"}
    assert any(name.startswith("plots/") and name.endswith(".png") for name in files)
    assert files >= {"model/model_index.json", "model/unet/config.json"}
    assert "failure.txt" not in files
    assert json.loads((run_dir / "summary.json").read_text())["rounds"] == 2
    assert [line.split()[1] for line in said.splitlines() if line.startswith("round ")] == [*"012"]

    assert outcome(run_dir, config) == in_process(config, tmp_path / "in-process")


@linux
def test_a_run_killed_in_part_or_as_a_whole_ends_and_resumes_to_the_bits_of_one_never_stopped(
    tmp_path: Path,
) -> None:
    run_dir = tmp_path / "killed"
    resuming = ("--resume", str(run_dir))
    with engine(tmp_path) as (processes, output):
        file = write_toml(tiny(rounds=500, lr_schedule="constant"), tmp_path)

        def started(*words: str) -> tuple[subprocess.Popen[bytes], set[psutil.Process]]:
            begun = max(_rounds(run_dir), default=0)
            run = _start(processes, *words, "--quiet")
            wait_for(
                lambda: run.poll() is not None or max(_rounds(run_dir), default=0) > begun, 500
            )
            assert run.poll() is None
            return run, descendants(run.pid)

        words: tuple[str, ...] = (str(file), "--run-dir", str(run_dir))
        for program, reason in (
            ("flwr-simulation", "the ServerApp was killed"),
            ("flower-superlink", "the engine broke: the SuperLink was killed by signal 9"),
        ):
            run, family = started(*words)
            (victim,) = (each for each, line in alive(family).items() if f"/{program} " in line)
            family |= descendants(run.pid)
            victim.kill()
            assert run.wait(timeout=180) == 2
            assert not alive(family)
            said = output.read_text().splitlines()[-1]
            assert said.startswith(f"scorequilt: {reason}")
            assert said.endswith(f"; go on with: scorequilt run --resume {run_dir}")
            words = resuming
        # Where it writes to, once, and a line for each of the two.
        assert len(output.read_text().splitlines()) == 3

        killed, family = started(*resuming)
        killed.kill()
        wait_for(lambda: not alive(family), 30)
        # The engine may have gone on for a few rounds before it noticed.
        config = tiny(rounds=max(_rounds(run_dir)) + 2, lr_schedule="constant")
        assert config.rounds < 500
        assert not (run_dir / "summary.json").exists()

        more = ("--set", f"rounds={config.rounds}")
        assert _start(processes, *resuming, *more).wait() == 0
    assert outcome(run_dir, config) == in_process(config, tmp_path / "in-process")
    assert (run_dir / "summary.json").exists()


def test_what_fails_on_the_server_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    # Nobody can tell beforehand that this learning rate sends every client's weights to infinity.
    file = write_toml(tiny(learning_rate=1e30), tmp_path)
    with engine(tmp_path) as (processes, output):
        code = _start(processes, str(file), "--quiet").wait()
    said = output.read_text()
    assert code == 2, said
    assert len(said.splitlines()) == 1
    assert said.startswith("scorequilt: round 1: none of 2 clients returned a usable update")
    assert "not finite" in said
    assert _rounds(tmp_path / "runs" / "tiny") == [0]


@pytest.fixture
def in_the_foreground() -> Iterator[None]:
    """Undo what a shell does to background jobs: they ignore SIGINT, and so do their children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@linux
def test_ctrl_c_stops_everything_and_leaves_a_run_that_can_be_drawn(
    tmp_path: Path, in_the_foreground: None
) -> None:
    config = tiny(rounds=500)
    run_dir = tmp_path / "runs" / "tiny"
    with engine(tmp_path) as (processes, output):
        run = _start(processes, str(write_toml(config, tmp_path)), "--quiet")
        wait_for(lambda: run.poll() is not None or 1 in _rounds(run_dir))
        assert run.poll() is None
        family = descendants(run.pid)
        home = _home_of(family)
        assert len(mentioning(home)) > 3  # the search below would find them
        run.send_signal(signal.SIGINT)
        code = run.wait(timeout=60)
        assert not alive(family)
        assert not mentioning(home)
        assert not Path(home).exists()
    assert code == 130
    assert output.read_text() == f"stopped; go on with: scorequilt run --resume {run_dir}\n"
    drawn = CliRunner().invoke(cli.app, ["plot", str(run_dir)])
    assert drawn.exit_code == 0, drawn.output
    assert all(Path(line).is_file() for line in drawn.stdout.split())
    assert drawn.stdout


def test_flwr_run_by_hand_needs_no_runner_of_ours(tmp_path: Path) -> None:
    config = tiny(rounds=1)
    with superlink(tmp_path, "--simulation") as (processes, _):
        run = processes.start(
            *(str(BIN / "flwr"), "run", str(ROOT), "--stream", "--run-config", as_words(TINY)),
            *("--run-config", "rounds=1", "--federation-config", FEDERATION),
        )
        assert run.wait() == 0
    # Its HOME is the test's folder, and nobody named a run directory.
    (run_dir,) = (tmp_path / "scorequilt-runs").iterdir()
    assert_all_replied(run_dir, config)
    assert outcome(run_dir, config) == in_process(config, tmp_path / "in-process")


def test_the_bundle_holds_the_app_and_nothing_else(tmp_path: Path) -> None:
    command = [str(BIN / "flwr"), "build", "--app", str(ROOT)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (bundle,) = tmp_path.glob("*.fab")
    names = zipfile.ZipFile(bundle).namelist()
    assert {name.split("/")[0] for name in names} == {
        *("pyproject.toml", ".info", "common", "server", "client")
    }
    assert {"common/config/run.py", "server/app.py", "client/app.py"} <= set(names)
    assert all(name.endswith(".py") for name in names if name[0] != "." and "/" in name)
