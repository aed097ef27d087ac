"""The Flower ClientApp: answers the roll-call, and trains the submodel it is sent.

Every message may start a fresh process, so what only training needs is imported there.
"""

from functools import lru_cache

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.device import accepted_rate, device_name, free_memory, own_source, partition_id
from client.feedback import encoded
from common.config import RunConfig
from common.data import ImageData, load_partition, own_images
from common.wire import (
    RollCall,
    StepSeconds,
    pack_reply,
    pack_roll_call,
    pack_too_large,
    unpack_question,
    unpack_task,
)

app = ClientApp()


@app.query()
def roll_call(message: Message, context: Context) -> Message:
    """Say who this client is, how many images it holds and what it can do."""
    config = RunConfig.from_flat(context.run_config)
    data = _images(config, context)
    rate = accepted_rate(config, data.image_shape, context.node_config)
    times: StepSeconds = ()
    if unpack_question(message.content):
        from client.capability import measured

        times = measured(config, data, rate)
    answer = RollCall(
        partition_id(context.node_config),
        len(data),
        data.image_shape,
        device_name(context.node_config),
        data.skipped,
        rate,
        free_memory(),
        times,
    )
    return Message(pack_roll_call(answer), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the submodel in the message on this client's images and return it.

    A client that cannot hold the submodel, by what its node is configured to accept or because its
    memory runs out, says which smaller one to send.
    """
    import torch

    from client.capability import out_of_memory
    from client.training import train_locally
    from common.network import layout_of
    from common.seeding import rng_for

    config = RunConfig.from_flat(context.run_config)
    torch.set_num_threads(config.threads)
    data = _images(config, context)
    layout = layout_of(config.model, data.image_shape[0])
    values, submodel, spec = unpack_task(message.content, layout)
    accepted = accepted_rate(config, data.image_shape, context.node_config)
    if submodel.rate > accepted:
        return Message(pack_too_large(int(accepted * layout.atom), spec), reply_to=message)
    rng = rng_for(config.seed, spec.round, partition_id(context.node_config), "training")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        result = train_locally(values, submodel, data, config, spec.round, rng, device)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        return Message(pack_too_large(spec.k // 2, spec), reply_to=message)
    metrics = {"loss": result.loss, "images": result.images, "seconds": result.seconds}
    array = encoded(values, result.values, spec, context)
    return Message(pack_reply(array, spec, metrics), reply_to=message)


def _images(config: RunConfig, context: Context) -> ImageData:
    """Return the images this node is configured to hold, or its part of the run's data set."""
    node = context.node_config
    return _own_images(config, partition_id(node), own_source(config.data, node))


@lru_cache(maxsize=8)  # a simulation's worker serves several clients, round after round
def _own_images(config: RunConfig, partition: int, own: str) -> ImageData:
    if own:
        return own_images(own, config.data, config.shape, config.model.num_classes, config.pictures)
    return load_partition(
        config.data,
        config.partition,
        config.partition_alpha,
        len(config.client_rates),
        partition,
        config.seed,
        config.shape,
        config.pictures,
        config.partition_args,
    )
