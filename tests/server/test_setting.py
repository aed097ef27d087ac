"""What a configuration stands for is prepared once and passed on."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from common.config import PicturesConfig
from common.data.datasets import load_dataset
from common.data.images import Splits
from common.errors import UserError
from common.network.denoiser import submodel_denoiser
from common.network.unet import initial_weights
from server import setting as module
from server.app import federate
from server.policies.choose import submodel_for
from server.policies.request import Request
from server.record.recorder import Recorder
from server.setting import prepare
from tests.federations import TINY, tiny_with
from tests.local_grid import LocalGrid


def test_a_server_loads_its_data_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    def load(name: str, shape: tuple[int, int, int] | None, reading: PicturesConfig) -> Splits:
        loaded.append(name)
        return load_dataset(name, shape, reading)

    monkeypatch.setattr(module, "load_dataset", load)
    monkeypatch.setattr(Recorder, "_evaluate", lambda self, state: {})
    monkeypatch.setattr(Recorder, "summarise", lambda self, state, ask: {})
    federate(LocalGrid(tiny_with(rounds=1)), tiny_with(rounds=1), tmp_path)
    assert loaded == ["digits"]


def test_nothing_else_in_the_server_or_the_command_line_loads_data() -> None:
    root = Path(module.__file__).parents[1]
    loaders = [
        path.relative_to(root).as_posix()
        for folder in ("server", "simulations")
        for path in (root / folder).rglob("*.py")
        if "load_dataset" in path.read_text()
    ]
    assert loaders == ["server/setting.py"]


@pytest.mark.parametrize("rate", [Fraction(1), Fraction(1, 4)])
def test_a_width_is_what_a_static_client_of_its_rate_holds(rate: Fraction) -> None:
    setting = prepare(TINY)
    theta, unused = initial_weights(TINY.model, 1, 0), np.random.default_rng(0)
    k = setting.layout.kept_per_atom(rate)
    static = submodel_for(
        "static", Request(layout=setting.layout, k=k, index=0, count=1, stretch=1, rng=unused)
    )
    expected = submodel_denoiser(TINY, theta, static, 1)
    x, t = torch.ones(3, 1, 8, 8), torch.tensor(0.5, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(setting.denoiser(theta, rate)(x, t), expected(x, t))
    with pytest.raises(UserError, match=r"rate 1/3: this model's atoms of 4 channels allow"):
        setting.denoiser(theta, Fraction(1, 3))


def test_single_weights_are_counted_one_by_one() -> None:
    assert not prepare(TINY).layout.by_coordinate
    assert prepare(tiny_with(policy="element-random")).layout.by_coordinate
