"""Who trained what: sums over the submodels that keep a coordinate."""

from collections.abc import Sequence
from functools import cached_property, reduce
from itertools import accumulate

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from common.submodels import Channels, Layout, Parameter


class Coverage:
    """Sums over submodels of some of their quantities, wherever each of them keeps a coordinate.

    What a compact submodel keeps of a tensor is an outer product of the channels it keeps, so these
    sums are a product of two matrices with a row for each submodel.

    Args:
        layout: The full model's layout.
        masks: What the submodels keep (`Submodel.bitmask`), n of them.
        quantities: For each submodel the q numbers to add up where it covers. Sums of integers
            below 2^53, or of their multiples by one power of two, are exact in any order.
    """

    def __init__(
        self, layout: Layout, masks: Sequence[bytes], quantities: Float64[np.ndarray, "n q"]
    ) -> None:
        self.layout = layout
        self.masks: UInt8[np.ndarray, "n bytes"] = np.frombuffer(b"".join(masks), np.uint8)
        self.masks = self.masks.reshape(len(masks), -(-layout.mask_bits // 8))
        self.quantities = quantities
        self._members: dict[Channels, Float64[np.ndarray, "n channels"]] = {}

    def sums(self, parameter: Parameter) -> Float64[np.ndarray, "q rows entries"]:
        """Return the sums for a parameter's part of a coverage vector.

        `rows` are all those of the first dimension, or those of one atom if the atoms are alike.
        """
        if parameter.by_coordinate:
            return self._sums_by_coordinate(parameter)
        atom = self.layout.atom
        first, *others = map(self._kept, parameter.channels)
        if parameter.channels[0]:
            atoms = first.reshape(len(first), first.shape[1] // atom, atom)
            if (atoms == atoms[:, :1]).all():
                first = atoms[:, 0]
        left = _row_products(self.quantities, first)
        right = reduce(_row_products, others, np.ones((len(first), 1)))
        return (left.T @ right).reshape(-1, first.shape[1], right.shape[1])

    def vector(self, column: int) -> Int64[np.ndarray, "coverage"]:
        """Return the sums of one quantity, which are whole numbers, as a coverage vector."""
        vector = np.empty(self.layout.coverage_size, np.int64)
        for parameter, view in self.layout.coverage_views(vector):
            sums = self.sums(parameter)[column]
            view.reshape(-1, sums.size)[...] = sums.astype(np.int64).ravel()
        return vector

    def _sums_by_coordinate(self, parameter: Parameter) -> Float64[np.ndarray, "q rows entries"]:
        sums = np.zeros((self.quantities.shape[1], parameter.size))
        start = parameter.offset // 8
        stop = -(-parameter.span.stop // 8)
        for mask, quantities in zip(self.masks, self.quantities, strict=True):
            bits = np.unpackbits(mask[start:stop])[parameter.offset - 8 * start :]
            sums += quantities[:, None] * bits[: parameter.size]
        return sums.reshape(len(sums), parameter.shape[0], -1)

    def _kept(self, channels: Channels) -> Float64[np.ndarray, "n channels"]:
        """Return ones and zeros, a row for each submodel: the channels of a dimension it keeps."""
        if channels not in self._members:
            parts = [self._bits[:, self._places[axis.name]] for axis in channels]
            kept = np.concatenate(parts, axis=1) if parts else np.ones((len(self.masks), 1))
            self._members[channels] = kept.astype(np.float64)
        return self._members[channels]

    @cached_property
    def _bits(self) -> UInt8[np.ndarray, "n channels"]:
        bits: UInt8[np.ndarray, "n channels"] = np.unpackbits(
            self.masks, axis=1, count=self.layout.mask_bits
        )
        return bits

    @cached_property
    def _places(self) -> dict[str, slice]:
        """Where the channels of an axis stand in a mask."""
        axes = self.layout.axes.values()
        stops = accumulate(axis.size for axis in axes)
        return {
            axis.name: slice(stop - axis.size, stop) for axis, stop in zip(axes, stops, strict=True)
        }


def _row_products(
    a: Float64[np.ndarray, "n p"], b: Float64[np.ndarray, "n q"]
) -> Float64[np.ndarray, "n pq"]:
    """Return all products of an entry of `a` and one of `b` in the same row."""
    return (a[:, :, None] * b[:, None]).reshape(len(a), a.shape[1] * b.shape[1])
