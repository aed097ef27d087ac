"""The memory that is computed is near that which is measured."""

import sys
from fractions import Fraction

import pytest

from benchmarks.client import peak_bytes
from client.capability import training_bytes
from common.config.run import RunConfig
from common.network.unet import layout_of
from simulations.planning.measure import in_fresh_process

TOLERANCE = 0.25


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize("rate", ["1", "1/4"])
def test_computed_memory_is_the_measured_peak_to_within_a_quarter(rate: str) -> None:
    config, shape = RunConfig(), (1, 8, 8)  # the default job, which trains several widths at once
    layout = layout_of(config.model, 1)
    computed = training_bytes(config, layout, layout.kept_per_atom(Fraction(rate)), shape)
    measured = in_fresh_process(peak_bytes, config, shape, Fraction(rate))
    assert computed == pytest.approx(measured, rel=TOLERANCE)
