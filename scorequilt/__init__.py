"""ScoreQuilt from Python: what the command line does, as functions (docs/api.md)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulations.api import (
        Cost,
        Plan,
        Run,
        RunConfig,
        UserError,
        __version__,
        config,
        cost,
        coverage,
        open_run,
        presets,
        resume,
        run,
    )

__all__ = [
    "Cost",
    "Plan",
    "Run",
    "RunConfig",
    "UserError",
    "__version__",
    "config",
    "cost",
    "coverage",
    "open_run",
    "presets",
    "resume",
    "run",
]


def __getattr__(name: str) -> Any:
    """Return what is asked for; what it takes is imported then, and under names of ours alone."""
    if name not in __all__:
        raise AttributeError(f"module 'scorequilt' has no attribute {name!r}")
    from scorequilt.folders import inside

    return getattr(inside("simulations.api"), name)


def __dir__() -> list[str]:
    return __all__
