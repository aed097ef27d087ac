"""Clients judge the model on images of theirs, and the server holds none."""

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message

from common.config import RunConfig
from common.data import hold_out, load_dataset, load_partition
from common.errors import UserError
from common.features import untrained
from common.moments import Moments, moments_of
from common.wire import EVALUATION, HELD_OUT, TRAINING
from server.app import federate
from server.evaluation.metrics import FrechetTo
from server.record.history import read_rows
from server.state import Reference
from tests.federations import TINY, final_state, rows_of, run
from tests.local_grid import LocalGrid

JUDGED = TINY.model_copy(
    update={
        "evaluation": TINY.evaluation.model_copy(update={"by": "clients", "features": "untrained"})
    }
)


def _features(images: np.ndarray) -> np.ndarray:
    return untrained((1, 8, 8)).features(torch.from_numpy(images)).numpy()


_RUNS: list[Path] = []


@pytest.fixture
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run's directory; it is run once."""
    if not _RUNS:
        folder = tmp_path_factory.mktemp("judged")
        run(JUDGED, folder)
        _RUNS.append(folder)
    return _RUNS[0]


def test_the_reference_is_that_of_all_images_together(judged: Path) -> None:
    """To 1e-6 the distance of the pooled images, which never were in one place."""
    state = final_state(JUDGED, judged)
    parts = [hold_out(load_partition("digits", "iid", 0.5, 4, p, 0)) for p in range(4)]
    pooled = np.concatenate([part.train.images for part in parts])
    held_out = np.concatenate([part.test.images for part in parts])
    assert state.reference.given == (0, 1, 2, 3)
    assert state.reference.sets[TRAINING].count == len(pooled)
    ours = FrechetTo(state.reference.sets[TRAINING])
    direct = FrechetTo(torch.from_numpy(_features(pooled)))
    fake = torch.from_numpy(_features(np.random.default_rng(0).permuted(held_out, axis=0)))
    assert ours(fake) == pytest.approx(direct(fake), rel=1e-6)
    assert ours.of_moments(state.reference.sets[HELD_OUT]) == pytest.approx(
        direct(torch.from_numpy(_features(held_out))), rel=1e-6
    )


def test_every_round_says_who_is_served_how_well(judged: Path) -> None:
    rows = read_rows(judged / "history.jsonl")
    assert rows[0]["frechet_ema"] > 0
    assert rows[0]["held_out_by_client"] == {}
    near = rows[0]["reference_by_client"]
    assert set(near) == {"0", "1", "2", "3"}
    assert max(near.values()) < 5 * min(near.values()), "all have the same kind of images"
    for row in rows[1:]:
        found = row["held_out_by_client"]
        assert {p: list(each) for p, each in found.items()} == {
            "0": ["1", "1/2", "1/4"],
            "1": ["1/2", "1/4"],
            "2": ["1/2", "1/4"],
            "3": ["1/4"],
        }
        assert row["held_out_loss"] == pytest.approx(found["0"]["1"])
        assert 0 < row["held_out_loss"] < 2
        assert row["bytes_survey"] > 0
        assert row["survey_failures"] == {}
        assert {p: each["rate"] for p, each in row["by_client"].items()} == {
            "0": "1",
            "1": "1/2",
            "2": "1/2",
            "3": "1/4",
        }
        assert sum(each["bytes_up"] for each in row["by_client"].values()) == row["bytes_up"]
        assert sum(each["bytes_down"] for each in row["by_client"].values()) == row["bytes_down"]
    assert rows[-1]["held_out_loss"] < rows[1]["held_out_loss"]
    summary = json.loads((judged / "summary.json").read_text())
    assert set(summary["held_out"]) == {"1", "1/2", "1/4"}
    assert len(summary["held_out"]["1/4"]["by_u"]) == 8
    assert set(summary["memorisation"]) == {"0", "1", "2", "3"}
    for each in summary["memorisation"].values():
        assert each["samples"] == sorted(each["samples"])
        # Three rounds of two steps draw noise, which is far from every digit.
        assert each["samples"][0] > each["held_out"][-1] > 0


def test_any_order_gives_the_same_and_a_resumed_run_goes_on_the_same(
    judged: Path, tmp_path: Path
) -> None:
    expected = final_state(JUDGED, judged)
    shorter = JUDGED.model_copy(update={"rounds": 2, "lr_schedule": "constant"})
    steady = JUDGED.model_copy(update={"lr_schedule": "constant"})
    whole, rows = run(steady, tmp_path / "whole", order=lambda p: -p)
    run(shorter, tmp_path / "parts")
    state, again = run(steady, tmp_path / "parts")
    assert again == rows
    np.testing.assert_array_equal(state.theta, whole.theta)
    for found in (state.reference, whole.reference):
        for name, moments in expected.reference.sets.items():
            np.testing.assert_array_equal(found.sets[name].vector(), moments.vector())
    assert state.reference.given == whole.reference.given


