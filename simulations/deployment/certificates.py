"""Certificates and keys of a federation: who the server is, and which devices may join.

The server proves its name with a certificate that an authority of the federation's own has signed;
a device proves who it is with a key pair whose public half is registered with the server. Made
with `cryptography`, which Flower depends on. Private keys are readable for their owner alone.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from common.errors import UserError
from simulations.deployment.bundles import write_bundles

CA_DAYS = 3650
SERVER_DAYS = 825
"""More than this many days some clients do not accept of a server."""


def make_certificates(
    folder: Path, hosts: Sequence[str], nodes: Sequence[str], renew: bool = False
) -> list[Path]:
    """Write an authority, a server certificate, a key pair and a bundle for each node.

    What is there already stays, so more nodes can be added later; the server certificate is made
    anew for other `hosts` if `renew` says so. The authority's key never leaves `ca.key`.

    Args:
        folder: Where to; made if missing.
        hosts: Names and addresses under which devices reach the server, if it shall have one.
        nodes: Names of devices, each of letters, digits, dots, dashes and underscores.
        renew: Write over a server certificate.

    Returns:
        The files written.

    Raises:
        UserError: A name cannot be one, the authority is not whole, or nothing was asked for.
    """
    if not hosts and not nodes:
        raise UserError("certs: name the server (--host NAME or ADDRESS) or devices (--node NAME)")
    for node in nodes:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", node):
            raise UserError(f"certs: {node!r} cannot name a file; use letters and digits")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    if hosts:
        if not (folder / "ca.key").exists():
            if (folder / "ca.crt").exists():
                raise UserError(f"certs: {folder / 'ca.crt'} has no ca.key beside it to sign with")
            written += _authority(folder)
        if renew or not (folder / "server.crt").exists():
            written += _server(folder, hosts)
    for node in nodes:
        if not (folder / "nodes" / f"{node}.key").exists():
            written += _node(folder / "nodes", node)
    return written + write_bundles(folder, renew)


def _authority(folder: Path) -> list[Path]:
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ScoreQuilt federation")])
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _builder(name, name, key.public_key(), CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA384())
    )
    return [
        _secret(folder / "ca.key", _pem(key)),
        _public(folder / "ca.crt", certificate.public_bytes(Encoding.PEM)),
    ]


def _server(folder: Path, hosts: Sequence[str]) -> list[Path]:
    try:
        authority = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
        signer = load_pem_private_key((folder / "ca.key").read_bytes(), None)
    except (OSError, ValueError) as error:
        raise UserError(f"certs: {folder} holds no authority to sign with ({error})") from None
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise UserError(f"certs: {folder / 'ca.key'} is no key of an elliptic curve")
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
    purpose = x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH])
    certificate = (
        _builder(name, authority.subject, key.public_key(), SERVER_DAYS)
        .add_extension(
            x509.SubjectAlternativeName([_alternative(h) for h in hosts]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(purpose, critical=False)
        .sign(signer, hashes.SHA384())
    )
    return [
        _secret(folder / "server.key", _pem(key)),
        _public(folder / "server.crt", certificate.public_bytes(Encoding.PEM)),
    ]


def _node(folder: Path, node: str) -> list[Path]:
    """Write a key pair in OpenSSH's format, which Flower reads."""
    key = ec.generate_private_key(ec.SECP384R1())
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _secret(folder / f"{node}.key", secret),
        _public(folder / f"{node}.pub", public + f" {node}\n".encode()),
    ]


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        # Clocks of small devices are not always right.
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not re.fullmatch(r"[A-Za-z0-9*]([A-Za-z0-9.-]*[A-Za-z0-9])?", host):
        raise UserError(f"certs: {host!r} is neither a host's name nor an address")
    return x509.DNSName(host)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _public(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _secret(path: Path, content: bytes) -> Path:
    """Write a file that nobody else could read at any moment."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    return path
