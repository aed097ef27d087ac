"""Child processes with everything they start in turn, stopped together.

Flower puts its own children into new sessions, so killing a process group is not enough: we follow
parents to children, and orphans by a variable that they inherit. Only what descends from a process
started here is ever signalled. macOS shows nobody the variables of its own programs, so of orphans
only others, such as Python's, are found there.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO

import psutil

GRACE = 4.0

ALLOCATOR = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""Has large arrays and messages take pages of 2 MiB where Linux offers them (glibc 2.35 or newer).

Every array of a model is memory that the system clears a page at a time, and in a round there are a
dozen of them in each process; with pages of 4 KiB that can take longer than what is done to them.
"""

MARK = "SCOREQUILT_ENGINE"
"""The variable by which we know descendants whose parents have died."""

# Linux sends the child SIGTERM when we die without a chance to stop it; the setting outlives exec.
_TIE_TO_PARENT = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execvp(sys.argv[1], sys.argv[1:])"
)


class Processes:
    """A context whose children, and their descendants, are gone when it is left.

    Must be used from one thread, which outlives the children. When this process is itself killed,
    its children end on Linux alone.

    Args:
        environment: all variables of the children.
        folder: their working directory.
        log: where their standard output and error go.
    """

    def __init__(self, environment: Mapping[str, str], folder: Path, log: IO[bytes]) -> None:
        self._mark = uuid.uuid4().hex
        self._environment = {**environment, MARK: self._mark}
        self._folder = folder
        self._log = log
        self._children: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """Start `command`, in a session of its own."""
        tie = [sys.executable, "-I", "-S", "-c", _TIE_TO_PARENT] if sys.platform == "linux" else []
        child = subprocess.Popen(
            [*tie, *command],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=self._environment,
            cwd=self._folder,
            # Ctrl-C in the terminal is ours to handle, not each child's.
            start_new_session=True,
        )
        self._children.append(child)
        return child

    def ended(self) -> list[subprocess.Popen[bytes]]:
        """Return the children that have ended."""
        return [child for child in self._children if child.poll() is not None]

    def runs(self, program: str) -> bool:
        """Say whether a descendant runs a script of that name."""
        for process in self._family(set()):
            with suppress(psutil.Error):
                if any(Path(word).name == program for word in process.cmdline()[:2]):
                    return True
        return False

    def stop(self) -> None:
        """Ask every child to end, and kill what is left of all descendants after a few seconds."""
        family = self._family(self._marked())
        for child in self._children:
            if child.poll() is None:
                child.terminate()
        deadline = time.monotonic() + GRACE
        while (left := self._left(family)) and time.monotonic() < deadline:
            time.sleep(0.05)
            family |= self._family(left)
        # What is killed first cannot start anything more; a second look finds what it just had.
        while left := self._left(family):
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            time.sleep(0.05)
            family |= self._family(self._marked() | left)
        self._children.clear()

    def _marked(self) -> set[psutil.Process]:
        """The processes that inherited our mark, as far as their environment can be read."""
        found = set()
        for process in running():
            with suppress(psutil.Error, OSError):
                if process.environ().get(MARK) == self._mark:
                    found.add(process)
        return found

    def _family(self, known: set[psutil.Process]) -> set[psutil.Process]:
        """The living children, `known` and all their descendants."""
        children = {child.pid for child in self._children if child.poll() is None}
        processes = running()
        family = {each for each in processes if each.pid in children or each in known}
        found = family
        while found:
            parents = {each.pid for each in found}
            found = {each for each, parent in processes.items() if parent in parents} - family
            family = family | found
        return family

    def _left(self, family: set[psutil.Process]) -> set[psutil.Process]:
        """Those of `family` that still run."""
        for child in self._children:
            child.poll()  # nobody else collects those that have ended
        return family & running().keys()


def running() -> dict[psutil.Process, int]:
    """Return every running process with its parent's number.

    psutil tells a process from another of the same number by when it was started.
    """
    found = {}
    for pid in psutil.pids():
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            with process.oneshot():
                # A zombie has ended; who should collect it may never do so.
                if process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
                    found[process] = process.ppid()
    return found


def free_ports(count: int) -> list[int]:
    """Return different TCP ports that nobody listens on at the moment."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end a run as Ctrl-C does (in the main thread, which gets signals)."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
