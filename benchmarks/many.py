"""`python -m benchmarks.many FOLDER`: the server's memory with 200 clients over five rounds.

The real strategy, roster, wire and average on the default model. The clients are in this process,
keep nothing of what they are sent and answer with noise, so only the server takes memory.
Writes `many.png` and `many.json` to FOLDER.
"""

import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity
from matplotlib.figure import Figure

from common import wire
from common.config import RunConfig
from common.files import write_json
from common.network import initial_weights, layout_of
from common.wire import RollCall, pack_roll_call
from server.fleet import Roster
from server.grid import StreamingGrid
from server.state import initial_state
from server.strategy import CoverageAvg
from simulations.pictures.style import save_figure, styled
from simulations.planning.measure import MIB

CONFIG = RunConfig(fleet="1x50 1/2x75 1/4x75", rounds=5)
SHAPE = (1, 8, 8)


class ManyClients(Grid):
    """Clients that answer when they are asked for their answer, and note the memory then."""

    def __init__(self, clients: int, config: RunConfig = CONFIG) -> None:
        self.clients, self.numbers = clients, 0
        self.waiting: dict[str, tuple[Message, int]] = {}
        self.specs: dict[str, wire.TaskSpec] = {}
        self.layout = layout_of(config.model, SHAPE[0])
        self.rng = np.random.default_rng(0)
        self.resident: list[float] = []

    def get_node_ids(self) -> Iterable[int]:
        """Return one id for each client."""
        return range(1, self.clients + 1)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Keep what the answers need until somebody asks for them."""
        numbers = []
        for message in messages:
            self.numbers += 1
            message.metadata.__dict__["_message_id"] = str(self.numbers)
            size = 0
            if message.metadata.message_type == "train":
                values, _, spec = wire.unpack_task(message.content, self.layout)
                size, self.specs[str(self.numbers)] = values.size, spec
            light = Message(RecordDict(), metadata=message.metadata)  # type: ignore[call-overload]
            self.waiting[str(self.numbers)] = light, size
            numbers.append(str(self.numbers))
        return numbers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Answer."""
        return [self._answer(number, *self.waiting.pop(number)) for number in message_ids]

    def _answer(self, number: str, message: Message, size: int) -> Message:
        if message.metadata.message_type == "query":
            place = message.metadata.dst_node_id - 1
            answer = RollCall(place, 100, SHAPE, partitions=self.clients)
            return Message(pack_roll_call(answer), reply_to=message)
        self.resident.append(_resident() / MIB)
        noise = self.rng.standard_normal(size, dtype=np.float32)
        spec = self.specs.pop(number)
        content = wire.pack_reply(noise, spec, {"loss": 1.0, "images": 64})
        return Message(content, reply_to=message)

    def send_and_receive(self, *args: Any, **kwargs: Any) -> Iterable[Message]:
        """Not used: `StreamingGrid` does this."""
        raise NotImplementedError

    def set_run(self, run: Any) -> None:
        """Not used."""
        raise NotImplementedError

    @property
    def run(self) -> Any:
        """Not used."""
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """Not used."""
        raise NotImplementedError


@styled
def main(folder: Path) -> None:
    """Run the rounds, print the memory after each, and draw it over all replies."""
    logging.disable(logging.CRITICAL)
    for name in ("_run_id", "_node_id", "_task_id"):
        setattr(TaskIdentity, name, 1)  # Flower makes messages only in a process that has a run
    clients = ManyClients(200)
    grid, roster = StreamingGrid(clients), Roster(CONFIG, clients.layout, SHAPE)
    roster.start(grid)
    theta = initial_weights(CONFIG.model, SHAPE[0], 0)
    state = initial_state(clients.layout, theta, CONFIG)
    strategy = CoverageAvg(CONFIG, clients.layout, roster, state)
    for number in range(1, CONFIG.rounds + 1):
        tasks = strategy.configure_train(number, ArrayRecord(), ConfigRecord(), grid)
        strategy.aggregate_train(number, grid.send_and_receive(tasks))
        peak = max(clients.resident[-200:])
        print(f"round {number}: {strategy.report.replied} replies, peak {peak:.0f} MiB", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(clients.resident)
    axes.set(xlabel="replies", ylabel="server's resident memory (MiB)", ylim=(0, None))
    save_figure(figure, folder / "many.png")
    write_json(folder / "many.json", {"resident_mib": clients.resident})


def _resident() -> float:
    """Return the bytes that this process occupies."""
    return int(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
