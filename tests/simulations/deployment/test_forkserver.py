"""The fork server of `scorequilt join`: it takes tasks, and nothing is lost where it does not."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from simulations.deployment.forkserver import PROGRAM
from tests.engines import BIN, ROOT, linux, wait_for

pytestmark = [linux, pytest.mark.slow]  # each test starts a process that imports torch

DEVICE = """
import os, sys, time
from pathlib import Path
from simulations.deployment import forkserver
print(forkserver.start(os.environ), flush=True)
time.sleep(600)
"""
TASK = [PROGRAM, "--help"]
SERVER = str(ROOT / "simulations" / "deployment" / "forkserver.py")


@pytest.fixture
def device(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process that has started a fork server, and the folder with its program."""
    command = [sys.executable, "-c", DEVICE]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    environment.pop("OMP_NUM_THREADS", None)  # which tests may have set, and devices have not
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def _variables(folder: Path) -> Mapping[str, str]:
    return {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def _call(folder: Path) -> subprocess.CompletedProcess[str]:
    """Call the program as Flower does, until all who can write to its output have ended."""
    return subprocess.run(TASK, env=_variables(folder), capture_output=True, text=True, timeout=120)


def _without_flowers_own(folder: Path) -> None:
    """Let the program fail where it would become Flower's own."""
    program = folder / PROGRAM
    text = program.read_text()
    assert str(BIN / PROGRAM) in text
    program.write_text(text.replace(str(BIN / PROGRAM), "/bin/false"))


def _server(device: subprocess.Popen[str]) -> int:
    (server,) = Path(f"/proc/{device.pid}/task/{device.pid}/children").read_text().split()
    return int(server)


def test_a_task_is_flowers_program_run_by_the_server(
    device: tuple[subprocess.Popen[str], Path],
) -> None:
    _, folder = device
    own = subprocess.run([BIN / PROGRAM, "--help"], capture_output=True, text=True, check=True)
    _without_flowers_own(folder)
    for _ in range(3):
        done = _call(folder)
        assert (done.returncode, done.stdout, done.stderr) == (0, own.stdout, own.stderr)


def test_without_the_server_the_program_is_flowers_own(
    device: tuple[subprocess.Popen[str], Path],
) -> None:
    process, folder = device
    os.kill(_server(process), signal.SIGKILL)
    done = _call(folder)
    assert done.returncode == 0
    assert "Run a Flower ClientApp" in done.stdout
    _without_flowers_own(folder)
    assert _call(folder).returncode == 1


def test_who_calls_and_goes_does_no_harm(device: tuple[subprocess.Popen[str], Path]) -> None:
    _, folder = device
    _without_flowers_own(folder)
    for _ in range(3):
        with subprocess.Popen(TASK, env=_variables(folder), stdout=subprocess.DEVNULL) as caller:
            time.sleep(0.1)
            caller.kill()
    for content in (b"", b"[", b"[]"):  # no word, half of one, and nowhere to write
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(folder / "socket"))
            connection.sendall(content)
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1) == b"", "what is no task is not taken for one"
    assert "Run a Flower ClientApp" in _call(folder).stdout


def test_the_server_ends_with_the_device_and_leaves_no_folder(
    device: tuple[subprocess.Popen[str], Path],
) -> None:
    process, folder = device
    assert _call(folder).returncode == 0  # it has finished importing
    server = Path(f"/proc/{_server(process)}")
    assert len(list((server / "task").iterdir())) == 1, "a fork would miss the other threads"
    process.kill()
    wait_for(lambda: not server.exists(), 30)
    assert not folder.exists()


def test_tasks_do_not_draw_the_same_random_numbers(tmp_path: Path) -> None:
    drawing = f"""
import importlib.metadata, os, runpy, sys
import numpy as np
class Program:
    load = staticmethod(lambda: lambda: print(np.random.random()))
importlib.metadata.entry_points = lambda **_: [Program]
sys.argv = ["", "serve", sys.argv[1], {str(tmp_path)!r}, str(os.getppid())]
runpy.run_path({SERVER!r}, run_name="__main__")
"""
    address = str(tmp_path / "socket")
    task = [sys.executable, SERVER, "task", address, "/bin/false"]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        descriptor = listener.fileno()
        command = [sys.executable, "-P", "-c", drawing, str(descriptor)]
        with subprocess.Popen(command, pass_fds=[descriptor]) as server:
            drawn = [subprocess.run(task, capture_output=True, check=True) for _ in range(3)]
            server.kill()
    assert len({float(each.stdout) for each in drawn}) == 3


def test_nothing_of_ours_is_loaded_before_the_run_brings_its_own(tmp_path: Path) -> None:
    look = f"""
import runpy, socket, sys
nobody = 0  # our parent is somebody else, so the server ends at once
sys.argv = ["", "serve", str(socket.socket().detach()), {str(tmp_path / "none")!r}, str(nobody)]
runpy.run_path({SERVER!r}, run_name="__main__")
print(*sys.modules)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", "-c", look]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    names = {name.partition(".")[0] for name in done.stdout.split()}
    assert {"torch", "flwr", "pydantic"} <= names
    assert not names & {"common", "client", "server", "simulations"}
