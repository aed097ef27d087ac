"""The app's modules in a process that has others of their names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engines import ROOT

BESIDE = """
import sys
import scorequilt
import common
assert common.THEIRS == 1, common
from scorequilt.folders import inside
coverage, configs = inside("simulations.planning.coverage"), inside("simulations.archive.configs")
config = configs.load_config("digits", ["fleet=1/4x8", "policy=rolling"])
plan = coverage.plan_coverage(config, 2)
assert plan.never_covered_fraction > 0.5, plan
assert type(plan).__module__ == "scorequilt.app.simulations.planning.coverage"
import common.tools
assert common.tools.THEIRS == 2
tops = {name.split(".")[0] for name in sys.modules}
assert not tops & {"server", "client", "simulations"}, tops
"""


@pytest.fixture
def others(tmp_path: Path) -> Path:
    """A project of somebody else that has a package `common`."""
    package = tmp_path / "others" / "common"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("THEIRS = 1\n")
    (package / "tools.py").write_text("THEIRS = 2\n")
    return package.parent


@pytest.mark.slow
def test_a_process_with_a_package_common_of_its_own_keeps_it_and_can_use_ours(others: Path) -> None:
    path = os.pathsep.join([str(others), str(ROOT)])
    subprocess.run(
        [sys.executable, "-P", "-c", BESIDE], env={**os.environ, "PYTHONPATH": path}, check=True
    )


@pytest.mark.slow
def test_the_command_line_uses_our_folders_whatever_else_is_on_the_path(others: Path) -> None:
    path = os.pathsep.join([str(others), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-P", "-m", "scorequilt", "coverage", "--rounds", "1"],
        env={**os.environ, "PYTHONPATH": path},
        cwd=others,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "density_mean" in done.stdout


def test_importing_scorequilt_alone_loads_nothing_else() -> None:
    script = (
        "import sys; before = {*sys.modules}; import scorequilt; print(*{*sys.modules} - before)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    tops = {name.split(".")[0] for name in done.stdout.split()}
    assert "scorequilt" in tops
    assert not tops & {"common", "server", "client", "simulations", "torch", "numpy", "flwr"}
