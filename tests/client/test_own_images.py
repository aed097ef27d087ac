"""A node's own images come before those of the run."""

from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, Message, MessageType, RecordDict
from PIL import Image

from client.app import app
from common.config import RunConfig
from common.roll_call import unpack_roll_call


def test_a_node_trains_on_the_folder_it_names_whatever_the_run_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCOREQUILT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "own").mkdir()
    for i in range(3):
        picture = np.full((20, 30, 3), 80 * i, np.uint8)
        Image.fromarray(picture).save(tmp_path / "own" / f"{i}.png")
    context = Context(
        run_id=1,
        node_id=7,
        node_config={"partition-id": 2, "data": f"folder:{tmp_path / 'own'}"},
        state=RecordDict(),
        run_config=RunConfig(data="digits", fleet="1x3").to_flat(),
    )
    question = Message(RecordDict(), 7, MessageType.QUERY)
    question.metadata.__dict__["_message_id"] = "1"
    answer = unpack_roll_call(app(question, context).content)
    assert (answer.partition, answer.examples) == (2, 3)
