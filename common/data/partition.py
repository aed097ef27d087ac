"""How a data set is dealt out to clients."""

from typing import Any

import numpy as np
from jaxtyping import Int64

from common.errors import UserError
from common.seeding import SERVER, rng_for

_Indices = Int64[np.ndarray, " _"]


def partition_indices(
    labels: Int64[np.ndarray, " N"], kind: str, num_partitions: int, alpha: float, seed: int
) -> list[_Indices]:
    """Deal N images out to clients; every image goes to exactly one.

    `iid` shuffles and cuts into equal parts. `dirichlet` splits each class by proportions drawn
    from Dir(alpha) over the clients (Yurochkin et al. 2019); a client it leaves without an image
    is given one of the largest client's, since an empty client could not take part. `classes` gives
    class c to the clients n with n = c modulo the number of clients or of classes, whichever is
    smaller: nobody else sees it.

    Returns:
        `num_partitions` arrays of at least one index each.

    Raises:
        UserError: an unknown kind, or fewer images than clients, or alpha not positive.
    """
    if kind not in PARTITIONS:
        raise UserError(f"partition: no kind {kind!r}; choose one of {', '.join(PARTITIONS)}")
    if not 1 <= num_partitions <= len(labels):
        raise UserError(
            f"fleet: {num_partitions} clients cannot share the {len(labels)} images of data;"
            f" name 1 to {len(labels)} clients in fleet"
        )
    if kind == "dirichlet" and not 0 < alpha < np.inf:
        raise UserError(f"partition-alpha: {alpha} is not a positive number")
    rng = rng_for(seed, 0, SERVER, "partition")
    order = rng.permutation(len(labels))
    if kind == "classes":
        parts = _by_class(labels, order, num_partitions)
    else:
        parts = _by_flower(labels, order, kind, num_partitions, alpha, int(rng.integers(2**31)))
    for i, part in enumerate(parts):
        if len(part) == 0:
            largest = max(range(num_partitions), key=lambda j: len(parts[j]))
            parts[i], parts[largest] = parts[largest][-1:], parts[largest][:-1]
    return parts


PARTITIONS = ("iid", "dirichlet", "classes")


def _by_class(labels: _Indices, order: _Indices, num_partitions: int) -> list[_Indices]:
    """Deal whole classes out; clients that hold the same classes share them evenly."""
    groups = min(int(labels.max()) + 1, num_partitions)
    parts: list[_Indices] = []
    for client in range(num_partitions):
        theirs = order[labels[order] % groups == client % groups]
        sharing = len(range(client % groups, num_partitions, groups))
        parts.append(theirs[client // groups :: sharing])
    return parts


def _by_flower(
    labels: _Indices, order: _Indices, kind: str, num_partitions: int, alpha: float, seed: int
) -> list[_Indices]:
    """Deal images out with flwr-datasets, in memory, so nothing is ever looked up on a hub."""
    import datasets
    from flwr_datasets.partitioner import DirichletPartitioner, IidPartitioner

    partitioner: Any = IidPartitioner(num_partitions)
    if kind == "dirichlet":
        partitioner = DirichletPartitioner(
            num_partitions,
            partition_by="label",
            alpha=float(alpha),
            min_partition_size=0,
            seed=seed,
        )
    partitioner.dataset = datasets.Dataset.from_dict({"index": order, "label": labels[order]})
    return [
        np.asarray(partitioner.load_partition(i)["index"], dtype=np.int64)
        for i in range(num_partitions)
    ]
