"""A run's weights in diffusers' format."""

from fractions import Fraction
from pathlib import Path

from common.errors import UserError
from server.pretrained.folder import export_pipeline
from server.state import ServerState
from simulations.archive.record import RunRecord, read_run


def export_run(
    run_dir: Path, out: Path | None = None, round: str | None = None, rate: str | None = None
) -> str:
    """Write averaged weights as a folder that diffusers opens.

    Args:
        run_dir: The run directory.
        out: The folder; ``model`` in the run if None. An earlier export there is replaced.
        round: As in `RunRecord.state`.
        rate: The width; if None the one that the run's summary found to sample best, or the full
            one where that is not known or diffusers could not run it.

    Returns:
        Lines that say what was written where, and what to know about it.

    Raises:
        UserError: The run cannot be read, the rate does not fit its model, or the folder cannot be
            written or holds something else.
    """
    run = read_run(run_dir)
    out = out or run_dir / "model"
    state, chosen, notes = run.state(round), run.rate(rate), []
    try:
        _write(run, state, chosen, out)
    except UserError as error:
        if rate is not None or chosen == 1:
            raise
        notes = [f"that is not what sampled best, for diffusers cannot run it ({error})"]
        chosen = Fraction(1)
        _write(run, state, chosen, out)
    _, which = run.averaged(state, chosen)
    width = "at full width" if chosen == 1 else f"at rate {chosen}, as a network of the full size"
    lines = [f"{out}: the {which} weights of round {state.round} {width}", *notes]
    if run.config.model.num_classes:
        lines.append("DDPMPipeline passes no class labels; call its unet with class_labels")
        if names := run.setting.about.classes:
            said = ", ".join(f"{number} {name}" for number, name in enumerate(names))
            lines.append(f"class labels: {said}")
    return "\n".join(lines)


def _write(run: RunRecord, state: ServerState, rate: Fraction, out: Path) -> None:
    channels, height, width = run.setting.image_shape
    size = height if height == width else (height, width)
    averaged, _ = run.averaged(state, rate)
    export_pipeline(out, run.config, averaged, channels, size, rate)
