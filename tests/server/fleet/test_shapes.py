"""A device whose pictures have another shape than the run's, at the roll-call."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.config import PicturesConfig
from common.errors import UserError
from server import app
from server.record.history import read_rows
from tests.engines import tiny
from tests.local_grid import LocalGrid

pytestmark = pytest.mark.slow


@pytest.fixture
def colour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A device's pictures, which are larger than the run's and in colour."""
    monkeypatch.setenv("SCOREQUILT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "pictures").mkdir()
    values = np.random.default_rng(0).integers(0, 256, (5, 20, 30, 3), np.uint8)
    for i, each in enumerate(values):
        Image.fromarray(each).save(tmp_path / "pictures" / f"{i}.png")
    return f"folder:{tmp_path / 'pictures'}"


def _federate(tmp_path: Path, colour: str, **keys: Any) -> Path:
    config = tiny(rounds=1, fleet="1/2x2", **keys)
    grid = LocalGrid(config)
    for context in grid.contexts.values():
        if context.node_config["partition-id"] == 1:
            context.node_config["data"] = colour
    app.federate(grid, config, app.own_folder(str(tmp_path / "run")))
    return tmp_path / "run"


def test_it_is_refused_with_both_shapes(tmp_path: Path, colour: str) -> None:
    with pytest.raises(UserError, match=r"images of 3x20x30, the run's are 1x8x8 as those of digi"):
        _federate(tmp_path, colour)


@pytest.mark.parametrize(
    "keys", [{"image_shape": "1x8x8"}, {"pictures": PicturesConfig(fit="pad")}]
)
def test_it_takes_part_where_the_run_says_that_pictures_are_brought_to_it(
    keys: dict[str, Any], tmp_path: Path, colour: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "flwr"):
        run = _federate(tmp_path, colour, **keys)
    assert read_rows(run / "history.jsonl")[-1]["clients_replied"] == 2
    assert "images of 3x20x30 are brought to 1x8x8" in caplog.text
