"""What each machine of a federation gets, and nothing that another needs: an archive for each.

`NAME.tar` holds a folder `NAME` with the authority's certificate, the machine's own key and a
script that starts its end.
"""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from shlex import quote

from cryptography import x509

SERVER = "server"

_SERVE = """#!/bin/sh
# Starts the server. Options of `scorequilt serve` may follow.
here=$(cd "$(dirname "$0")" && pwd)
exec scorequilt serve --certs "$here" --database "$here/superlink.db" "$@"
"""
_JOIN = """#!/bin/sh
# Starts this device. Options of `scorequilt join` may follow, such as --data folder:PATH.
here=$(cd "$(dirname "$0")" && pwd)
exec scorequilt join {host} --certs "$here" --key "$here/{name}.key" --name {name} "$@"
"""


def write_bundles(certs: Path, renew: bool = False) -> list[Path]:
    """Write `bundles/NAME.tar` for every device, and for the server, and return those written.

    What is there stays unless `renew` says otherwise. Without a server certificate there are none,
    as nobody knows yet where the server is. They hold private keys: only their owner can read them.

    Args:
        certs: The folder with what `make_certificates` wrote.
        renew: Write over those that are there.
    """
    if not (certs / "server.crt").is_file():
        return []
    contents = {SERVER: {f"server.{kind}": certs / f"server.{kind}" for kind in ("crt", "key")}}
    scripts = {SERVER: ("serve.sh", _SERVE)}
    for key in sorted((certs / "nodes").glob("*.key")):
        if key.stem == SERVER:
            continue  # its name is taken; join by hand
        contents[key.stem] = {key.name: key}
        join = _JOIN.format(host=quote(first_host(certs)), name=key.stem)
        scripts[key.stem] = ("join.sh", join)
    written = []
    for name, files in contents.items():
        target = certs / "bundles" / f"{name}.tar"
        if renew or not target.exists():
            script, text = scripts[name]
            members = {each: path.read_bytes() for each, path in files.items()}
            members |= {"ca.crt": (certs / "ca.crt").read_bytes(), script: text.encode()}
            written.append(_archive(target, name, members))
    return written


def first_host(certs: Path) -> str:
    """Return the first name or address that the server certificate is for."""
    certificate = x509.load_pem_x509_certificate((certs / "server.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    host = str(next(iter(names)).value)
    return f"[{host}]" if ":" in host else host


def _archive(target: Path, folder: str, members: dict[str, bytes]) -> Path:
    target.parent.mkdir(exist_ok=True)
    target.unlink(missing_ok=True)
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size = len(content)
            modes = {".key": 0o600, ".sh": 0o755}
            entry.mode = modes.get(Path(name).suffix, 0o644)
            archive.addfile(entry, io.BytesIO(content))
    return target
