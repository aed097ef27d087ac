"""The Flower ServerApp: from a configuration to a finished run directory."""

import logging
from functools import partial
from pathlib import Path

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp

from common.config import CLIENTS, RunConfig
from common.errors import UserError
from common.files import atomic_write, discard_parts, write_json
from server.about import About
from server.fleet import ClassNames, Client, Roster
from server.live import Live, WatchedGrid
from server.preflight import preflight
from server.pretrained.start import starting_weights
from server.privacy import Ledger
from server.record.about import read_about
from server.record.background import Background
from server.record.history import read_rows
from server.record.lock import only_writer
from server.record.recorder import Recorder
from server.record.resolved import write_config
from server.replay import Replayer, replays
from server.state import checkpoints, initial_state, load_checkpoint, resumable
from server.strategy import CoverageAvg

log = logging.getLogger("flwr")

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation; what goes wrong is also left as one line in ``failure.txt``."""
    run_dir = own_folder(str(context.run_config.get("run-dir") or default_run_dir(context.run_id)))
    live = Live(run_dir)
    with only_writer(run_dir):
        try:
            config = RunConfig.from_flat(context.run_config)
            live.told = not config.privacy.on
            federate(WatchedGrid(grid, live), config, run_dir)
        except Exception as error:
            atomic_write(run_dir / "failure.txt", f"{error}\n".encode())
            raise
        finally:
            live.end()


def default_run_dir(run_id: int) -> Path:
    """Return where a run goes that was started without a run directory, as by a bare `flwr run`."""
    return Path.home() / "scorequilt-runs" / str(run_id)


def own_folder(text: str) -> Path:
    """Make a run directory below which everything stays that is written there.

    Args:
        text: Its absolute path; the directory itself may be reached over links.

    Raises:
        UserError: The path is relative, cannot be made, or something in the directory is a link,
            through which writing would leave it.
    """
    path = Path(text)
    if not path.is_absolute():
        raise UserError(f"run-dir: {text!r} must be absolute, since apps run in a folder apart")
    try:
        path.mkdir(parents=True, exist_ok=True)
        run_dir = path.resolve()
        links = [each for each in run_dir.rglob("*") if each.is_symlink()]
    except (OSError, ValueError) as error:  # a NUL in it is a ValueError
        raise UserError(f"run-dir: cannot make {text!r} ({error})") from None
    if links:
        raise UserError(
            f"run-dir: {links[0]} is a link, and what a run writes stays in its directory; choose "
            "another run-dir"
        )
    return run_dir


def federate(grid: Grid, config: RunConfig, run_dir: Path) -> None:
    """Train for the configured rounds, or for those left after the last checkpoint.

    Args:
        grid: Where the clients are.
        config: The run's configuration.
        run_dir: Where everything is written; checkpoints found there are resumed from.

    Raises:
        UserError: The configuration does not fit the data, the model or the nodes.
        NoUsableReplyError: Too few clients of a round returned a usable update.
    """
    discard_parts(run_dir)
    last = resumable(checkpoints(run_dir / "checkpoints"), config)
    setting = preflight(config, resumed=last is not None)
    layout = setting.layout
    if last is None:
        theta = starting_weights(config, setting.image_shape[0])
        state, recorded = initial_state(layout, theta, config), -1
    else:
        state = load_checkpoint(last, config, layout, read_rows(run_dir / "history.jsonl"))
        recorded = state.round
    write_config(config, run_dir)
    ledger = Ledger(run_dir, resumed=last is not None) if config.privacy.on else None
    numbers = run_dir / "numbers.json"
    kind: About | None = setting.about
    if config.data == CLIENTS:  # a run that goes on keeps its names, whoever is there today
        kind = read_about(run_dir) if last is not None else None
    classes = ClassNames(config, kind.classes if kind else (), fixed=kind is not None)
    roster = Roster(config, layout, setting.image_shape, state.limits, numbers, classes)
    try:
        roster.start(grid)
    finally:  # it also says who was refused
        write_json(run_dir / "fleet.json", roster.record())
    if config.data == CLIENTS:
        setting = setting.agreed(roster.classes.names)
    recorder = Recorder(setting, run_dir)
    recorder.go_on_after(recorded)
    replaying = replays(config, layout)
    replayer = Replayer(setting, recorder.measured_before) if replaying else None
    strategy = CoverageAvg(config, layout, roster, state, ledger, replayer)
    if config.surveyed:
        strategy.meet(grid)
    log.info(recorder.cost(state))
    log.info(recorder.evaluator(strategy.state).check.line)
    written: list[Client] = []

    def after_round(server_round: int, _: object) -> MetricRecord | None:
        nonlocal written
        if roster.fleet() is not written:
            write_json(run_dir / "fleet.json", roster.record())
            written = roster.fleet()
        if strategy.state.round > recorded:  # where a resumed run starts is on disk
            background.record(strategy.state, strategy.report, strategy.coverage)
        return None

    with Background(recorder) as background:
        strategy.start(
            grid,
            ArrayRecord(),
            num_rounds=config.rounds - state.round,
            timeout=config.round_timeout,
            evaluate_fn=after_round,
        )
    ask = partial(strategy.judged, grid) if config.surveyed else None
    recorder.summarise(strategy.state, ask)
