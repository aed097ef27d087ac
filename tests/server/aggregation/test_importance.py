"""Federations whose clients report what matters: scores, masks and bytes against plain NumPy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message

from client.batches import draw_batch
from client.training import train_locally
from common.config.run import RunConfig
from common.data.datasets import ImageData
from common.diffusion.denoising import denoising_loss, eps_denoiser
from common.diffusion.process import CLOCKS
from common.network.unet import initial_weights, layout_of, load_weights
from common.seeding import torch_generator
from common.submodels.masked import masked_submodel
from common.submodels.submodel import extract
from server.app import federate
from server.policies.choose import coverage_layout
from server.record.history import read_rows
from server.record.recorder import Recorder
from server.state.advance import ServerState
from server.state.checkpoint import checkpoints, load_checkpoint
from tests.federations import TINY
from tests.local_grid import LocalGrid

CONFIG = TINY.model_copy(update={"policy": "element-importance", "fleet": "1x1 1/2x2", "rounds": 2})
LAYOUT = coverage_layout(CONFIG.policy, layout_of(CONFIG.model, 1))
ROUNDING = 2.0**-52
"""Of an average of a few scores, each of which is rounded to 2^-54."""

BIG = [p for p in LAYOUT.parameters if len(p.shape) > 1]


@pytest.fixture(autouse=True)
def _no_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recorder, "_evaluate", lambda self, state: {})
    monkeypatch.setattr(Recorder, "summarise", lambda self, state: {})


def test_a_client_scores_by_the_squared_change_of_the_loss_without_a_weight() -> None:
    config = CONFIG.model_copy(update={"learning_rate": 1e-12, "local_steps": 2})
    theta = initial_weights(config.model, 1, 0)
    mask = np.random.default_rng(4).random(LAYOUT.size) < 0.5
    images = np.random.default_rng(0).uniform(-1, 1, (8, 1, 8, 8)).astype(np.float32)
    data, submodel = ImageData(images, np.zeros(8, int), 10, ""), masked_submodel(LAYOUT, mask)
    values, rng = extract(theta, submodel), np.random.default_rng(3)
    result = train_locally(values, submodel, data, config, 1, rng, importance=True)
    assert result.scores is not None
    rng = np.random.default_rng(3)
    generator = torch_generator(rng)
    batches = [draw_batch(data, config, rng, generator) for _ in range(config.local_steps)]

    def loss(weights: np.ndarray, step: int) -> float:
        network = load_weights(config.model, 1, torch.from_numpy(weights)).double()
        denoiser = eps_denoiser(network, CLOCKS[config.clock])
        x0, t, noise, _ = batches[step]
        with torch.no_grad():
            return float(denoising_loss(denoiser, x0.double(), t, noise.double()).mean())

    # Equation 8 by what it stands for: the change along the straight line to zero, at its start.
    masked, most = np.where(mask, theta, 0).astype(np.float64), np.argsort(-result.scores)
    for place in most[[0, 10, 100, 1000]]:
        changes = []
        for step in range(config.local_steps):
            near, far = masked.copy(), masked.copy()
            at = np.flatnonzero(mask)[place]
            near[at], far[at] = 0.99 * masked[at], 1.01 * masked[at]
            changes.append((loss(far, step) - loss(near, step)) / 0.02)
        assert result.scores[place] == pytest.approx(np.mean(np.square(changes)), rel=0.01)
    plain = train_locally(values, submodel, data, config, 1, np.random.default_rng(3))
    assert plain.scores is None
    assert plain.values.tobytes() == result.values.tobytes()


class Watched(LocalGrid):
    """Notes, for each round, the clients' masks, scores and numbers of bytes."""

    def __init__(self, config: RunConfig, **grid: Any) -> None:
        super().__init__(config, **grid)
        self.masks: list[np.ndarray] = []
        self.scores: list[np.ndarray | None] = []

    def pull_messages(self, message_ids: Any) -> Any:
        for reply in super().pull_messages(message_ids):
            if reply.metadata.message_type == "train":
                number = reply.metadata.reply_to_message_id
                task = next(m for m in self.sent if m.metadata.message_id == number)
                bits = _bytes(task, "kept")
                assert bits is not None
                self.masks.append(np.unpackbits(bits, count=LAYOUT.size).astype(bool))
                codes = _bytes(reply, "importance")
                self.scores.append(None if codes is None else codes.astype(float))
            yield reply


def _bytes(message: Message, key: str) -> np.ndarray | None:
    value = message.content.config_records["spec"].get(key)
    assert value is None or isinstance(value, bytes)
    return None if value is None else np.frombuffer(value, np.uint8)


def _run(config: RunConfig, folder: Path, **grid: Any) -> tuple[Watched, ServerState]:
    watched = Watched(config, **grid)
    federate(watched, config, folder)
    return watched, _state(config, folder)


def _state(config: RunConfig, folder: Path) -> ServerState:
    return load_checkpoint(checkpoints(folder / "checkpoints")[-1], config, LAYOUT)


