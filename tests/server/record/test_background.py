import threading

import numpy as np
import pytest

from server.coverage.sums import Coverage
from server.record.background import Background
from server.record.recorder import Recorder
from server.record.report import RoundReport
from server.state.advance import ServerState
from tests.layouts import chain_layout
from tests.rounds import state_of

COVERAGE = Coverage(chain_layout(), [], np.zeros((0, 3)))


class Slow(Recorder):
    """A recorder that waits for permission, and fails in one round."""

    def __init__(self, fails: int = -1) -> None:
        self.begun: list[int] = []
        self.done: list[int] = []
        self.fails = fails
        self.go = threading.Event()

    def record(self, state: ServerState, report: RoundReport, coverage: Coverage) -> None:
        self.begun.append(state.round)
        assert self.go.wait(10)
        if state.round == self.fails:
            raise OSError("the disk is full")
        self.done.append(state.round)


def _record(background: Background, round: int) -> None:
    background.record(state_of(round=round), RoundReport(), COVERAGE)


def test_a_round_goes_on_while_it_is_recorded_and_rounds_are_recorded_in_order() -> None:
    recorder = Slow()
    with Background(recorder) as background:
        _record(background, 0)  # returns although the recorder still waits
        assert recorder.done == []
        threading.Timer(0.05, recorder.go.set).start()
        for round in range(1, 4):
            _record(background, round)  # waits for the round before, and for that alone
            assert recorder.done[:round] == list(range(round))
    assert recorder.done == recorder.begun == [0, 1, 2, 3]


def _run(recorder: Slow, rounds: int, error: Exception | None = None) -> None:
    with Background(recorder) as background:
        for round in range(rounds):
            _record(background, round)
        if error is not None:
            threading.Timer(0.05, recorder.go.set).start()
            raise error


@pytest.mark.parametrize("rounds", [1, 2])
def test_what_goes_wrong_while_recording_ends_the_run(rounds: int) -> None:
    recorder = Slow(fails=0)
    recorder.go.set()
    with pytest.raises(OSError, match="disk is full"):
        _run(recorder, rounds)
    assert recorder.begun == [0]


def test_a_run_that_fails_still_has_its_last_complete_round_recorded() -> None:
    recorder = Slow()
    with pytest.raises(ValueError, match="no client"):
        _run(recorder, 1, ValueError("no client"))
    assert recorder.done == [0]
