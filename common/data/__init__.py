"""Images, and how they are dealt out."""

from common.data.datasets import (
    OWN,
    PLACES,
    ImageData,
    Splits,
    absolute_source,
    load_dataset,
    load_partition,
    own_images,
)
from common.data.flower_partitions import FLOWER_PARTITIONS, About
from common.data.frames import is_read, kind_of
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
    "fit_picture",
    "is_read",
    "kind_of",
    "load_dataset",
    "load_partition",
    "open_picture",
    "own_images",
    "partition_indices",
]
