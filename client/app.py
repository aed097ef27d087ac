"""The Flower ClientApp: answers the roll-call, and trains the submodel it is sent.

Every message may start a fresh process, so what only training needs is imported there.
"""

from functools import lru_cache

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from common.config import RunConfig, parse_fleet
from common.data import ImageData, load_partition, own_images
from common.errors import UserError
from common.wire import RollCall, pack_reply, pack_roll_call, unpack_task

app = ClientApp()


@app.query()
def roll_call(message: Message, context: Context) -> Message:
    """Say who this client is and how many images it holds."""
    config = RunConfig.from_flat(context.run_config)
    partition = _partition_id(context)
    answer = RollCall(partition, len(_images(config, context)))
    return Message(pack_roll_call(answer), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the submodel in the message on this client's images and return it."""
    import torch

    from client.training import train_locally
    from common.seeding import rng_for
    from common.unet import layout_of

    config = RunConfig.from_flat(context.run_config)
    torch.set_num_threads(config.threads)
    partition = _partition_id(context)
    data = _images(config, context)
    layout = layout_of(config.model, data.image_shape[0])
    values, submodel, spec = unpack_task(message.content, layout)
    rng = rng_for(config.seed, spec.round, partition, "training")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    result = train_locally(values, submodel, data, config, spec.round, rng, device)
    metrics = {"loss": result.loss, "images": result.images, "seconds": result.seconds}
    return Message(pack_reply(result.values, spec, metrics), reply_to=message)


def _images(config: RunConfig, context: Context) -> ImageData:
    """Return the images this node is configured to hold, or its part of the run's data set."""
    return _own_images(config, _partition_id(context), str(context.node_config.get("data", "")))


@lru_cache(maxsize=8)  # a simulation's worker serves several clients, round after round
def _own_images(config: RunConfig, partition: int, own: str) -> ImageData:
    if own:
        return own_images(own, config.data, config.shape, config.model.num_classes)
    return load_partition(
        config.data,
        config.partition,
        config.partition_alpha,
        len(parse_fleet(config.fleet)),
        partition,
        config.seed,
        config.shape,
    )


def _partition_id(context: Context) -> int:
    """Return the number that names this client for good; node ids change from run to run."""
    partition = context.node_config.get("partition-id")
    if not isinstance(partition, int):
        raise UserError(
            "partition-id: missing from the node's configuration; give each node its own"
        )
    return partition
