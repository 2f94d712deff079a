"""The authority of a cluster, its apiserver's certificate and the key of service accounts."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_VALID = datetime.timedelta(days=30)


def write_certificates(directory: Path, addresses: Sequence[str]) -> None:
    """Write `ca.crt`, `apiserver.crt`, `apiserver.key` and `accounts.key`.

    Args:
      addresses: by which the apiserver is called.
    """
    key, own, accounts = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    authority_name, name = _name("test-cluster"), _name("kube-apiserver")
    authority = (
        _builder(authority_name, authority_name, key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    names: list[x509.GeneralName] = [
        *(x509.IPAddress(ipaddress.ip_address(one)) for one in addresses),
        x509.DNSName("kubernetes.default.svc"),
    ]
    certificate = (
        _builder(name, authority_name, own.public_key())
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    (directory / "ca.crt").write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    (directory / "apiserver.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    _write_key(directory / "apiserver.key", own)
    _write_key(directory / "accounts.key", accounts)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + _VALID)
    )


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
