"""Parts of a Markdown file that a program writes, between two comments.

<!-- NAME: begin -->
<!-- NAME: end -->
"""

from __future__ import annotations

import re
from pathlib import Path

from src.errors import UserError


def replaced(file: Path, parts: dict[str, str]) -> str:
    """The text of a file with each named part as given, the rest as it is.

    Raises:
        UserError: the file or the two comments of a part are missing, or there more than once.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    text = file.read_text(encoding="utf-8")
    for name, part in parts.items():
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
        places = re.findall(f"{re.escape(begin)}.*?{re.escape(end)}", text, re.DOTALL)
        if len(places) != 1 or text.count(begin) != 1 or text.count(end) != 1:
            raise UserError(f"{file}: expected the lines {begin.strip()} and {end} once each")
        text = text.replace(places[0], f"{begin}\n{part.strip()}\n\n{end}")
    return text
