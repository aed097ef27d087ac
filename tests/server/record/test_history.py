import json
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from server.record.history import History, columns, read_rows
from tests.federations import run, tiny_with


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "history.jsonl"


def test_rows_come_back_as_json_holds_them(path: Path) -> None:
    history = History(path)
    history.append({"round": 0, "loss": float("nan")})
    history.append({"round": 1, "loss": np.float32(0.5), "names": ("a", "b")})
    expected = [{"round": 0, "loss": None}, {"round": 1, "loss": 0.5, "names": ["a", "b"]}]
    assert history.rows() == History(path).rows() == read_rows(path) == expected
    assert [json.loads(line) for line in path.read_text().splitlines()] == expected


def test_no_history_is_an_empty_one_and_makes_no_file(path: Path) -> None:
    assert History(path).rows() == []
    assert not path.exists()


@pytest.mark.parametrize("torn", [b'{"round": 2, "lo', b'{"round": 2}', b"\0\0\0\0\n", b"\xff\n"])
def test_a_torn_last_line_is_dropped_and_the_file_mended(path: Path, torn: bytes) -> None:
    history = History(path)
    for number in range(2):
        history.append({"round": number})
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert [row["round"] for row in read_rows(path)] == [0, 1]
    assert path.read_bytes() == whole + torn, "a reader must leave a running run's file alone"
    resumed = History(path)
    assert path.read_bytes() == whole
    resumed.append({"round": 2})
    assert [row["round"] for row in read_rows(path)] == [0, 1, 2]


def test_any_prefix_of_the_file_is_a_shorter_history(path: Path) -> None:
    history = History(path)
    for number in range(3):
        history.append({"round": number, "loss": 0.25})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert len(History(path).rows()) == whole[:length].count(b"\n")


def test_a_bad_line_in_the_middle_is_reported(path: Path) -> None:
    path.parent.mkdir()
    path.write_text('{"round": 0}\nnonsense\n{"round": 2}\n')
    with pytest.raises(UserError, match=r"history\.jsonl line 2"):
        History(path)


def test_truncating_forgets_later_rounds_in_memory_and_on_disk(path: Path) -> None:
    history = History(path)
    for number in range(4):
        history.append({"round": number})
    history.truncate_after(1)
    history.append({"round": 2, "again": True})
    assert history.rows() == read_rows(path)
    assert history.rows() == [{"round": 0}, {"round": 1}, {"round": 2, "again": True}]


@pytest.mark.parametrize("row", [{}, {"round": 1.0}, {"round": True}, {"round": 3}, {"round": 2}])
def test_rows_must_go_forward(path: Path, row: dict[str, object]) -> None:
    history = History(path)
    history.append({"round": 3})
    with pytest.raises(ValueError, match="cannot follow round 3"):
        history.append(row)
    assert read_rows(path) == [{"round": 3}]


COLUMNS = [
    "round",
    "frechet",
    "frechet_ema",
    "frechet_by_width",
    "frechet_noise",
    "held_out_loss",
    "held_out_score_loss",
    "held_out_by_client",
    "reference_by_client",
    "reference_images",
    "survey_failures",
    "bytes_survey",
    "epsilon",
    "loss",
    "clients_asked",
    "clients_replied",
    "clients_failed",
    "clients_absent",
    "by_client",
    "failures",
    "rejections",
    "fleet_events",
    "rate_limits",
    "replay",
    "retries",
    "update_norms",
    "density_mean",
    "pruning_error_mean",
    "pruning_error_max",
    "mask_change",
    "bytes_up",
    "bytes_down",
    "seconds_train",
    "seconds_aggregate",
    "seconds_slowest",
    "gamma_min",
    "uncovered_fraction",
    "never_covered_fraction",
    "updates_min",
    "updates_median",
    "updates_max",
    "staleness_mean",
    "staleness_max",
    "seconds_evaluate",
]


def test_the_columns_of_a_history_are_those_that_others_rely_on() -> None:
    assert list(columns()) == COLUMNS


@pytest.mark.parametrize("every", [1, 9])
def test_every_row_has_every_column(tmp_path: Path, every: int) -> None:
    run(tiny_with(rounds=2, evaluate_every=every), tmp_path)
    for row in read_rows(tmp_path / "history.jsonl"):
        assert list(row) == COLUMNS


def test_the_documentation_lists_every_column_with_its_meaning() -> None:
    text = (Path(__file__).parents[3] / "docs" / "history.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    assert lines == [f"| `{name}` | {meaning} |" for name, meaning in columns().items()]
