"""Everything about a configuration that can be refused before anything is asked or written."""

from fractions import Fraction
from functools import cache

from common.config import CLIENTS, RunConfig
from common.data import FLOWER_PARTITIONS, About, Splits, partition_indices
from common.errors import UserError
from common.features import network_named
from common.network import initial_weights
from server.evaluation.distances import NEIGHBOURS
from server.fleet import fleet_of, request_for
from server.policies import GlobalWeights, policy_named, submodel_for
from server.pretrained.start import starting_weights
from server.privacy import epsilon_after
from server.replay import replays
from server.setting import Setting, prepare


def preflight(config: RunConfig, resumed: bool = False) -> Setting:
    """Check that a configuration fits together and return what it stands for.

    Assignments of every rate are tried, so that a policy which cannot serve this model says so now.
    Where a run starts is of no account to one that is `resumed`.

    Raises:
        UserError: The data set does not exist or has too few images, levels do not fit its image
            size, a rate does not fit the atoms, the policy cannot serve the layout, or nobody may
            take part, `init` is not a model of this architecture, the features' file cannot be
            used, or a package that privacy needs is missing; the line names the key.
    """
    setting = prepare(config)
    if config.data != CLIENTS:
        _check_images(config, setting.splits)
    channels, *sides = setting.image_shape
    factor = 2 ** (len(config.model.widths) - 1)
    if any(side % factor for side in sides):
        raise UserError(
            f"model.widths: {len(config.model.widths)} levels need image sides divisible by "
            f"{factor}, but the images are {sides[0]}x{sides[1]}"
        )
    classes = config.model.num_classes
    if config.model.label_dropout and not classes:
        raise UserError(
            "model.label-dropout: there are no labels to drop in an unconditional model; set "
            "model.num-classes, the number of classes, as well"
        )
    if config.evaluation.guidance and not config.model.label_dropout:
        raise UserError(
            "evaluation.guidance: needs a network that also learns without labels; set "
            "model.label-dropout, to 0.1 for example"
        )
    if config.train.accumulate > config.batch_size:
        raise UserError(
            f"train.accumulate: {config.train.accumulate} micro-batches of a batch of "
            f"{config.batch_size}; set at most batch-size"
        )
    _ = setting.device  # which is refused if it is not there
    network_named(config.evaluation.features, setting.image_shape)
    epsilon_after(config, 0)  # which says so if the accountant's package is missing
    rehearse(setting)
    replays(config, setting.layout)
    if not resumed:
        starting_weights(config, channels)
    return setting


def _check_images(config: RunConfig, splits: Splits) -> None:
    """Refuse a data set that the run cannot use, or not as it is configured."""
    train, test = splits
    if len(train) <= NEIGHBOURS or len(test) < 2:
        raise UserError(
            f"data: {config.data} has {len(train)} images to train on and {len(test)} held out; "
            f"samples are scored by at least {NEIGHBOURS + 1} and 2"
        )
    classes = config.model.num_classes
    if classes not in (0, train.num_classes):
        raise UserError(
            f"model.num-classes: {config.data} has {train.num_classes} classes, so it is "
            f"{train.num_classes} or 0 (unconditional), not {classes}"
        )
    if config.train.flip and not train.flippable:
        raise UserError(f"train.flip: mirrored images of {config.data} are no longer of its kind")
    rates = config.client_rates
    if len(rates) > len(train):
        raise UserError(
            f"fleet: {len(rates)} clients cannot share the {len(train)} images of {config.data}; "
            f"name 1 to {len(train)} clients"
        )
    if config.partition in FLOWER_PARTITIONS:  # which say late what they cannot deal out
        about = About(config.partition_args, config.pictures.group, train.columns)
        alpha, seed = config.partition_alpha, config.seed
        partition_indices(train.labels, config.partition, len(rates), alpha, seed, about)


def rehearse(setting: Setting) -> None:
    """Try assignments of every rate: those of the first two rounds and the last, each twice.

    Raises:
        UserError: Nobody may take part, a rate does not fit the atoms, or the policy cannot serve
            the layout or does not answer the same question the same way.
    """
    config, layout = setting.config, setting.layout
    rates = config.widths(layout.atom) if config.auto else config.client_rates
    if config.participants == "full" and Fraction(1) not in rates:
        raise UserError("participants: 'full' leaves no client of rate 1 in this fleet")
    if config.auto and policy_named(config.policy).by_type:
        raise UserError(
            f"policy: {config.policy} gives each of ten clients its part of the model, and "
            "fleet=auto does not know how many come; choose another policy, such as balanced"
        )
    fleet = fleet_of(rates, [(0, 0)] * len(rates))
    classes = [client for client in fleet if client.index == 0]
    for client in classes:
        try:
            layout.kept_per_atom(client.rate)
        except UserError as error:
            whose = "" if config.auto else f"the {client.count} clients of "
            raise UserError(f"fleet: {whose}{error}") from None
    theta = cache(lambda: initial_weights(config.model, setting.image_shape[0], config.seed))
    for client in classes:
        for round in sorted({1, 2, config.rounds}):
            first, again = (
                submodel_for(
                    config.policy,
                    request_for(layout, config, client, round, GlobalWeights(layout, theta)),
                ).bitmask()
                for _ in range(2)
            )
            if first != again:
                raise UserError(
                    f"policy: '{config.policy}' chose differently for one and the same client and "
                    "round; draw from request.rng alone"
                )
