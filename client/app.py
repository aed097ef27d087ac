"""The Flower ClientApp: answers the roll-call, and trains the submodel it is sent.

Every message may start a fresh process, so what only training needs is imported there.
"""

import logging
from dataclasses import replace
from functools import lru_cache

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client.device import (
    NodeConfig,
    accepted_rate,
    device_name,
    device_named,
    least_images,
    number_of,
    own_source,
    partition_id,
    partitions_of,
    share_of,
)
from client.feedback import encoded
from common.config import RunConfig
from common.data import ImageData, Splits, by_names, hold_out, load_partition, own_images
from common.data.classes import numbered
from common.errors import UserError
from common.resources import free_memory
from common.wire import (
    RollCall,
    StepSeconds,
    addressee,
    named_classes,
    pack_answer,
    pack_reply,
    pack_roll_call,
    pack_too_large,
    pack_unfit,
    unpack_evaluation,
    unpack_question,
    unpack_replay,
    unpack_task,
    unpack_verdict,
)

log = logging.getLogger("flwr")

app = ClientApp()

NOBODY = np.zeros(0, dtype=np.int64)
"""Held out where it is the server that judges."""


@app.query()
def roll_call(message: Message, context: Context) -> Message:
    """Say who this client is, how many images it holds and what it can do, or why it cannot."""
    if reason := unpack_verdict(message.content):
        log.warning("the server does not take this device: %s", reason)
        return Message(RecordDict(), reply_to=message)
    try:
        content = pack_roll_call(_answer(message, context))
    except Exception as error:
        # Flower would report a node's number and a traceback; the server shall know a name.
        name, node = device_name(context.node_config), context.node_config
        log.error("roll-call: %s", error, exc_info=not isinstance(error, UserError))
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        content = pack_unfit(f"{kind}{error}", name, partitions_of(node))
    return Message(content, reply_to=message)


def _answer(message: Message, context: Context) -> RollCall:
    """Return what this client says of itself.

    Raises:
        UserError: Its configuration or its images are not such that it could take part.
    """
    config, node = RunConfig.from_flat(context.run_config), context.node_config
    told = addressee(message.content)
    number = number_of(config, node) if told is None else told
    # Which part of the run's data set a device takes its number says; until it has one, it looks
    # at the first, so that what keeps it from taking part shows before a number is spent on it.
    waits = number is None and not own_source(config.data, node)
    data = _splits(config, node, number or 0, None).train
    rate = accepted_rate(config, data.image_shape, node)
    times: StepSeconds = ()
    named, key = device_named(config, node)
    measure = unpack_question(message.content) and not waits
    if measure or named not in ("auto", "cpu"):
        from common.network import device_of

        device = device_of(named, key)  # one that is not there is refused before a round begins
        if measure:
            from client.capability import measured

            # How long a step takes does not depend on the classes, which have no numbers yet.
            unnumbered = replace(data, labels=np.zeros_like(data.labels))
            times = measured(config, unnumbered, rate, device)
    return RollCall(
        number,
        0 if waits else len(data),
        data.image_shape,
        device_name(node),
        data.skipped,
        rate,
        free_memory(),
        times,
        node.get("keyed") is True,
        partitions_of(node),
        _classes(config, data, own_source(config.data, node)),
    )


def _classes(config: RunConfig, data: ImageData, own: str) -> tuple[str, ...]:
    """Return what a node's own images are called, where a run is conditional on it.

    Raises:
        UserError: Nothing says of which class they are.
    """
    if not (own and config.model.num_classes):
        return ()
    if not data.classes:
        raise UserError(
            f"data: nothing says of which class an image of {own} is, and this run needs one; put "
            "each class into a sub-folder of its name"
        )
    return data.held_classes()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the submodel in the message on this client's images and return it.

    A client that cannot hold the submodel, by what its node is configured to accept or because its
    memory runs out, says which smaller one to send.
    """
    import torch

    from client.capability import out_of_memory
    from client.training import train_locally
    from common.network import device_of, layout_of
    from common.seeding import rng_for

    config = RunConfig.from_flat(context.run_config)
    torch.set_num_threads(config.threads)
    number = _number(message, context)
    data = _splits(config, context.node_config, number, named_classes(message.content)).train
    layout = layout_of(config.model, data.image_shape[0])
    values, submodel, spec = unpack_task(message.content, layout)
    accepted = accepted_rate(config, data.image_shape, context.node_config)
    if submodel.rate > accepted:
        return Message(pack_too_large(int(accepted * layout.atom), spec), reply_to=message)
    classes = config.model.num_classes
    replay = unpack_replay(message.content, spec.replay, data.image_shape, classes)
    rng = rng_for(config.seed, spec.round, number, "training")
    device = device_of(*device_named(config, context.node_config))
    try:
        result = train_locally(values, submodel, data, config, spec.round, rng, device, replay)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        return Message(pack_too_large(spec.k // 2, spec), reply_to=message)
    metrics = {"loss": result.loss, "images": result.images, "seconds": result.seconds}
    array = encoded(values, result.values, spec, context)
    return Message(pack_reply(array, spec, metrics), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Say what this client finds on its own images: losses, distances and moments of features."""
    import torch

    from client.evaluation import evaluate_locally
    from client.features import own_network
    from common.network import device_of, layout_of

    config = RunConfig.from_flat(context.run_config)
    torch.set_num_threads(config.threads)
    number = _number(message, context)
    splits = _splits(config, context.node_config, number, named_classes(message.content))
    shape = splits.train.image_shape
    question = unpack_evaluation(message.content, shape)
    weights = None
    if question.rates:
        weights = unpack_task(message.content, layout_of(config.model, shape[0]))[:2]
    answer = evaluate_locally(
        question,
        splits,
        config,
        number,
        weights=weights,
        network=own_network(config, question.features, shape, context.node_config),
        least_images=least_images(context.node_config),
        device=device_of(*device_named(config, context.node_config)),
    )
    return Message(pack_answer(answer, question), reply_to=message)


def _number(message: Message, context: Context) -> int:
    """Return the number that the server gave this client, or its own."""
    number = addressee(message.content)
    return partition_id(context.node_config) if number is None else number


def _splits(
    config: RunConfig, node: NodeConfig, number: int, names: tuple[str, ...] | None
) -> Splits:
    """Return the images this node trains on, and where clients judge those it holds out.

    Args:
        config: The run's configuration.
        node: The node's.
        number: The client's.
        names: What the run calls its classes, by whose places they are numbered; nothing for
            numbers, and None while that is not agreed on.
    """
    own = own_source(config.data, node)
    share, parts = (0, 1) if own else share_of(config, node, number)
    return _split(config, share, parts, own, names)


@lru_cache(maxsize=8)  # a simulation's worker serves several clients, round after round
def _split(
    config: RunConfig, partition: int, parts: int, own: str, names: tuple[str, ...] | None
) -> Splits:
    images = _images(config, partition, parts, own)
    if own and names is not None and config.model.num_classes:
        images = by_names(images, names or numbered(config.model.num_classes))
    return hold_out(images) if config.surveyed else Splits(images, images.select(NOBODY))


@lru_cache(maxsize=8)
def _images(config: RunConfig, partition: int, parts: int, own: str) -> ImageData:
    """Return the images this node is configured to hold, or its part of the run's data set."""
    if own:
        return own_images(own, config.data, config.shape, config.pictures)
    return load_partition(
        config.data,
        config.partition,
        config.partition_alpha,
        parts,
        partition,
        config.seed,
        config.shape,
        config.pictures,
        config.partition_args,
    )
