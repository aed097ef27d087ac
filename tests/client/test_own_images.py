"""A node's own images come before those of the run, and its files are read if it names them."""

from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, Message, MessageType, RecordDict
from PIL import Image

from client.app import app
from common.config.run import RunConfig
from common.wire.rollcall import RollCall, UnfitError, unpack_roll_call


def test_a_node_trains_on_the_folder_it_names_whatever_the_run_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCOREQUILT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "own").mkdir()
    for i in range(3):
        picture = np.full((20, 30, 3), 80 * i, np.uint8)
        Image.fromarray(picture).save(tmp_path / "own" / f"{i}.png")
    node: dict[str, bool | float | int | str] = {
        "partition-id": 2,
        "data": f"folder:{tmp_path / 'own'}",
    }
    answer = _asked(node, RunConfig(data="digits", fleet="1x3", image_shape="1x8x8"))
    assert (answer.partition, answer.examples, answer.image_shape) == (2, 3, (1, 8, 8))
    # Nobody said that colour pictures are to become grey thumbnails.
    refused = r"images of 3x20x30, the run's are 1x8x8 as those of digits; set image-shape"
    with pytest.raises(UnfitError, match=refused):
        _asked(node, RunConfig(data="digits", fleet="1x3"))


def _asked(node_config: dict[str, bool | float | int | str], run: RunConfig) -> RollCall:
    context = Context(
        run_id=1,
        node_id=7,
        node_config=node_config,
        state=RecordDict(),
        run_config=run.to_flat(),
    )
    question = Message(RecordDict(), 7, MessageType.QUERY)
    question.metadata.__dict__["_message_id"] = "1"
    return unpack_roll_call(app(question, context).content)


def test_a_device_reads_no_file_that_only_the_run_names(tmp_path: Path) -> None:
    for kind in ("private", "own"):
        images = np.zeros((40 if kind == "private" else 30, 1, 8, 8), np.uint8)
        np.savez(tmp_path / f"{kind}.npz", images=images)
    private, own = (f"npz:{tmp_path / name}.npz" for name in ("private", "own"))
    for data in (
        private,
        *(f"{kind}:{tmp_path}" for kind in ("folder", "idx", "hfdisk")),
        "hf:a/b",
    ):
        run = RunConfig(data=data, image_shape="1x8x8", fleet="1x2")
        with pytest.raises(UnfitError, match=f"data: this node reads {data} only if its own"):
            _asked({"partition-id": 0}, run)
        # With images of its own it does not even look at the run's.
        assert _asked({"partition-id": 0, "data": own}, run).examples == 30
    run = RunConfig(data=private, image_shape="1x8x8", fleet="1x2")
    assert _asked({"partition-id": 0, "data": private}, run).examples == 40
    # A simulated node is on the machine of who runs it. A fifth is held out, two share the rest.
    assert _asked({"partition-id": 0, "num-partitions": 2}, run).examples == 16


def test_a_device_opens_no_model_that_the_run_names(tmp_path: Path) -> None:
    run = RunConfig.from_flat(
        {
            "fleet": "1x2",
            "init": f"diffusers:{tmp_path / 'none'}",
            "evaluation.features": f"torchscript:{tmp_path / 'none.pt'}",
            "run-dir": str(tmp_path / "run"),
        }
    )
    assert _asked({"partition-id": 0, "num-partitions": 2}, run).examples > 0
    assert list(tmp_path.iterdir()) == []
