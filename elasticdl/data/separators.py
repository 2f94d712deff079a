"""CSV whose values are not separated by commas, told by the single column that it reads as."""

from __future__ import annotations

from collections.abc import Sequence

_SEPARATORS = {";": "';'", "\t": "$'\\t'"}  # each as a shell is given it


def separator_hint(names: Sequence[str]) -> str:
    """Return "; the only column is …" where its name holds a separator, else nothing.

    Args:
      names: of the columns that were read.
    """
    if len(names) != 1:
        return ""
    found = next((each for each in _SEPARATORS if each in names[0]), None)
    if found is None:
        return ""
    return (
        f"; the only column is {names[0]!r:.80}: a CSV file has commas between values; "
        f"`elasticdl data convert FILE --delimiter={_SEPARATORS[found]} --output=NEW.csv` "
        "writes them"
    )
