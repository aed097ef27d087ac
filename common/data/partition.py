"""How a data set is dealt out to clients."""

import numpy as np
from jaxtyping import Int64

from common.data.flower_partitions import FLOWER_PARTITIONS, NOTHING, About, flower_indices
from common.errors import UserError
from common.seeding import SERVER, rng_for

_Indices = Int64[np.ndarray, " _"]


def partition_indices(
    labels: Int64[np.ndarray, " N"],
    kind: str,
    num_partitions: int,
    alpha: float,
    seed: int,
    about: About = NOTHING,
) -> list[_Indices]:
    """Deal N images out to clients; every image goes to one at most, and to one of the first three.

    `iid` shuffles and cuts into equal parts. `dirichlet` splits each class by proportions drawn
    from Dir(alpha) over the clients (Yurochkin et al. 2019); a client it leaves without an image
    is given one of the largest client's, since an empty client could not take part. `classes` gives
    class c to the clients n with n = c modulo the number of clients or of classes, whichever is
    smaller: nobody else sees it. All others are flwr-datasets' (`common.data.flower_partitions`),
    which go by what is said of the images `about` them as well.

    Returns:
        `num_partitions` arrays of at least one index each.

    Raises:
        UserError: an unknown kind, or fewer images than clients, or alpha not positive, or as
            `flower_indices`.
    """
    if kind not in PARTITIONS:
        raise UserError(f"partition: no kind {kind!r}; choose one of {', '.join(PARTITIONS)}")
    if not 1 <= num_partitions <= len(labels):
        raise UserError(
            f"fleet: {num_partitions} clients cannot share the {len(labels)} images of data;"
            f" name 1 to {len(labels)} clients in fleet"
        )
    if "dirichlet" in kind and not 0 < alpha < np.inf:
        raise UserError(f"partition-alpha: {alpha} is not a positive number")
    if about.arguments and kind not in FLOWER_PARTITIONS:
        raise UserError(f"partition-args: {kind} takes none; those of flwr-datasets do")
    rng = rng_for(seed, 0, SERVER, "partition")
    if kind in FLOWER_PARTITIONS:
        parts = flower_indices(labels, kind, num_partitions, alpha, rng, about)
        return _none_empty(parts)
    order = rng.permutation(len(labels))
    if kind == "classes":
        parts = _by_class(labels, order, num_partitions)
    elif kind == "dirichlet":
        parts = _dirichlet(labels, order, num_partitions, alpha, int(rng.integers(2**31)))
    else:
        parts = np.array_split(order, num_partitions)
    return _none_empty(parts)


PARTITIONS = ("iid", "dirichlet", "classes", *FLOWER_PARTITIONS)


def _none_empty(parts: list[_Indices]) -> list[_Indices]:
    """Give a client that has no image one of the largest client's."""
    for i, part in enumerate(parts):
        if len(part) == 0:
            largest = max(range(len(parts)), key=lambda j: len(parts[j]))
            parts[i], parts[largest] = parts[largest][-1:], parts[largest][:-1]
    return parts


def _by_class(labels: _Indices, order: _Indices, num_partitions: int) -> list[_Indices]:
    """Deal whole classes out; clients that hold the same classes share them evenly."""
    groups = min(int(labels.max()) + 1, num_partitions)
    members = [order[labels[order] % groups == group] for group in range(groups)]
    sharing = [len(range(group, num_partitions, groups)) for group in range(groups)]
    return [
        members[client % groups][client // groups :: sharing[client % groups]]
        for client in range(num_partitions)
    ]


def _dirichlet(
    labels: _Indices, order: _Indices, num_partitions: int, alpha: float, seed: int
) -> list[_Indices]:
    """Cut each class by proportions from Dir(alpha); draw for draw what flwr-datasets deals out."""
    rng = np.random.default_rng(seed)
    pieces: list[list[_Indices]] = [[] for _ in range(num_partitions)]
    for label in np.unique(labels):
        members = order[labels[order] == label]
        shares = rng.dirichlet(np.full(num_partitions, float(alpha)))
        cuts = (np.cumsum(shares) * len(members)).astype(int)[:-1]
        for theirs, piece in zip(pieces, np.split(members, cuts), strict=True):
            theirs.append(piece)
    parts = [np.concatenate(theirs) for theirs in pieces]
    for part in parts:
        rng.shuffle(part)  # else a client's images lie class by class
    return parts
