"""The names that a configuration admits are the names of what can be chosen."""

from collections.abc import Collection
from typing import get_args

import pytest
from pydantic import BaseModel

from common.config import RunConfig
from common.denoising import LOSS_WEIGHTS, PREDICTIONS
from common.process import CLOCKS, GRIDS
from common.samplers import SAMPLERS
from common.sections import EvaluationConfig


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
