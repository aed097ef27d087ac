"""What a node's configuration and its operating system say about a device; imports nothing slow."""

from collections.abc import Mapping
from fractions import Fraction

from common.config import CLIENTS, RunConfig
from common.data import OWN
from common.errors import UserError
from common.wire import LONGEST_NAME

LEAST_IMAGES = 2
"""Of one image, its moments are the image's features."""

NodeConfig = Mapping[str, object]


def partition_id(node: NodeConfig) -> int:
    """Return the number that names this client for good; node ids change from run to run."""
    partition = node.get("partition-id")
    if not isinstance(partition, int):
        raise UserError(
            "partition-id: missing from the node's configuration; give each node its own, or run "
            "with fleet=auto"
        )
    return partition


def partitions_of(node: NodeConfig) -> int:
    """Return how many nodes the simulation has that a node is one of, 0 if it is a device."""
    count = node.get("num-partitions", 0)
    return count if isinstance(count, int) else 0


def number_of(config: RunConfig, node: NodeConfig) -> int | None:
    """Return the number that a client brings along; None where the server gives it one.

    Raises:
        UserError: The run's fleet is fixed and the node's configuration names no number.
    """
    return partition_id(node) if partitions_of(node) or not config.auto else None


def share_of(config: RunConfig, node: NodeConfig, number: int) -> tuple[int, int]:
    """Return which part of how many a client takes of a data set that comes with ScoreQuilt.

    Raises:
        UserError: All parts are others'.
    """
    parts = (config.auto and partitions_of(node)) or len(config.client_rates)
    if config.auto and number >= parts:
        raise UserError(
            f"data: this device brings no images, and all simulation-clients={parts} parts of the "
            "run's data set are others'; join with --data, or run with more simulation-clients"
        )
    return number, parts


def device_name(node: NodeConfig) -> str:
    """Return the device's name, as far as it can be printed."""
    name = str(node.get("device-name", ""))
    return "".join(letter for letter in name if letter.isprintable())[:LONGEST_NAME]


def device_named(config: RunConfig, node: NodeConfig) -> tuple[str, str]:
    """Return what a node's networks are computed on and the key that says so.

    What the node's own configuration names as `device` comes before the run's.
    """
    if "device" in node:
        return str(node["device"]), "device"
    return config.train.device, "train.device"


def own_source(data: str, node: NodeConfig) -> str:
    """Return where a node's own images are, empty if it takes its part of the run's data set.

    Of what lies on a device only its owner decides: a folder or file that just the run names is not
    read, unless the node is a simulated one, whose machine is that of whoever runs it.

    Args:
        data: The run's `data`.
        node: The node's configuration.

    Raises:
        UserError: The run's `data` are files and the node names none.
    """
    own = str(node.get("data", ""))
    if not own and data == CLIENTS:
        raise UserError("data: this node has no images of its own; join with --data folder:PATH")
    if not own and data.startswith(OWN) and not partitions_of(node):
        raise UserError(
            f"data: this node reads {data} only if its own configuration names it; join with --data"
        )
    return own


def least_images(node: NodeConfig) -> int:
    """Return below how many images a node's owner wants no moments of them to be told.

    Raises:
        UserError: What is configured is no number of images.
    """
    least = node.get("least-images", LEAST_IMAGES)
    if isinstance(least, bool) or not isinstance(least, int) or least < LEAST_IMAGES:
        raise UserError(
            f"least-images: {least!r} in the node's configuration is no number of images from "
            f"{LEAST_IMAGES} on"
        )
    return least


def accepted_rate(config: RunConfig, shape: tuple[int, int, int], node: NodeConfig) -> Fraction:
    """Return the largest model rate that a node is configured to accept.

    That is its `model-rate`, 1 where there is none, and with a `memory` in MiB the largest up to
    there whose training fits into it.

    Raises:
        UserError: One of them cannot be read, or nothing fits.
    """
    text, memory = node.get("model-rate", 1), node.get("memory")
    try:
        limit = Fraction(str(text))
    except (ValueError, ZeroDivisionError):
        limit = Fraction(0)
    if not 0 < limit <= 1:
        raise UserError(f"model-rate: {text!r} in the node's configuration is not in (0, 1]")
    if memory is None:
        return limit
    if isinstance(memory, bool) or not isinstance(memory, int | float) or not memory > 0:
        raise UserError(f"memory: {memory!r} in the node's configuration is no number of MiB")
    from client.capability import rate_that_fits  # imports torch

    return rate_that_fits(config, shape, limit, memory)
