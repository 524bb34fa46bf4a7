"""What there is in a script or a configuration: its programs, and what stands in the way."""

import re
from collections.abc import Sequence
from os.path import isfile
from pathlib import Path
from typing import Any

import yaml

from trl_rsa.migration import align_anything, merges
from trl_rsa.migration.assemble import Migration, finish
from trl_rsa.migration.draft import Draft
from trl_rsa.migration.flags import Flags
from trl_rsa.migration.programs import KNOWN, find_started, launched_by, translator, why_not
from trl_rsa.migration.shell import Command, Script, in_one_line


_NOT_NEEDED = {"zero_to_fp32": "what is saved here loads as it is"}


def migrate(path: str | Path, arguments: Sequence[str] = (), number: int | None = None) -> Migration:
    """Reads a shell script, or a configuration of align-anything or mergekit; nothing is run.

    Args:
        path (`str` or `Path`):
            The script or the YAML file.
        arguments (`Sequence[str]`, *optional*):
            What the script is called with.
        number (`int`, *optional*):
            The plan ends with this one of the known commands, counted from 1, instead of with the last.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it starts no program that is known here; the message names those that are.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"You set the script to {path}, but there is no such file. Check the path.")
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix == ".py":
        raise ValueError(_of_python(path, text))
    if path.suffix in (".yaml", ".yml"):
        drafts, notes = [_of_yaml(path, text)], list[str]()
        return finish(path, drafts, notes, number, hide=Script("").hide)
    script = Script(text, path.parent, arguments)
    if script.refused:
        raise ValueError(
            f"You give {path} {', '.join(script.refused)}, but its case takes no such flag. Leave it out, or "
            "correct it."
        )
    drafts, notes = _of_script(path, script)
    return finish(path, drafts, [*notes, *_of_values(script)], number, script.hide)


# What there is in a file


def _of_script(path: Path, script: Script) -> tuple[list[Draft], list[str]]:
    drafts: list[Draft] = []
    notes: list[str] = []
    others: list[str] = []
    for command in script.commands:
        started = find_started(command.words, path.parent)
        if started is None:
            continue
        if started.name == "mergekit-yaml":
            files = [word for word in started.words if not word.startswith("-")]
            drafts.append(
                merges.merge(_beside(path, files[:1]), *files[:2]) if files else merges.merge(None, "CONFIG")
            )
            continue
        name = started.name.rpartition(".")[2]
        if name in _NOT_NEEDED:
            notes.append(f"{name} is not needed: {_NOT_NEEDED[name]}")
            continue
        translate = translator(started)
        if translate is None:
            others.append(why_not(started) or started.name)
            continue
        draft = translate(started.name, Flags.parse(started.words))
        draft.without += launched_by(started)
        draft.notes += _of_strays(started.name, command)
        if command.maybe:
            draft.notes.append(f"line {command.line}: whether {started.name} runs depends on a condition")
        drafts.append(draft)
    if not drafts:
        raise ValueError(_nothing_known(path, others, script.missing))
    notes += [f"{name} is started too, and nothing is known of it here" for name in dict.fromkeys(others)]
    notes += [f"{name} is called, and is not beside the script" for name in dict.fromkeys(script.missing)]
    return drafts, notes


def _of_yaml(path: Path, text: str) -> Draft:
    content = yaml.safe_load(text)
    if merges.is_merge(content):
        return merges.merge(content, str(path))
    if align_anything.is_configuration(content):
        flags = align_anything.flags_of_configuration(content)
        kind = align_anything.kind_of_configuration(path.stem, flags)
        if kind == "dpo":
            return align_anything.dpo("align_anything.trainers.text_to_text.dpo", flags)
        if kind == "rm":
            return align_anything.reward_model("align_anything.trainers.text_to_text.rm", flags)
    if isinstance(content, dict) and ("stages" in content or "constraint" in content):
        raise ValueError(f"You gave {path}, but that is a plan already. Run trl-rsa align --config {path} --dry_run.")
    raise ValueError(
        f"You gave {path}, but it is neither a configuration of align-anything for text_to_text.{{dpo,rm}} nor one of "
        "mergekit. Give one of these, or a shell script."
    )


def _of_python(path: Path, text: str) -> str:
    if "DPOTrainer" in text or "DPOConfig" in text:
        what = "a script for TRL. Change two names in it, DPOConfig to RSAConfig and DPOTrainer to RSATrainer"
    elif re.search(r"^\s*(import|from)\s+safe_rlhf\b", text, re.MULTILINE):
        what = "Python that uses safe_rlhf. Change safe_rlhf to trl_rsa.compat.safe_rlhf in it"
    else:
        what = "Python, and migrate reads shell scripts and YAML. Give the script that starts it"
    return f"You gave {path}, but it is {what} (docs/migration.md)."


def _nothing_known(path: Path, others: Sequence[str], missing: Sequence[str]) -> str:
    sentences = [other for other in others if " " in other]
    if sentences:
        return f"You gave {path}: {sentences[0]} (docs/migration.md)."
    if others:
        what = f"starts {', '.join(dict.fromkeys(others))}, of which nothing is known here"
    elif missing:
        what = f"calls {', '.join(dict.fromkeys(missing))}, which is not beside it"
    else:
        what = "starts no program that is known here"
    return f"You gave {path}, but it {what}. Known are {', '.join(KNOWN)}."


def _beside(path: Path, files: Sequence[str]) -> Any:
    """A configuration that a command names, from where the script is, the folder above, or here."""
    for name in files:
        for folder in (path.parent, path.parent.parent, *path.parent.parents[1:2], Path()):
            if isfile(folder / name):
                return yaml.safe_load((folder / name).read_text(encoding="utf-8"))
    return None


def _of_strays(program: str, command: Command) -> list[str]:
    return [
        f"line {line}: {in_one_line(words)} stands behind a line that does not end with a backslash, so that it is "
        f"NOT part of the command: {program} runs with its defaults, and so does the plan"
        for line, words in command.stray
    ]


def _of_values(script: Script) -> list[str]:
    notes = [
        f"{name} runs over {', '.join(values)} in the script: the plan is that of {values[0]}"
        for name, values in script.variables.loops.items()
    ]
    notes += script.conditional
    if script.has_secrets:
        notes.append("keys in the script are not copied: export them where you run")
    return notes
