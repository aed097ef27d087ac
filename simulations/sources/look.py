"""What each client of a run would hold, or one device: a table, its pictures, its classes."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from rich.table import Table

from common.config import PicturesConfig, RunConfig
from common.data import About, ImageData, absolute_source, partition_indices
from common.data.datasets import read_source
from common.data.own import OwnImages, read_own
from common.errors import UserError
from server.record.pictures import save_grid
from server.setting import prepare

COLUMNS, ROWS = 16, 32
"""Pictures of a client on the sheet, and clients on it at most."""


@dataclass(frozen=True)
class Holding:
    """What one client would hold.

    Attributes:
        name: The client.
        rate: Its model rate; empty for a device that is not in a run yet.
        data: Its images.
    """

    name: str
    rate: str
    data: ImageData


@dataclass(frozen=True)
class Look:
    """What is to be seen.

    Attributes:
        title: Of what.
        holdings: The clients.
        classes: Names of the classes.
        held_out: Images that no client has.
        skipped: Why files are left out, and how many are.
    """

    title: str
    holdings: Sequence[Holding]
    classes: Sequence[str]
    held_out: int
    skipped: Counter[str]

    def counts(self) -> np.ndarray:
        """Images by client and class."""
        return np.stack(
            [np.bincount(each.data.labels, minlength=len(self.classes)) for each in self.holdings]
        )


def look_at_run(config: RunConfig) -> Look:
    """Deal a run's images out as the run will.

    Raises:
        UserError: The images cannot be read or dealt out.
    """
    splits = prepare(config).splits
    if splits is None:
        raise UserError(
            f"data: with {config.data} every device holds its own; look at one where it is, with "
            "scorequilt data folder:PATH --image-shape CxHxW"
        )
    train, test = splits
    rates = config.client_rates
    parts = partition_indices(
        train.labels,
        config.partition,
        len(rates),
        config.partition_alpha,
        config.seed,
        About(config.partition_args, config.pictures.group, train.columns),
    )
    holdings = [
        Holding(f"client {i}", str(rate), train.select(part))
        for i, (rate, part) in enumerate(zip(rates, parts, strict=True))
    ]
    own = read_source(config.data, config.shape, config.pictures)
    names = train.classes or [str(label) for label in range(train.num_classes)]
    dealt = config.partition + (
        f" (alpha {config.partition_alpha:g})" if config.partition == "dirichlet" else ""
    )
    return Look(f"{config.data}, dealt out {dealt}", holdings, names, len(test), _skipped(own))


def look_at_source(
    source: str, shape: tuple[int, int, int] | None, reading: PicturesConfig
) -> Look:
    """Read what one device would hold of its own: not what its source holds out.

    Args:
        source: Such as ``folder:PATH``; the path may be relative.
        shape: The run's, None for that of an array.
        reading: How the run reads pictures.

    Raises:
        UserError: The images cannot be read, or a folder has no shape to be brought to.
    """
    source = absolute_source(source)
    own = read_own(source, shape, reading)
    held_out = np.zeros(len(own.labels), bool) if own.held_out is None else own.held_out
    data = ImageData(own.images, own.labels, len(own.classes), source)
    holding = Holding("this device", "", data.select(np.flatnonzero(~held_out)))
    return Look(source, [holding], own.classes, int(held_out.sum()), _skipped(own))


def _skipped(own: OwnImages | None) -> Counter[str]:
    """Count reasons, without the names that decoders put into them."""
    reasons = () if own is None else own.reasons
    return Counter(re.sub(r" *'[^']*'", "", reason) for reason in reasons)


def table(look: Look) -> Table:
    """Return a row for each client, with the classes that it has and its darkest and brightest."""
    shown = Table()
    rated = any(each.rate for each in look.holdings)
    shown.add_column("")
    for name in (*(["rate"] if rated else []), "images", "classes", "range", "mean", "shape"):
        shown.add_column(name, justify="right")
    for each in look.holdings:
        least, most, mean = _range(each.data)
        present = np.unique(each.data.labels).tolist()
        names = [look.classes[label] for label in present]
        classes = ", ".join(names) if len(names) <= 5 else f"{len(names)} of {len(look.classes)}"
        row = [
            f"{len(each.data):,}",
            classes or "none",
            f"{least:.2f} … {most:.2f}",
            f"{mean:.2f}",
            "x".join(map(str, each.data.image_shape)),
        ]
        shown.add_row(each.name, *([each.rate] if rated else []), *row)
    return shown


def summary(look: Look) -> str:
    """Return lines that say how many images there are and what is left out."""
    total = sum(len(each.data) for each in look.holdings)
    lines = [
        f"{look.title}: {total:,} images"
        + (f", {look.held_out:,} held out" if look.held_out else "")
    ]
    lines[0] += "; black is -1 and white 1"
    lines += [f"{count:,} skipped: {reason}" for reason, count in look.skipped.most_common()]
    return "\n".join(lines)


def _range(data: ImageData) -> tuple[float, float, float]:
    """Return the least and the greatest value and the mean, reading a part at a time."""
    least, most, total = np.inf, -np.inf, 0.0
    for images in data.batches():
        least, most = min(least, float(images.min())), max(most, float(images.max()))
        total += float(images.sum(dtype=np.float64))
    return least, most, total / (len(data) * np.prod(data.image_shape))


def draw(look: Look, folder: Path) -> list[Path]:
    """Draw a row of pictures for each client, and its classes; return where.

    The pictures are spread evenly over what a client holds, and are as the network will see them;
    one device has a whole sheet of them. Classes need Matplotlib, which devices may be without.
    """
    alone = len(look.holdings) == 1
    count = COLUMNS * COLUMNS // 2 if alone else COLUMNS
    rows = []
    for each in look.holdings[:ROWS]:
        places = np.linspace(0, len(each.data) - 1, min(count, len(each.data))).astype(np.int64)
        images = torch.from_numpy(each.data.values(places))
        empty = 0 if alone else count - len(images)
        rows.append(torch.cat([images, torch.zeros(empty, *each.data.image_shape)]))
    sheet = folder / "pictures.png"
    save_grid(torch.cat(rows), sheet, columns=min(COLUMNS, max(map(len, rows))))
    if find_spec("matplotlib") is None:
        return [sheet]
    from simulations.pictures.holdings import classes_figure
    from simulations.pictures.style import save_figure

    names = [each.name for each in look.holdings]
    figure = classes_figure(look.counts(), names, look.classes, look.title)
    return [sheet, save_figure(figure, folder / "classes.png")]
