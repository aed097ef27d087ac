"""Who trained what: sums over the submodels that keep a coordinate."""

import math
from functools import reduce

import numpy as np
from jaxtyping import Float64, Int64

from common.submodel import Channels, Parameter, Submodel


class Coverage:
    """Sums over submodels of some of their quantities, wherever each of them keeps a coordinate.

    What a submodel keeps of a tensor is an outer product of the channels it keeps, so these sums
    are a product of two matrices with a row for each submodel.

    Args:
        submodels: The submodels, n of them.
        quantities: For each submodel the q numbers to add up where it covers. Sums of integers
            below 2^53, or of their multiples by one power of two, are exact in any order.
    """

    def __init__(self, submodels: list[Submodel], quantities: Float64[np.ndarray, "n q"]) -> None:
        self.submodels = submodels
        self.quantities = quantities
        self._members: dict[Channels, Float64[np.ndarray, "n channels"]] = {}

    def sums(self, parameter: Parameter, atom: int) -> Float64[np.ndarray, "q rows entries"]:
        """Return the sums for a parameter's part of a coverage vector.

        `rows` are all those of the first dimension, or those of one atom if the atoms are alike.
        """
        if parameter.by_coordinate:
            return self._sums_by_coordinate(parameter)
        first, *others = map(self._kept, parameter.channels)
        if parameter.channels[0]:
            atoms = first.reshape(len(first), first.shape[1] // atom, atom)
            if (atoms == atoms[:, :1]).all():
                first = atoms[:, 0]
        left = _row_products(self.quantities, first)
        right = reduce(_row_products, others, np.ones((len(first), 1)))
        return (left.T @ right).reshape(-1, first.shape[1], right.shape[1])

    def _sums_by_coordinate(self, parameter: Parameter) -> Float64[np.ndarray, "q rows entries"]:
        sums = np.zeros((self.quantities.shape[1], parameter.size))
        for submodel, quantities in zip(self.submodels, self.quantities, strict=True):
            ones = np.ones(math.prod(submodel.shape(parameter)))
            for row, quantity in zip(sums, quantities, strict=True):
                for array, index, part in submodel.cutout(parameter).pairs(row, ones):
                    array[index] += quantity * part
        return sums.reshape(len(sums), parameter.shape[0], -1)

    def _kept(self, channels: Channels) -> Float64[np.ndarray, "n channels"]:
        """Return ones and zeros, a row for each submodel: the channels of a dimension it keeps."""
        if channels not in self._members:
            kept = np.zeros((len(self.submodels), sum(axis.size for axis in channels) or 1))
            for row, submodel in zip(kept, self.submodels, strict=True):
                row[submodel.along(channels) if channels else 0] = 1
            self._members[channels] = kept
        return self._members[channels]


def fill(view: Int64[np.ndarray, "..."], numbers: Float64[np.ndarray, "rows entries"]) -> None:
    """Write whole numbers to a parameter's part of a coverage vector, for every atom."""
    view.reshape(-1, numbers.size)[...] = numbers.astype(np.int64).ravel()


def _row_products(
    a: Float64[np.ndarray, "n p"], b: Float64[np.ndarray, "n q"]
) -> Float64[np.ndarray, "n pq"]:
    """Return all products of an entry of `a` and one of `b` in the same row."""
    return (a[:, :, None] * b[:, None]).reshape(len(a), a.shape[1] * b.shape[1])
