"""What a run on a data set of somebody else will take, said before its images are fetched."""

from common.config import RunConfig
from common.data.named import NAMED
from common.data.pictures import said_shape
from server.setting import outlined
from simulations.planning.cost import measure_costs, said_round


def said_ahead(config: RunConfig) -> str:
    """Say what a run will do and take, as timed here with images of noise.

    Args:
        config: The run's configuration, whose `data` is one of `NAMED`.

    Raises:
        UserError: A rate does not fit the model's atoms.
    """
    shape = outlined(config).image_shape
    costs = measure_costs(config, shape, sorted(set(config.client_rates), reverse=True), repeats=1)
    images = f"images {said_shape(shape)}, network {','.join(map(str, config.model.widths))}"
    steps = f"{config.local_steps} steps of {config.batch_size} images"
    rounds = f"fleet {config.fleet}; {config.rounds} rounds of {steps}"
    source = f"{config.data} ({NAMED[config.data].source})"
    return f"{source}: {images}; {rounds}\n{said_round(config, costs)}"
