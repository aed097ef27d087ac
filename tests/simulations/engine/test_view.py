"""What a terminal shows of a run: its figures under their heads, and who does what."""

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from server.record.history import Row
from simulations.engine.progress import Progress
from simulations.engine.view import MOST_CLIENTS, Status, read_status, render, seconds_left

MIB = 2**20


def _row(round: int, **changes: Any) -> Row:
    return {
        "round": round,
        "loss": 0.5 / round if round else None,
        "frechet_ema": 40.0,
        "frechet_by_width": {"1/2": 30.25, "1": 40.0},
        "uncovered_fraction": 0.25,
        "never_covered_fraction": 0.125,
        "bytes_up": 3 * MIB if round else None,
        "bytes_down": 4 * MIB if round else None,
        "clients_asked": 3 if round else None,
        "clients_replied": 2 if round else None,
        "by_client": {"0": {"rate": "1", "loss": 0.75}} if round else {},
        "failures": {"2": "refused: not finite"} if round else {},
        "seconds_train": 60.0 if round else None,
        "seconds_aggregate": 1.0 if round else None,
        "seconds_evaluate": 7.0,
        **changes,
    }


CLIENTS = {
    str(partition): {"partition": partition, "node": 10**19 + partition, "rate": rate}
    for partition, rate in enumerate(("1", "1/2", "1/2", "1/4"))
}
CLIENTS["3"] |= {"present": False, "device": "shed"}
LIVE = {
    str(10**19): {"state": "training", "since": 1000.0 - 65, "why": ""},
    str(10**19 + 1): {"state": "failed", "since": 1000.0, "why": "OSError: no space left"},
}


def _shown(status: Status, width: int = 120) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width).print(render(status))
    return [" ".join(line.split()) for line in out.getvalue().splitlines()]


def test_every_figure_and_every_client_s_state() -> None:
    rows = [_row(round) for round in range(3)]
    lines = _shown(Status("mine", "running", 5, rows, CLIENTS, LIVE, now=1000.0))
    assert lines[0].startswith("mine running")
    assert lines[0].endswith("round 2 of 5 about 3 min 03 s left")
    heads = "round loss distance 1 distance 1/2 uncovered never trained sent clients time"
    assert lines[2] == heads
    assert lines[5] == "2 0.25 40 30.25 25.0% 12.5% 7.0 MiB 2 of 3 1 min 01 s"
    assert lines[7:] == [
        "client rate state loss failed",
        "2 1/2 failed: refused: not finite 2 times",
        "1 1/2 failed: OSError: no space left",
        "0 1 training for 1 min 05 s 0.75",
        "3 shed 1/4 absent",
    ]


def test_a_run_that_has_only_begun_and_one_of_an_earlier_version() -> None:
    (line,) = _shown(Status("mine", "starting", 5, []))
    assert line.split()[:2] == ["mine", "starting"]
    assert line.endswith("round 0 of 5")
    earlier = [{"round": 0, "frechet_ema": 300.0, "loss": None}]
    assert _shown(Status("mine", "running", 5, earlier))[3] == "0 300"


def test_many_clients_are_counted_and_those_that_fail_come_first() -> None:
    clients = {str(n): {"partition": n, "node": n, "rate": "1"} for n in range(40)}
    live = {str(n): {"state": "training", "since": 0.0, "why": ""} for n in range(30)}
    rows = [_row(0), _row(1, failures={"39": "no reply"})]
    lines = _shown(Status("mine", "running", 5, rows, clients, live, 1.0))
    first = lines.index("client rate state loss failed") + 1
    assert lines[first] == "39 1 failed: no reply 1 times"
    assert len(lines) == first + MOST_CLIENTS + 1
    assert lines[-1] == "… and 24 more: 15 training, 9 waiting"


def test_the_time_left_follows_what_takes_longest() -> None:
    rows = [_row(round) for round in range(3)]
    assert seconds_left(rows, 5) == 3 * 61
    slow = [_row(round, seconds_evaluate=100.0) for round in range(3)]
    assert seconds_left(slow, 3) == 101
    assert math.isnan(seconds_left(rows[:1], 5))


def test_the_view_is_read_from_the_run_directory(tmp_path: Path) -> None:
    (tmp_path / "fleet.json").write_text(json.dumps([*CLIENTS.values(), {"refused": "x"}]))
    (tmp_path / "live.json").write_text(json.dumps({"round": 1, "clients": LIVE}))
    status = read_status(tmp_path, "running", 5, [])
    assert (status.clients, status.live) == (CLIENTS, LIVE)
    (tmp_path / "live.json").write_text('{"round": 1, "cli')
    (tmp_path / "fleet.json").unlink()
    status = read_status(tmp_path, "running", 5, [])
    assert (status.clients, status.live) == ({}, {})


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_terminal_of_any_width_shows_it_and_leaves_the_last_state(
    width: int, tmp_path: Path
) -> None:
    history, out = tmp_path / "history.jsonl", io.StringIO()
    (tmp_path / "fleet.json").write_text(json.dumps(list(CLIENTS.values())))
    history.write_text(json.dumps(_row(0)) + "\n")
    told: list[int] = []
    console = Console(file=out, width=width, force_terminal=True)
    with Progress(
        history, 3, console, on_rows=lambda rows: told.extend(row["round"] for row in rows)
    ) as progress:
        with history.open("a") as file:
            file.write(json.dumps(_row(1)) + "\n")
        progress.update("running")
    assert told == [1]
    assert "round 1 of 3" in out.getvalue().rpartition("stopping")[2] or width < 80
    assert "round 1: client 2 failed: refused: not finite" in " ".join(out.getvalue().split())
