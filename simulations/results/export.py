"""A run's weights in diffusers' format."""

from fractions import Fraction
from pathlib import Path

from server.pretrained.folder import export_pipeline
from simulations.archive.record import read_run


def export_run(run_dir: Path, out: Path | None = None, round: str | None = None) -> str:
    """Write the averaged weights, at full width, as a folder that diffusers opens.

    Args:
        run_dir: The run directory.
        out: The folder; ``model`` in the run if None. An earlier export there is replaced.
        round: As in `RunRecord.state`.

    Returns:
        Lines that say what was written where, and what to know about it.

    Raises:
        UserError: The run cannot be read, or the folder not written or holding something else.
    """
    run = read_run(run_dir)
    state = run.state(round)
    out = out or run_dir / "model"
    channels, height, width = run.setting.image_shape
    size = height if height == width else (height, width)
    averaged, which = run.averaged(state, Fraction(1))
    export_pipeline(out, run.config, averaged, channels, size)
    lines = [f"{out}: the {which} weights of round {state.round} at full width"]
    best, widths = run.summary.get("best_rate") or "1", run.summary.get("widths", {})
    scores = [widths.get(rate, {}).get("frechet_ema") for rate in (best, "1")]
    if best != "1" and None not in scores:
        lines.append(
            f"rate {best} sampled better in the run (Fréchet distance {scores[0]:.4g}, full width "
            f"{scores[1]:.4g}); scorequilt sample --rate {best} draws from it"
        )
    if run.config.model.num_classes:
        lines.append("DDPMPipeline passes no class labels; call its unet with class_labels")
        if names := run.setting.about.classes:
            said = ", ".join(f"{number} {name}" for number, name in enumerate(names))
            lines.append(f"class labels: {said}")
    return "\n".join(lines)
