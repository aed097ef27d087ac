"""The run's configuration: one frozen tree, and its flat form in Flower's run-config.

Everything that server and clients must agree on stands here with its default: the defaults *are*
the preset `digits`. Flower carries a configuration as flat ``key = value`` pairs of bool, int,
float and str, so lists are written as ``"32,64"`` and nested keys as dotted, kebab-case names
(``model.widths``).
"""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from common.config.earlier import read_earlier
from common.config.fleet import fleet_menu, fleet_widths, parse_fleet
from common.config.keys import hyphened, one_line
from common.config.sections import (
    EmaConfig,
    EvaluationConfig,
    ModelConfig,
    PicturesConfig,
    PrivacyConfig,
    RatesConfig,
    ReplayConfig,
    Section,
    ServerConfig,
    TrainConfig,
)
from common.errors import UserError

Scalar = bool | int | float | str

Partition = Literal[
    "iid",
    "dirichlet",
    "classes",
    "flower-iid",
    "flower-dirichlet",
    "inner-dirichlet",
    "pathological",
    "shards",
    "linear",
    "square",
    "exponential",
    "sizes",
    "distribution",
    "continuous",
    "natural",
    "grouped-natural",
]
"""Of ours the first three, of flwr-datasets the others; a test holds them to `common.data`."""


CLIENTS = "clients"
"""The `data` of a run whose images are the clients' own, and nowhere else."""


