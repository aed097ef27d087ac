"""The run's configuration: one frozen tree, and its flat form in Flower's run-config.

Everything that server and clients must agree on stands here with its default: the defaults *are*
the preset `digits`. Flower carries a configuration as flat ``key = value`` pairs of bool, int,
float and str, so lists are written as ``"32,64"`` and nested keys as dotted, kebab-case names
(``model.widths``).
"""

from collections.abc import Mapping
from difflib import get_close_matches
from fractions import Fraction
from typing import Any, Literal

from pydantic import Field, ValidationError

from common.config.earlier import read_earlier
from common.config.fleet import parse_fleet
from common.config.sections import (
    EmaConfig,
    EvaluationConfig,
    ModelConfig,
    PicturesConfig,
    RatesConfig,
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


class RunConfig(Section):
    """Everything that determines a run; equal configurations give equal bits.

    Field defaults describe the default job. `fleet` is rates times counts
    (``"1x2 1/2x3 1/4x3"``) or one of Zhou's codes (``"1111223344"``); for `refresh_every`
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

    @property
    def client_rates(self) -> tuple[Fraction, ...]:
        """The model rate of each client of the fleet, in the order of partitions."""
        return parse_fleet(self.fleet)

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

        Raises:
            UserError: A key is unknown or was taken out, or a value is not allowed; it is named.
        """
        try:
            config = cls.model_validate(read_earlier(tree))
        except ValidationError as error:
            raise UserError(_one_line(error, cls)) from None
        _ = config.client_rates  # a fleet that does not parse is refused here
        return config

    def to_flat(self) -> dict[str, Scalar]:
        """Return dotted kebab-case keys with values that Flower's run-config can carry."""
        return _flatten(self.to_tree())

    def to_tree(self) -> dict[str, Any]:
        """Return nested tables with kebab-case keys, ready for TOML."""
        return self.model_dump(by_alias=True)


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


def _one_line(error: ValidationError, cls: type["RunConfig"]) -> str:
    """Say the first thing that pydantic found wrong in one line, naming the key."""
    first = error.errors()[0]
    key = ".".join(str(part).replace("_", "-") for part in first["loc"] if isinstance(part, str))
    if first["type"] == "extra_forbidden":
        near = get_close_matches(key, cls().to_flat(), n=1)
        hint = f"did you mean '{near[0]}'?" if near else "see docs/configuration.md"
        return f"unknown key '{key}'; {hint}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{key}: {message[0].lower()}{message[1:]} (got {first['input']!r})"
