"""Whole federations in this process: the real ServerApp and ClientApp code, without an engine."""

import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from common.config.sections import EmaConfig
from common.errors import UserError
from common.network.unet import initial_weights, layout_of
from common.wire.messages import SPEC, WEIGHTS
from server.app import federate
from server.record.history import read_rows
from server.record.recorder import Recorder
from server.setting import prepare
from server.state.advance import initial_state
from server.strategy import NoUsableReplyError
from tests.federations import TINY, run, tiny_with
from tests.local_grid import LocalGrid, Mishap


def _losing(*partitions: int) -> Mishap:
    return lambda partition, reply: None if partition in partitions else reply


def test_a_run_leaves_the_run_directory_it_promises(tmp_path: Path) -> None:
    grid = LocalGrid(TINY)
    federate(grid, TINY, tmp_path)
    rows = read_rows(tmp_path / "history.jsonl")
    assert [row["round"] for row in rows] == [0, 1, 2, 3]
    promised = [
        "round",
        "loss",
        "frechet",
        "frechet_ema",
        "clients_asked",
        "clients_replied",
        "clients_failed",
        "density_mean",
        "pruning_error_mean",
        "pruning_error_max",
        "gamma_min",
        "uncovered_fraction",
        "never_covered_fraction",
        "bytes_up",
        "bytes_down",
        "seconds_train",
        "seconds_aggregate",
        "seconds_evaluate",
    ]
    assert set(promised) <= set(rows[-1])
    assert rows[0]["loss"] is None
    assert rows[1]["clients_replied"] == 4
    assert rows[1]["gamma_min"] == 1  # the full client covers everything
    assert all(row["frechet_ema"] > 0 for row in rows)
    assert [p.name for p in sorted((tmp_path / "samples").glob("round*"))] == [
        f"round-{i:04d}.png" for i in range(4)
    ]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert set(summary["widths"]) == {"1", "1/2", "1/4"}
    assert len(summary["held_out_loss_by_u"]) == 8
    assert set(summary["report"]["by_class"]) == {str(k) for k in range(10)}
    best = min(summary["widths"], key=lambda rate: summary["widths"][rate]["frechet_ema"])
    assert summary["best_rate"] == best


def test_every_task_carries_one_array_of_its_submodels_size_and_bytes_are_counted(
    tmp_path: Path,
) -> None:
    grid = LocalGrid(TINY)
    federate(grid, TINY, tmp_path)
    tasks = [m for m in grid.sent if m.metadata.message_type == "train"]
    assert len(tasks) == 3 * 4
    arrays = [list(t.content.array_records[WEIGHTS].values()) for t in tasks]
    assert all(len(each) == 1 for each in arrays)
    layout = layout_of(TINY.model, 1)
    kept = [each[0].shape[0] for each in arrays[:4]]
    assert kept[0] == layout.size
    assert kept[1] == kept[2] < layout.size / 3
    row = read_rows(tmp_path / "history.jsonl")[1]
    payload = sum(len(each[0].data) for each in arrays[:4])
    assert payload <= row["bytes_down"] <= payload + 4 * 1200
    assert payload <= row["bytes_up"] <= payload + 4 * 400
    assert row["density_mean"] == pytest.approx(np.mean(kept) / layout.size)
    norms = [
        float(np.square(each[0].numpy().view(np.float32), dtype=np.float64).sum())
        for each in arrays[:4]
    ]
    dropped = [1 - norm / norms[0] for norm in norms]
    assert row["pruning_error_mean"] == pytest.approx(np.mean(dropped), abs=1e-5)
    assert row["pruning_error_max"] == pytest.approx(max(dropped), abs=1e-5)
    assert 0.5 < row["pruning_error_max"] < 1


@pytest.mark.parametrize(("codec", "down", "up"), [("int8", 1.03, 1.03), ("int4", 1.03, 0.53)])
def test_integers_travel_both_ways_in_about_their_bytes(
    tmp_path: Path, codec: Any, down: float, up: float
) -> None:
    """And the model learns about what it learns in float32."""
    model = TINY.model.model_copy(update={"widths": (16, 32)})
    config = tiny_with(fleet="1x2", policy="full", rounds=3, model=model, evaluate_every=9)
    exact, exact_rows = run(config, tmp_path / "float32")
    state, rows = run(config.model_copy(update={"codec": codec}), tmp_path / codec)
    values = 2 * state.theta.size
    assert 0.5 * values < rows[1]["bytes_down"] < down * values
    assert 0.5 * values < rows[1]["bytes_up"] < up * values
    moved = np.linalg.norm(exact.theta - initial_weights(model, 1, config.seed))
    assert 0 < np.linalg.norm(state.theta - exact.theta) < moved / 2
    assert rows[3]["loss"] == pytest.approx(exact_rows[3]["loss"], rel=0.02)


