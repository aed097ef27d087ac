"""TensorBoard's own reader finds in our event files what was put there."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from simulations.trackers.interface import Session
from simulations.trackers.tensorboard import TensorBoard, _checksum

# Its reader uses what newer versions of NumPy warn of.
pytestmark = pytest.mark.filterwarnings("ignore")
ROWS: list[dict[str, Any]] = [
    {
        "round": round,
        "loss": 0.5 / round if round else None,
        "frechet_by_width": {"1": 40.0 - round, "1/2": 30.0 - round},
        "uncovered_fraction": 0.25,
        "by_client": {"0": {"rate": "1", "loss": 0.75 + round, "bytes_up": 3}, "7": {"rate": "1"}},
        "failures": {"7": "no reply"},
    }
    for round in range(200, 203)
]


def _session(folder: Path) -> Session:
    return Session("mine", folder, "abc", {})


def test_scalars_and_pictures_come_back(tmp_path: Path) -> None:
    pixels = np.arange(300, dtype=np.uint8).reshape(10, 10, 3)
    Image.fromarray(pixels).save(tmp_path / "grid.png")
    tracker = TensorBoard(_session(tmp_path))
    for row in ROWS:
        tracker.row(row)
    tracker.image("samples", tmp_path / "grid.png", 202)
    tracker.file(tmp_path / "grid.png")
    tracker.end(failed=False)
    events = EventAccumulator(str(tmp_path)).Reload()
    tags = events.Tags()
    assert set(tags["scalars"]) == {
        *("quality/loss", "frechet_by_width/1", "frechet_by_width/1_2"),
        *("coverage/uncovered_fraction", "client_loss/0"),
    }
    assert [(e.step, e.value) for e in events.Scalars("client_loss/0")] == [
        (round, round + 0.75) for round in (200, 201, 202)
    ]
    assert events.Scalars("frechet_by_width/1_2")[-1].value == 30 - 202
    assert events.Scalars("quality/loss")[0].value == pytest.approx(0.0025)
    (picture,) = events.Images("samples")
    assert (picture.step, picture.width, picture.height) == (202, 10, 10)
    with Image.open(io.BytesIO(picture.encoded_image_string)) as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)


def test_a_resumed_run_s_file_takes_over_from_its_first_round(tmp_path: Path) -> None:
    first = TensorBoard(_session(tmp_path))
    for row in ROWS:
        first.row(row)
    first.end(failed=True)
    (path,) = tmp_path.iterdir()
    path.rename(tmp_path / "events.out.tfevents.1.earlier")
    again = TensorBoard(_session(tmp_path))
    again.row({**ROWS[1], "uncovered_fraction": 0.5})
    again.end(failed=False)
    events = EventAccumulator(str(tmp_path)).Reload()
    course = [(e.step, e.value) for e in events.Scalars("coverage/uncovered_fraction")]
    assert course == [(200, 0.25), (201, 0.5)]


def test_checksums_are_those_of_the_format() -> None:
    # RFC 3720, B.4: the CRC-32C of 32 zeros is 0x8A9136AA; TFRecord rotates and adds.
    crc = 0x8A9136AA
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert _checksum(bytes(32)) == masked.to_bytes(4, "little")
