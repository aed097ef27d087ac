"""The functions that `import scorequilt` offers, as a user's program calls them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import scorequilt
from simulations import api
from tests.engines import ROOT, TINY, linux

QUICK = """
import scorequilt as s

config = s.config("digits", fleet="1/4x8", policy="rolling", **{"model.widths": "8,16"},
                  **{"model.groups": 2})
assert s.config({"model.widths": "8,16", "model.groups": 2}).model == config.model
assert s.config(config, rounds=3).rounds == 3
assert s.config(scaler=False).scaler is False
plan = s.coverage(config, 2)
assert plan.rounds == 2 and plan.never_covered_fraction > 0.5
costs = s.cost(config, "1 1/2")
assert [str(each.rate) for each in costs] == ["1", "1/2"]
assert costs[0].parameters > costs[1].parameters
for wrong in (lambda: s.config("nothing"), lambda: s.run(colour="red"), lambda: s.open_run("none")):
    try:
        wrong()
    except s.UserError as error:
        assert len(str(error).splitlines()) == 1
    else:
        raise AssertionError(wrong)
"""

RUNS = """
import threading
import scorequilt as s
import common
assert common.THEIRS == 1

tiny = s.config({tiny!r})
phases = []
first = s.run(tiny, progress=phases.append)
assert phases[0] == "starting" and "running" in phases
assert [row["round"] for row in first.history] == [0, 1]
assert first.sample(3, seed=1).shape == (3, 1, 8, 8)
assert (first.sample(3, seed=1) == first.sample(3, seed=1)).all()
assert len(first.plot(first).axes) == 3
assert (first.export("model") / "model_index.json").is_file()
assert s.open_run("latest").path == first.path

found = []
thread = threading.Thread(target=lambda: found.append(s.run(tiny)))
thread.start()
thread.join()
assert found[0].path.name == "tiny-2", found
assert found[0].summary["frechet_ema"] == first.summary["frechet_ema"]
assert [row["round"] for row in s.resume("tiny", rounds=2).history] == [0, 1, 2]
"""


def _python(script: str, folder: Path, *path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*path, ROOT]))}
    words = [sys.executable, "-P", "-W", "error", "-c", script]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_package_offers_what_the_app_does_and_the_page_names_it() -> None:
    assert scorequilt.__all__ == api.__all__
    page = (ROOT / "docs/api.md").read_text()
    named = set(re.findall(r"^\| `(\w+)", page, re.MULTILINE))
    assert named == {*api.__all__} - {"__version__", "Cost", "Plan", "RunConfig"}
    with pytest.raises(AttributeError, match="nothing"):
        _ = scorequilt.nothing


@pytest.mark.slow
def test_configurations_coverage_and_cost(tmp_path: Path) -> None:
    _python(QUICK, tmp_path)


@linux
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_runs_one_after_another_and_in_a_thread_beside_another_common(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs" / "common"
    theirs.mkdir(parents=True)
    (theirs / "__init__.py").write_text("THEIRS = 1\n")
    script = RUNS.replace("{tiny!r}", repr({**TINY, "rounds": 1}))
    _python(script, tmp_path, theirs.parent)
