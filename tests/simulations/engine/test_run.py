"""The runner's parts that need no engine: children and their children, staging, reading the log."""

import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from simulations.engine import home
from simulations.engine import simulate as run
from simulations.engine.processes import Processes, free_ports, running, signals_interrupt
from tests.engines import descendants, linux

# A child that starts a grandchild in a session of its own, as Flower does, and ignores SIGTERM.
STUBBORN = """
import signal, subprocess, sys, time
if len(sys.argv) == 2:
    subprocess.Popen([sys.executable, __file__, sys.argv[1], "grandchild"], start_new_session=True)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(sys.argv[1] + "/" + sys.argv[-1].replace("/", "_"), "w").write(str(__import__("os").getpid()))
time.sleep(60)
"""


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    return pid in {process.pid for process in running()}


def _pids(folder: Path) -> list[int]:
    return [int(text) for each in folder.iterdir() if (text := each.read_text())]


def test_stop_reaches_grandchildren_that_left_the_session_and_ignore_sigterm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulations.engine.processes.GRACE", 0.3)
    script, pids = tmp_path / "stubborn.py", tmp_path / "pids"
    script.write_text(STUBBORN)
    pids.mkdir()
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        with (tmp_path / "log").open("wb") as log, Processes(os.environ, tmp_path, log) as group:
            group.start(sys.executable, str(script), str(pids))
            _wait(lambda: len(_pids(pids)) == 2)
            family = _pids(pids)
            assert all(map(_runs, family))
        assert not any(map(_runs, family))
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


@linux
def test_orphans_of_a_child_that_was_killed_are_stopped_too(tmp_path: Path) -> None:
    child = "import subprocess; subprocess.Popen(['sleep', '60'], start_new_session=True).wait()"
    with (tmp_path / "log").open("wb") as log, Processes(os.environ, tmp_path, log) as group:
        assert not group.runs("sleep")
        parent = group.start(sys.executable, "-c", child)
        _wait(lambda: group.runs("sleep"))
        (orphan,) = (each.pid for each in descendants(parent.pid) if each.pid != parent.pid)
        parent.kill()
        parent.wait()
        assert _runs(orphan)
        assert not group.runs("sleep")  # it descends from nobody any more
    assert not _runs(orphan)


@linux
def test_children_end_when_we_are_killed(tmp_path: Path) -> None:
    parent = f"""
import os, sys, time
sys.path.insert(0, {str(run.__file__).rpartition("/simulations/")[0]!r})
from pathlib import Path
from simulations.engine.processes import Processes
with open(os.devnull, "wb") as log, Processes(os.environ, Path("/"), log) as group:
    print(group.start("sleep", "60").pid, flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as killed:
        assert killed.stdout is not None
        child = int(killed.stdout.readline())
        _wait(lambda: psutil.Process(child).cmdline()[0] == "sleep")
        killed.kill()
    _wait(lambda: not _runs(child))


def test_what_has_ended_and_is_collected_by_nobody_does_not_run() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        assert psutil.Process(child.pid) in running()
        child.kill()
        _wait(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE)
        assert psutil.Process(child.pid) not in running()


def test_ended_names_the_children_that_ended(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log, Processes(os.environ, tmp_path, log) as group:
        lasting = group.start("sleep", "60")
        ending = group.start("sh", "-c", "echo said; exit 3")
        ending.wait()
        assert group.ended() == [ending]
        with pytest.raises(run.RunFailed, match="code 3"):
            run._check(group)
        run._check(group, ending)
        assert lasting.poll() is None
    assert (tmp_path / "log").read_text() == "said\n"


def test_sigterm_interrupts_only_inside() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), signals_interrupt():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_free_ports_can_be_bound_together() -> None:
    ports = free_ports(8)
    assert len(set(ports)) == 8
    for port in ports:
        with socket.socket() as each:
            each.bind(("127.0.0.1", port))


def test_stage_copies_the_app_and_nothing_else(tmp_path: Path) -> None:
    project, target = tmp_path / "project", tmp_path / "staged"
    for path in (
        "common/network/unet.py",
        "server/__pycache__/app.pyc",
        "runs/a.json",
        ".venv/lib/x.py",
    ):
        (project / path).parent.mkdir(parents=True)
        (project / path).write_text("")
    (project / "pyproject.toml").write_text(
        '[tool.flwr.app]\npublisher = "p"\nfab-exclude = ["runs/**"]\nconfig = {a = 1}\n'
    )
    home.stage(project, target)
    files = {str(each.relative_to(target)) for each in target.rglob("*") if each.is_file()}
    assert files == {"pyproject.toml", "common/network/unet.py"}
    app = tomllib.loads((target / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    assert app == {"publisher": "p", "config": {"a": 1}}


@pytest.mark.parametrize(
    ("log", "error"),
    [
        (
            "Traceback\nValueError: bad shape\n\x1b[91mERROR \x1b[0m:  Exit Code: 700",
            "ValueError: bad shape",
        ),
        ("KeyError: 'a'\n\nduring\n\nx.y.TypeError: b", "TypeError: b"),
        ("common.errors.UserError: fleet: empty", "fleet: empty"),
        ("ERROR :     Key 'bogus' is not present\n", "Key 'bogus' is not present"),
        ("INFO :      all is well", ""),
    ],
)
def test_last_error(log: str, error: str) -> None:
    assert run._last_error(run._plain(log.encode())) == error


def test_environment_of_the_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SCOREQUILT_CACHE", "/c")
    monkeypatch.setenv("RAY_ADDRESS", "somebody-elses:1")
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    environment = home.engine_variables(tmp_path, 2, 4242)
    assert environment["SCOREQUILT_CACHE"] == "/c"
    assert environment["RAY_ADDRESS"] == "127.0.0.1:4242"
    assert environment["OMP_NUM_THREADS"] == "2"


def test_what_the_environment_is_set_up_for_elsewhere_does_not_reach_the_engine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("http_proxy", "HTTPS_PROXY", "ALL_PROXY", "grpc_proxy"):
        monkeypatch.setenv(name, "socks5://proxy:1080")
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([".", "policies", "/opt/lib"]))
    environment = home.engine_variables(tmp_path, 2, 4242)
    assert not [name for name in environment if name.lower().endswith("_proxy")]
    assert environment["MPLBACKEND"] == "Agg"
    theirs = [str(tmp_path), str(tmp_path / "policies"), "/opt/lib"]
    assert environment["PYTHONPATH"] == os.pathsep.join(theirs)
    assert environment["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
