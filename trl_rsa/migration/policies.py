"""Whether a policy answers in a chat template, as far as can be told without loading it."""

import json
import re
from os.path import isdir
from pathlib import Path


# Instruction-tuned models by the names that their makers give them; all of Qwen's have a template.
_CHAT = re.compile(r"qwen|instruct|chat|[-_]it\b|gemma-?\d*-\d+b-it|smollm\d?.*-instruct", re.IGNORECASE)


def answers_in_chat(model: str) -> bool:
    """By its folder if there is one, else by its name."""
    folder = Path(model)
    if not isdir(folder):
        return _CHAT.search(model) is not None
    if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
        return True
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return False
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(content, dict) and bool(content.get("chat_template"))