@pytest.mark.parametrize(
    ("order", "changes"),
    [
        (lambda p: -p, {}),
        (lambda p: (p * 3) % 4, {}),
        (lambda p: -p, {"codec": "int4", "policy": "static"}),
    ],
)
def test_any_order_of_arrival_gives_the_same_bits(
    tmp_path: Path, order: Callable[[int], int], changes: dict[str, Any]
) -> None:
    config = tiny_with(**changes)
    first, rows = run(config, tmp_path / "a")
    second, other_rows = run(config, tmp_path / "b", order=order)
    assert first.theta.tobytes() == second.theta.tobytes()
    assert first.emas.tobytes() == second.emas.tobytes()
    assert json.dumps(rows) == json.dumps(other_rows)


def test_another_seed_gives_another_model(tmp_path: Path) -> None:
    first, _ = run(TINY, tmp_path / "a")
    second, _ = run(tiny_with(seed=1), tmp_path / "b")
    assert first.theta.tobytes() != second.theta.tobytes()


def test_several_averages_are_all_scored_at_the_end_and_the_best_is_named(tmp_path: Path) -> None:
    config = tiny_with(rounds=2, ema=EmaConfig(half_life=(100_000, 0)))
    state, rows = run(config, tmp_path)
    assert state.emas.shape[0] == 2
    summary = json.loads((tmp_path / "summary.json").read_text())
    scores = summary["widths"]["1"]["frechet_by_half_life"]
    assert rows[-1]["frechet_ema"] == pytest.approx(scores["100000"], rel=1e-9)
    assert rows[-1]["frechet"] == pytest.approx(scores["0"], rel=1e-4)
    for width in summary["widths"].values():
        by_name = width["frechet_by_half_life"]
        assert width["frechet_ema"] == min(by_name.values()) == by_name[width["half_life"]]
    best = summary["widths"][summary["best_rate"]]
    assert summary["best_half_life"] == best["half_life"]
    assert summary["frechet_ema"] == best["frechet_ema"] == summary["report"]["frechet"]


def test_clients_of_the_policy_magnitude_move_by_the_weights_at_the_start_of_a_stretch(
    tmp_path: Path,
) -> None:
    config = tiny_with(fleet="1/2x2", policy="magnitude", refresh_every=2, rounds=4)
    grid = LocalGrid(config)
    federate(grid, config, tmp_path)
    tasks = [m for m in grid.sent if m.metadata.message_type == "train"]
    kept = [task.content.config_records[SPEC]["kept"] for task in tasks]
    assert kept[0] == kept[1] == kept[2] == kept[3] != kept[4]
    assert kept[4] == kept[5] == kept[6] == kept[7]


def test_a_lost_client_is_counted_and_its_coordinates_keep_their_values(tmp_path: Path) -> None:
    config = tiny_with(fleet="1x1 1/2x1", policy="static", rounds=1)
    whole, _ = run(config, tmp_path / "whole")
    state, rows = run(config, tmp_path / "lost", mishap=_losing_training(0))
    assert rows[1]["clients_failed"] == 1
    assert rows[1]["failures"] == {"0": "no reply"}
    assert rows[1]["gamma_min"] == 0
    assert rows[1]["uncovered_fraction"] == pytest.approx(0.746, abs=0.01)
    layout = layout_of(config.model, 1)
    before = initial_weights(config.model, 1, config.seed)
    for (parameter, counts), _ in zip(
        layout.coverage_views(state.counts), range(999), strict=False
    ):
        same = layout.view(state.theta, parameter) == layout.view(before, parameter)
        uncovered = np.broadcast_to(counts == 0, parameter.shape)
        assert same[uncovered].all()
        assert same[~uncovered].mean() < 0.05
    assert whole.counts.min() == 1


def _losing_training(*partitions: int) -> Mishap:
    lose = _losing(*partitions)
    return lambda p, reply: lose(p, reply) if reply.metadata.message_type == "train" else reply


