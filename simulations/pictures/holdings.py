"""What clients hold, as a picture: images of each class."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64
from matplotlib import colormaps
from matplotlib.figure import Figure

MOST_CLASSES = 20
"""Classes with a colour of their own; the smallest of more are shown as one."""


def classes_figure(
    counts: Int64[np.ndarray, "clients classes"],
    clients: Sequence[str],
    classes: Sequence[str],
    title: str,
) -> Figure:
    """Draw a bar for each client, of as many parts as it has classes.

    Args:
        counts: Images.
        clients: What to call the clients.
        classes: What to call the classes.
        title: What it is about.
    """
    counts, classes = _largest(counts, classes)
    height = 0.3 * max(len(clients), 0.8 * len(classes)) + 1.6
    figure = Figure(figsize=(9, min(height, 40)), layout="constrained")
    axes = figure.subplots()
    colours = colormaps["tab20"].colors  # type: ignore[attr-defined]
    ends = counts.cumsum(axis=1)
    for place, name in enumerate(classes):
        axes.barh(
            range(len(clients)),
            counts[:, place],
            left=ends[:, place] - counts[:, place],
            color="0.6" if place >= MOST_CLASSES else colours[place],
            label=name or "no classes",
        )
    axes.set_yticks(range(len(clients)), clients)
    axes.invert_yaxis()
    axes.set_xlabel("images")
    axes.set_title(title)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return figure


def _largest(
    counts: Int64[np.ndarray, "clients classes"], classes: Sequence[str]
) -> tuple[Int64[np.ndarray, "clients shown"], Sequence[str]]:
    if len(classes) <= MOST_CLASSES:
        return counts, classes
    order = np.argsort(-counts.sum(axis=0), kind="stable")
    shown, others = np.sort(order[:MOST_CLASSES]), order[MOST_CLASSES:]
    rest = counts[:, others].sum(axis=1, keepdims=True)
    names = [classes[place] for place in shown]
    return np.concatenate([counts[:, shown], rest], axis=1), [*names, f"{len(others)} others"]
