"""Tells trackers of a run as its directory grows; nothing that they do reaches the run."""

from __future__ import annotations

import json
import queue
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from operator import methodcaller
from pathlib import Path

from rich.console import Console

from common.config import RunConfig
from common.errors import UserError
from common.files import write_json
from server.record.history import Row
from simulations.trackers.interface import Session, Tracker, tracker_named

NONE = "none"
"""What asks for no tracker."""

PATIENCE = 30.0
"""Seconds that trackers may take at a run's end to send what is still under way."""

FILES = ("config.toml", "history.jsonl", "summary.json", "plots/*.png")
"""What of a finished run's directory is given to trackers."""

Call = Callable[[Tracker], None]
Item = tuple[Session, Call]


class Trackers:
    """Several trackers, each on a thread of its own that a slow or dead service can hold up.

    What fails is said in one line, once, and this tracker is left alone from then on.

    Args:
        names: As in `tracker_named`.
        run_dir: The run directory.
        config: The run's configuration.
        say: Where lines go.
    """

    def __init__(
        self, names: Sequence[str], run_dir: Path, config: RunConfig, say: Callable[[str], None]
    ) -> None:
        self._run_dir, self._config = run_dir, config
        self._session: Session | None = None
        self._seen: set[int] = set()
        self._workers = [_Worker(name, say) for name in names]

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.end(failed=kind is not None)

    def skip(self, rows: Sequence[Row]) -> None:
        """Take rows as told of already, those of a run that is resumed."""
        self._seen |= {row["round"] for row in rows}

    def rows(self, rows: Sequence[Row]) -> None:
        """Tell of the rows that are new, and of their samples."""
        for row in rows:
            round = row["round"]
            if round in self._seen:
                continue
            self._seen.add(round)
            self._tell(methodcaller("row", row))
            self._image("samples", f"samples/round-{round:04d}.png", round)

    def end(self, failed: bool) -> None:
        """Hand over what a run has left, and wait some seconds for what is still under way."""
        last = max(self._seen, default=0)
        for name in ("convergence", "coverage", "clients"):
            self._image(f"plots/{name}", f"plots/{name}.png", last)
        for pattern in FILES:
            for path in sorted(self._run_dir.glob(pattern)):
                self._tell(methodcaller("file", path))
        self._tell(methodcaller("end", failed))
        deadline = time.monotonic() + PATIENCE
        for worker in self._workers:
            worker.finish(deadline)

    def _image(self, name: str, place: str, round: int) -> None:
        path = self._run_dir / place
        if path.is_file():
            self._tell(methodcaller("image", name, path, round))

    def _tell(self, call: Call) -> None:
        if self._workers and self._session is None:
            self._session = _session(self._run_dir, self._config)
        for worker in self._workers:
            assert self._session is not None
            worker.tell((self._session, call))


def tracking(
    names: Sequence[str] | None, run_dir: Path, config: RunConfig, console: Console
) -> Trackers:
    """Return the trackers that an option asks for; by itself TensorBoard's files are written."""
    wanted = [name for name in names or ["tensorboard"] if name != NONE]

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    return Trackers(wanted, run_dir, config, say)


class _Worker:
    """One tracker's thread. It makes the tracker when there is something to tell."""

    def __init__(self, name: str, say: Callable[[str], None]) -> None:
        self._name, self._say = name, say
        self._items: queue.Queue[Item | None] = queue.Queue()
        self._failed = False
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def tell(self, item: Item) -> None:
        self._items.put(item)

    def finish(self, deadline: float) -> None:
        self._items.put(None)
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive() and not self._failed:
            self._fail(f"did not end within {PATIENCE:.0f} s, and is left behind")

    def _work(self) -> None:
        try:
            factory = tracker_named(self._name)
            tracker: Tracker | None = None
            while (item := self._items.get()) is not None:
                session, call = item
                tracker = tracker or factory(session)
                call(tracker)
        except ImportError as error:
            self._fail(f"not installed ({error}); pip install {error.name or self._name}")
        # Whatever a service does, even leaving by sys.exit, is no reason to stop a run.
        except (Exception, SystemExit) as error:
            self._fail(str(error) or type(error).__name__)

    def _fail(self, why: str) -> None:
        self._failed = True
        self._say(f"tracker {self._name}: {' '.join(why.split())[:300]}; the run goes on")


def _session(run_dir: Path, config: RunConfig) -> Session:
    """Return what trackers are told of the run, with the id that it got the first time."""
    path = run_dir / "tracking.json"
    try:
        number = str(json.loads(path.read_text(encoding="utf-8"))["id"])
    except (OSError, ValueError, KeyError, TypeError):
        number = uuid.uuid4().hex[:12]
        with suppress(UserError):  # somebody else's run, perhaps, which we may only read
            write_json(path, {"id": number})
    return Session(run_dir.resolve().name, run_dir, number, config.to_flat())
