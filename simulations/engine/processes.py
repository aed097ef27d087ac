"""Child processes with everything they start in turn, stopped together.

Flower puts its own children into new sessions, so killing a process group is not enough: we follow
parents to children, and orphans by a variable that they inherit. Only what descends from a process
started here is ever signalled.
"""

from __future__ import annotations

import os
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

GRACE = 4.0

ALLOCATOR = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""Has large arrays and messages take pages of 2 MiB where Linux offers them (glibc 2.35 or newer).

Every array of a model is memory that the system clears a page at a time, and in a round there are a
dozen of them in each process; with pages of 4 KiB that can take longer than what is done to them.
"""

PROC = Path("/proc")
MARK = "SCOREQUILT_ENGINE"
"""The variable by which we know descendants whose parents have died."""

# Linux sends the child SIGTERM when we die without a chance to stop it; the setting outlives exec.
_TIE_TO_PARENT = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execvp(sys.argv[1], sys.argv[1:])"
)


class Processes:
    """A context whose children, and their descendants, are gone when it is left.

    Must be used from one thread, which outlives the children. Without /proc (not Linux) only the
    children are seen; Flower's and Ray's descendants then end by themselves soon after.

    Args:
        environment: all variables of the children.
        folder: their working directory.
        log: where their standard output and error go.
    """

    def __init__(self, environment: Mapping[str, str], folder: Path, log: IO[bytes]) -> None:
        self._mark = f"{MARK}={uuid.uuid4().hex}"
        self._environment = {**environment, MARK: self._mark.partition("=")[2]}
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
        """Say whether a descendant runs a script of that name; never without /proc."""
        for pid in self._family({}):
            with suppress(OSError):
                words = (PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace")
                if any(Path(word).name == program for word in words.split("\0")[:2]):
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
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
            family |= self._family(self._marked() | left)
        self._children.clear()

    def _marked(self) -> dict[int, str]:
        """The processes that inherited our mark, with when each was started."""
        mark, table = self._mark.encode(), _table()
        found = {}
        for pid, (_, start) in table.items():
            with suppress(OSError):
                if mark in (PROC / str(pid) / "environ").read_bytes().split(b"\0"):
                    found[pid] = start
        return found

    def _family(self, known: Mapping[int, str]) -> dict[int, str]:
        """The living children, `known` and all their descendants, with when each was started."""
        table = _table()
        family = {pid: table[pid][1] for pid in known if pid in table}
        family |= {
            child.pid: table.get(child.pid, (0, ""))[1]
            for child in self._children
            if child.poll() is None
        }
        while found := {
            pid: start
            for pid, (parent, start) in table.items()
            if parent in family and pid not in family
        }:
            family |= found
        return family

    def _left(self, family: Mapping[int, str]) -> dict[int, str]:
        """Those of `family` that still run; the start time tells them from a reused number."""
        running = {child.pid: "" for child in self._children if child.poll() is None}
        if not (table := _table()):
            return running
        return {
            pid: start for pid, start in family.items() if pid in table and table[pid][1] == start
        }


def _table() -> dict[int, tuple[int, str]]:
    """Every running process' parent and start time, {} where there is no /proc."""
    table = {}
    for entry in PROC.glob("[0-9]*/stat"):
        with suppress(OSError, ValueError):
            # The name, in parentheses, may itself hold spaces and parentheses.
            fields = entry.read_text().rpartition(")")[2].split()
            # A zombie has ended; who should collect it may never do so.
            if fields[0] not in "ZX":
                table[int(entry.parent.name)] = (int(fields[1]), fields[19])
    return table


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
