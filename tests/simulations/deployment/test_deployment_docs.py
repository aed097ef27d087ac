"""Every command of docs/deployment is one that the programs of today take, option by option."""

import re
import shlex
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml

from common.config.run import RunConfig, flat_keys
from simulations.cli import app
from tests.engines import BIN, ROOT

DOCS = ROOT / "docs"
UNIT = DOCS / "deployment" / "scorequilt-join.service"
COMPOSE = DOCS / "deployment" / "compose.yaml"

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # Flower's own, about Typer
    from flwr.cli.app import app as flwr

PROGRAMS = {"scorequilt": app, "flwr": flwr}


def _commands() -> Iterator[str]:
    """Yield the commands of the page's console blocks and of both examples, comments included."""
    page = (DOCS / "deployment.md").read_text()
    blocks = re.findall(r"```console\n(.*?)```", page, re.DOTALL)
    examples = [path.read_text() for path in (UNIT, COMPOSE)]
    services = [each["command"] for each in _compose()["services"].values()]
    written = [line for text in examples for line in text.splitlines()]
    units = [line.removeprefix("ExecStart=") for line in written if line.startswith("ExecStart=")]
    comments = [line.strip("# ") for line in written if line.startswith("#")]
    comments = [line for line in comments if line.startswith(tuple(PROGRAMS))]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    for command in [*lines, *services, *units, *comments]:
        if Path(shlex.split(command)[0]).name in PROGRAMS:
            yield command.strip()


def _compose() -> dict[str, Any]:
    read = yaml.safe_load(COMPOSE.read_text())
    assert isinstance(read, dict)
    return read


def _understood(command: str) -> tuple[str, dict[str, Any]]:
    """Let a program parse a command without carrying it out; return which it is and its values."""
    program, *words = shlex.split(command)
    name = Path(program).name
    parser = typer.main.get_command(PROGRAMS[name])
    context = click.Context(parser, info_name=name)
    while isinstance(parser, click.Group):
        _, found, words = parser.resolve_command(context, words)
        assert found is not None
        assert found.name is not None
        parser, name = found, found.name
        if isinstance(parser, click.Group):
            context = click.Context(parser, parent=context, info_name=name)
    return name, parser.make_context(name, words, parent=context).params


def test_the_page_and_the_examples_have_the_commands_that_a_reader_follows() -> None:
    names = [_understood(command)[0] for command in _commands()]
    assert names.count("join") == 1 + 3 + 1 + 2  # the page, three folders, the unit, two containers
    assert names.count("serve") == 1 + 1
    assert names.count("certs") == 1 + 1
    assert names.count("register") == 1
    assert names.count("submit") == 1
    assert names.count("run") >= 1


@pytest.mark.parametrize("command", list(_commands()))
def test_a_command_is_understood(command: str) -> None:
    name, values = _understood(command)
    if name == "join":
        assert values["data"].startswith("folder:/")
        assert values["insecure"] or values["certificates"]
        assert values["insecure"] or str(values["key"]).endswith(".key")
    if name == "submit":
        assert values["certificates"]
        assert dict(each.split("=", 1) for each in values["overrides"]).keys() <= flat_keys()
    if name == "run":
        for words in values["run_config_overrides"] or ():
            pairs = dict(re.findall(r'([a-z.-]+)=("[^"]*"|[^ ]+)', words))
            RunConfig.from_flat({key: value.strip('"') for key, value in pairs.items()})


@pytest.mark.parametrize(
    "wrong",
    ["scorequilt join s --partition 0", "scorequilt serve --tls x", "flwr run . farm --streaming"],
)
def test_a_command_that_has_gone_would_be_noticed(wrong: str) -> None:
    with pytest.raises(click.UsageError):
        _understood(wrong)


def test_the_page_names_only_keys_that_exist() -> None:
    page = (DOCS / "deployment.md").read_text()
    known = set(RunConfig().to_flat())
    named = set(re.findall(r"`([a-z]+(?:-[a-z]+)+)(?:=[^`]*)?`", page)) - {
        *("partition-id", "device-name", "model-rate", "least-images"),  # a node's
        *("flower-superlink", "flower-supernode"),
    }
    assert named <= known | {"make-venv"}, named - known


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_systemd_has_nothing_against_the_unit(tmp_path: Path) -> None:
    text = UNIT.read_text()
    here = tmp_path / UNIT.name
    here.write_text(text.replace("/opt/scorequilt/.venv/bin/scorequilt", str(BIN / "scorequilt")))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(here)], capture_output=True, text=True, check=False
    )
    if "Failed to" in done.stderr and "setup" in done.stderr:
        pytest.skip(f"systemd-analyze does not work here: {done.stderr.strip()}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "PrivateTmp=true" in text  # with ProtectSystem=strict nothing could write to /tmp


def test_the_containers_share_what_they_name() -> None:
    services = _compose()["services"]
    assert set(services) == {"server", "barn", "field"}
    partitions = set()
    for name, service in services.items():
        mounted = {volume.split(":")[1] for volume in service["volumes"]}
        words = shlex.split(service["command"])
        paths = [word.partition(":")[2] if ":/" in word else word for word in words]
        for path in (each for each in paths if each.startswith("/")):
            # A folder is mounted itself, is below one that is, or is made up of mounted files.
            inside = [f"{path}/".startswith(f"{place}/") for place in mounted]
            holds = [place.startswith(f"{path}/") for place in mounted]
            assert any(inside + holds), (name, path)
        if "join" in words:
            assert words[words.index("join") + 1] == "server:8000"
            partitions.add(words[words.index("--partition-id") + 1])
    assert partitions == {"0", "1"}
    assert services["server"]["ports"] == ["8000:8000"]


def test_no_container_is_shown_the_key_that_signs_or_another_s() -> None:
    for name, service in _compose()["services"].items():
        keys = {v.split(":")[0] for v in service["volumes"] if "certs" in v and ".crt" not in v}
        own = "./certs/server.key" if name == "server" else f"./certs/nodes/{name}.key"
        assert keys == {own}


def test_images_and_commits_hold_no_key_and_no_picture() -> None:
    sent = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in sent  # nothing that is not named after it
    named = {line.removeprefix("!") for line in sent if line.startswith("!")}
    copied = re.findall(r"^ *COPY (.*)$", COMPOSE.read_text(), re.MULTILINE)
    assert {word for line in copied for word in line.split()[:-1]} == named
    secrets = ("certs/ca.key", "docs/deployment/certs/nodes/barn.key", "barn.key")
    for path in (*secrets, "docs/deployment/pictures/barn/a.png"):
        done = subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT, check=False)
        assert done.returncode == 0, path
