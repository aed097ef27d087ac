import itertools
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data.builtin import DATASETS
from common.data.datasets import load_dataset, load_partition
from common.data.partition import partition_indices
from common.errors import UserError
from common.seeding import SERVER, rng_for


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SCOREQUILT_CACHE", str(tmp_path))
    return tmp_path


def test_digits_are_split_by_class_and_scaled_to_the_unit_box() -> None:
    train, test = load_dataset("digits")
    assert train.images.shape == (1437, 1, 8, 8)
    assert test.images.shape == (360, 1, 8, 8)
    assert train.images.dtype == np.float32
    assert set(np.unique(train.images)) == set((np.arange(17) / 8 - 1).astype(np.float32))
    assert np.bincount(test.labels).min() >= 34
    assert not train.flippable
    both = np.concatenate([train.images, test.images]).reshape(1797, -1)
    from sklearn.datasets import load_digits

    expected = load_digits().data / 8 - 1
    np.testing.assert_array_equal(np.sort(both.sum(1)), np.sort(expected.sum(1)))


@pytest.mark.parametrize("size", [16, 32])
def test_no_pixel_is_in_training_and_held_out_patches(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Photographs in which every pixel has a colour of its own tell where a patch was cut.
    numbers = np.arange(2 * 427 * 640, dtype=np.uint32)
    colours = np.stack([numbers >> 16, numbers >> 8 & 255, numbers & 255], -1).astype(np.uint8)

    photographs = SimpleNamespace(images=list(colours.reshape(2, 427, 640, 3)))
    monkeypatch.setattr("sklearn.datasets.load_sample_images", lambda: photographs)
    raw = DATASETS[f"patches{size}"].build()

    def pixels(images: np.ndarray) -> np.ndarray:
        red, green, blue = np.moveaxis(images.astype(np.uint32), 1, 0)
        return red << 16 | green << 8 | blue

    train, test = pixels(raw.train_images), pixels(raw.test_images)
    assert not set(train.ravel().tolist()) & set(test.ravel().tolist())
    for cut, labels in ((train, raw.train_labels), (test, raw.test_labels)):
        photograph, row, column = np.unravel_index(cut, (2, 427, 640))
        assert (np.ptp(row.reshape(len(cut), -1), 1) == size - 1).all()
        cell = photograph * 8 + (row // 213) * 4 + column // 160
        np.testing.assert_array_equal(cell, np.broadcast_to(labels[:, None, None], cell.shape))


@pytest.mark.parametrize(("name", "count"), [("patches16", 5200), ("patches32", 4048)])
def test_patches_are_colour_images_of_sixteen_places(name: str, count: int) -> None:
    train, test = load_dataset(name)
    assert train.image_shape == test.image_shape == (3, int(name[-2:]), int(name[-2:]))
    assert len(train) == count
    assert set(train.labels) == set(test.labels) == set(range(16))
    assert -1 <= train.images.min() < train.images.max() <= 1
    assert train.flippable


def test_an_unknown_data_set_is_answered_with_the_known_ones() -> None:
    with pytest.raises(
        UserError, match=r"^data: .*'emnist'.*digits, patches16, patches32, or a known law"
    ):
        load_dataset("emnist")


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(["iid", "dirichlet", "classes"]),
    clients=st.integers(1, 40),
    alpha=st.sampled_from([0.01, 0.3, 10.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_image_is_in_exactly_one_partition(
    kind: str, clients: int, alpha: float, seed: int
) -> None:
    labels = np.random.default_rng(1).integers(0, 5, 60)
    parts = partition_indices(labels, kind, clients, alpha, seed)
    assert len(parts) == clients
    assert min(map(len, parts)) >= 1
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(60))
    again = partition_indices(labels, kind, clients, alpha, seed)
    for one, other in zip(parts, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_kinds_do_what_they_say() -> None:
    labels = np.repeat(np.arange(10), 100)

    def largest_class_share(kind: str, alpha: float) -> float:
        parts = partition_indices(labels, kind, 5, alpha, 0)
        return float(np.mean([np.bincount(labels[p]).max() / len(p) for p in parts]))

    assert largest_class_share("iid", 0.0) < 0.16
    assert largest_class_share("dirichlet", 100.0) < 0.16
    assert largest_class_share("dirichlet", 0.1) > 0.3
    assert {len(p) for p in partition_indices(labels, "iid", 5, 0.0, 0)} == {200}
    one, other = (partition_indices(labels, "iid", 5, 0.0, seed)[0] for seed in (0, 1))
    assert set(one) != set(other)


def test_whole_classes_go_to_clients_that_share_them_with_nobody_or_evenly() -> None:
    labels = np.repeat(np.arange(10), 30)
    few = [set(labels[part]) for part in partition_indices(labels, "classes", 8, 1.0, 0)]
    assert few == [{0, 8}, {1, 9}, *({c} for c in range(2, 8))]
    many = partition_indices(labels, "classes", 24, 1.0, 0)
    assert [set(labels[part]) for part in many] == [{n % 10} for n in range(24)]
    assert sorted(len(many[n]) for n in (3, 13, 23)) == [10, 10, 10]


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.01, 0.09, 0.5, 1.0, 30.0])
def test_images_are_dealt_out_as_flwr_datasets_does(alpha: float) -> None:
    for seed, (images, classes, clients) in itertools.product(
        (0, 1, 2**31 - 1), ((12, 12, 12), (101, 3, 7), (1437, 10, 8), (5200, 16, 100), (9, 1, 4))
    ):
        labels = np.random.default_rng(seed).integers(0, classes, images) * 3  # with classes unseen
        for kind in ("iid", "dirichlet"):
            ours = partition_indices(labels, kind, clients, alpha, seed)
            theirs = _dealt_by_flower(labels, kind, clients, alpha, seed)
            for one, other in zip(ours, theirs, strict=True):
                assert one.tolist() == other


def _dealt_by_flower(
    labels: np.ndarray, kind: str, clients: int, alpha: float, seed: int
) -> list[list[int]]:
    """What flwr-datasets makes of the same draws; where it leaves nothing, one of the largest's."""
    import datasets
    from flwr_datasets.partitioner import DirichletPartitioner, IidPartitioner, Partitioner

    rng = rng_for(seed, 0, SERVER, "partition")
    order = rng.permutation(len(labels))
    partitioner: Partitioner = IidPartitioner(clients)
    if kind == "dirichlet":
        partitioner = DirichletPartitioner(
            clients,
            partition_by="label",
            alpha=alpha,
            min_partition_size=0,
            self_balancing=False,
            seed=int(rng.integers(2**31)),
        )
    partitioner.dataset = datasets.Dataset.from_dict({"index": order, "label": labels[order]})
    parts = [list(partitioner.load_partition(client)["index"]) for client in range(clients)]
    for part in parts:
        if not part:
            part.append(max(parts, key=len).pop())
    return parts


def test_partitions_that_cannot_be_dealt_are_refused() -> None:
    labels = np.zeros(3, dtype=np.int64)
    with pytest.raises(UserError, match=r"fleet: 4 clients .* 3 images of data"):
        partition_indices(labels, "iid", 4, 1.0, 0)
    with pytest.raises(UserError, match=r"partition: .*'shard'.*iid, dirichlet"):
        partition_indices(labels, "shard", 1, 1.0, 0)
    with pytest.raises(UserError, match="partition-alpha"):
        partition_indices(labels, "dirichlet", 1, 0.0, 0)
    with pytest.raises(UserError, match=r"partition-id 2 is not in 0\.\.1"):
        load_partition("digits", "iid", 1.0, 2, 2, 0)


def test_partitioning_opens_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert len(load_partition("digits", "dirichlet", 0.5, 4, 0, 0)) > 0


def test_clients_share_the_training_images_out() -> None:
    parts = [load_partition("digits", "dirichlet", 0.5, 4, i, 3) for i in range(4)]
    train = load_dataset("digits").train
    assert sum(map(len, parts)) == len(train)
    dealt = np.concatenate([part.images for part in parts]).reshape(len(train), -1)
    np.testing.assert_array_equal(
        np.unique(dealt, axis=0), np.unique(train.images.reshape(len(train), -1), axis=0)
    )


def test_a_client_on_a_warm_cache_imports_nothing_slow(cache: Path) -> None:
    expected = load_partition("digits", "dirichlet", 0.5, 4, 1, 0)
    code = (
        "import sys; from common.data import load_partition\n"
        "part = load_partition('digits', 'dirichlet', 0.5, 4, 1, 0)\n"
        "print(len(part), sorted({'sklearn', 'datasets', 'flwr_datasets'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "SCOREQUILT_CACHE": str(cache)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == f"{len(expected)} []"
