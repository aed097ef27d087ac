"""Flower's differential privacy: what works with submodels, and what refuses to."""

from pathlib import Path

import pytest
from flwr.app import Context, Message
from flwr.clientapp.mod import LocalDpMod, fixedclipping_mod
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping

from client.app import app
from common.config.run import RunConfig
from server import app as server_app
from server.app import federate
from server.record.history import read_rows
from server.strategy import CoverageAvg, NoUsableReplyError
from tests.local_grid import LocalGrid

TINY = RunConfig.from_flat(
    {
        "rounds": 1,
        "local-steps": 2,
        "batch-size": 8,
        "fleet": "1x1 1/2x1",
        "update-check": "clip",
        "round-retries": 0,
        "model.widths": "8,16",
        "model.groups": 2,
        "evaluation.samples": 64,
        "evaluation.evaluations": 1,
        "evaluate-every": 2,
    }
)


def _norms(run_dir: Path) -> list[float]:
    (_, row) = read_rows(run_dir / "history.jsonl")
    return [norm for norms in row["update_norms"].values() for norm in norms]


def test_the_local_mod_clips_and_noises_updates_of_any_width(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federate(LocalGrid(TINY), TINY, tmp_path / "plain")
    assert min(_norms(tmp_path / "plain")) > 0.01
    for sensitivity, name in ((0.0, "clipped"), (1e-3, "noised")):
        mod = LocalDpMod(clipping_norm=0.01, sensitivity=sensitivity, epsilon=1.0, delta=1e-5)

        def private(message: Message, context: Context, mod: LocalDpMod = mod) -> Message:
            trains = message.metadata.message_type == "train"
            return mod(message, context, app) if trains else app(message, context)

        monkeypatch.setattr("tests.local_grid.client_app", private)
        federate(LocalGrid(TINY), TINY, tmp_path / name)
    assert _norms(tmp_path / "clipped") == pytest.approx([0.01, 0.01], rel=1e-3)
    assert min(_norms(tmp_path / "noised")) > 0.1  # 5e-3 on each of thousands of coordinates


def test_the_central_mod_says_that_it_needs_flowers_wrapper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def private(message: Message, context: Context) -> Message:
        trains = message.metadata.message_type == "train"
        return fixedclipping_mod(message, context, app) if trains else app(message, context)

    monkeypatch.setattr("tests.local_grid.client_app", private)
    with pytest.raises(NoUsableReplyError, match="none of 2 clients"):
        federate(LocalGrid(TINY), TINY, tmp_path)


def test_flowers_server_side_wrapper_cannot_pass_for_working(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It compares replies with a record of the model that nobody fills: the run stops instead."""

    class Wrapped(CoverageAvg):
        def start(self, *args: object, **kwargs: object) -> object:  # type: ignore[override]
            wrapper = DifferentialPrivacyServerSideFixedClipping(self, 1.0, 1.0, 2)
            return wrapper.start(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(server_app, "CoverageAvg", Wrapped)
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        federate(LocalGrid(TINY), TINY, tmp_path)
