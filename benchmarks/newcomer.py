"""`python -m benchmarks.newcomer`: a newcomer's path with pictures of every step.

Cuts scikit-learn's two photographs into a folder of pictures, one sub-folder each, and does with it
what README says: `scorequilt init`, `data` and `run`, as commands of their own. What they draw is
laid, small, into `docs/pictures`: the sheet of `data` and the samples of `run`.
"""

import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import typer
from PIL import Image
from sklearn.datasets import load_sample_images

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
CUTS = 300
"""Pictures from each photograph."""

SIDE = 96
LARGEST = 900
"""Pixels that what is laid into the documentation is wide at most."""


def cut(folder: Path) -> None:
    """Write square pieces of the photographs, at random places, as JPEG files."""
    rng = np.random.default_rng(0)
    images = load_sample_images()
    for name, photograph in zip(images.filenames, images.images, strict=True):
        place = folder / Path(name).stem
        place.mkdir(parents=True)
        for number in range(CUTS):
            top, left = (int(rng.integers(edge - SIDE + 1)) for edge in photograph.shape[:2])
            piece = photograph[top : top + SIDE, left : left + SIDE]
            Image.fromarray(piece).save(place / f"{number:03}.jpg", quality=90)


def step(folder: Path, *words: str) -> None:
    """Give a command, and show it with what it says and how long it took."""
    print(f"$ scorequilt {' '.join(words)}", flush=True)
    started = time.monotonic()
    command = Path(sys.executable).with_name("scorequilt")
    subprocess.run([str(command), *words], cwd=folder, check=True)
    print(f"({time.monotonic() - started:.0f} s)", flush=True)


def lay(source: Path, name: str) -> None:
    """Copy a picture, in few colours and no wider than `LARGEST`."""
    picture = Image.open(source).convert("RGB")
    if picture.width > LARGEST:
        picture.thumbnail((LARGEST, LARGEST))
    few = picture.quantize(128, dither=Image.Dither.NONE)
    few.save(PICTURES / f"newcomer-{name}.png", optimize=True)


def main(
    size: Annotated[int, typer.Option(help="As of init.")] = 16,
    minutes: Annotated[float, typer.Option(help="As of init.")] = 15.0,
) -> None:
    """Walk the path, and lay its pictures into the documentation."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        cut(folder / "pictures")
        step(folder, "init", "pictures", "--size", str(size), "--minutes", f"{minutes:g}")
        step(folder, "data", "pictures.toml")
        step(folder, "run", "pictures.toml", "--quiet")
        lay(folder / "data-look" / "pictures.png", "pictures")
        lay(folder / "runs" / "pictures" / "samples" / "final.png", "samples")


if __name__ == "__main__":
    typer.run(main)
