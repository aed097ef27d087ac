"""What a run directory keeps of its data, so that it can be used where these are not.

`data.json` says what kind of images there are; `reference.safetensors` holds what samples are
compared with: the feature classifier, the features' moments, the classes of training images, and
how their pixels go together, which restoring pictures takes.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from common.errors import UserError
from common.files import write_json, write_tensors
from server.about import About

DATA, KEPT = "data.json", "reference.safetensors"


def write_about(run_dir: Path, kind: About) -> None:
    """Write `data.json`."""
    write_json(run_dir / DATA, asdict(kind))


def read_about(run_dir: Path) -> About | None:
    """Return what `data.json` says, None where there is none, as in runs of earlier versions.

    Raises:
        UserError: The file is damaged.
    """
    path = run_dir / DATA
    if not path.is_file():
        return None
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        channels, height, width = map(int, tree.pop("image_shape"))
        classes = tuple(map(str, tree.pop("classes", ())))
        depth = tuple(map(float, tree.pop("depth", ())))
        return About(image_shape=(channels, height, width), classes=classes, depth=depth, **tree)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None


@dataclass(frozen=True, eq=False)
class Kept:
    """What samples are compared with.

    Attributes:
        tensors: ``labels``, those of the training images; ``sum``, ``products`` and ``count`` of
            their features; ``shares`` of kinds among them; and under ``classifier.`` the weights
            of the feature classifier. ``covariance`` is that of the training images, where it is
            not too large.
        scores: Numbers and texts by name: ``noise``, ``held_out``, ``digest``, ``passed``.
    """

    tensors: Mapping[str, np.ndarray]
    scores: Mapping[str, Any]


def write_kept(run_dir: Path, kept: Kept) -> None:
    """Write `reference.safetensors`."""
    metadata = {"scores": json.dumps(dict(kept.scores))}
    write_tensors(run_dir / KEPT, kept.tensors, metadata)


def read_kept(run_dir: Path) -> Kept | None:
    """Return what is kept in a run directory, None in runs of earlier versions.

    Raises:
        UserError: The file is damaged.
    """
    path = run_dir / KEPT
    if not path.is_file():
        return None
    try:
        with safe_open(path, "numpy") as file:
            scores = json.loads(file.metadata()["scores"])
            return Kept({name: file.get_tensor(name) for name in file.keys()}, scores)  # noqa: SIM118
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
