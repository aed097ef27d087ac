"""Who is at work stands in a file while it is so, and nothing else of a run depends on it."""

import json
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message, MessageType, RecordDict

from client.app import app as client_app
from server.app import federate
from server.live import LIVE, Live, WatchedGrid
from simulations.engine import inline
from simulations.engine.inline import InlineGrid, run_inline
from tests.engines import in_process, outcome, tiny


def _clients(folder: Path) -> dict[str, Any]:
    content = json.loads((folder / LIVE).read_text())
    return {node: (each["state"], each["why"]) for node, each in content["clients"].items()}


def test_states_follow_messages_and_replies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, dict[str, Any]]] = []

    def watched(message: Message, context: Context) -> Message:
        if message.metadata.message_type == MessageType.TRAIN:
            seen.append((json.loads((tmp_path / LIVE).read_text())["round"], _clients(tmp_path)))
            if message.metadata.dst_node_id == 2:
                raise OSError("no space left")
        return client_app(message, context)

    monkeypatch.setattr(inline, "client_app", watched)
    monkeypatch.setattr(Live, "end", lambda live: None)
    run_inline(tiny(), tmp_path)
    training = ("training", "")
    assert seen[0] == (1, {"1": training, "2": training})
    assert seen[2][0] == 2
    assert seen[1][1]["2"] == training
    assert _clients(tmp_path) == {"1": ("waiting", ""), "2": ("failed", "OSError: no space left")}


def test_the_file_goes_with_the_run_and_changes_nothing(tmp_path: Path) -> None:
    config = tiny(rounds=1)
    run_inline(config, tmp_path / "watched")
    assert not (tmp_path / "watched" / LIVE).exists()
    assert outcome(tmp_path / "watched", config) == in_process(config, tmp_path / "plain")
    with pytest.raises(RuntimeError):
        run_inline(tiny(rounds=1, learning_rate=1e30), tmp_path / "failed")
    assert not (tmp_path / "failed" / LIVE).exists()


def test_nobody_is_named_unless_it_may_be_told(tmp_path: Path) -> None:
    config = tiny(rounds=1)
    live = Live(tmp_path)
    federate(WatchedGrid(InlineGrid(config), live), config, tmp_path)
    assert json.loads((tmp_path / LIVE).read_text()) == {"round": 1, "clients": {}}


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    live = Live(tmp_path / "missing", told=True)
    live.write()
    live.end()
    assert not (tmp_path / "missing").exists()


def test_one_payload_at_a_time_is_alive(tmp_path: Path) -> None:
    made: list[weakref.ref[RecordDict]] = []

    def messages() -> Iterator[Message]:
        for node in (1, 2):
            assert not any(each() is not None for each in made)
            content = RecordDict()
            made.append(weakref.ref(content))
            message = Message(content, node, MessageType.TRAIN, group_id="1")
            del content
            yield message
            del message

    class Forgetful(InlineGrid):
        def push_messages(self, messages: Any) -> list[str]:
            return [str(len(made)) for _ in messages]

    grid = WatchedGrid(Forgetful(tiny()), Live(tmp_path, told=True))
    grid.send_and_receive(messages(), timeout=0.0)
    assert len(made) == 2
