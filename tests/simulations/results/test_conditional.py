"""A federation whose model knows classes, from the configuration to a guided picture."""

from fractions import Fraction
from pathlib import Path

import numpy as np

from common.config.run import RunConfig
from server.app import federate
from server.evaluation.build import evaluator_for
from server.record.history import read_rows
from server.record.resolved import write_config
from server.record.scores import sample_all
from server.setting import prepare
from simulations.archive.record import read_run
from simulations.results.export import export_run
from simulations.results.sample import sample_run
from tests.local_grid import LocalGrid

CONDITIONAL = RunConfig.from_flat(
    {
        "rounds": 1,
        "local-steps": 2,
        "batch-size": 8,
        "fleet": "1x1 1/2x1",
        "model.widths": "8,16",
        "model.groups": 2,
        "model.num-classes": 10,
        "model.label-dropout": 0.2,
        "evaluation.samples": 64,
        "evaluation.evaluations": 2,
        "evaluation.guidance": 1.0,
    }
)


def test_a_conditional_federation_trains_is_judged_and_samples_with_guidance(
    tmp_path: Path,
) -> None:
    config = CONDITIONAL.model_copy(update={"run_dir": str(tmp_path)})
    write_config(config, tmp_path)
    federate(LocalGrid(config), config, tmp_path)
    rows = read_rows(tmp_path / "history.jsonl")
    assert all(row["frechet_ema"] > 0 for row in rows)
    run = read_run(tmp_path)
    state, layout = run.state(), run.setting.layout
    table = next(p for p in layout.parameters if p.name == "class_embedding.weight")
    assert layout.view(state.theta, table).shape == (11, 32)
    assert np.isfinite(state.theta).all()
    unguided = config.evaluation.model_copy(update={"guidance": 0.0})
    drawn = []
    for each in (config, config.model_copy(update={"evaluation": unguided})):
        setting = prepare(each)
        evaluator = evaluator_for(each, setting.splits)
        drawn += sample_all(setting, evaluator, [(state.ema, Fraction(1))])
    assert not drawn[0].equal(drawn[1])
    pictures = set()
    for label, guidance in ((0, None), (9, None), (9, 0.0)):
        out = tmp_path / "drawn.png"
        sample_run(tmp_path, 4, class_label=label, guidance=guidance, out=out)
        pictures.add(out.read_bytes())
    assert len(pictures) == 3
    assert "class_labels" in export_run(tmp_path)
