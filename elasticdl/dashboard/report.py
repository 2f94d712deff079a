"""A job's whole story as one HTML file, for mail: the dashboard's page with the values inside."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from pathlib import Path
from typing import Any

from elasticdl.dashboard.finite import finite
from elasticdl.dashboard.source import Source
from elasticdl.data.atomic_file import atomic_file
from elasticdl.masking import masked

PAGE = Path(__file__).parent / "page"
LOG_BYTES = 16_384
MOST_LOGS = 100
MOST_INCARNATIONS = 10
_STYLE = '<link rel="stylesheet" href="dashboard.css">'
_SCRIPTS = {name: f'<script src="{name}" defer></script>' for name in ("charts.js", "dashboard.js")}


def write_report(source: Source, path: str | Path) -> None:
    """Write a job's report to a file, which is replaced where it exists.

    The file needs nothing else, asks for nothing from anywhere, and runs no script but its own.
    Passwords are not in it; see `masked`.

    Raises:
      UsageError: it cannot be written.
    """
    with atomic_file(path) as partial:
        partial.write_text(report(masked(_values(source))), encoding="utf-8")


def report(values: dict[str, Any]) -> str:
    """The page with values inside: `job`, `state`, `history`, `events`, `logs` and `made`."""
    html = (PAGE / "index.html").read_text(encoding="utf-8")
    style = (PAGE / "dashboard.css").read_text(encoding="utf-8")
    scripts = {name: (PAGE / name).read_text(encoding="utf-8") for name in _SCRIPTS}
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; "
        f"script-src {' '.join(_hash(script) for script in scripts.values())}"
    )
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    html = _replaced(html, _STYLE, f"{meta}\n<style>{style}</style>")
    for tag in _SCRIPTS.values():
        html = _replaced(html, f"{tag}\n", "")
    inlined = [f'<script type="application/json" id="values">{_json(values)}</script>']
    inlined += [f"<script>{script}</script>" for script in scripts.values()]
    return _replaced(html, "</body>", "\n".join([*inlined, "</body>"]))


def _values(source: Source) -> dict[str, Any]:
    state = source.state()
    return {
        "job": source.job(),
        "state": state,
        "history": source.history(),
        "events": source.events(newest=True)["events"],
        "logs": _logs(source, state["instances"]),
        "made": time.time(),
    }


def _logs(source: Source, instances: list[dict[str, Any]]) -> dict[str, Any]:
    """The ends of the logs by "role/index/incarnation", the latest incarnations first."""
    wanted = [
        (one["role"], one["index"], one["incarnation"] - before)
        for before in range(MOST_INCARNATIONS)
        for one in instances
        if one["incarnation"] - before >= 1
    ]
    return {
        f"{role}/{index}/{incarnation}": source.log(role, index, incarnation, LOG_BYTES)
        for role, index, incarnation in wanted[:MOST_LOGS]
    }


def _json(values: Any) -> str:
    """JSON that ends no script element, whatever the texts in it are."""
    text = json.dumps(finite(values), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _replaced(html: str, old: str, new: str) -> str:
    assert html.count(old) == 1, old
    return html.replace(old, new)