class RunConfig(Section):
    """Everything that determines a run; equal configurations give equal bits.

    Field defaults describe the default job. `fleet` is rates times counts
    (``"1x2 1/2x3 1/4x3"``), one of Zhou's codes (``"1111223344"``) or whoever comes
    (``"auto"``, see `fleet_menu`); for `refresh_every`
    rounds a client keeps the same channels, 0 is all; `participants` "full" sends everybody home
    who cannot hold the full model; `clients_per_round` 0 means all; `threads` is torch's thread
    count in a client;
    `local_widths` says which widths a client trains: its own, or several in each step;
    `init` is where the weights start: at random, or ``diffusers:FOLDER`` for those of a model.
    """

    name: str = Field("digits", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    data: str = "digits"
    image_shape: str = Field("", pattern=r"^([13]x[1-9][0-9]*x[1-9][0-9]*)?$")
    partition: Partition = "iid"
    partition_alpha: float = Field(0.5, gt=0)
    partition_args: str = Field("", pattern=r"^([A-Za-z_-]+=\S+( +|$))*$")
    rounds: int = Field(16, ge=1)
    local_steps: int = Field(60, ge=1)
    batch_size: int = Field(64, ge=1)
    learning_rate: float = Field(2e-3, gt=0)
    lr_schedule: Literal["constant", "cosine"] = "cosine"
    local_widths: Literal["own", "sandwich"] = "sandwich"
    weight_decay: float = Field(0.0, ge=0)
    grad_clip: float = Field(1.0, gt=0)
    fleet: str = "1x2 1/2x3 1/4x3"
    min_clients: int = Field(1, ge=1, description="of fleet=auto, before a round begins")
    max_clients: int = Field(1000, ge=1, description="of fleet=auto, ever")
    simulation_clients: int = Field(8, ge=1, description="of fleet=auto, and parts of the data")
    participants: Literal["all", "full"] = "all"
    clients_per_round: int = Field(0, ge=0)
    policy: str = "static"
    refresh_every: int = Field(1, ge=0)
    scaler: bool = True
    weighting: Literal["examples", "uniform"] = "examples"
    codec: Literal["float32", "float16", "bfloat16", "int8", "int4"] = "float32"
    clock: Literal["linear", "cosine"] = "cosine"
    training_times: Literal["clock", "log-normal"] = "clock"
    loss_weight: Literal["uniform", "min-snr", "score"] = "uniform"
    prediction: Literal["eps", "x0", "v"] = "eps"
    seed: int = Field(0, ge=0, le=2**32 - 1)
    threads: int = Field(1, ge=1)
    evaluate_every: int = Field(1, ge=1)
    start_timeout: float = Field(120.0, gt=0, description="seconds")
    round_timeout: float = Field(3600.0, gt=0, description="seconds")
    round_retries: int = Field(1, ge=0)
    round_budget: float = Field(0.0, ge=0, description="seconds, 0 is none")
    min_replies: float = Field(0.0, ge=0, description="a share of those asked, or from 1 a number")
    close_early: bool = Field(True, description="as soon as there are min_replies")
    aggregation: Literal["mean", "trimmed", "median"] = "mean"
    trim: float = Field(0.2, ge=0, lt=0.5)
    reply_memory: float = Field(4.0, ge=0, description="models' worth of replies")
    update_check: Literal["off", "clip", "reject"] = "off"
    init: str = Field("", pattern=r"^(diffusers:.+)?$")
    run_dir: str = ""
    pictures: PicturesConfig = PicturesConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    rates: RatesConfig = RatesConfig()
    server: ServerConfig = ServerConfig()
    ema: EmaConfig = EmaConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    replay: ReplayConfig = ReplayConfig()
    privacy: PrivacyConfig = PrivacyConfig()

    @model_validator(mode="after")
    def _private(self) -> "RunConfig":
        """Refuse what differential privacy does not cover; whatever else cannot go with it is here.

        A run may depend on a client in its noised update alone: not in how much it weighs, what
        others are judged by, whom else a round waits for, or which submodels there are.
        """
        refused = {
            "weighting": (self.weighting != "uniform", "uniform"),
            "aggregation": (self.aggregation != "mean", "mean"),
            "update-check": (self.update_check != "off", "off"),
            "min-replies": (self.min_replies > 0, "0"),
            "round-budget": (self.round_budget > 0, "0"),
            "fleet": (self.auto, "1x40, or another of a fixed number of clients"),
            "evaluation.by": (self.evaluation.by == "clients", "server"),
        }
        for key, (clashes, instead) in refused.items():
            if self.privacy.on and clashes:
                raise ValueError(
                    f"{key}: with privacy.noise-multiplier above 0 it is {instead} "
                    f"(docs/privacy.md); set {key}={instead}"
                )
        return self

    @property
    def auto(self) -> bool:
        """Whether whoever comes takes part, in place of a fixed number of clients."""
        return fleet_menu(self.fleet) is not None

    @property
    def client_rates(self) -> tuple[Fraction, ...]:
        """The model rate of each client of the fleet, in the order of partitions.

        Of `fleet` "auto" that of each simulated one, which can hold the largest width.
        """
        if not self.auto:
            return parse_fleet(self.fleet)
        return (max(fleet_menu(self.fleet) or (Fraction(1),)),) * self.simulation_clients

    def widths(self, atom: int) -> tuple[Fraction, ...]:
        """Return the different rates that clients may have, from narrow to wide.

        Args:
            atom: Channels of an atom of the model, by which `fleet` "auto" may be halved.
        """
        return fleet_widths(self.fleet, atom)

    @property
    def by_clients(self) -> bool:
        """Whether the clients judge by images of theirs, and hold some out for it."""
        return self.data == CLIENTS or self.evaluation.by == "clients"

    @property
    def surveyed(self) -> bool:
        """Whether clients are asked what they find: with privacy nothing but updates leaves one."""
        return self.by_clients and not self.privacy.on

    def evaluates(self, round: int) -> bool:
        """Whether a round is evaluated: every so many, from the start on, and the last."""
        every = self.evaluate_every
        return round == self.rounds or (round % every == 0 and every <= self.rounds)

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """(C, H, W) of the images where `image_shape` says so, None for the data set's own."""
        if not self.image_shape:
            return None
        channels, height, width = map(int, self.image_shape.split("x"))
        return channels, height, width

    @classmethod
    def from_flat(cls, flat: Mapping[str, Any]) -> "RunConfig":
        """Build the tree from dotted kebab-case keys, of this or earlier versions.

        Raises:
            UserError: A key is unknown or was taken out, or a value is not allowed; it is named.
        """
        tree: dict[str, Any] = {}
        for key, value in flat.items():
            *tables, leaf = key.split(".")
            node = tree
            for table in tables:
                node = node.setdefault(table, {})
                if not isinstance(node, dict):
                    raise UserError(f"{key}: '{table}' is a value, not a table")
            node[leaf] = value
        return cls.from_tree(tree)

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> "RunConfig":
        """Build the tree from nested tables, as TOML gives them, of this or earlier versions.

        Keys may also be written as Python writes them, ``local_steps`` for ``local-steps``.

        Raises:
            UserError: A key is unknown or was taken out, or a value is not allowed; it is named.
        """
        try:
            config = cls.model_validate(read_earlier(hyphened(tree)))
        except ValidationError as error:
            raise UserError(one_line(error, cls().to_flat())) from None
        _ = config.client_rates  # a fleet that does not parse is refused here
        _refuse(config)
        config._check_numbers()
        return config

    def _check_numbers(self) -> None:
        """Refuse numbers of clients that cannot be."""
        if not self.auto and self.min_clients > 1:
            raise UserError(
                f"min-clients: {self.min_clients} of a fixed fleet; say how many replies a round "
                "needs with min-replies, or let fleet=auto take whoever comes"
            )
        if self.auto and self.min_clients > self.max_clients:
            raise UserError(
                f"min-clients: {self.min_clients} is more than max-clients={self.max_clients}, so "
                "that no round could begin"
            )

    def to_flat(self) -> dict[str, Scalar]:
        """Return dotted kebab-case keys with values that Flower's run-config can carry."""
        return _flatten(self.to_tree())

    def to_tree(self) -> dict[str, Any]:
        """Return nested tables with kebab-case keys, ready for TOML."""
        return self.model_dump(by_alias=True)


def _refuse(config: RunConfig) -> None:
    """Refuse keys that do not go together, whatever the data and the fleet."""
    if config.data == CLIENTS and config.shape is None:
        raise UserError(
            "image-shape: data=clients needs the shape of the clients' images, such as 3x32x32"
        )
    if config.by_clients and config.evaluation.features == "classifier":
        raise UserError(
            "evaluation.features: clients that judge need a network that all of them have, and a "
            "classifier of the run's own data is none; set untrained, or weights:FILE"
        )


def flat_keys() -> set[str]:
    """Return every key that a run-config may hold."""
    return set(RunConfig().to_flat())


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Scalar]:
    flat: dict[str, Scalar] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
