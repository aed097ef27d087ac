"""Pictures of what `benchmarks.comparison` has found."""

import statistics
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.comparison import REPLAY, SETTINGS, WITHOUT, Keys


def draw(results: list[Keys], path: Path) -> None:
    """Draw every run at full and at half width, a panel for each setting of unequal rows."""
    names = [name for name in SETTINGS if any(r["setting"] == name for r in results)]
    counts = [len({r["row"] for r in results if r["setting"] == name}) for name in names]
    figure = Figure(figsize=(8, 0.9 * len(names) + 0.26 * sum(counts)), layout="constrained")
    panels = figure.subplots(len(names), 1, squeeze=False, height_ratios=counts, sharex=True)
    for name, axes in zip(names, panels[:, 0], strict=True):
        mine = [r for r in results if r["setting"] == name]
        known = {r["row"] for r in mine}
        rows = [row for row in (*SETTINGS[name].first, *SETTINGS[name].then) if row in known][::-1]
        for width, marker, label in (("1/2", "x", "half width"), ("1", "o", "full width")):
            found = [
                (r["percent"][width], rows.index(r["row"])) for r in mine if width in r["percent"]
            ]
            axes.scatter(*zip(*found, strict=True), marker=marker, s=22, label=label)
        axes.set(
            xscale="log", yticks=range(len(rows)), yticklabels=rows, ylim=(-0.7, len(rows) - 0.3)
        )
        axes.set_title(name, fontsize=9, loc="left")
        axes.grid(axis="x", alpha=0.3, which="both")
    panels[0, 0].legend(fontsize=8, loc="lower right")
    panels[-1, 0].set_xlabel("Fréchet distance, % of pure noise")
    figure.savefig(path, dpi=110)


def draw_replay(results: list[Keys], path: Path) -> None:
    """Draw what replay does to the full and the half width, wherever both were run."""
    pairs: list[tuple[str, dict[int, Keys], dict[int, Keys]]] = []
    for name in SETTINGS:
        without, with_it = (
            {r["seed"]: r["percent"] for r in results if (r["setting"], r["row"]) == (name, row)}
            for row in (WITHOUT, REPLAY)
        )
        if without and with_it:
            pairs.append((name.removeprefix("mixed fleet, "), without, with_it))
    figure = Figure(figsize=(8, 0.8 + 0.55 * len(pairs)), layout="constrained")
    axes = figure.subplots()
    for place, (_, *both) in enumerate(pairs):
        for width, shift, colour in (("1", -0.14, "C0"), ("1/2", 0.14, "C1")):
            means = [statistics.mean(each[width] for each in runs.values()) for runs in both]
            axes.plot(means, [place + shift] * 2, color=colour, lw=1, zorder=1)
            for runs, face in zip(both, ("white", colour), strict=True):
                values = [each[width] for each in runs.values()]
                axes.scatter(
                    values, [place + shift] * len(values), s=26, facecolor=face, edgecolor=colour
                )
    for label, colour, face in (
        ("full width, without", "C0", "white"),
        ("full width, with replay", "C0", "C0"),
        ("half width, without", "C1", "white"),
        ("half width, with replay", "C1", "C1"),
    ):
        axes.scatter([], [], s=26, facecolor=face, edgecolor=colour, label=label)
    axes.set(xscale="log", yticks=range(len(pairs)), yticklabels=[name for name, *_ in pairs])
    axes.set_xlabel("Fréchet distance, % of pure noise")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.tick_params(which="both", labelsize=8)
    axes.set_ylim(len(pairs) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3, which="both")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=110)
