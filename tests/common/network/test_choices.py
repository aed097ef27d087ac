"""The names that a configuration admits are the names of what can be chosen."""

from collections.abc import Collection
from typing import get_args

import pytest
from pydantic import BaseModel

from common.config.run import RunConfig
from common.config.sections import EvaluationConfig
from common.diffusion.denoising import LOSS_WEIGHTS, PREDICTIONS
from common.diffusion.process import CLOCKS, GRIDS
from common.diffusion.samplers import SAMPLERS


@pytest.mark.parametrize(
    ("section", "field", "table"),
    [
        (EvaluationConfig, "sampler", SAMPLERS),
        (EvaluationConfig, "grid", GRIDS),
        (RunConfig, "clock", CLOCKS),
        (RunConfig, "loss_weight", LOSS_WEIGHTS),
        (RunConfig, "prediction", PREDICTIONS),
    ],
)
def test_a_field_admits_what_its_table_holds(
    section: type[BaseModel], field: str, table: Collection[str]
) -> None:
    assert set(get_args(section.model_fields[field].annotation)) == set(table)
