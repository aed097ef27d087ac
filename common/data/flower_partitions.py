"""The partitioners of flwr-datasets, by name and with their own arguments.

They deal out rows of a table: the images' classes (`label`), and what columns the data set has.
What they made once is kept in the cache, so that a client need not import the library.
"""

import hashlib
import inspect
import io
import logging
import warnings
from collections.abc import Mapping
from contextlib import redirect_stderr
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from common.cache import cached_arrays
from common.data.hub_set import quiet
from common.errors import UserError

FLOWER_PARTITIONS: Mapping[str, str] = {
    "flower-iid": "IidPartitioner",
    "flower-dirichlet": "DirichletPartitioner",
    "inner-dirichlet": "InnerDirichletPartitioner",
    "pathological": "PathologicalPartitioner",
    "shards": "ShardPartitioner",
    "linear": "LinearPartitioner",
    "square": "SquarePartitioner",
    "exponential": "ExponentialPartitioner",
    "sizes": "SizePartitioner",
    "distribution": "DistributionPartitioner",
    "continuous": "ContinuousPartitioner",
    "natural": "NaturalIdPartitioner",
    "grouped-natural": "GroupedNaturalIdPartitioner",
}
"""Names in a configuration, and the classes that they are."""

NATURAL = ("natural", "grouped-natural")
PARTITION_FORMAT = 1
"""Part of the cache keys: raised when what is dealt out below changes."""


class About(NamedTuple):
    """What partitioners are told besides the classes.

    Attributes:
        arguments: ``key=value …`` of the partitioner; lists with commas, rows with semicolons.
        group: The column that `natural` goes by if the arguments name none.
        columns: (N,) texts by name.
    """

    arguments: str = ""
    group: str = ""
    columns: Mapping[str, np.ndarray] = MappingProxyType({})


NOTHING = About()

log = logging.getLogger("flwr")


def parsed(arguments: str) -> dict[str, Any]:
    """Return arguments as Python has them.

    Raises:
        UserError: One of them is no ``key=value``.
    """
    found = {}
    for word in arguments.split():
        key, equals, value = word.partition("=")
        if not equals or not key or not value:
            raise UserError(f"partition-args: {word!r}; write key=value, apart by spaces")
        rows = [
            [_value(each) for each in row.split(",") if each] for row in value.split(";") if row
        ]
        several = rows[0] if len(rows) == 1 else rows
        single = len(rows) == 1 and "," not in value and ";" not in value
        found[key.replace("-", "_")] = rows[0][0] if single else several
    return found


def flower_indices(
    labels: Int64[np.ndarray, " N"],
    kind: str,
    num_partitions: int,
    alpha: float,
    rng: np.random.Generator,
    about: About,
) -> list[Int64[np.ndarray, " _"]]:
    """Deal images out as one of Flower's partitioners does; they come to it in a random order.

    Args:
        labels: Classes.
        kind: One of `FLOWER_PARTITIONS`.
        num_partitions: How many clients there are.
        alpha: For partitioners with an `alpha`, unless the arguments say another.
        rng: Of the order and the partitioner's seed.
        about: What else there is to go by.

    Returns:
        `num_partitions` arrays, some perhaps empty.

    Raises:
        UserError: flwr-datasets is not installed, the arguments are not this partitioner's, there
            is no such column, or it deals out to another number of clients.
    """
    arguments = {"seed": int(rng.integers(2**31)), "alpha": alpha, **parsed(about.arguments)}
    column = str(arguments.get("partition_by", about.group if kind in NATURAL else "label"))
    if not column:
        raise UserError(
            f"pictures.group: {kind} needs the column to go by; or partition-args, as "
            "partition-by=COLUMN"
        )
    if column != "label" and column not in about.columns:
        there = ", ".join(["label", *sorted(about.columns)])
        raise UserError(f"partition-args: there is no column {column!r}; there are {there}")
    values = labels if column == "label" else _numbers(about.columns[column])
    order = rng.permutation(len(labels))
    table = {"index": order, "label": labels[order], column: values[order]}
    digest = hashlib.sha256(
        b"".join(np.ascontiguousarray(each).tobytes() for each in table.values())
    )
    key = {
        "table": digest.hexdigest(),
        "arguments": sorted((name, repr(value)) for name, value in arguments.items()),
        "kind": kind,
        "column": column,
        "clients": num_partitions,
        "format": PARTITION_FORMAT,
    }
    arguments |= {"num_partitions": num_partitions, "partition_by": column}
    held = cached_arrays("partition", key, lambda: _dealt(kind, table, arguments, about))
    if len(held["sizes"]) != num_partitions:
        raise UserError(
            f"partition: {kind} by {column} makes {len(held['sizes'])} clients; the fleet names "
            f"{num_partitions}"
        )
    if left := len(labels) - len(held["indices"]):
        log.info("partition: %s deals out %d images fewer than there are", kind, left)
    return np.split(held["indices"], np.cumsum(held["sizes"])[:-1])


def _dealt(
    kind: str, table: Mapping[str, np.ndarray], arguments: Mapping[str, Any], about: About
) -> dict[str, np.ndarray]:
    try:
        import datasets
        from flwr_datasets import partitioner as theirs
    except ImportError:
        raise UserError(
            f'partition: {kind} is one of flwr-datasets\'; pip install "scorequilt[flwr-datasets]"'
        ) from None
    made = getattr(theirs, FLOWER_PARTITIONS[kind])
    takes = inspect.signature(made).parameters
    free = [name for name in takes if name != "num_partitions"]  # that says the fleet
    odd = sorted(parsed(about.arguments).keys() - {*free})
    if odd:
        names = ", ".join(name.replace("_", "-") for name in free) or "none"
        raise UserError(
            f"partition-args: {kind} takes no {odd[0].replace('_', '-')}; it takes {names}"
        )
    usual = _usual(kind, len(table["index"]), arguments)
    given = {k: v for k, v in {**usual, **arguments}.items() if k in takes}
    missing = [k for k, each in takes.items() if each.default is each.empty and k not in given]
    if missing:
        names = ", ".join(name.replace("_", "-") for name in missing)
        raise UserError(f"partition-args: {kind} needs {names}")
    if "distribution_array" in given:
        given["distribution_array"] = np.array(given["distribution_array"], dtype=np.float64)
    try:
        # Its bars and warnings go to nobody in particular; what matters is raised.
        with quiet(datasets), redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            partitioner = made(**given)
            partitioner.dataset = datasets.Dataset.from_dict(dict(table))
            count = partitioner.num_partitions
            parts = [
                np.array(partitioner.load_partition(client)["index"], dtype=np.int64)
                for client in range(count)
            ]
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise UserError(f"partition-args: {kind}: {' '.join(str(error).split())}") from None
    return {
        "indices": np.concatenate(parts),
        "sizes": np.array([len(part) for part in parts], dtype=np.int64),
    }


def _usual(kind: str, images: int, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return what partitioners ask for and most want alike."""
    clients = int(arguments["num_partitions"])
    if kind == "shards" and "shard_size" not in arguments:
        return {"num_shards_per_partition": 2}
    if kind == "pathological":
        return {"num_classes_per_partition": 2}
    if kind == "inner-dirichlet":
        return {
            "partition_sizes": [len(part) for part in np.array_split(np.arange(images), clients)]
        }
    return {}


def _numbers(values: np.ndarray) -> np.ndarray:
    """Return texts as numbers if they all are, for partitioners that go by size."""
    try:
        return values.astype(np.float64)
    except ValueError:
        return values


def _value(text: str) -> Any:
    for of in (int, float):
        try:
            return of(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)
