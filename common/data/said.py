"""What the log says of a source: what was found in it, and what is left out and why."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64

from common.data.arrangement import Arrangement
from common.data.folder import Listing, printable, said_unread
from common.data.kept import Kept

log = logging.getLogger("flwr")


def say_found(
    source: str,
    labels: Int64[np.ndarray, " N"],
    classes: Sequence[str],
    held_out: Bool[np.ndarray, " N"] | None,
    kept: Kept,
) -> None:
    """Say how many pictures there are, of which classes, and how deep ones became levels."""
    there = [classes[place] for place in np.unique(labels)]
    ends = "; deep greys from {:g} (black) to {:g} (white)"
    log.info(
        "data: %s: %d pictures%s%s%s",
        source,
        len(labels),
        f" of {len(there)} classes ({_shown(there)})" if any(classes) else "",
        "" if held_out is None else f", {held_out.sum()} of them held out",
        ends.format(*kept.depth) if len(kept.depth) else "",
    )


def say_skipped(source: str, names: Sequence[str], kept: Kept) -> tuple[str, ...]:
    """Say which pictures could not be decoded, and return their names."""
    skipped = tuple(names[place] for place in kept.skipped)
    if skipped:
        log.warning(
            "data: %d pictures of %s are skipped: %s (%s)",
            len(skipped),
            source,
            _shown(skipped),
            kept.reasons[0],
        )
    return skipped


def say_left_out(folder: Path, listing: Listing, arranged: Arrangement) -> None:
    """Say which files of a folder are not even looked into."""
    for reason in dict.fromkeys(why for _, why in arranged.left_out):
        names = [printable(path.name) for path, why in arranged.left_out if why == reason]
        log.warning(
            "data: %d pictures of %s are left out: %s (%s)",
            len(names),
            folder,
            _shown(names),
            reason,
        )
    if arranged.missing:
        log.warning(
            "data: %d files that the metadata of %s name are not there", arranged.missing, folder
        )

    if closed := [printable(name) for name in listing.closed]:
        log.warning(
            "data: %d things in %s cannot be opened: %s", len(closed), folder, _shown(closed)
        )
    if listing.unread:
        log.warning("data: %s has %s", folder, said_unread(listing.unread))


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (" …" if len(names) > 5 else "")
