"""Labelled images as everything here takes them: stored bytes, scaled when they are asked for."""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from common.data.rows import Rows, rows_of

BATCH_VALUES = 2**24
"""Values that are read at a time where all are: 64 MiB as numbers."""


@dataclass(frozen=True)
class ImageData:
    """Labelled images, of which only those that are asked for come into memory as numbers.

    Attributes:
        stored: (N, C, H, W), in [-1, 1] where they are float32 (those of a known law hardly ever
            reach beyond), else whole numbers from 0 for black to `white`, mostly a memory map.
        labels: (N,) in [0, num_classes).
        num_classes: how many classes the data set has, whether or not all occur here.
        name: the data set's name in the configuration.
        flippable: whether a horizontal mirror image is as likely as the image itself.
        skipped: files that could not be read as images.
        white: the stored value that becomes 1; of no account for float32.
        classes: their names by number, where the data set has names for them.
        columns: what else is said of each image, as texts (N,) by name.
        depth: black and white of those deep values of which their files say nothing, or empty.
    """

    stored: Float32[np.ndarray, "N C H W"] | UInt8[np.ndarray, "N C H W"] | Rows
    labels: Int64[np.ndarray, " N"]
    num_classes: int
    name: str
    flippable: bool = False
    skipped: int = 0
    white: int = 255
    classes: tuple[str, ...] = ()
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    depth: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        _, channels, height, width = self.stored.shape
        return channels, height, width

    @property
    def images(self) -> Float32[np.ndarray, "N C H W"]:
        """All images in [-1, 1], copied into memory: of small sets."""
        return self.values(slice(None))

    def values(self, places: Int64[np.ndarray, " M"] | slice) -> Float32[np.ndarray, "M C H W"]:
        """Some images in [-1, 1], as an array of their own."""
        return scaled(self.stored[places], self.white)

    def batches(self) -> Iterator[Float32[np.ndarray, "B C H W"]]:
        """All images in their order, as many at a time as memory has room for anywhere."""
        for part in self._parts():
            yield self.values(part)

    def _parts(self) -> Iterator[slice]:
        each = BATCH_VALUES // math.prod(self.image_shape)
        # Whole batches of a network, so that the parts make no difference to what it sees.
        size = max(256, each // 256 * 256)
        for start in range(0, len(self), size):
            yield slice(start, start + size)

    def levels(self) -> Float32[np.ndarray, " L"]:
        """The different values that images have, ascending."""
        if self.stored.dtype != np.uint8:
            return np.unique(self.images)
        seen = np.zeros(256, dtype=bool)
        for part in self._parts():
            seen[np.unique(self.stored[part])] = True
        return scaled(np.flatnonzero(seen).astype(np.uint8), self.white)

    def held_classes(self) -> tuple[str, ...]:
        """The names of the classes that occur here; none where classes have no names."""
        there = np.unique(self.labels) if self.classes else ()
        return tuple(self.classes[place] for place in there)

    def digest(self) -> str:
        """The SHA-256 of images and labels; equal data have equal digests."""
        state = hashlib.sha256(
            repr((self.stored.shape, self.white, str(self.stored.dtype))).encode()
        )
        for part in self._parts():
            state.update(np.ascontiguousarray(self.stored[part]).data)
        state.update(np.ascontiguousarray(self.labels).data)
        return state.hexdigest()

    def select(self, indices: Int64[np.ndarray, " M"]) -> "ImageData":
        """The images at `indices`, in that order; none is copied."""
        return replace(
            self,
            stored=rows_of(self.stored, indices),
            labels=self.labels[indices],
            columns={name: texts[indices] for name, texts in self.columns.items()},
        )


def scaled(stored: np.ndarray, white: int) -> Float32[np.ndarray, "..."]:
    """Stored values as numbers in [-1, 1]."""
    if stored.dtype != np.uint8:
        return np.array(stored, order="C")
    return stored.astype(np.float32, order="C") * np.float32(2 / white) - np.float32(1)


class Splits(NamedTuple):
    """A data set's training images and the images no client ever sees."""

    train: ImageData
    test: ImageData
