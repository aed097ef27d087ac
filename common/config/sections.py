"""The tables of the run's configuration: model, training step, averages, scores, privacy."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, field_validator

LOSS_LEVELS = 8
"""Noise levels at which the loss on held-out images is measured: in the middles of equal parts."""


DEVICES = r"^(auto|cpu|cuda(:[0-9]{1,2})?)$"
"""Names of what networks are computed on; "auto" is the first graphics card where there is one."""


def _split(value: Any) -> Any:
    """Read ``"32,64"``, or ``"[32, 64]"``, as a list; leave lists and tuples for pydantic."""
    if isinstance(value, str):
        inner = value.strip()
        inner = inner[1:-1] if inner.startswith("[") and inner.endswith("]") else inner
        return [part.strip() for part in inner.split(",") if part.strip()]
    return [value] if isinstance(value, int) else value


IntList = Annotated[
    tuple[int, ...],
    BeforeValidator(_split),
    PlainSerializer(lambda values: ",".join(map(str, values))),
]


class Section(BaseModel):
    """A frozen table of the configuration whose keys are kebab-case outside Python."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        allow_inf_nan=False,
        alias_generator=lambda name: name.replace("_", "-"),
    )


class PicturesConfig(Section):
    """How pictures and other people's data sets are read.

    `fit` brings pictures to the run's shape: `crop` to its proportions, `pad` on black, `stretch`;
    empty crops to a shape that `image_shape` names and refuses pictures of another otherwise.
    `frames` are those of animations, stacks and files of several pages. `label` and `group` are
    columns of a data set or of a folder's metadata: the class, and what must not be torn apart when
    pictures are held out (patients, sites, cameras).
    """

    fit: Literal["", "crop", "pad", "stretch"] = ""
    frames: Literal["first", "all"] = "first"
    label: str = ""
    group: str = ""


class ModelConfig(Section):
    """The architecture of the score model, in the terms of diffusers' `UNet2DModel`.

    `widths` are the channels of each level; `attention` the levels (0 = full resolution) with
    attention; `head_dim` 0 means a single head; `num_classes` 0 means unconditional. With
    `label_dropout` that share of the labels is hidden in training behind a null class, whose
    embedding is one more row, after those of the classes: what classifier-free guidance needs.
    """

    widths: IntList = (32, 64)
    layers: int = Field(1, ge=1)
    attention: IntList = (1,)
    groups: int = Field(8, ge=1)
    head_dim: int = Field(0, ge=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    num_classes: int = Field(0, ge=0)
    label_dropout: float = Field(0.0, ge=0, lt=1)
    norm_eps: float = Field(1e-5, gt=0)
    freq_shift: int = 0
    flip_sin_to_cos: bool = True
    downsample_padding: int = Field(1, ge=0, le=1)
    mid_attention: bool = True

    @property
    def class_rows(self) -> int:
        """Rows of the table of class embeddings; the null class, if there is one, is the last."""
        return self.num_classes + (self.num_classes > 0 and self.label_dropout > 0)


class TrainConfig(Section):
    """How a client carries out its steps; only `flip` changes what is learned.

    `flip` mirrors every other image, which the data must allow. The rest trades memory and time:
    `accumulate` micro-batches to a step, autocast to bfloat16, channels-last images, activations
    computed again for the gradient, and `torch.compile`, which needs a C++ compiler and many local
    steps to pay for the minute or so that it takes.
    """

    flip: bool = False
    device: str = Field("auto", pattern=DEVICES, description="unless the client's node names one")
    accumulate: int = Field(1, ge=1)
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = True
    gradient_checkpointing: bool = False
    compile: bool = False


class EmaConfig(Section):
    """The server's exponential moving averages of the global weights.

    `half_life` lists one or several, in images, each an average of its own and named by its number;
    0 means no averaging. The first is the one scored after every round; all are at the end.
    """

    half_life: Annotated[IntList, Field(min_length=1)] = (100_000,)
    ramp: float = Field(0.1, gt=0, description="at most this share of the images seen so far")

    @field_validator("half_life")
    @classmethod
    def _distinct(cls, half_lives: tuple[int, ...]) -> tuple[int, ...]:
        if min(half_lives) < 0 or len(set(half_lives)) < len(half_lives):
            raise ValueError("half-lives are different numbers of images, none negative")
        return half_lives


class EvaluationConfig(Section):
    """What the server samples and scores after a round.

    `by` says whose images samples and losses are judged by: the server's own, or those of the
    clients, which then hold some of theirs out.
    `features` are those that distances are measured in: our own "classifier"'s, those of the same
    network "untrained", or those of a network in a file: ``weights:FILE``, one of our own as
    `scorequilt features` writes it, ``torchscript:FILE`` or ``torchscript:FILE#SHA256``.
    """

    samples: int = Field(512, ge=64, description="images per Fréchet distance")
    sampler: Literal["exponential", "ancestral", "ddim", "euler", "heun", "dpmpp2m"] = "dpmpp2m"
    evaluations: int = Field(12, ge=1, description="network evaluations per image")
    widths: Literal["all", "full"] = Field("all", description="of the fleet, after every round")
    clip: bool = Field(True, description="clip the predicted image to [-1, 1] while sampling")
    grid: Literal["log-snr", "clock", "edm", "kappa"] = "edm"
    guidance: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="Ho and Salimans (2022); doubles the cost"
    )
    device: str = Field("auto", pattern=DEVICES, description="of the server's networks")
    by: Literal["server", "clients"] = "server"
    features: str = Field(
        "classifier", pattern=r"^(classifier|untrained|weights:.+|torchscript:.+)$"
    )


class ServerConfig(Section):
    """How the server moves the global weights by a round's average (Reddi et al. 2021).

    "plain" takes the average itself, scaled by `learning_rate`; "momentum" and "adam" treat what
    the average would change as a gradient. A coordinate that no client covered takes no step, and
    its moments stay as they are.
    """

    optimizer: Literal["plain", "momentum", "adam"] = "plain"
    learning_rate: float = Field(1.0, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    second_momentum: float = Field(0.99, ge=0, lt=1, description="adam's")
    adaptivity: float = Field(1e-3, gt=0, description="adam's: the least size of a gradient")


class RatesConfig(Section):
    """What depends on a client's model rate r.

    It trains on clock readings from `noise_floor` (1 - r) up, as a narrow network learns high noise
    well and low noise badly; from r = `several_widths` up it trains what `local_widths` says.
    """

    noise_floor: float = Field(0.0, ge=0, lt=1)
    several_widths: float = Field(1.0, ge=0, le=1)


class ReplayConfig(Section):
    """Images that narrow widths draw for the clients of wider ones, see `server.replay`.

    `mode` "auto" is wherever widths can teach each other; "on" refuses to run where they cannot.
    """

    mode: Literal["auto", "on", "off"] = "auto"
    images: int = Field(256, ge=1, le=2**16, description="drawn anew every round")


class PrivacyConfig(Section):
    """Client-level differential privacy, see docs/privacy.md; a `noise_multiplier` of 0 is none.

    Updates are shortened to an L2 norm of `clip`, and their sum gets Gaussian noise whose standard
    deviation is `noise_multiplier` times that. What this amounts to is said as an epsilon at
    `delta`.
    """

    noise_multiplier: float = Field(0.0, ge=0)
    clip: float = Field(1.0, gt=0, description="largest norm of an update")
    delta: float = Field(1e-5, gt=0, lt=1)

    @property
    def on(self) -> bool:
        """Whether there is any."""
        return self.noise_multiplier > 0