def test_a_server_without_images_trains_and_scores_as_one_with(
    judged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`data=clients`: nothing in the server loads a data set, and the run is the same."""
    np.savez(tmp_path / "digits.npz", images=_whole_digits())
    config = RunConfig.from_flat(
        JUDGED.to_flat() | {"data": "clients", "image-shape": "1x8x8", "fleet": "1x1 1/2x1"}
    )
    grid = LocalGrid(config)
    for place, context in enumerate(grid.contexts.values()):
        context.node_config = {"partition-id": 1 - place, "data": f"npz:{tmp_path}/digits.npz"}
    monkeypatch.setattr("server.setting.load_dataset", _never)
    federate(grid, config, tmp_path / "run")
    rows = rows_of(tmp_path / "run")
    assert [row["round"] for row in rows] == [0, 1, 2, 3]
    assert all(row["frechet_ema"] > 0 for row in rows)
    assert rows[-1]["reference_images"] == 2 * 160
    assert (tmp_path / "run" / "samples" / "final.png").is_file()


def _whole_digits() -> np.ndarray:
    train = load_dataset("digits").train.select(np.arange(200))
    return ((train.images + 1) * 127.5).round().astype(np.uint8)


def _never(*_: Any) -> Any:
    raise AssertionError("the server loads a data set")


def _spoilt(content: Any, key: str, value: Any) -> None:
    content.config_records[EVALUATION][key] = value


def test_who_does_not_answer_or_answers_wrongly_is_left_out_and_named(tmp_path: Path) -> None:
    def mishap(partition: int, reply: Message) -> Message | None:
        if reply.metadata.message_type != "evaluate":
            return reply
        if partition == 1:
            return None
        if partition == 2:
            _spoilt(reply.content, "number", "0123456789abcdef")
        return reply

    state, rows = run(JUDGED, tmp_path, mishap=mishap)
    assert state.reference.given == (0, 3)
    for row in rows[1:]:
        assert set(row["held_out_by_client"]) == {"0", "3"}
        assert row["survey_failures"]["1"] == "no answer"
        assert "does not answer question" in row["survey_failures"]["2"]
    assert rows[-1]["reference_images"] == state.reference.sets[TRAINING].count


def test_a_device_gives_no_moments_of_fewer_images_than_its_owner_allows(tmp_path: Path) -> None:
    grid = LocalGrid(JUDGED)
    owner = next(c for c in grid.contexts.values() if c.node_config["partition-id"] == 0)
    owner.node_config = {**owner.node_config, "least-images": 1000}
    federate(grid, JUDGED, tmp_path)
    state = final_state(JUDGED, tmp_path)
    assert state.reference.given == (1, 2, 3)
    assert state.reference.withheld == {0: "fewer than 1000 images are held"}
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["features"]["clients"] == [1, 2, 3]


def test_features_notice_damage_with_moments_alone(judged: Path) -> None:
    summary = json.loads((judged / "summary.json").read_text())
    assert summary["features"]["passed"]
    assert set(summary["features"]["distances"]) == {
        "undamaged",
        "noisy",
        "blurred",
        "pure_noise",
    }
    assert summary["best_rate"] in {"1", "1/2", "1/4"}


def test_moments_join_in_order_whoever_comes_first() -> None:
    rng = np.random.default_rng(0)
    gifts = {
        p: {TRAINING: moments_of(rng.standard_normal((20 + p, 5)) * 10.0**p)} for p in range(6)
    }
    forwards = Reference().joined(gifts, {})
    backwards = Reference().joined(dict(reversed(gifts.items())), {})
    one, other = forwards.sets[TRAINING], backwards.sets[TRAINING]
    np.testing.assert_array_equal(one.vector(), other.vector())
    assert isinstance(one, Moments)
    assert replace(forwards, sets={}).asked(3)
    assert not forwards.asked(6)
    assert Fraction(1, 2) < 1


def test_devices_have_the_servers_features_or_are_named(tmp_path: Path) -> None:
    """A file of features is read on a device only where its owner names it."""
    from common.features import write_features

    network = untrained((1, 8, 8))
    weights = {name: value.numpy() for name, value in network.classifier.state_dict().items()}
    path, other = tmp_path / "ours.safetensors", tmp_path / "other.safetensors"
    write_features(path, weights)
    write_features(other, {name: value * 2 for name, value in weights.items()})
    evaluation = JUDGED.evaluation.model_copy(update={"features": f"weights:{path}"})
    config = JUDGED.model_copy(update={"evaluation": evaluation})
    grid = LocalGrid(config)
    for context in grid.contexts.values():
        place = context.node_config["partition-id"]
        context.node_config = {"partition-id": place}  # as on a device, not in a simulation
        if place == 0:
            context.node_config["features"] = f"weights:{path}"
        if place == 1:
            context.node_config["features"] = f"weights:{other}"
    federate(grid, config, tmp_path / "run")
    state = final_state(config, tmp_path / "run")
    assert state.reference.given == (0,)
    failures = read_rows(tmp_path / "run" / "history.jsonl")[0]["survey_failures"]
    assert "join with the file that the server uses" in failures["1"]
    assert "join with --features weights:FILE" in failures["2"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": "clients"}, "image-shape: data=clients needs the shape"),
        (
            {"data": "clients", "image-shape": "1x8x8"},
            "evaluation.features: clients that judge need a network",
        ),
        ({"evaluation.by": "clients"}, "evaluation.features: clients that judge"),
    ],
)
def test_what_does_not_go_together_is_refused_in_a_line(changes: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        RunConfig.from_flat(changes)


def test_a_device_with_too_few_images_to_hold_some_out_says_so(tmp_path: Path) -> None:
    np.savez(tmp_path / "four.npz", images=_whole_digits()[:4])
    config = RunConfig.from_flat(
        JUDGED.to_flat() | {"data": "clients", "image-shape": "1x8x8", "fleet": "1x1"}
    )
    grid = LocalGrid(config)
    for context in grid.contexts.values():
        context.node_config = {"partition-id": 0, "data": f"npz:{tmp_path}/four.npz"}
    with pytest.raises(UserError, match="no class of 5 images, so that none can be held out"):
        federate(grid, config, tmp_path / "run")
