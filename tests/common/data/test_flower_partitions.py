"""Flower's partitioners by name: the same images to the same clients as the library deals out."""

import sys
from pathlib import Path
from typing import Any, get_args

import datasets
import numpy as np
import pytest
from flwr_datasets import partitioner as theirs
from PIL import Image

from common.config import PicturesConfig, RunConfig
from common.config.run import Partition
from common.data.datasets import load_dataset, load_partition
from common.data.flower_partitions import FLOWER_PARTITIONS, About, parsed
from common.data.partition import PARTITIONS, partition_indices
from common.errors import UserError
from common.seeding import SERVER, rng_for
from server.preflight import preflight

CLIENTS = 4
LABELS = np.repeat(np.arange(10), 30)
SITE = np.array([f"site {i % 4}" for i in range(300)])
AGE = np.array([str(1.5 * i) for i in range(300)])
SPREAD = np.arange(20).reshape(10, 2) + 1


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCOREQUILT_CACHE", str(tmp_path / "cache"))


def _ours(kind: str, arguments: str = "", clients: int = CLIENTS) -> list[np.ndarray]:
    about = About(arguments, "site", {"site": SITE, "age": AGE})
    return partition_indices(LABELS, kind, clients, 0.5, 7, about)


def _theirs(kind: str, **arguments: Any) -> list[list[int]]:
    rng = rng_for(7, 0, SERVER, "partition")
    seed, order = int(rng.integers(2**31)), rng.permutation(300)
    made = getattr(theirs, FLOWER_PARTITIONS[kind])
    if "seed" in made.__init__.__annotations__:
        arguments["seed"] = seed
    partitioner = made(**arguments)
    table = {"index": order, "label": LABELS[order], "site": SITE[order]}
    table["age"] = AGE.astype(float)[order]
    partitioner.dataset = datasets.Dataset.from_dict(table)
    count = partitioner.num_partitions
    return [list(partitioner.load_partition(client)["index"]) for client in range(count)]


