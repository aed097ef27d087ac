from fractions import Fraction
from pathlib import Path

import pytest
from typer.testing import CliRunner

from common.config.run import RunConfig
from common.config.sections import ModelConfig
from common.errors import UserError
from common.network.unet import layout_of
from common.submodels import full_submodel
from simulations import cli
from simulations.planning import cost, measure

WORDS = ["cost", "--set", "batch-size=4", "--set", "model.widths=8,16", "--set", "model.groups=2"]


def test_operations_of_a_step_are_those_counted_by_hand() -> None:
    """One level, no attention: convolutions and linear layers, forward and twice backward."""
    model = ModelConfig(widths=(8,), groups=2, attention=(), mid_attention=False)
    config = RunConfig(model=model, batch_size=3, fleet="1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "in_fresh_process", lambda *_: 1)
        patch.setattr(
            cost, "_step_seconds", lambda _config, _shape, submodels: dict.fromkeys(submodels, 1.0)
        )
        full, half = cost.measure_costs(config, (1, 8, 8), [Fraction(1), Fraction(1, 2)])
    layout = layout_of(model, 1)
    for measured, submodel in (
        (full, full_submodel(layout)),
        (half, cost._submodel(layout, half.rate)),
    ):
        products = 0
        for parameter in layout.parameters:
            shape = submodel.shape(parameter)
            if len(shape) > 1:
                size = 1
                for n in shape:
                    size *= n
                places = 64 if len(shape) == 4 else 1
                # The first layers need no gradient of what they read.
                first = parameter.name in ("conv_in.weight", "time_embedding.linear_1.weight")
                products += size * places * (2 if first else 3)
        assert measured.flops == 2 * 3 * products
        assert measured.parameters == submodel.size
    assert half.bytes_down < full.bytes_down


@pytest.mark.slow
def test_the_command_measures_every_rate_and_fits_one() -> None:
    run = CliRunner().invoke
    done = run(cli.app, [*WORDS, "--rates", "1 1/4", "--fit-memory", "4GiB", "--fit-step", "1"])
    assert done.exit_code == 0, done.output
    head, columns, full, quarter, fitting = done.stdout.splitlines()
    assert head == "batch of 4, images 1x8x8, one thread; a multiply-add is two operations"
    assert columns.split()[:2] == ["rate", "parameters"]
    assert full.split()[0] == "1"
    assert quarter.split()[0] == "1/4"
    assert fitting == "fit-rate: 1"
    # Nothing fits into no time.
    done = run(cli.app, [*WORDS, "--rates", "1/4", "--fit-step", "0"])
    assert done.exit_code == 2
    assert "fit-rate: not even rate 1/4 is within the budget" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rates", "1/3"], "rate 1/3: this model's atoms of 4 channels allow 1/4"),
        (["--fit-memory", "lots"], "--fit-memory: 'lots' is no amount of memory"),
    ],
)
def test_what_cannot_be_measured_is_said_in_a_line(words: list[str], message: str) -> None:
    done = CliRunner().invoke(cli.app, [*WORDS, *words])
    assert done.exit_code == 2
    assert message in done.stderr


def test_where_no_peak_can_be_read_the_user_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "Path", lambda _: tmp_path / "no such file")
    with pytest.raises(UserError, match="peak memory can be measured on Linux alone"):
        measure.PeakMemory()
