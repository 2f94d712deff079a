"""What an instance shows to those it speaks with, and asks of them: the job, its token, a name."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from pathlib import Path

from elasticdl.refusals import Reason

TOKEN_FILE = "token"
JOB_NAME_FILE = "job"


@dataclass(frozen=True)
class Credentials:
    """Of one instance, or of who asks a job's instances from outside.

    Attributes:
      token: the job token, which every call or connection begins with.
      job: the job's name; who is of another one is refused.
      master_incarnation: of a master, which one it is; 0 for others.
    """

    token: str = field(repr=False)
    job: str = ""
    master_incarnation: int = 0

    @classmethod
    def of_directory(cls, directory: str | Path) -> Credentials:
        """Read what a directory has, which only the job's owner can read.

        Raises:
          OSError: there is no token.
        """
        files = Path(directory)
        job = files / JOB_NAME_FILE
        return cls(
            (files / TOKEN_FILE).read_text().strip(),
            job.read_text().strip() if job.exists() else "",
        )

    def refusal(self, token: str, job: str) -> Reason | None:
        """Return why to refuse who shows these; None if they are this job's."""
        # compare_digest takes strings of ASCII only.
        is_right = hmac.compare_digest(token.encode(), self.token.encode())
        if job != self.job and (job or is_right):
            return Reason.WRONG_JOB
        return None if is_right else Reason.UNAUTHENTICATED
