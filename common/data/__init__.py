"""Images, and how they are dealt out."""

from common.data.datasets import (
    OWN,
    PLACES,
    absolute_source,
    by_names,
    hold_out,
    load_dataset,
    load_partition,
    own_images,
)
from common.data.flower_partitions import FLOWER_PARTITIONS, About
from common.data.folder import pictures_in
from common.data.images import ImageData, Splits, scaled
from common.data.partition import partition_indices
from common.data.pictures import fit_picture, open_picture

__all__ = [
    "FLOWER_PARTITIONS",
    "OWN",
    "PLACES",
    "About",
    "ImageData",
    "Splits",
    "absolute_source",
    "by_names",
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
