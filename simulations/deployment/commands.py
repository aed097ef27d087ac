"""Commands for separate devices: `certs`, and thin starters of Flower's own server and client."""

from __future__ import annotations

import os
import shlex
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from common.data import OWN, PLACES, absolute_source
from common.errors import UserError
from simulations.deployment import forkserver
from simulations.deployment.remote import with_port
from simulations.engine.processes import ALLOCATOR

Certificates = Annotated[
    Path | None, typer.Option("--certs", help="The folder that `scorequilt certs` wrote.")
]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Plain text and no keys: trusted networks only.")
]
Print = Annotated[bool, typer.Option("--print", help="Only print Flower's command.")]


def certs(
    folder: Annotated[Path, typer.Argument(help="Where to write.")] = Path("certs"),
    host: Annotated[
        list[str] | None, typer.Option(help="Name or address of the server; repeat.")
    ] = None,
    node: Annotated[list[str] | None, typer.Option(help="Name of a device; repeat.")] = None,
    renew: Annotated[bool, typer.Option("--renew", help="Replace the server certificate.")] = False,
) -> None:
    """Make an authority, a server certificate, keys, and a bundle for each machine."""
    from simulations.deployment.certificates import make_certificates

    for path in make_certificates(folder, host or [], node or [], renew):
        typer.echo(path)


def serve(
    certificates: Certificates = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "0.0.0.0",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    database: Annotated[
        Path | None, typer.Option(help="A file, so that registered devices outlive a restart.")
    ] = None,
    insecure: Insecure = False,
    only_print: Print = False,
) -> None:
    """Start the server's end: Flower's SuperLink, with TLS and only for devices that have a key."""
    command = ["flower-superlink", "--host", host, "--port", str(port)]
    command.append("--disable-runtime-dependency-installation")
    if database is not None:
        command += ["--database", str(database.absolute())]
    if insecure:
        command.append("--insecure")
    else:
        ca, certificate, key = _files(certificates, "ca.crt", "server.crt", "server.key")
        command += ["--ssl-ca-certfile", ca, "--ssl-certfile", certificate, "--ssl-keyfile", key]
        command.append("--enable-supernode-auth")
    _start(command, ALLOCATOR, only_print)


def join(
    server: Annotated[str, typer.Argument(metavar="SERVER[:PORT]", help="Where the server is.")],
    partition_id: Annotated[
        int | None, typer.Option(min=0, help="Its number, from 0; none where fleet=auto.")
    ] = None,
    certificates: Certificates = None,
    key: Annotated[Path | None, typer.Option(help="This device's private key, NAME.key.")] = None,
    name: Annotated[str, typer.Option(help="What to call it; default its host's.")] = "",
    data: Annotated[str, typer.Option(help="Its images, such as folder:PATH or npz:PATH.")] = "",
    model_rate: Annotated[str, typer.Option(help="The highest rate it accepts, as 1/2.")] = "",
    memory: Annotated[
        float | None, typer.Option(help="MiB for training; the rate follows from it.")
    ] = None,
    features: Annotated[
        str, typer.Option(help="Its feature network: weights:FILE or torchscript:FILE.")
    ] = "",
    least_images: Annotated[
        int | None, typer.Option(min=2, help="Tell nothing of sets of fewer images.")
    ] = None,
    port: Annotated[int, typer.Option(help="A free port of the device for its own use.")] = 9094,
    preload: Annotated[
        bool, typer.Option(help="Keep PyTorch in memory between tasks, which then start sooner.")
    ] = sys.platform == "linux",
    insecure: Insecure = False,
    only_print: Print = False,
) -> None:
    """Start a device's end: Flower's SuperNode, with this device's data and limits."""
    command = ["flower-supernode", "--superlink", with_port(server), "--port", str(port)]
    if insecure:
        command.append("--insecure")
    else:
        if key is None or not key.is_file():
            raise UserError(f"--key: {key or 'missing'} is no file; `scorequilt certs` makes it")
        command += ["--root-certificates", *_files(certificates, "ca.crt")]
        command += ["--auth-supernode-private-key", str(key.absolute())]
    if data and not data.startswith(OWN):
        raise UserError(f"--data: {data} is none of {PLACES}")
    data = absolute_source(data)
    kind, _, path = features.partition(":")
    if features:
        if kind not in ("weights", "torchscript"):
            raise UserError(f"--features: {features} is neither weights:FILE nor torchscript:FILE")
        features = f"{kind}:{Path(path).expanduser().absolute()}"
    if partition_id is None:  # then its key, or else its name, is what it is known by
        name = name or socket.gethostname()
    settings = {
        "device-name": name,
        "data": data,
        "model-rate": model_rate,
        "features": features,
    }
    words = [] if partition_id is None else [f"partition-id={partition_id}"]
    words += [] if insecure else ["keyed=true"]
    words += [f'{setting}="{value}"' for setting, value in settings.items() if value]
    words += [f"memory={memory}"] if memory is not None else []
    words += [f"least-images={least_images}"] if least_images is not None else []
    if any('"' in value or "\n" in value for value in settings.values()):
        raise UserError("--name, --data, --features: names and paths must not hold quotation marks")
    _start([*command, "--node-config", " ".join(words)], _CLIENT, only_print, preload)


