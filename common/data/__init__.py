"""Images, and how they are dealt out."""

from common.data.datasets import OWN, ImageData, Splits, load_dataset, load_partition, own_images
from common.data.own import fit_picture, open_picture
from common.data.partition import partition_indices

__all__ = [
    "OWN",
    "ImageData",
    "Splits",
    "fit_picture",
    "load_dataset",
    "load_partition",
    "open_picture",
    "own_images",
    "partition_indices",
]
