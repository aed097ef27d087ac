"""The Flower ServerApp: from a configuration to a finished run directory."""

import logging
import time
from pathlib import Path

from flwr.app import Context, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp

from common.config import RunConfig, parse_fleet
from common.errors import UserError
from common.files import atomic_write
from common.wire import WireError, unpack_roll_call
from server.checkpoint import checkpoints, load_checkpoint
from server.fleet import Client, muster
from server.grid import StreamingGrid
from server.preflight import preflight
from server.recorder import Recorder
from server.starting import starting_weights
from server.state import initial_state
from server.strategy import CoverageAvg

NODES_TIMEOUT = 120.0
"""Seconds to wait until as many nodes are connected as the fleet names."""

log = logging.getLogger("flwr")

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation; what goes wrong is also left as one line in ``failure.txt``."""
    run_dir = Path(str(context.run_config.get("run-dir") or default_run_dir(context.run_id)))
    run_dir.mkdir(parents=True, exist_ok=True)
    try:
        config = RunConfig.from_flat(context.run_config)
        federate(StreamingGrid(grid), config, run_dir)
    except Exception as error:
        atomic_write(run_dir / "failure.txt", f"{error}\n".encode())
        raise


def default_run_dir(run_id: int) -> Path:
    """Return where a run goes that was started without a run directory, as by a bare `flwr run`."""
    return Path.home() / "scorequilt-runs" / str(run_id)


def federate(grid: Grid, config: RunConfig, run_dir: Path) -> None:
    """Train for the configured rounds, or for those left after the last checkpoint.

    Args:
        grid: Where the clients are.
        config: The run's configuration.
        run_dir: Where everything is written; checkpoints found there are resumed from.

    Raises:
        UserError: The configuration does not fit the data, the model or the nodes.
        NoUsableReplyError: Every client of a round failed.
    """
    saved = checkpoints(run_dir / "checkpoints")
    layout = preflight(config, resumed=bool(saved))
    fleet = roll_call(grid, config)
    recorder = Recorder(config, layout, run_dir)
    if saved:
        state = load_checkpoint(saved[-1], config, layout)
        recorder.history.truncate_after(state.round)
    else:
        channels = recorder.splits.train.image_shape[0]
        theta = starting_weights(config, channels)
        state = initial_state(layout, theta, config)
        recorder.history.truncate_after(-1)
    log.info(recorder.cost(state))
    strategy = CoverageAvg(config, layout, fleet, state)

    def after_round(server_round: int, _: object) -> MetricRecord | None:
        if server_round > 0 or not saved:  # a resumed run has recorded where it starts
            recorder.record(strategy.state, strategy.report, strategy.round_counts)
        return None

    strategy.start(
        grid,
        strategy.arrays(),
        num_rounds=config.rounds - state.round,
        timeout=config.round_timeout,
        evaluate_fn=after_round,
    )
    recorder.summarise(strategy.state)


def roll_call(grid: Grid, config: RunConfig) -> list[Client]:
    """Ask every node who it is and return the fleet in the order of partitions.

    Raises:
        UserError: Too few nodes, or their partition ids are not 0 … N-1.
    """
    rates = parse_fleet(config.fleet)
    nodes = _wait_for_nodes(grid, len(rates))
    questions = [Message(RecordDict(), node, MessageType.QUERY) for node in nodes]
    answers = {}
    for reply in grid.send_and_receive(questions, timeout=NODES_TIMEOUT):
        if reply.has_error():
            raise UserError(
                f"roll-call: a client failed: {(reply.error.reason or 'no reason given').strip()}"
            )
        try:
            answer = unpack_roll_call(reply.content)
        except WireError as error:
            raise UserError(f"roll-call: {error}") from None
        answers[answer.partition] = reply.metadata.src_node_id, answer.examples
    if sorted(answers) != list(range(len(rates))):
        raise UserError(
            f"roll-call: the fleet has {len(rates)} clients, which need partition-id 0 … "
            f"{len(rates) - 1}; answered: {sorted(answers)}"
        )
    return muster(rates, [answers[partition] for partition in range(len(rates))])


def _wait_for_nodes(grid: Grid, count: int) -> list[int]:
    """Return the node ids once there are as many as the fleet has clients."""
    deadline = time.monotonic() + NODES_TIMEOUT
    while len(nodes := list(grid.get_node_ids())) != count:
        if len(nodes) > count or time.monotonic() > deadline:
            raise UserError(
                f"fleet: names {count} clients, but {len(nodes)} nodes are connected; in a "
                f"simulation start with --federation-config 'num-supernodes={count}'"
            )
        time.sleep(0.1)
    return nodes