Server = Annotated[str, typer.Argument(metavar="SERVER[:PORT]", help="Where the server is.")]


def register(server: Server, certificates: Certificates = None, insecure: Insecure = False) -> None:
    """Let all devices of a folder of `scorequilt certs` join; those that may already stay."""
    from simulations.deployment import remote

    authority = None if insecure else Path(*_files(certificates, "ca.crt"))
    if certificates is None:
        raise UserError("--certs: name the folder that `scorequilt certs` wrote")
    new = remote.register(server, authority, certificates / "nodes")
    typer.echo(f"{new} new devices may join {server}")


def submit(
    server: Server,
    source: Annotated[
        str, typer.Argument(metavar="[PRESET|FILE.toml]", help="What to run.")
    ] = "digits",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace a key; repeat.")
    ] = None,
    certificates: Certificates = None,
    insecure: Insecure = False,
    stream: Annotated[bool, typer.Option(help="Show the run's log until its end.")] = True,
) -> None:
    """Start a run on separate devices: send this installation's app to the server."""
    from simulations.archive.configs import load_config
    from simulations.deployment import remote

    config = load_config(source, list(overrides or []))
    if config.run_dir and not config.run_dir.startswith("/"):
        raise UserError(f"run-dir: {config.run_dir} must be absolute, a folder of the server's")
    authority = None if insecure else Path(*_files(certificates, "ca.crt"))
    if code := remote.submit(server, authority, config, stream):
        raise UserError(f"{server}: the run was not taken; flwr says why above (code {code})")


def doctor() -> None:
    """Say what is installed, which engine and devices there are, and which variables matter."""
    from simulations.deployment.doctor import report

    lines = list(report(os.environ))
    width = max(len(heading) for heading, _ in lines)
    for heading, remark in lines:
        typer.echo(f"{heading:<{width}}  {remark}")


_CLIENT = {
    **ALLOCATOR,
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",  # seconds; the default waits up to one
}


def _files(folder: Path | None, *names: str) -> list[str]:
    """Return the files' absolute paths."""
    if folder is None:
        raise UserError("--certs: name the folder that `scorequilt certs` wrote, or say --insecure")
    for name in names:
        if not (folder / name).is_file():
            raise UserError(f"--certs: there is no {folder / name}; `scorequilt certs` makes it")
    return [str((folder / name).absolute()) for name in names]


def _start(
    command: list[str], variables: dict[str, str], only_print: bool, preload: bool = False
) -> None:
    """Print a command and become it; variables that are set already stay as they are."""
    before = "".join(f"{key}={value} " for key, value in variables.items())
    typer.echo(before + shlex.join(command))
    if only_print:
        return
    sys.stdout.flush()
    # Flower starts its own programs by name, and they must be those beside this one.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {**variables, **os.environ, "PATH": path}
    if preload:
        try:
            folder = forkserver.start(environment)
        except OSError as error:
            typer.echo(f"tasks will start slower, as with --no-preload: {error}", err=True)
        else:
            environment["PATH"] = f"{folder}{os.pathsep}{path}"
    os.execvpe(command[0], command, environment)
