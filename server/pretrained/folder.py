"""Model folders that diffusers opens as a `DDPMPipeline`, written and read without diffusers.

The network is `UNet2DModel` under the same parameter names, so weights go over one by one. They
are matched by name, because diffusers stands them in another order than `theta`.
"""

import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32
from safetensors import SafetensorError, safe_open

from common.config import ModelConfig, RunConfig
from common.errors import UserError
from common.files import write_json, write_tensors
from common.network import layout_of
from common.submodels import Layout
from server.pretrained.options import (
    ImageSize,
    read_schedule,
    read_unet_options,
    scheduler_options,
    unet_options,
)
from server.pretrained.stretched import stretched

WEIGHTS = "diffusion_pytorch_model.safetensors"

RATE = "_scorequilt_rate"
"""Says in config.json which width a network computes; of no account to diffusers."""

_VERSION = "0.34.0"  # of the oldest diffusers that these files are for
_OURS = {"model_index.json", "unet", "scheduler"}
# Attention as diffusers named it until 2023, and still reads it.
_OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
_FLOATS = {"F64", "F32", "F16"}  # NumPy has no bfloat16


class Imported(NamedTuple):
    """A model that was read: its architecture and weights, and the images it is for."""

    model: ModelConfig
    theta: Float32[np.ndarray, "P"]
    image_channels: int
    sample_size: ImageSize | None


def export_pipeline(
    folder: Path,
    config: RunConfig,
    theta: Float32[np.ndarray, "P"],
    image_channels: int,
    image_size: ImageSize,
    rate: Fraction = Fraction(1),
) -> None:
    """Write a folder from which `diffusers.DDPMPipeline.from_pretrained` samples.

    A conditional model opens too, but that pipeline has no way to pass class labels: call its
    `unet` with `class_labels`, and its `scheduler`.

    Args:
        folder: Where to. An earlier export there is replaced as a whole.
        config: The run's, of which architecture, clock and prediction are used.
        theta: The full model's weights.
        image_channels: Channels of an image.
        image_size: Height and width of an image.
        rate: Of the width that is written, as a network of the full size (`stretched`).

    Raises:
        UserError: The folder holds something else than an export, or cannot be written, or the
            width cannot be one of the full size.
        ValueError: The weights are not those of this architecture.
    """
    layout = layout_of(config.model, image_channels)
    if theta.shape != (layout.size,):
        raise ValueError(f"{theta.shape} weights for a network of {layout.size}")
    if rate < 1 and not config.scaler:
        raise UserError(
            f"rate {rate}: without the scaler (scaler=false) a width is no network of the full size"
        )
    wide = stretched(layout, theta, rate)
    tensors = {parameter.name: layout.view(wide, parameter) for parameter in layout.parameters}
    parts = {"scheduler": ["diffusers", "DDPMScheduler"], "unet": ["diffusers", "UNet2DModel"]}
    options = unet_options(config.model, image_channels, image_size) | {RATE: str(rate)}
    with _replacing(folder.resolve()) as new:
        _write(new / "scheduler/scheduler_config.json", "DDPMScheduler", scheduler_options(config))
        _write(new / "unet/config.json", "UNet2DModel", options)
        write_tensors(new / "unet" / WEIGHTS, tensors, {"format": "pt"})
        _write(new / "model_index.json", "DDPMPipeline", parts)


def import_pipeline(folder: Path) -> Imported:
    """Read a `DDPMPipeline` or a `UNet2DModel` that we or diffusers' `save_pretrained` wrote.

    The scheduler is not read; `import_schedule` does.

    Raises:
        UserError: A file is missing or damaged, a tensor has another shape than the options say,
            or the network computes something that `ScoreUNet` does not; the line names it.
    """
    unet = folder / "unet" if (folder / "model_index.json").is_file() else folder
    path = unet / "config.json"
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(given, dict):
            raise ValueError("not a table of options")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not the configuration of a diffusers model ({error})") from None
    if given.get(RATE, "1") != "1":
        raise UserError(
            f"{path}: the network is a run's width of rate {given[RATE]}, whose channels are each "
            "there several times over and would stay alike for ever; write the full width with "
            "scorequilt export --rate 1"
        )
    try:
        model, channels, size = read_unet_options(given)
        layout = layout_of(model, channels)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return Imported(model, _read_weights(unet / WEIGHTS, layout), channels, size)


def import_schedule(folder: Path) -> dict[str, str | None]:
    """Return the `prediction` and `clock` that a pipeline's scheduler names.

    The clock is None where the scheduler's is not one of ours, and nothing is returned for a
    network without a pipeline.

    Raises:
        UserError: The pipeline has no scheduler, or one that cannot be read.
    """
    if not (folder / "model_index.json").is_file():
        return {}
    path = folder / "scheduler" / "scheduler_config.json"
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        return read_schedule(given)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not the configuration of a scheduler ({error})") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _read_weights(path: Path, layout: Layout) -> Float32[np.ndarray, "P"]:
    """Return the weights in the layout's order, taken from a safetensors file by name."""
    theta = np.empty(layout.size, dtype=np.float32)
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; save the model with safe_serialization=True and in one piece"
        )
    try:
        with safe_open(path, framework="numpy") as file:
            left = set(file.keys())
            for parameter in layout.parameters:
                name = next((n for n in _names(parameter.name) if n in left), None)
                if name is None:
                    raise UserError(f"{path}: {parameter.name} is missing")
                stored = file.get_slice(name)
                shape, dtype = tuple(stored.get_shape()), stored.get_dtype()
                if shape != parameter.shape or dtype not in _FLOATS:
                    raise UserError(
                        f"{path}: {name} is {dtype} of shape {shape}, not F32 of {parameter.shape}"
                    )
                layout.view(theta, parameter)[...] = file.get_tensor(name)
                left.remove(name)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error})") from None
    if left:
        raise UserError(
            f"{path}: {min(left)} is not a parameter of the model that config.json says"
        )
    return theta


def _names(name: str) -> Iterator[str]:
    """Yield the names under which a parameter may be stored."""
    yield name
    for new, old in _OLD_NAMES.items():
        if f".{new}." in name:
            yield name.replace(f".{new}.", f".{old}.")


def _write(path: Path, class_name: str, options: dict[str, Any]) -> None:
    write_json(path, {"_class_name": class_name, "_diffusers_version": _VERSION, **options})


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """Give a new folder, which takes the place of `folder` once everything is in it."""
    token = uuid.uuid4().hex
    new, old = (folder.with_name(f".{folder.name}.{token}.{end}") for end in ("part", "old.part"))
    try:
        foreign = {entry.name for entry in folder.iterdir()} - _OURS if folder.exists() else set()
        if foreign:
            raise UserError(
                f"{folder}: holds {min(foreign)}, which is not of an exported model, and would be "
                "replaced; choose another folder"
            )
        new.mkdir(parents=True)
        yield new
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}; choose another folder") from None
    finally:
        shutil.rmtree(new, ignore_errors=True)
