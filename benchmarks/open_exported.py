"""Sample from a model folder with nothing but diffusers: run as a script, in a process of its own.

`python benchmarks/open_exported.py FOLDER COUNT EVALUATIONS SEED OUT_FOLDER`
"""

import sys
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch

BATCH = 256
PIPELINES: dict[str, dict[str, Any]] = {
    "DDPMPipeline": {},
    # Without it, DDIM clips the predicted image but goes on along the noise of the unclipped one.
    "DDIMPipeline": {"use_clipped_model_output": True},
}


def main(folder: str, count: int, evaluations: int, seed: int, out: Path) -> None:
    """Write OUT/PIPELINE.npy: images (count, C, H, W) in [-1, 1], batches seeded from `seed` on."""
    for name, options in PIPELINES.items():
        pipeline = getattr(diffusers, name).from_pretrained(folder)
        pipeline.set_progress_bar_config(disable=True)
        parts = [
            pipeline(
                batch_size=min(BATCH, count - start),
                generator=torch.Generator().manual_seed(seed + start // BATCH),
                num_inference_steps=evaluations,
                output_type="np",
                **options,
            ).images
            for start in range(0, count, BATCH)
        ]
        images = np.concatenate(parts).transpose(0, 3, 1, 2)
        np.save(out / f"{name}.npy", images * np.float32(2) - np.float32(1))


if __name__ == "__main__":
    folder, count, evaluations, seed, out = sys.argv[1:]
    main(folder, int(count), int(evaluations), int(seed), Path(out))
