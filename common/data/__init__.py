"""Images, and how they are dealt out."""

from common.data.datasets import (
    OWN,
    ImageData,
    Splits,
    hold_out,
    load_dataset,
    load_partition,
    own_images,
    scaled,
)
from common.data.own import pictures_in
from common.data.partition import partition_indices
from common.data.pictures import SUFFIXES, fit_picture, open_picture

__all__ = [
    "OWN",
    "SUFFIXES",
    "ImageData",
    "Splits",
    "fit_picture",
    "hold_out",
    "load_dataset",
    "load_partition",
    "open_picture",
    "own_images",
    "partition_indices",
    "pictures_in",
    "scaled",
]
