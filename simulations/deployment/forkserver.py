"""A device's tasks start from a process that has PyTorch and Flower imported already.

Flower's SuperNode starts the program `flwr-clientapp` for every task, which imports both, and on a
small device these imports last longer than a small task. `scorequilt join` therefore starts this
file beside the SuperNode, as a process that imports them once, waits, and forks for each task: a
fork server, as in Python's `multiprocessing`. The `flwr-clientapp` that Flower then finds hands its
arguments over and ends; where that fails it becomes Flower's own.

Nothing of ScoreQuilt is imported here, nor in a task before Flower does it: which code a task runs
is the app that came with the run, never the device's own copy.

Run as a script by what `start` writes and starts: ``serve FD FOLDER PARENT`` and ``task SOCKET
PROGRAM ...``.
"""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from fcntl import F_DUPFD, fcntl
from importlib import import_module
from pathlib import Path

PROGRAM = "flwr-clientapp"

PRELOADED = (
    "torch",
    "torch.nn.functional",
    "numpy",
    "pydantic",
    "jaxtyping",
    "PIL.Image",
    "flwr.clientapp",
)
"""What tasks import beside Flower's program. None of it leaves a thread running that a fork would
miss: NumPy's OpenBLAS ends its own before one."""

LOOK = 1.0
"""Seconds between two looks at whether the SuperNode still lives."""

STREAMS = 3
"""A task's standard input, output and error are those of the program that Flower started."""


def start(environment: Mapping[str, str]) -> Path:
    """Start a fork server that ends with this process, whatever program that becomes.

    Args:
        environment: All variables of tasks.

    Returns:
        A folder to be put first on the PATH, with the program that hands tasks over.

    Raises:
        OSError: There is no folder for temporary files, or its path is too long for a socket.
    """
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="scorequilt-"))  # nobody else may look inside
    address, program = folder / "socket", folder / PROGRAM
    python, here = sys.executable, str(Path(__file__).resolve())
    flowers_own = str(Path(python).parent / PROGRAM)
    words = [python, "-I", "-S", here, "task", str(address), flowers_own]
    program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n', encoding="utf-8")
    program.chmod(0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        listener.listen()
        descriptor = listener.fileno()
        command = [python, "-P", here, "serve", *map(str, (descriptor, folder, os.getpid()))]
        subprocess.Popen(command, env=environment, pass_fds=[descriptor], stdin=subprocess.DEVNULL)
    return folder


def hand_over(address: str, flowers_own: str, words: list[str]) -> None:
    """Have the fork server run a task; become Flower's own program if it does not take it.

    Args:
        address: Where the fork server listens.
        flowers_own: Flower's program.
        words: Its arguments.
    """
    with suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        socket.send_fds(connection, [json.dumps(words).encode()], range(STREAMS))
        connection.shutdown(socket.SHUT_WR)
        # A server that still imports answers later: to import the same here would take as long.
        if connection.recv(1):
            return
    os.execv(flowers_own, [flowers_own, *words])


def serve(listener: socket.socket, folder: Path, parent: int) -> list[str] | None:
    """Fork for every task until the process that started us has ended.

    Args:
        listener: Where tasks are handed over.
        folder: What `start` made; removed in the end.
        parent: Who started us.

    Returns:
        In a process forked for a task the task's arguments, in the server None at the end.
    """
    import gc

    for name in PRELOADED:
        import_module(name)
    gc.freeze()  # or every collection in a task would copy all pages of what is loaded
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system forgets tasks that have ended
    listener.settimeout(LOOK)
    while os.getppid() == parent:
        task: tuple[list[str], list[int]] | None = None
        # Nobody came, or whoever came has gone, perhaps without a word.
        with suppress(OSError, ValueError):
            connection, _ = listener.accept()
            with connection:
                task = _fork(connection)
        if task is not None:
            words, streams = task
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
                os.close(stream)
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return words
    shutil.rmtree(folder, ignore_errors=True)
    return None


def _fork(connection: socket.socket) -> tuple[list[str], list[int]] | None:
    """Return a task's arguments and streams in a process forked for it, None in the server."""
    connection.settimeout(LOOK)
    content, streams, _, _ = socket.recv_fds(connection, 1 << 16, STREAMS)
    try:
        while more := connection.recv(1 << 16):
            content += more
        words = json.loads(content)
        if len(streams) != STREAMS:
            raise ValueError(f"{len(streams)} streams, not {STREAMS}")
        if os.fork() == 0:
            # Numbered above those that they will replace.
            return words, [fcntl(stream, F_DUPFD, STREAMS) for stream in streams]
        connection.sendall(b"+")
    finally:
        for stream in streams:
            os.close(stream)
    return None


def main(role: str, *words: str) -> None:
    """Do what a command line says."""
    if role == "task":
        return hand_over(words[0], words[1], list(words[2:]))
    from importlib.metadata import entry_points

    import numpy as np

    (entry,) = entry_points(group="console_scripts", name=PROGRAM)
    program = entry.load()
    task = serve(socket.socket(fileno=int(words[0])), Path(words[1]), int(words[2]))
    if task is not None:
        # Flower's differential privacy draws its noise from NumPy's global generator, which a fork
        # inherits: without a seed of its own every task would add the same.
        np.random.seed()  # noqa: NPY002
        sys.argv = [PROGRAM, *task]
        sys.exit(program())
    return None


if __name__ == "__main__":
    main(*sys.argv[1:])
