"""A sweep's file stands for the runs that it should, and what is wrong in it is said first."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from common.errors import UserError
from simulations import cli
from simulations.sweep.plan import read_plan

STUDY = """
base = "digits"

[set]
rounds = 3

[grid]
seed = [1, 0]
model.widths = [[8, 16], "16,32"]

[[split]]
name = "IID"
[[split]]
name = "uneven, 0.1"
partition = "dirichlet"
partition-alpha = 0.1

[[method]]
name = "half"
fleet = "1/2x8"
rounds = 4
train.precision = "bfloat16"
"""


def _write(folder: Path, text: str) -> Path:
    path = folder / "study.toml"
    path.write_text(text)
    return path


def test_every_combination_is_a_run_with_a_readable_name(tmp_path: Path) -> None:
    plan = read_plan(_write(tmp_path, STUDY))
    assert plan.name == "study"
    assert plan.axes == ["split", "method", "model.widths", "seed"]
    assert [run.name for run in plan.runs] == [
        f"{split}_half_model.widths-{widths}_seed-{seed}"
        for seed in (0, 1)
        for split in ("IID", "uneven-0.1")
        for widths in ("8-16", "16-32")
    ]
    last = plan.runs[-1]
    assert last.labels == {
        "split": "uneven, 0.1",
        "method": "half",
        "model.widths": "16,32",
        "seed": "1",
    }
    config = last.config
    assert (config.name, config.rounds, config.seed) == (last.name, 4, 1)
    assert (config.fleet, config.model.widths) == ("1/2x8", (16, 32))
    assert (config.partition, config.partition_alpha) == ("dirichlet", 0.1)
    assert (config.train.precision, config.local_steps) == ("bfloat16", 60)
    assert plan.runs[0].config.model.widths == (8, 16)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[grid]\ncolour = [1]", "unknown key 'colour'"),
        ("[grid]\nrounds = [1]\n[[case]]\nname = 'a'\nfleeet = '1x2'", "did you mean 'fleet'?"),
        ("[grid]\nrounds = 3", r"[grid]: rounds needs a list of values, such as [3]"),
        ("[grid]\nrounds = []", "[grid]: rounds needs a list"),
        ("[grid]\nrounds = [1, 0]", "run rounds-0: rounds: input should be greater"),
        ("[grid]\nfleet = ['1x2', '1of2']", "run fleet-1of2: fleet: '1of2' is not a rate"),
        ("[grid]\nseed = [0, 1, 0]", "two runs are called seed-0"),
        ("[[case]]\nname = 'a b'\n[[case]]\nname = 'a,b'", "two runs are called a-b"),
        ("[[case]]\npolicy = 'static'", "[[case]]: every case needs a name"),
        (
            "rounds = 3\n[grid]\nseed = [0]",
            "'rounds' is not known; keys of all runs stand in [set]",
        ),
        ("[sets]\nrounds = 3", "'sets' is not known"),
        ("[set]\nrun-dir = 'x'\n[grid]\nseed = [0]", "[set]: run-dir is given by the sweep"),
        ("[set]\nrounds = 3", "nothing to sweep over"),
        ("[grid]\nseed = [0]\n[[case]]\nname = 'a'\nseed = 1", "seed: both case and seed set it"),
        ("base = 'digit'\n[grid]\nseed = [0]", "preset 'digit' does not exist"),
        ("base = 3\n[grid]\nseed = [0]", "base: 3 is not a text"),
        ("name = '../up'\n[grid]\nseed = [0]", "name ../up: a name has"),
        ("[grid]\nseed = [0", "not valid TOML"),
        # What only the data and the model can tell, and no run has started then:
        (
            "[grid]\nfleet = ['1x2', '1/3x2']",
            "run fleet-1-3x2: fleet: the 2 clients of rate 1/3: this model's",
        ),
        ("[grid]\ndata = ['digits', 'clients']\nimage-shape = ['1x8x8']", "evaluation.features"),
        ("[grid]\npolicy = ['static', 'fancy']", "policy-fancy: policy: 'fancy'"),
        ("columns = ['los']\n[grid]\nseed = [0]", "columns: 'los' is neither a column"),
        ("columns = 'loss'\n[grid]\nseed = [0]", "columns: write a list of names"),
    ],
)
def test_what_is_wrong_is_one_line_before_anything_starts(
    text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = _write(tmp_path, text)
    done = CliRunner().invoke(cli.app, ["sweep", path.name])
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["study.toml"]


def test_a_name_that_is_too_long_for_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="named cases, as in"):
        read_plan(_write(tmp_path, f"[[case]]\nname = '{'a' * 121}'"))
