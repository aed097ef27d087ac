"""Where networks are computed: what is not there is refused, and a card computes the same."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, RecordDict
from torch import nn

from client.app import app as client_app
from common.config import EvaluationConfig, RunConfig, TrainConfig
from common.errors import UserError
from common.network import computed_on, device_of, initial_weights, layout_of, submodel_denoiser
from common.submodels import full_submodel
from common.wire import UnfitError, pack_question, unpack_roll_call
from server.preflight import preflight
from tests.federations import TINY, run, tiny_with


def _cards(patch: pytest.MonkeyPatch, count: int) -> None:
    patch.setattr(torch.cuda, "is_available", lambda: count > 0)
    patch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(
    ("cards", "name", "expected"),
    [(0, "auto", "cpu"), (2, "auto", "cuda"), (2, "cpu", "cpu"), (2, "cuda", "cuda"),
     (2, "cuda:1", "cuda:1")],
)  # fmt: skip
def test_a_device_is_what_it_is_named_and_auto_the_first_card(
    cards: int, name: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _cards(monkeypatch, cards)
    assert device_of(name, "train.device") == torch.device(expected)


@pytest.mark.parametrize(
    ("cards", "name", "complaint"),
    [
        (0, "cuda", "cuda, but this machine has no CUDA card; set train.device=auto"),
        (2, "cuda:2", "cuda:2, but this machine has 2 cards, cuda:0 to cuda:1; set"),
        (2, "gpu", "'gpu' is not auto, cpu, cuda or cuda:N"),
        (2, "cpu:1", "'cpu:1' is not"),
        (2, "cuda:x", "'cuda:x' is not"),
    ],
)
def test_what_is_not_there_is_refused_by_name(
    cards: int, name: str, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _cards(monkeypatch, cards)
    with pytest.raises(UserError, match=f"^train.device: {complaint}"):
        device_of(name, "train.device")


@pytest.mark.parametrize("key", ["train.device", "evaluation.device"])
def test_a_name_that_no_machine_has_is_refused_in_the_configuration(key: str) -> None:
    with pytest.raises(UserError, match=f"^{key}: "):
        RunConfig.from_flat({key: "tpu"})


def test_the_server_refuses_its_own_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    _cards(monkeypatch, 0)
    config = tiny_with(evaluation=EvaluationConfig(samples=64, device="cuda"))
    with pytest.raises(UserError, match=r"^evaluation\.device: cuda, but"):
        preflight(config)


def _roll_call(config: RunConfig, **node: Any) -> RecordDict:
    context = Context(
        run_id=1,
        node_id=7,
        node_config={"partition-id": 0, "num-partitions": 4, **node},
        state=RecordDict(),
        run_config=config.to_flat(),
    )
    message = Message(pack_question(False), 7, "query")
    message.metadata.__dict__["_message_id"] = "1"
    return client_app(message, context).content


def test_a_client_says_at_the_roll_call_that_it_has_no_such_card(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _cards(monkeypatch, 1)
    config = tiny_with(train=TrainConfig(device="cuda:3"))
    with pytest.raises(UnfitError, match=r"^train\.device: cuda:3, but this machine has 1 card"):
        unpack_roll_call(_roll_call(config))
    with pytest.raises(UnfitError, match=r"^device: cuda:5, but this machine has 1 card"):
        unpack_roll_call(_roll_call(config, device="cuda:5"))
    # Its own configuration comes before the run's.
    assert unpack_roll_call(_roll_call(config, device="cpu")).examples > 0


def test_a_finished_run_is_used_on_what_this_machine_has(tmp_path: Path) -> None:
    from common.files import atomic_write
    from simulations.results.sample import sample_run

    run(TINY, tmp_path)
    text = (tmp_path / "config.toml").read_text()
    assert 'device = "auto"' in text
    atomic_write(
        tmp_path / "config.toml", text.replace('device = "auto"', 'device = "cuda:7"').encode()
    )
    assert "4 images" in sample_run(tmp_path, 4)


class Moved(nn.Module):
    """A network that remembers where it was put and what it was given."""

    def to(self, device: torch.device) -> "Moved":  # type: ignore[override]
        self.device = device
        return self

    def forward(self, x: torch.Tensor, timestep: torch.Tensor, **labels: torch.Tensor) -> Any:
        assert {each.device.type for each in (x, timestep, *labels.values())} == {"meta"}
        return x


def test_callers_stay_on_the_processor() -> None:
    network = Moved()
    assert computed_on(network, torch.device("cpu")) is network
    placed = computed_on(network, torch.device("meta"))
    assert network.device == torch.device("meta")
    with pytest.raises(NotImplementedError, match="meta"):  # which holds no numbers to bring back
        placed(torch.zeros(2), torch.zeros(2), class_labels=torch.zeros(2))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA card here")
def test_a_card_computes_what_the_processor_does() -> None:
    layout = layout_of(TINY.model, 1)
    theta = initial_weights(TINY.model, 1, 0)
    x, t = torch.randn(4, 1, 8, 8), torch.tensor(0.5, dtype=torch.float64)
    here, there = (
        submodel_denoiser(TINY, theta, full_submodel(layout), 1, torch.device(name))(x, t)
        for name in ("cpu", "cuda")
    )
    assert there.device.type == "cpu"
    np.testing.assert_allclose(here.detach(), there.detach(), atol=1e-4)
