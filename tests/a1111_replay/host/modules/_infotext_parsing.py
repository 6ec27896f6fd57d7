"""The text in a picture's metadata: quoting values, and reading it back."""

from __future__ import annotations

import json
import re
from typing import Any

re_param = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
re_imagesize = re.compile(r"^(\d+)x(\d+)$")


def quote(text: Any) -> Any:
    return json.dumps(text, ensure_ascii=False) if re.search("[,:\n]", str(text)) else text


def unquote(text: str) -> str:
    if len(text) < 2 or text[0] != '"' or text[-1] != '"':
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def parse_generation_parameters(x: str, skip_fields: list[str] | None = None) -> dict[str, Any]:
    """The last line counts as parameters when it has three or more; what is above is the prompt, then the negative."""
    *lines, last = x.strip().split("\n")
    fields = re_param.findall(last)
    if len(fields) < 3:
        lines, fields = [*lines, last], []
    texts: dict[str, list[str]] = {"Prompt": [], "Negative prompt": []}
    current = "Prompt"
    for line in (line.strip() for line in lines):
        if line.startswith("Negative prompt:"):
            current, line = "Negative prompt", line[16:].strip()
        texts[current].append(line)
    found: dict[str, Any] = {}
    for key, value in fields:
        size = re_imagesize.match(unquote(value))
        if size is None:
            found[key] = unquote(value)
        else:
            found[f"{key}-1"], found[f"{key}-2"] = size.groups()
    found |= {name: "\n".join(text) for name, text in texts.items()}
    found.setdefault("Clip skip", "1")
    return found