FOUR = {"num_partitions": CLIENTS}
BY_LABEL = {**FOUR, "partition_by": "label"}
SAME: dict[str, tuple[str, str, dict[str, Any]]] = {
    "flower-iid": ("flower-iid", "", FOUR),
    "flower-dirichlet": (
        "flower-dirichlet",
        "min-partition-size=2 alpha=0.8 self-balancing=true",
        {**BY_LABEL, "alpha": 0.8, "min_partition_size": 2, "self_balancing": True},
    ),
    "inner-dirichlet": (
        "inner-dirichlet",
        "partition-sizes=50,60,70,80",
        {"partition_by": "label", "alpha": 0.5, "partition_sizes": [50, 60, 70, 80]},
    ),
    "pathological": ("pathological", "", {**BY_LABEL, "num_classes_per_partition": 2}),
    "pathological, told": (
        "pathological",
        "num-classes-per-partition=3 class-assignment-mode=deterministic",
        {**BY_LABEL, "num_classes_per_partition": 3, "class_assignment_mode": "deterministic"},
    ),
    "shards": ("shards", "", {**BY_LABEL, "num_shards_per_partition": 2}),
    "shards of a size": ("shards", "shard-size=25", {**BY_LABEL, "shard_size": 25}),
    "linear": ("linear", "", FOUR),
    "square": ("square", "", FOUR),
    "exponential": ("exponential", "", FOUR),
    "sizes": ("sizes", "partition-sizes=10,20,30,40", {"partition_sizes": [10, 20, 30, 40]}),
    "continuous": (
        "continuous",
        "partition-by=age strictness=0.5",
        {**FOUR, "partition_by": "age", "strictness": 0.5},
    ),
    "natural": ("natural", "", {"partition_by": "site"}),
    "grouped-natural": (
        "grouped-natural",
        "group-size=1 sort-unique-ids=true",
        {"partition_by": "site", "group_size": 1, "sort_unique_ids": True},
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", SAME)
def test_images_go_where_the_library_deals_them(case: str, capfd: pytest.CaptureFixture) -> None:
    kind, arguments, direct = SAME[case]
    ours = _ours(kind, arguments)
    assert capfd.readouterr().err == ""
    assert [part.tolist() for part in ours] == _theirs(kind, **direct)
    dealt = np.concatenate(ours)
    assert len(np.unique(dealt)) == len(dealt)
    assert min(map(len, ours)) > 0
    again = partition_indices(
        LABELS, kind, CLIENTS, 0.5, 8, About(arguments, "site", {"site": SITE, "age": AGE})
    )
    assert [p.tolist() for p in again] != [p.tolist() for p in ours]


def test_a_distribution_is_written_in_rows() -> None:
    rows = ";".join(",".join(map(str, row)) for row in SPREAD.tolist())
    arguments = f"distribution-array={rows} num-unique-labels-per-partition=2"
    arguments += " preassigned-num-samples-per-label=1"
    labels = {**BY_LABEL, "num_partitions": 10, "num_unique_labels_per_partition": 2}
    expected = _theirs(
        "distribution",
        **labels,
        distribution_array=SPREAD.astype(float),
        preassigned_num_samples_per_label=1,
    )
    assert [part.tolist() for part in _ours("distribution", arguments, 10)] == expected


def test_all_names_are_covered_and_configurations_know_them() -> None:
    assert {kind for kind, *_ in SAME.values()} | {"distribution"} == set(FLOWER_PARTITIONS)
    assert get_args(Partition) == PARTITIONS
    # A function cannot be written down, and images are not cut between clients.
    odd = {"IdToSizeFncPartitioner", "VerticalEvenPartitioner", "VerticalSizePartitioner"}
    assert set(FLOWER_PARTITIONS.values()) == {*theirs.__all__} - odd - {"Partitioner"}


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("iid", "x=1", "partition-args: iid takes none"),
        ("linear", "x=1", "partition-args: linear takes no x; it takes none"),
        ("natural", "x=1", "natural takes no x; it takes partition-by"),
        ("shards", "num-partitions=3", "shards takes no num-partitions"),
        ("sizes", "", "sizes needs partition-sizes"),
        ("pathological", "partition-by=zone", "no column 'zone'; there are label, age, site"),
        ("pathological", "num-classes-per-partition=11", "pathological: .* 11|=11 is greater"),
        ("natural", "partition-by=age", "natural by age makes 300 clients; the fleet names 4"),
        ("sizes", "partition-sizes=1,2", "sizes by label makes 2 clients; the fleet names 4"),
        ("sizes", "partition-sizes", "partition-args: 'partition-sizes'; write key=value"),
    ],
)
def test_what_a_partitioner_cannot_do_is_one_line(kind: str, arguments: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        _ours(kind, arguments)
    assert "\n" not in str(caught.value)


def test_arguments_are_read_as_what_they_look_like() -> None:
    text = "a=1 b-c=0.5  d=true e=x f=1,2 g=1,2;3,4 h=5,"
    expected = {"a": 1, "b_c": 0.5, "d": True, "e": "x", "f": [1, 2], "g": [[1, 2], [3, 4]]}
    assert parsed(text) == {**expected, "h": [5]}
    with pytest.raises(UserError, match="partition-args"):
        RunConfig.from_flat({"partition-args": "a b=1"})
    assert RunConfig.from_flat({"partition-args": "a=1 b=2,3"}).partition_args == "a=1 b=2,3"


def test_the_library_is_needed_once_and_its_lack_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = _ours("linear")
    monkeypatch.setitem(sys.modules, "flwr_datasets", None)
    assert [part.tolist() for part in _ours("linear")] == [part.tolist() for part in first]
    with pytest.raises(UserError, match=r'linear is .*pip install "scorequilt\[flwr-datasets\]"'):
        _ours("linear", clients=5)


def test_each_client_is_one_site_and_a_run_is_refused_before_it_starts_otherwise(
    tmp_path: Path,
) -> None:
    (tmp_path / "in").mkdir()
    lines = ["file_name,site"]
    for i in range(60):
        Image.new("L", (8, 8), i).save(tmp_path / "in" / f"{i:02}.png")
        lines.append(f"{i:02}.png,{'abcdef'[i % 6]}")
    (tmp_path / "in" / "metadata.csv").write_text("\n".join(lines))
    data, reading = f"folder:{tmp_path / 'in'}", PicturesConfig(group="site")
    assert set(load_dataset(data, (1, 8, 8), reading).test.columns["site"]) == {"e"}
    parts = [
        load_partition(data, "natural", 1.0, 5, client, 0, (1, 8, 8), reading)
        for client in range(5)
    ]
    assert sorted("".join(sorted(set(part.columns["site"]))) for part in parts) == list("abcdf")
    assert {len(part) for part in parts} == {10}
    run = RunConfig(
        data=data, image_shape="1x8x8", partition="natural", pictures=reading, fleet="1x4"
    )
    with pytest.raises(UserError, match="natural by site makes 5 clients; the fleet names 4"):
        preflight(run)
    with pytest.raises(UserError, match=r"pictures\.group: natural needs the column to go by"):
        preflight(run.model_copy(update={"pictures": PicturesConfig(fit="crop")}))