def test_a_round_without_any_usable_reply_stops_the_run_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(NoUsableReplyError, match=r"round 1: none of 4 clients .* no reply"):
        federate(LocalGrid(TINY, mishap=_losing_training(0, 1, 2, 3)), TINY, tmp_path)


def test_a_reply_that_went_bad_is_refused_and_named(tmp_path: Path) -> None:
    from flwr.app import Array, ArrayRecord

    def poison(partition: int, reply: Message) -> Message:
        if partition == 1 and reply.metadata.message_type == "train":
            size = reply.content.array_records[WEIGHTS]["values"].shape[0]
            poisoned = np.full(size, np.nan, np.float32)
            reply.content[WEIGHTS] = ArrayRecord({"values": Array(poisoned)})
        return reply

    state, rows = run(TINY, tmp_path, mishap=poison)
    assert np.isfinite(state.theta).all()
    assert rows[1]["failures"].keys() == {"1"}
    assert "not finite" in rows[1]["failures"]["1"]


def test_the_cost_of_evaluation_is_said_before_the_first_round(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_with(rounds=3, evaluate_every=2)
    layout = layout_of(config.model, 1)
    state = initial_state(layout, np.zeros(layout.size, np.float32), TINY)
    recorder = Recorder(prepare(config), tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorder, "_seconds_per_batch", lambda *given: 64.0 * float(given[-1]))
        patch.setattr("server.record.recorder.cores", lambda: 1)
        assert recorder.cost(state) == (
            "evaluation: 2 networks x 2 evaluations x 64 samples at 1e+03 ms, about 2.6e+02 s; "
            "3 times in this run, about 7.7e+02 s"  # rounds 0, 2 and the last
        )
        assert "; 1 times" in recorder.cost(replace(state, round=2))
        every = config.evaluation.model_copy(update={"widths": "all"})
        (tmp_path / "all").mkdir()
        wider = Recorder(prepare(config.model_copy(update={"evaluation": every})), tmp_path / "all")
        assert wider.cost(state).startswith("evaluation: 4 networks x 2 evaluations x 64 samples ")
    assert recorder._seconds_per_batch(state, recorder.evaluator(state), Fraction(1)) > 0
    with caplog.at_level("INFO", logger="flwr"), pytest.raises(NoUsableReplyError):
        federate(LocalGrid(config, mishap=_losing_training(0, 1, 2, 3)), config, tmp_path)
    messages = [record.getMessage() for record in caplog.records]
    said = [i for i, message in enumerate(messages) if message.startswith("evaluation: 2 net")]
    started = [i for i, message in enumerate(messages) if "[ROUND 1" in message]
    assert said
    assert said[0] < started[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fleet": "1x1 1/8x3"}, "fleet: the 3 clients of rate 1/8: .* allow 1/4, 1/2, 3/4, 1$"),
        ({"fleet": "1/3x1 1x1"}, "rate 1/3: this model's atoms of 4 channels allow 1/4, 1/2"),
        ({"data": "cats"}, "data: no data set 'cats'"),
        ({"policy": "fancy"}, "policy: 'fancy' is not one of"),
        ({"participants": "full", "fleet": "1/2x2"}, "participants: 'full' .* no client of rate 1"),
        ({"fleet": "1/4x1500"}, "1500 clients cannot share the 1437 images"),
    ],
)
def test_what_cannot_run_is_refused_before_any_training(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    config = tiny_with(**changes)
    grid = LocalGrid(config)
    with pytest.raises(UserError, match=message):
        federate(grid, config, tmp_path)
    assert not [m for m in grid.sent if m.metadata.message_type == "train"]


def test_full_submodels_equal_training_one_client_at_a_time(tmp_path: Path) -> None:
    """One client with the full model: the federation is plain local training, round after round."""
    from client.training import train_locally
    from common.data.datasets import load_partition
    from common.seeding import rng_for
    from common.submodels import full_submodel

    config = tiny_with(fleet="1x1", rounds=2)
    state, _ = run(config, tmp_path)
    layout = layout_of(config.model, 1)
    data = load_partition("digits", "iid", 0.5, 1, 0, 0)
    theta = initial_weights(config.model, 1, config.seed)
    for round in (1, 2):
        rng = rng_for(config.seed, round, 0, "training")
        theta = train_locally(theta, full_submodel(layout), data, config, round, rng).values
    np.testing.assert_allclose(state.theta, theta, rtol=0, atol=2**-40)
