"""The feature network by which a device tells of its images: what all have, or its owner names."""

from client.device import NodeConfig
from common.config import RunConfig
from common.errors import UserError
from common.features import FeatureNetwork, network_named

SIMULATED = "num-partitions"
"""What Flower's simulation says in a node's configuration."""


def own_network(
    config: RunConfig, digest: str, image_shape: tuple[int, int, int], node: NodeConfig
) -> FeatureNetwork | None:
    """Return the network of a digest, None for an empty one.

    A file that just the run names is not read: it lies on the device only if its owner put it
    there, and TorchScript is a program. A simulated node's machine is that of whoever runs it.

    Raises:
        UserError: The device has no such network.
    """
    if not digest:
        return None
    named = str(node.get("features", ""))
    if not named and (config.evaluation.features == "untrained" or SIMULATED in node):
        named = config.evaluation.features
    if not named:
        raise UserError(
            f"features: this run compares images by the network {digest}, a file that this device "
            "has to have; join with --features weights:FILE"
        )
    network = network_named(named, image_shape)
    if network is None or network.digest != digest:
        raise UserError(
            f"features: {named} is the network {network.digest if network else 'of no file'}, the "
            f"run's is {digest}; join with the file that the server uses"
        )
    return network
