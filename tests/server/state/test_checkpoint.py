"""Checkpoints come back whole, and those of another run or version are refused with the reason."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from common.config.run import RunConfig
from common.config.sections import EmaConfig, ModelConfig
from common.errors import UserError
from common.network.unet import initial_weights, layout_of
from server.record.history import best_round
from server.state.advance import ServerState, initial_state
from server.state.checkpoint import (
    checkpoints,
    discard_old,
    load_checkpoint,
    resumable,
    save_checkpoint,
)

CONFIG = RunConfig(
    ema=EmaConfig(half_life=(1000, 10)), model=ModelConfig(widths=(8, 16), groups=2, attention=(1,))
)
LAYOUT = layout_of(CONFIG.model, 1)


def _state(round: int) -> ServerState:
    return replace(
        initial_state(LAYOUT, initial_weights(CONFIG.model, 1, round), CONFIG), round=round
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path, _state(3), CONFIG, LAYOUT)


def test_a_state_comes_back_bit_for_bit(path: Path) -> None:
    read, written = load_checkpoint(path, CONFIG, LAYOUT), _state(3)
    assert read.round == 3
    for name in ("theta", "moments", "emas", "counts", "images"):
        ours, theirs = getattr(read, name), getattr(written, name)
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert ours.tobytes() == theirs.tobytes()


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / f"round-{name}.safetensors").touch()


@pytest.mark.parametrize(
    ("best", "kept"),
    [
        (None, ["9999", "10000"]),
        (10000, ["9999", "10000"]),
        (8, ["0008", "9999", "10000"]),
        (7, ["9999", "10000"]),  # gone before anybody knew that it was the best
    ],
)
def test_the_newest_two_and_the_best_are_kept(
    tmp_path: Path, best: int | None, kept: list[str]
) -> None:
    _touch(tmp_path, "0008", "0009", "9998", "9999", "10000", "of-somebody-else")
    discard_old(tmp_path, CONFIG, best)
    assert [path.stem for path in checkpoints(tmp_path)] == [f"round-{name}" for name in kept]
    assert (tmp_path / "round-of-somebody-else.safetensors").exists()


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([], None),
        ([None, None], None),
        ([3.0, None, 2.0, 2.0, 5.0], 2),  # of equal ones the earliest
        ([3.0, float("nan"), float("inf")], 0),
    ],
)
def test_the_best_round_is_the_one_with_the_least_distance(
    scores: list[float | None], best: int | None
) -> None:
    rows = [{"round": i, "frechet_ema": score} for i, score in enumerate(scores)]
    assert best_round(rows) == best
    assert best_round(reversed(rows)) == best


def test_where_clients_keep_something_a_run_goes_on_from_the_end_of_a_stretch(
    tmp_path: Path,
) -> None:
    config = CONFIG.model_copy(update={"codec": "int8", "rounds": 11})
    assert resumable([], config) is None
    for round in range(12):
        saved = checkpoints(tmp_path)
        if saved:
            last = resumable(saved, config)
            assert last is not None
            assert last.stem == f"round-{4 * ((round - 1) // 4):04d}"
        save_checkpoint(tmp_path, _state(round), config, LAYOUT)
        discard_old(tmp_path, config, None)
    saved = checkpoints(tmp_path)
    assert [path.stem for path in saved] == ["round-0008", "round-0010", "round-0011"]
    assert resumable(saved, config) == saved[-1], "nothing is left to train"
    assert resumable(saved, CONFIG) == saved[-1]
    with pytest.raises(UserError, match=r"codec=int8 .* multiple of 4, and there is none"):
        resumable(saved[1:], config.model_copy(update={"rounds": 12}))


def _rewrite(path: Path, **metadata: Any) -> None:
    with safe_open(path, framework="numpy") as file:
        before = file.metadata()
    save_file(load_file(path), path, before | metadata)


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"policy": "balanced"}, "policy was 'static', is 'balanced'"),
        ({"learning_rate": 0.5}, "learning-rate was 0.002, is 0.5"),
        ({"seed": 4, "clock": "linear"}, "clock was 'cosine', is 'linear'; seed was 0, is 4"),
    ],
)
def test_another_configuration_is_refused_with_what_differs(
    changes: dict[str, Any], difference: str, path: Path
) -> None:
    with pytest.raises(
        UserError, match=f"{path}: written with another configuration: {difference}"
    ):
        load_checkpoint(path, CONFIG.model_copy(update=changes), LAYOUT)


def test_what_does_not_enter_finished_rounds_may_change(path: Path) -> None:
    changes = {"rounds": 99, "name": "other", "threads": 2, "run_dir": "elsewhere"}
    assert load_checkpoint(path, CONFIG.model_copy(update=changes), LAYOUT).round == 3


def test_keys_that_another_version_had_are_named(path: Path) -> None:
    newer = {**CONFIG.to_flat(), "momentum": 0.9}
    _rewrite(path, config=json.dumps(newer))
    with pytest.raises(UserError, match=r"configuration: momentum was 0\.9, is None"):
        load_checkpoint(path, CONFIG, LAYOUT)


def test_keys_that_an_older_version_lacked_have_their_defaults(path: Path) -> None:
    older = CONFIG.to_flat()
    del older["prediction"]
    _rewrite(path, config=json.dumps(older))
    assert load_checkpoint(path, CONFIG, LAYOUT).round == 3
    with pytest.raises(UserError, match="prediction was 'eps', is 'v'"):
        load_checkpoint(path, CONFIG.model_copy(update={"prediction": "v"}), LAYOUT)


@pytest.mark.parametrize(
    ("metadata", "complaint"),
    [
        ({"format": "0"}, "checkpoint format 0, not 1"),
        ({"layout": "abc"}, "model layout abc, not "),
        ({"config": "{"}, "not a readable checkpoint"),
        ({"config": "[]"}, "not a readable checkpoint"),
        ({"round": "x"}, "not a readable checkpoint"),
    ],
)
def test_another_format_or_layout_and_damaged_metadata_are_refused(
    metadata: dict[str, str], complaint: str, path: Path
) -> None:
    _rewrite(path, **metadata)
    with pytest.raises(UserError, match=complaint):
        load_checkpoint(path, CONFIG, LAYOUT)


def test_damaged_files_are_refused(path: Path) -> None:
    whole = path.read_bytes()
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    del tensors["counts"]
    save_file(tensors, path, metadata)
    incomplete = path.read_bytes()
    for content in (b"", whole[:100], whole[:-1], b"\xff" * 64, incomplete):
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"{path}: not a readable checkpoint"):
            load_checkpoint(path, CONFIG, LAYOUT)
    save_file(tensors | {"counts": _state(3).counts, "theta": np.ones(3, "f4")}, path, metadata)
    with pytest.raises(UserError, match=r"holds float32 weights \(3,\), not 44969"):
        load_checkpoint(path, CONFIG, LAYOUT)
