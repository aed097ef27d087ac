"""`certs`, `serve` and `join`: files that work, and Flower's commands as they are printed."""

import os
import shlex
import socket
import ssl
import stat
import subprocess
import sys
import tarfile
import tomllib
from itertools import dropwhile
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from flwr.supernode.cli.flower_supernode import _parse_args_run_supernode
from typer.testing import CliRunner

from simulations.about import version
from simulations.cli import app
from simulations.deployment import doctor


def _call(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certs")
    hosts = ("--host", "farm.example", "--host", "10.0.0.1", "--host", "::1")
    done = _call("certs", folder, *hosts, "--node", "barn", "--node", "field")
    assert done.exit_code == 0, done.output
    assert len(done.output.split()) == 8 + 3
    return folder


def test_the_server_certificate_is_signed_and_names_all_hosts(certs: Path) -> None:
    ca, server = (
        x509.load_pem_x509_certificate((certs / name).read_bytes())
        for name in ("ca.crt", "server.crt")
    )
    server.verify_directly_issued_by(ca)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["farm.example"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1", "::1"]
    context = ssl.create_default_context(cafile=str(certs / "ca.crt"))
    context.load_cert_chain(certs / "server.crt", certs / "server.key")


def test_key_pairs_belong_together_and_are_private(certs: Path) -> None:
    key = load_ssh_private_key((certs / "nodes/barn.key").read_bytes(), None)
    public = load_ssh_public_key((certs / "nodes/barn.pub").read_bytes())
    assert key.public_key() == public
    for path in [*certs.rglob("*.key")]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_is_there_stays_and_more_can_be_added(certs: Path) -> None:
    before = {path: path.read_bytes() for path in certs.rglob("*") if path.is_file()}
    done = _call("certs", certs, "--host", "elsewhere", "--node", "barn", "--node", "attic")
    written = sorted(Path(line).name for line in done.output.split())
    assert written == ["attic.key", "attic.pub", "attic.tar"]
    assert all(path.read_bytes() == content for path, content in before.items())


def test_a_bundle_holds_what_its_machine_needs_and_starts_it(certs: Path, tmp_path: Path) -> None:
    wanted = {
        "server": {"ca.crt", "server.crt", "server.key", "serve.sh"},
        "barn": {"ca.crt", "barn.key", "join.sh"},
    }
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "scorequilt").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (programs / "scorequilt").chmod(0o755)
    place = tmp_path / "the owner's folder"
    for name, members in wanted.items():
        bundle = certs / "bundles" / f"{name}.tar"
        assert stat.S_IMODE(bundle.stat().st_mode) == 0o600
        with tarfile.open(bundle) as archive:
            assert {each.name for each in archive} == {f"{name}/{each}" for each in members}
            archive.extractall(place, filter="data")
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    join = place / "barn" / "join.sh"
    words = [str(join), "--data", "folder:own pictures"]
    started = subprocess.run(
        words, env={"PATH": path}, cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert started[:2] == ["join", "farm.example"]
    assert started[started.index("--key") + 1] == str(place / "barn" / "barn.key")
    assert started[-2:] == ["--data", "folder:own pictures"]
    assert _call(*started, "--print").exit_code == 0
    assert (place / "barn" / "barn.key").read_bytes() == (certs / "nodes/barn.key").read_bytes()
    serve = [str(place / "server" / "serve.sh")]
    started = subprocess.run(
        serve, env={"PATH": path}, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert _call(*started, "--print").exit_code == 0


def test_the_doctor_says_what_is_there_and_what_is_in_the_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://me:secret@localhost:1")
    monkeypatch.setitem(doctor.USES, "no-such-package", "nothing")
    lines = [line.split(maxsplit=1) for line in _call("doctor").output.splitlines()]
    said = {words[0]: words[1] for words in lines}
    assert said["scorequilt"].startswith(version())
    assert said["no-such-package"] == "not installed; for nothing"
    assert said["engine"] == "Flower with Ray"
    assert "processors" in said["devices"]
    assert said["$ALL_PROXY"] == (
        "socks5://…@localhost:1: a simulation ignores it; join and submit go through it"
    )


@pytest.fixture
def flwr(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Replaces Flower's command line; what it was told, and what its folder then held."""
    calls: list[dict[str, Any]] = []

    def run(words: list[str], cwd: Path, env: dict[str, str], **_: Any) -> Any:
        told = {path.name: path.read_text() for path in cwd.glob("*.toml")}
        apps = {path.name for path in (cwd / "app").glob("*")}
        calls.append({"words": words, "home": env["FLWR_HOME"], "apps": apps, **told})
        known = "field" in words[-2]
        said = "Public key already in use" if known else ""
        return subprocess.CompletedProcess(words, int(known), "", said)

    monkeypatch.setattr("simulations.deployment.remote.subprocess.run", run)
    return calls


def test_register_tells_the_server_every_public_key(
    certs: Path, flwr: list[dict[str, Any]]
) -> None:
    done = _call("register", "farm.example", "--certs", certs)
    assert done.exit_code == 0, done.output
    named = [Path(call["words"][3]).name for call in flwr]
    assert named == sorted(path.name for path in (certs / "nodes").glob("*.pub"))
    assert done.output == f"{len(named) - 1} new devices may join farm.example\n"
    told = tomllib.loads(flwr[0]["config.toml"])["superlink"]["private"]
    assert told == {"address": "farm.example:8000", "root-certificates": str(certs / "ca.crt")}
    assert not Path(flwr[0]["home"]).exists()


def test_submit_sends_the_app_of_this_installation(flwr: list[dict[str, Any]]) -> None:
    changes = ("--set", "run-dir=/srv/run", "--set", "rounds=3")
    done = _call("submit", "farm:9000", "digits", "--insecure", *changes, "--no-stream")
    assert done.exit_code == 0, done.output
    (call,) = flwr
    assert call["words"][:2] == ["flwr", "run"]
    assert "--stream" not in call["words"]
    assert call["apps"] == {"common", "server", "client", "pyproject.toml"}
    assert tomllib.loads(call["run.toml"])["rounds"] == 3
    told = tomllib.loads(call["config.toml"])["superlink"]["private"]
    assert told == {"address": "farm:9000", "insecure": True}


def _without_variables(command: str) -> list[str]:
    """Return a printed command's program and arguments."""
    return list(dropwhile(lambda word: "=" in word, shlex.split(command)))


def test_variables_that_are_set_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    became: dict[str, str] = {}
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=1")
    monkeypatch.delenv("FLWR_SUPEREXEC_TASK_POLL_INTERVAL", raising=False)
    monkeypatch.setattr("os.execvpe", lambda *words: became.update(words[-1]))
    done = _call("join", "farm.example", "--insecure", "--partition-id", "0", "--no-preload")
    assert done.exit_code == 0, done.output
    assert became["GLIBC_TUNABLES"] == "glibc.malloc.check=1"
    assert became["FLWR_SUPEREXEC_TASK_POLL_INTERVAL"] == "0.1"
    assert became["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)


def test_serve_and_join_print_flowers_commands(certs: Path) -> None:
    done = _call("serve", "--certs", certs, "--port", "9000", "--print")
    words = _without_variables(done.output)
    assert words[0] == "flower-superlink"
    assert "--enable-supernode-auth" in words
    assert words[words.index("--ssl-certfile") + 1] == str(certs / "server.crt")
    done = _call(
        *("join", "farm.example", "--certs", certs, "--key", certs / "nodes/barn.key"),
        *("--partition-id", "3", "--name", "the barn", "--data", "folder:/srv/own pictures"),
        *("--model-rate", "1/2", "--memory", "200", "--print"),
    )
    assert done.exit_code == 0, done.output
    # A task waits no second to start.
    assert "FLWR_SUPEREXEC_TASK_POLL_INTERVAL=0.1" in shlex.split(done.output)
    program, *words = _without_variables(done.output)
    assert program == "flower-supernode"
    # Flower's own parser reads it.
    args = _parse_args_run_supernode().parse_args(words)
    assert args.superlink == "farm.example:8000"
    from flwr.common.config import parse_config_args

    assert parse_config_args([args.node_config]) == {
        "partition-id": 3,
        "keyed": True,
        "device-name": "the barn",
        "data": "folder:/srv/own pictures",
        "model-rate": "1/2",
        "memory": 200.0,
    }


def test_a_device_without_a_number_has_a_name() -> None:
    def settings(*words: str) -> str:
        done = _call("join", "farm.example", "--insecure", "--print", *words)
        assert done.exit_code == 0, done.output
        printed = _without_variables(done.output)
        return printed[printed.index("--node-config") + 1]

    assert settings() == f'device-name="{socket.gethostname()}"'
    assert settings("--name", "barn") == 'device-name="barn"'
    assert settings("--partition-id", "0") == "partition-id=0", "as ever where it has a number"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("certs", "X"), "name the server"),
        (("certs", "X", "--node", "../up"), "cannot name a file"),
        (("certs", "X", "--host", "not a host"), "neither a host's name nor an address"),
        (("serve",), "--certs: name the folder"),
        (("register", "farm"), "--certs: name the folder"),
        (("submit", "farm"), "--certs: name the folder"),
        (("submit", "farm", "--set", "run-dir=here", "--insecure"), "run-dir: here must be abs"),
        (("serve", "--certs", "X"), r"there is no X/ca.crt"),
        (("join", "s", "--partition-id", "0"), "--key: missing is no file"),
        (
            ("join", "s", "--partition-id", "0", "--insecure", "--data", "digits", "--print"),
            "is none of folder:PATH, npz:PATH, idx:PATH, hfdisk:PATH, hf:NAME",
        ),
        (
            ("join", "s", "--partition-id", "0", "--insecure", "--name", 'a"b', "--print"),
            "quotation marks",
        ),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = _call(*words)
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