def averaged(grid: Watched, clients: slice, weights: list[float]) -> np.ndarray:
    """Return the mean of the decoded scores of each coordinate, NaN where there are none."""
    total, weight = np.zeros(LAYOUT.size), np.zeros(LAYOUT.size)
    for mask, codes, w in zip(grid.masks[clients], grid.scores[clients], weights, strict=True):
        assert codes is not None
        total[mask] += w * np.where(codes == 0, 0, 2 ** ((codes - 255) / 4 - 4))
        weight += w * mask
    with np.errstate(invalid="ignore"):
        return total / weight


def test_what_is_pruned_next_is_what_the_clients_found_least_important(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"weighting": "uniform"})
    grid, state = _run(config, tmp_path)
    assert len(grid.masks) == 6
    theta = initial_weights(config.model, 1, config.seed)
    first = averaged(grid, slice(0, 3), [1, 1, 1])
    assert np.isfinite(first).all()  # the full client reports all
    for parameter in BIG:
        for ranks, masks in ((theta**2, grid.masks[1:3]), (first, grid.masks[4:6])):
            own = ranks[parameter.span]
            for mask in masks:
                kept = mask[parameter.span]
                assert kept.sum() == -(-own.size // 2)
                assert own[kept].min() >= own[~kept].max()
    assert (grid.masks[1] != grid.masks[4]).any()
    second = averaged(grid, slice(3, 6), [1, 1, 1])
    assert state.scores is not None
    np.testing.assert_allclose(state.scores, second, rtol=1e-6, atol=ROUNDING)

    quiet, _ = _run(config.model_copy(update={"policy": "element-magnitude"}), tmp_path / "other")
    assert quiet.scores == [None] * 6
    assert (quiet.masks[1] == grid.masks[1]).all()
    ours, theirs = (
        read_rows(folder / "history.jsonl")[1] for folder in (tmp_path, tmp_path / "other")
    )
    extra = sum(int(mask.sum()) for mask in grid.masks[:3])
    assert ours["bytes_up"] - theirs["bytes_up"] == extra + 3 * len("importance")


def test_a_score_stays_while_nobody_trains_its_weight_and_masks_while_nobody_moves(
    tmp_path: Path,
) -> None:
    config = CONFIG.model_copy(update={"fleet": "1/2x2", "refresh_every": 2, "rounds": 5})
    grid, state = _run(config, tmp_path)
    asked = [scores is not None for scores in grid.scores]
    assert asked == [False, False, True, True, False, False, True, True, False, False]
    for same in (slice(0, 4), slice(4, 8)):
        assert all((mask == grid.masks[same][0]).all() for mask in grid.masks[same])
    assert (grid.masks[0] != grid.masks[4]).any()
    first, second = (averaged(grid, slice(i, i + 2), [1, 1]) for i in (2, 6))
    expected = np.where(np.isnan(second), first, second)
    assert state.scores is not None
    np.testing.assert_array_equal(state.scores == -1, np.isnan(expected))
    assert (np.isnan(second) & ~np.isnan(first)).any()
    scored = ~np.isnan(expected)
    # Shares differ by an image, so averages are not exactly these.
    np.testing.assert_allclose(state.scores[scored], expected[scored], rtol=0.01, atol=ROUNDING)


def test_a_run_that_stops_and_resumes_is_the_same_to_the_bit(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"lr_schedule": "constant"})
    longer = config.model_copy(update={"rounds": 3})
    grid, expected = _run(longer, tmp_path / "whole")
    _run(config, tmp_path / "resumed")
    again, resumed = _run(longer, tmp_path / "resumed")
    assert expected.scores is not None
    assert resumed.scores is not None
    assert resumed.scores.tobytes() == expected.scores.tobytes()
    assert resumed.theta.tobytes() == expected.theta.tobytes()
    assert [m.tobytes() for m in again.masks] == [m.tobytes() for m in grid.masks[6:]]


def test_hostile_scores_are_refused_and_counted(tmp_path: Path) -> None:
    def short(partition: int, reply: Message) -> Message:
        if partition and reply.metadata.message_type == "train":
            record = reply.content.config_records["spec"]
            codes = record["importance"]
            assert isinstance(codes, bytes)
            record["importance"] = codes[:-1] if partition == 1 else "all"
        return reply

    config = CONFIG.model_copy(update={"rounds": 1})
    _, honest = _run(config.model_copy(update={"fleet": "1x1 1/2x2"}), tmp_path / "honest")
    federate(LocalGrid(config, mishap=short), config, tmp_path / "hostile")
    row = read_rows(tmp_path / "hostile" / "history.jsonl")[1]
    assert row["rejections"] == {"1": {"malformed": 1}, "2": {"malformed": 1}}
    state = _state(config, tmp_path / "hostile")
    assert state.scores is not None
    assert honest.scores is not None
    assert (state.counts == 1).all()
    assert (state.scores != honest.scores).mean() > 0.3
