"""Where the app's folders are, and how they are imported beside anybody's packages of their names.

Flower runs `common`, `server` and `client` as top-level packages out of the app that it was sent,
and the command line, which has a process of its own, puts them at the front of its path, too. A
process that is another's, such as a notebook, may have a `common` of its own: there the same files
are `scorequilt.app.common` and so on, and what they import of each other goes by these names.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDERS = ("common", "server", "client", "simulations")
NAME = f"{__package__}.app"
_INSTALLED = Path(__file__).parent / "app"
APP = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).resolve().parents[1]
"""The folder with the app and its `pyproject.toml`: installed with us, else the repository."""


def own_process() -> None:
    """Make the folders top-level packages of this process, before any others of these names."""
    sys.path.insert(0, str(APP))


def inside(module: str) -> ModuleType:
    """Import a module of the app, such as ``simulations.api``, under a name that is ours alone."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    return import_module(f"{NAME}.{module}")


class _Finder(MetaPathFinder):
    """Finds `scorequilt.app` and what is in it."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return where a module of ours is, None for anybody else's."""
        if name == NAME:
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [str(APP)]
            return spec
        if not name.startswith(f"{NAME}.") or name.split(".")[2] not in FOLDERS:
            return None
        found = PathFinder.find_spec(name, path, target)
        if found is not None and isinstance(found.loader, SourceFileLoader):
            found.loader = _Loader(found.loader.name, found.loader.path)
        return found


class _Loader(SourceFileLoader):
    """Loads a module whose import statements mean our folders where they name them."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code."""
        module.__dict__["__builtins__"] = _BUILTINS
        super().exec_module(module)


def _import(
    name: str,
    globals: Mapping[str, object] | None = None,
    locals: Mapping[str, object] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> ModuleType:
    """Do what an import statement asks for."""
    top = name.partition(".")[0]
    if level or top not in FOLDERS:
        return builtins.__import__(name, globals, locals, fromlist or (), level)
    module = import_module(f"{NAME}.{name}")
    if not fromlist:
        return sys.modules[f"{NAME}.{top}"]
    for each in fromlist:  # `from server import x` may mean a module that nobody has imported yet
        if not hasattr(module, each):
            import_module(f"{NAME}.{name}.{each}")
    return module


_BUILTINS: dict[str, Any] = {**vars(builtins), "__import__": _import}
