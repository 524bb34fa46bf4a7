"""How a conversation is put to a guard: by the template in its folder."""

import re
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

from trl_rsa.data.schema import Message, Text
from trl_rsa.scoring.guard_presets import Preset, preset_of_template
from trl_rsa.scoring.scorer import NotScored
from trl_rsa.scoring.text import messages


# Some templates write down the day, Granite's among them. A cost must be the same tomorrow.
DAY = date(2025, 1, 1)
_TODAY = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")

_PROBE = ("Qx1 prompt", "Qx2 response")
_QUOTED = re.compile(r'"""(.*?)"""|\'\'\'(.*?)\'\'\'', re.DOTALL)


def text_of_readme(folder: Path) -> str | None:
    """The instruction with `{prompt}` and `{response}` that a model card quotes, where a tokenizer has no template."""
    readme = folder / "README.md"
    if not readme.is_file():
        return None
    quoted = ("".join(groups) for groups in _QUOTED.findall(readme.read_text(encoding="utf-8", errors="replace")))
    return next((text for text in quoted if "{prompt}" in text and "{response}" in text), None)


def fill(template: str, prompt: Text, completion: Text) -> str | NotScored:
    """A text with `{prompt}` and `{response}` in it. Nothing else in it is replaced."""
    turns = messages(prompt, completion)
    if [turn["role"] for turn in turns] != ["user", "assistant"]:
        return NotScored("the guard's template takes one prompt and one response, and this is a longer conversation")
    texts = {"{prompt}": turns[0]["content"], "{response}": turns[1]["content"]}
    return re.sub(r"\{prompt\}|\{response\}", lambda match: texts[match[0]], template)


class GuardTemplate:
    """
    The template of a guard.

    Args:
        path (`str`):
            The guard, for messages.
        folder (`Path`):
            Its folder.
        tokenizer:
            Its tokenizer.
        text (`str`, *optional*):
            A text with `{prompt}` and `{response}`, or the name of a file with it, in place of the folder's own.
        options (`Mapping`, *optional*):
            Further arguments of the tokenizer's chat template.
    """

    def __init__(self, path: str, folder: Path, tokenizer: Any, text: str | None, options: Mapping[str, Any] | None):
        self.path, self.tokenizer, self.options = path, tokenizer, dict(options or {})
        self.text = _text_or_file(text) if text is not None else None
        if self.text is None:
            quoted = text_of_readme(folder)
            # A guard's own instruction is better than a chat template that its tokenizer has from a base model.
            if quoted is not None and (preset_of_template(quoted) or not tokenizer.chat_template):
                self.text = quoted
        if self.text is None and not tokenizer.chat_template:
            raise ValueError(
                f"You set the scorer to {path!r}, but its tokenizer has no chat template and its README.md quotes no "
                "instruction with {prompt} and {response}. Set template to that text, or to a file with it."
            )
        self.in_parts = False
        self._control = _any_of(str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
        self.source: str = self.text or _TODAY.sub(
            lambda match: repr(DAY.strftime(match[2])), tokenizer.get_chat_template()
        )

    def find_preset(self) -> Preset | None:
        return preset_of_template(self.source)

    def identity(self) -> dict[str, object]:
        return {"source": self.source, "options": self.options}

    def find_layout(self, arguments: Mapping[str, Any]) -> str:
        """
        Finds out whether the template takes contents as text or as lists of parts: some Llama Guards print nothing of
        the other form. Returns what it makes of a conversation.

        Raises:
            ValueError: if it writes down prompt and response in neither form.
        """
        shown: str | NotScored = NotScored("")
        for self.in_parts in (False, True):
            shown = self.render(*_PROBE, arguments)
            if not isinstance(shown, NotScored) and all(part in shown for part in _PROBE):
                return shown
        reason = f" ({shown.reason})" if isinstance(shown, NotScored) else ""
        raise ValueError(
            f"You set the scorer to {self.path!r}, but its template does not write down prompt and response{reason}. "
            "Set template_options to what it needs, or template to a text with {prompt} and {response}."
        )

    def render(self, prompt: Text, completion: Text, arguments: Mapping[str, Any]) -> str | NotScored:
        """The text before the guard's answer. `arguments` are those of the template that change from call to call."""
        prompt, completion = self._harmless(prompt), self._harmless(completion)
        if self.text is not None:
            return fill(self.text, prompt, completion)
        turns: list[Any] = messages(prompt, completion)
        if self.in_parts:
            turns = [_parts(turn) for turn in turns]
        options = merged(self.options, arguments)
        try:
            return self.tokenizer.apply_chat_template(
                turns, chat_template=self.source, tokenize=False, add_generation_prompt=True, **options
            )
        except Exception as error:  # jinja2's own, and whatever a template raises about roles
            return NotScored(f"the guard's template does not take this conversation ({error})")

    def _harmless(self, text: Text) -> Text:
        """The text with a space in each of the guard's control tokens: a response must not end its own turn, and then
        say a verdict of its own."""
        if isinstance(text, str):
            return self._split(text)
        return [{**turn, "content": self._split(turn["content"])} for turn in text]

    def _split(self, text: str) -> str:
        return self._control.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    longer = sorted((text for text in texts if len(text) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longer)) or "(?!)")


def _text_or_file(text: str) -> str:
    if "{prompt}" not in text and len(text) < 4096 and Path(text).expanduser().is_file():
        text = Path(text).expanduser().read_text(encoding="utf-8")
    if "{prompt}" not in text or "{response}" not in text:
        raise ValueError(
            f"You set template={text[:60]!r}, but it is no text with {{prompt}} and {{response}} in it, nor a file "
            "with one. Write both where they belong."
        )
    return text


def _parts(turn: Message) -> dict[str, Any]:
    return {"role": turn["role"], "content": [{"type": "text", "text": turn["content"]}]}


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """`second` over `first`, dictionaries merged: a policy keeps the other settings beside it."""
    result = dict(first)
    for key, value in second.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result
