"""A run in one process is the run that any engine makes of it."""

from pathlib import Path

import pytest
from flwr.app import Context, Message, MessageType

from client.app import app as client_app
from server.record.history import read_rows
from simulations.engine import inline
from simulations.engine.inline import run_inline
from tests.engines import in_process, outcome, tiny


def test_a_run_without_engine_has_the_bits_of_any_other_and_goes_on_where_it_was(
    tmp_path: Path,
) -> None:
    run_inline(tiny(rounds=1, lr_schedule="constant"), tmp_path / "inline")
    config = tiny(lr_schedule="constant")
    run_inline(config, tmp_path / "inline")
    assert outcome(tmp_path / "inline", config) == in_process(config, tmp_path / "other")
    assert (tmp_path / "inline" / "summary.json").is_file()


def test_what_a_run_fails_of_is_left_in_one_line(tmp_path: Path) -> None:
    config = tiny(rounds=1, learning_rate=1e30)
    with pytest.raises(RuntimeError, match="none of 2 clients"):
        run_inline(config, tmp_path)
    assert (tmp_path / "failure.txt").read_text().startswith("round 1: none of 2 clients")


def test_a_client_that_raises_is_one_client_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ill(message: Message, context: Context) -> Message:
        if message.metadata.message_type == MessageType.TRAIN and message.metadata.dst_node_id == 2:
            raise OSError("no images")
        return client_app(message, context)

    monkeypatch.setattr(inline, "client_app", ill)
    run_inline(tiny(rounds=1), tmp_path)
    row = read_rows(tmp_path / "history.jsonl")[-1]
    assert row["failures"] == {"1": "OSError: no images"}
    assert row["clients_replied"] == 1
