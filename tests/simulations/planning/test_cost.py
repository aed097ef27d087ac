"""What `scorequilt cost` says of a rate: numbers that can be worked out by hand, and budgets."""

from fractions import Fraction
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.capability import MIB, rate_that_fits, training_bytes
from common.config.run import RunConfig
from common.config.sections import ModelConfig
from common.errors import UserError
from common.network.unet import layout_of
from common.submodels.compact import submodel_of_rate
from simulations import cli
from simulations.planning import cost, measure
from simulations.planning.cost import Cost, fit_rate, measure_costs, table

FULL, HALF, QUARTER = Fraction(1), Fraction(1, 2), Fraction(1, 4)
# One level, no attention.
SMALL = ModelConfig(widths=(8,), groups=2, attention=(), mid_attention=False)


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time nothing."""
    monkeypatch.setattr(cost, "_step_seconds", lambda *given: dict.fromkeys(given[2], 1.0))


@pytest.mark.usefixtures("untimed")
def test_operations_of_a_step_are_those_counted_by_hand() -> None:
    """Convolutions and linear layers, forward and twice backward."""
    config = RunConfig(model=SMALL, batch_size=3, fleet="1")
    layout = layout_of(SMALL, 1)
    for measured in measure_costs(config, (1, 8, 8), [FULL, HALF]):
        submodel = submodel_of_rate(layout, measured.rate)
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


def _parameters(width: int) -> int:
    """Count the weights and biases of SMALL where so many of its 8 channels are kept."""
    time, conv = 4 * width, width * width * 9 + width
    ends = (9 * width + width) + (2 * width + 9 * width + 1)  # conv_in; norm and conv_out
    embedding = (8 * time + time) + (time * time + time)
    block = 2 * width + conv + (time * width + width) + 2 * width + conv
    # After a concatenation: norm and first convolution over twice the channels, and a shortcut.
    joined = block + 2 * width + 9 * width * width + (2 * width * width + width)
    return ends + embedding + 3 * block + 2 * joined


@pytest.mark.usefixtures("untimed")
@pytest.mark.parametrize(("codec", "down", "up"), [("float32", 32, 32), ("int4", 8, 4)])
def test_parameters_and_bytes_are_those_counted_by_hand(codec: str, down: int, up: int) -> None:
    config = RunConfig.from_flat({"codec": codec, "batch-size": 2}).model_copy(
        update={"model": SMALL, "fleet": "1"}
    )
    costs = measure_costs(config, (1, 8, 8), [FULL, HALF])
    assert [each.parameters for each in costs] == [10289, 2777]
    assert [each.parameters for each in costs] == [_parameters(8), _parameters(4)]
    for each in costs:
        # Besides the values there are scales, one for a block of 64 or more, and the description.
        for sent, bits in ((each.bytes_down, down), (each.bytes_up, up)):
            assert 0 <= sent - bits * each.parameters / 8 < 600 + each.parameters / 8


@pytest.mark.usefixtures("untimed")
def test_everything_grows_with_the_rate() -> None:
    rates = [Fraction(k, 4) for k in (4, 3, 2, 1)]
    costs = measure_costs(RunConfig(), (1, 8, 8), rates)
    assert [each.rate for each in costs] == rates
    for key in ("parameters", "flops", "memory_bytes", "bytes_down", "bytes_up"):
        values = [getattr(each, key) for each in costs]
        assert values == sorted(set(values), reverse=True), key


def test_the_time_of_a_step_leaves_out_what_a_round_does_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = {"1 1": 5.0, "1 3": 9.0, "1/2 1": 4.0, "1/2 3": 4.5}
    monkeypatch.setattr(
        cost, "interleaved", lambda calls, *_: {name: times[name] for name in calls}
    )
    config = RunConfig(model=SMALL, batch_size=2, fleet="1")
    costs = measure_costs(config, (1, 8, 8), [FULL, HALF])
    assert [each.step_seconds for each in costs] == [2.0, 0.25]


@pytest.mark.usefixtures("untimed")
@pytest.mark.parametrize("widths", ["own", "sandwich"])
def test_a_plan_and_a_device_agree_on_what_fits(widths: str) -> None:
    config = RunConfig.from_flat({"local-widths": widths, "batch-size": 32})
    layout, shape = layout_of(config.model, 1), (1, 8, 8)
    costs = measure_costs(config, shape, [Fraction(k, 4) for k in (4, 3, 2, 1)])
    assert [c.memory_bytes for c in costs] == [
        training_bytes(config, layout, k, shape) for k in (4, 3, 2, 1)
    ]
    for each in costs:
        for memory in (each.memory_bytes - 1, each.memory_bytes):
            planned = fit_rate(costs, memory=memory)
            if planned is None:
                with pytest.raises(UserError, match="rate 1/4, the smallest, needs"):
                    rate_that_fits(config, shape, FULL, memory / MIB)
            else:
                assert rate_that_fits(config, shape, FULL, memory / MIB) == planned


def test_memory_counts_the_widths_that_are_trained_along() -> None:
    layout = layout_of(RunConfig().model, 1)
    own, sandwich = (
        training_bytes(RunConfig.from_flat({"local-widths": widths}), layout, 4, (1, 8, 8))
        for widths in ("own", "sandwich")
    )
    nested = sum(submodel_of_rate(layout, rate).size for rate in (HALF, QUARTER))
    assert sandwich - own == pytest.approx(8 * 4 * nested, abs=1)


def test_the_table_has_each_number_in_its_column() -> None:
    costs = [
        Cost(FULL, 701345, 6_161_000_000, 70 * MIB, 3 * MIB, 2 * MIB, 0.08),
        Cost(QUARTER, 45737, 387_000_000, 35 * MIB, MIB, MIB // 2, 0.02),
    ]
    head, full, quarter = table(costs).splitlines()
    assert [" ".join(line.split()) for line in (head, full, quarter)] == [
        "rate parameters GFLOP/step memory step time MiB down MiB up",
        "1 701,345 6.161 70.0 MiB 1.00 80.0 ms 1.00 3.00 2.00",
        "1/4 45,737 0.387 35.0 MiB 0.50 20.0 ms 0.25 1.00 0.50",
    ]


WORDS = ["cost", "--set", "batch-size=4", "--set", "model.widths=8,16", "--set", "model.groups=2"]


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
