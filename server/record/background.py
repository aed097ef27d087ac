"""Recording a round while the next one trains."""

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from server.coverage import Coverage
from server.record.recorder import Recorder
from server.record.report import RoundReport
from server.state import ServerState


class Background:
    """A context in which a recorder works on a thread of its own, one round at a time and in order.

    Everything is written as without it, only later: a round's samples, row and checkpoint come in
    this order, all before the next round's, and leaving the context waits for them. A run that is
    killed has lost the round that was being recorded besides the one in training.

    Args:
        recorder: What records a round.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="recorder")
        self._last: Future[None] | None = None

    def record(self, state: ServerState, report: RoundReport, coverage: Coverage) -> None:
        """Record a complete round as soon as the one before it is recorded, which is waited for.

        What is given must not change any more. Errors are those of the round before.
        """
        self._finish()
        self._last = self._worker.submit(self._recorder.record, state, report, coverage)

    def _finish(self) -> None:
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def __enter__(self) -> "Background":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._worker.shutdown()
        if error is None:
            self._finish()
