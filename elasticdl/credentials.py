"""What an instance shows to those it speaks with, and asks of them: token, job, certificate."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from elasticdl.refusals import Reason

if TYPE_CHECKING:
    import ssl  # Imported where it is needed: most jobs do without.

TOKEN_FILE = "token"
JOB_NAME_FILE = "job"
AUTHORITY_FILE = "ca.crt"
CERTIFICATE_FILE = "tls.crt"
KEY_FILE = "tls.key"
_DOMAIN = ".elasticdl"


def name_of(role: str) -> str:
    """Return the name that the certificate of a role has."""
    return role + _DOMAIN


def role_of(names: Iterable[str]) -> str:
    """Return the role that a certificate's names tell; empty where none does."""
    return next((one.removesuffix(_DOMAIN) for one in names if one.endswith(_DOMAIN)), "")


def credential_items(role: str) -> dict[str, str]:
    """Return what of a job's secret a role gets, and the name of each file (`Credentials`)."""
    return {
        TOKEN_FILE: TOKEN_FILE,
        JOB_NAME_FILE: JOB_NAME_FILE,
        AUTHORITY_FILE: AUTHORITY_FILE,
        f"{role}.crt": CERTIFICATE_FILE,
        f"{role}.key": KEY_FILE,
    }


@dataclass(frozen=True)
class TlsFiles:
    """Of one role: the certificate of the job's authority, its own, and the key of that; PEM."""

    authority: Path
    certificate: Path
    key: Path


@dataclass(frozen=True)
class Credentials:
    """Of one instance, or of who asks a job's instances from outside.

    Attributes:
      token: the job token, which every call or connection begins with.
      job: the job's name; who is of another one is refused.
      session: of the job, from its beginning, also if that was anew; who is of another one is
        refused. Who asks from outside says none.
      master_incarnation: of a master, which one it is; 0 for others.
      tls: with what certificates; None where all are on one machine.
    """

    token: str = field(repr=False)
    job: str = ""
    session: str = ""
    master_incarnation: int = 0
    tls: TlsFiles | None = None

    @classmethod
    def of_directory(cls, directory: str | Path) -> Credentials:
        """Read what a directory has, which only the job's owner can read.

        Raises:
          OSError: there is no token.
        """
        files = Path(directory)
        job, authority = files / JOB_NAME_FILE, files / AUTHORITY_FILE
        return cls(
            (files / TOKEN_FILE).read_text().strip(),
            job.read_text().strip() if job.exists() else "",
            tls=TlsFiles(authority, files / CERTIFICATE_FILE, files / KEY_FILE)
            if authority.exists()
            else None,
        )

    @cached_property
    def server_context(self) -> ssl.SSLContext | None:
        """For who is called; None without TLS."""
        return None if self.tls is None else _context(self.tls, is_server=True)

    @cached_property
    def client_context(self) -> ssl.SSLContext | None:
        """For who calls; None without TLS."""
        return None if self.tls is None else _context(self.tls, is_server=False)

    def refusal(self, token: str, job: str, session: str) -> Reason | None:
        """Return why to refuse who shows these; None if they are this job's."""
        # compare_digest takes strings of ASCII only.
        is_right = hmac.compare_digest(token.encode(), self.token.encode())
        if job != self.job and (job or is_right):
            return Reason.WRONG_JOB
        if not is_right:
            return Reason.UNAUTHENTICATED
        is_other = bool(session and self.session) and session != self.session
        return Reason.WRONG_JOB if is_other else None


def _context(files: TlsFiles, is_server: bool) -> ssl.SSLContext:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(files.authority)
    context.load_cert_chain(files.certificate, files.key)
    if is_server:
        context.num_tickets = 0  # Connections stay; nobody comes back with a ticket.
    return context
