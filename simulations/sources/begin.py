"""A first configuration for a folder of pictures: a shape, a network and steps that fit."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import numpy as np

from common.config import RunConfig
from common.data import open_picture, pictures_in
from common.errors import UserError
from common.files import atomic_write
from server.preflight import preflight
from simulations.planning.cost import Cost, measure_costs, round_seconds, said_round

LOOKED_AT = 64
"""Pictures of a folder that decide on its shape."""

SIDES = (32, 28)
"""Sides to choose from, the larger first; smaller pictures keep their own, larger is said."""

STEPS_TO = 4
"""Sides are multiples of it, so that networks can halve them."""

NETWORKS = {16: ((32, 64), 64), 32: ((32, 64, 64), 64), 128: ((32, 64, 64, 64), 32)}
"""Channels of the levels and images in a batch by the largest side that they are for."""

FLEETS = {80: "1x2 1/2x3 1/4x3", 0: "1x1 1/2x1 1/4x1"}
"""A fleet by the fewest pictures that it is for."""

ROUNDS, EVALUATE_EVERY, SAMPLES = 16, 4, 256
LEAST_STEPS, MOST_STEPS = 10, 200


@dataclass(frozen=True)
class Beginning:
    """What a folder's first configuration came out as.

    Attributes:
        path: The file that was written.
        config: What it says.
        costs: Of a client at each rate of its fleet.
        seconds: Of the local steps of a round, all clients on this machine.
        images: Pictures to train on, held out and left out.
        classes: How many there are.
        typical: Width and height of the typical picture.
    """

    path: Path
    config: RunConfig
    costs: list[Cost]
    seconds: float
    images: tuple[int, int, int]
    classes: int
    typical: tuple[int, int]


def begin(
    folder: Path,
    out: Path | None = None,
    side: int | None = None,
    minutes: float = 30.0,
    progress: Callable[[int, int], None] | None = None,
) -> Beginning:
    """Look at a folder's pictures and write a configuration that `scorequilt run` takes as it is.

    Args:
        folder: The pictures.
        out: The file; the folder's name and ``.toml`` if None. It must not be there yet.
        side: Height and width that pictures are brought to; None chooses by their size.
        minutes: How long training may take on this machine, evaluation apart.
        progress: Called with the trainings timed and in total.

    Raises:
        UserError: The folder cannot be read or has too few pictures, or the file is there.
    """
    folder = Path(os.path.normpath(folder.expanduser().absolute()))
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.name).strip("-._") or "pictures"
    name = "pictures" if name == "latest" else name
    out = out or Path(f"{name}.toml")
    if out.suffix != ".toml":
        raise UserError(f"out: {out} does not end in .toml")
    if out.exists():
        raise UserError(f"out: {out} is there already; choose another with --out, or delete it")
    pictures = pictures_in(folder)
    typical, channels = _typical(pictures)
    side = side or _side(min(typical))
    config = _config(name, folder, (channels, side, side), len(pictures))
    splits = preflight(config).splits
    rates = sorted(set(config.client_rates), reverse=True)
    costs = measure_costs(config, (channels, side, side), rates, progress, repeats=1)
    step = round_seconds(config, costs)
    steps = int(np.clip(60 * minutes / ROUNDS / step, LEAST_STEPS, MOST_STEPS))
    config = config.model_copy(update={"local_steps": steps})
    _write(out, config, splits.train.num_classes, typical)
    images = len(splits.train), len(splits.test), splits.train.skipped
    return Beginning(out, config, costs, steps * step, images, splits.train.num_classes, typical)


def _typical(pictures: list[Path]) -> tuple[tuple[int, int], int]:
    """Return width and height of the typical picture, and 3 channels if any of some has colour.

    Raises:
        UserError: None of these can be decoded.
    """
    places = np.linspace(0, len(pictures) - 1, min(LOOKED_AT, len(pictures))).astype(int)
    sizes, coloured, last = [], False, ""
    for place in places:
        try:
            picture = open_picture(pictures[place], 3)
        except UserError as error:
            last = str(error)
            continue
        sizes.append(picture.size)
        values = np.asarray(picture)
        coloured |= bool((values != values[..., :1]).any())
    if not sizes:
        raise UserError(f"data: none of {len(places)} pictures can be decoded ({last})")
    width, height = np.median(np.array(sizes), axis=0).astype(int).tolist()
    return (width, height), 3 if coloured else 1


def _side(typical: int) -> int:
    """Return the side that pictures of a typical smaller side are brought to."""
    fitting = [side for side in SIDES if side <= typical]
    return fitting[0] if fitting else max(8, typical // STEPS_TO * STEPS_TO)


def _config(name: str, folder: Path, shape: tuple[int, int, int], pictures: int) -> RunConfig:
    side = max(shape)
    if side % STEPS_TO or not 8 <= side <= max(NETWORKS):
        raise UserError(
            f"size: {side} is no multiple of {STEPS_TO} from 8 to {max(NETWORKS)}; such as 28, 32"
            " or 64"
        )
    widths, batch = next(NETWORKS[most] for most in NETWORKS if side <= most)
    while side % 2 ** (len(widths) - 1):
        widths = widths[:-1]
    flat = {
        "name": name,
        "data": f"folder:{folder}",
        "image-shape": "x".join(map(str, shape)),
        "fleet": next(FLEETS[least] for least in FLEETS if pictures >= least),
        "rounds": ROUNDS,
        "batch-size": batch,
        "evaluate-every": EVALUATE_EVERY,
        "model.widths": ",".join(map(str, widths)),
        "model.attention": str(len(widths) - 1),
        "evaluation.samples": SAMPLES,
    }
    return RunConfig.from_flat(flat)


def _write(path: Path, config: RunConfig, classes: int, typical: tuple[int, int]) -> None:
    flat = config.to_flat()

    def lines(*keys: str) -> list[str]:
        return [
            f"{key.rpartition('.')[2]} = {json.dumps(flat[key], ensure_ascii=False)}"
            for key in keys
        ]

    text = [
        f"# Pictures of typically {typical[0]} x {typical[1]} pixels; docs/configuration.md has"
        " every key.",
        *lines("name", "data", "image-shape"),
        "",
        "# One machine plays all clients: rates of the model times numbers of clients.",
        *lines("fleet"),
        "",
        "# More steps and rounds draw better and take longer.",
        *lines("rounds", "local-steps", "batch-size", "evaluate-every"),
        "",
        "[model]",
        *lines("model.widths", "model.attention"),
        *(
            [f"# To choose what is drawn by its class: num-classes = {classes}"]
            if classes > 1
            else []
        ),
        "",
        "[train]",
        "# True if a mirror image is as good a picture as the picture itself.",
        *lines("train.flip"),
        "",
        "[evaluation]",
        *lines("evaluation.samples"),
    ]
    try:
        content = "\n".join([*text, ""]).encode()
    except UnicodeEncodeError:
        raise UserError(f"data: {config.data!r} is no text; rename the folder") from None
    atomic_write(path, content)


def report(found: Beginning) -> str:
    """Say what was found, what was chosen, and what a round will cost."""
    config, (train, test, skipped) = found.config, found.images
    left_out = f", {skipped:,} left out" if skipped else ""
    larger = min(found.typical) >= 2 * max(map(int, config.image_shape.split("x")))
    return "\n".join(
        [
            f"{train:,} pictures to train on, {test:,} held out{left_out};"
            f" classes: {found.classes}",
            f"images {config.image_shape} of pictures of typically"
            f" {found.typical[0]}x{found.typical[1]}"
            + ("; --size 64 keeps more of them and costs three times as much" if larger else ""),
            f"network {','.join(map(str, config.model.widths))}; fleet {config.fleet};"
            f" {config.rounds} rounds of {config.local_steps} steps of {config.batch_size} images",
            said_round(config, found.costs),
            f"{found.path}; go on with: scorequilt run {quote(str(found.path))}",
        ]
    )
