"""Makes a job's own certificate authority, and the certificates by which its pods know each other.

The authority signs once, here, and its key is forgotten: nobody can be added to the job later.
"""

from __future__ import annotations

import datetime
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from elasticdl.credentials import (
    AUTHORITY_FILE,
    JOB_NAME_FILE,
    TOKEN_FILE,
    credential_items,
    name_of,
)
from elasticdl.rpc.roles import ROLES

VALID = datetime.timedelta(days=365)
EARLIER = datetime.timedelta(hours=1)
"""How far the clocks of nodes may be behind the submitter's."""
_TOKEN_BYTES = 16


def make_certificates(job: str, now: datetime.datetime | None = None) -> dict[str, bytes]:
    """Return what the job's secret holds of credentials: `ca.crt`, `ROLE.crt`, `ROLE.key`, …

    Args:
      job: its name.
      now: from when on they are valid, an hour earlier, for a year.
    """
    began = (now or datetime.datetime.now(datetime.UTC)) - EARLIER
    key = _new_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"elasticdl {job}"[:64])])
    authority = (
        _builder(name, name, key.public_key(), began)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    made = {
        TOKEN_FILE: secrets.token_hex(_TOKEN_BYTES).encode(),
        JOB_NAME_FILE: job.encode(),
        AUTHORITY_FILE: authority.public_bytes(serialization.Encoding.PEM),
    }
    for role in ROLES:
        own = _new_key()
        certificate = _certificate(role, own.public_key(), authority, key, began)
        made[f"{role}.crt"] = certificate.public_bytes(serialization.Encoding.PEM)
        made[f"{role}.key"] = own.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    return made


def write_credentials(secret: Mapping[str, bytes], role: str, directory: str | Path) -> None:
    """Write a role's part of a secret to a directory, for its owner's eyes only.

    Raises:
      OSError: it is there already, or cannot be written.
    """
    for item, name in credential_items(role).items():
        file = os.open(Path(directory) / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(file, "wb") as opened:
            opened.write(secret[item])


def _new_key() -> ec.EllipticCurvePrivateKey:
    # gRPC takes no Ed25519.
    return ec.generate_private_key(ec.SECP256R1())


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    began: datetime.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(began)
        .not_valid_after(began + VALID)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _certificate(
    role: str,
    key: ec.EllipticCurvePublicKey,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    began: datetime.datetime,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name_of(role))])
    both_ways = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    return (
        _builder(subject, authority.subject, key, began)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name_of(role))]), critical=False)
        .add_extension(x509.ExtendedKeyUsage(both_ways), critical=False)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(issuer_key, critical=False)
        .sign(authority_key, hashes.SHA256())
    )


def _key_usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
