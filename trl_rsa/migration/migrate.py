"""From a script or a configuration to a plan: which commands belong together, and what is said about them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from os.path import exists, isfile
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from trl_rsa.data.spec import is_dataset_spec
from trl_rsa.migration import align_anything, merges
from trl_rsa.migration.draft import CommandDraft, Comments, Draft, StageDraft, shared, write_plan
from trl_rsa.migration.flags import Flags
from trl_rsa.migration.programs import KNOWN, find_started, translator, why_not
from trl_rsa.migration.shell import Command, Script, in_one_line


_NOT_NEEDED = {"zero_to_fp32": "what is saved here loads as it is"}


@dataclass
class Migration:
    """
    What a script becomes.

    Args:
        text (`str`):
            A plan for `trl-rsa align`, or a script of commands if there is nothing to align.
        is_plan (`bool`):
            Which of the two.
        without (`list[str]`):
            Flags that have no equivalent, and why; one a line.
        notes (`list[str]`):
            What was assumed, and what there is besides.
    """

    text: str
    is_plan: bool
    without: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


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
        return _finish(path, drafts, notes, number, hide=Script("").hide)
    script = Script(text, path.parent, arguments)
    if script.refused:
        raise ValueError(
            f"You give {path} {', '.join(script.refused)}, but its case takes no such flag. Leave it out, or "
            "correct it."
        )
    drafts, notes = _of_script(path, script)
    return _finish(path, drafts, [*notes, *_of_values(script)], number, script.hide)


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
        draft.notes += _of_strays(started.name, command)
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
    elif "safe_rlhf" in text:
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
        for name, values in script.loops.items()
    ]
    if script.has_secrets:
        notes.append("keys in the script are not copied: export them where you run")
    return notes


# What comes of it


def _finish(path: Path, drafts: Sequence[Draft], notes: list[str], number: int | None, hide: Any) -> Migration:
    stages = [draft for draft in drafts if isinstance(draft, StageDraft)]
    commands = [draft for draft in drafts if isinstance(draft, CommandDraft)]
    if number is not None:
        if not 1 <= number <= len(drafts):
            raise ValueError(
                f"You set --command {number}, but {path} has {len(drafts)} known commands. Count them from 1."
            )
        end = drafts[number - 1]
        stages = stages[: stages.index(end) + 1] if isinstance(end, StageDraft) else []
        commands = [] if isinstance(end, StageDraft) else [end]
    chain = _chain(stages)
    notes = [*_others(drafts, stages, chain), *notes]
    used: list[Draft] = [*chain, *commands]
    # The same sentence of two stages is one.
    without = list(dict.fromkeys(f"{flag}: {reason}" for draft in used for flag, reason in draft.without))
    notes = list(dict.fromkeys([note for draft in used for note in draft.notes] + notes))
    lines = _plan(chain, commands, notes) if chain else [line for draft in commands for line in draft.lines]
    written = hide("\n".join(lines))
    unknown = sorted({name.split("}")[0] for name in written.split("${")[1:]})
    absent = [word for word in ("MODEL", "COST_MODEL", "DATA") if re.search(rf"(?m)^[^#]*: {word}$", written)]
    if absent:
        notes.append(f"replace {', '.join(absent)}: the script names none")
    if unknown:
        notes.append(f"replace {', '.join(f'${{{name}}}' for name in unknown)}: the script gives no value")
    head = [f"# From {path.name}, by trl-rsa migrate. Nothing was run."]
    if chain:
        head.append("# Check it: trl-rsa align --config THIS_FILE --dry_run")
        engine = next((draft.engine for draft in chain if draft.engine), None)
        if engine is not None:
            head.append(f"# Run it:   trl-rsa align --config THIS_FILE --accelerate_config {engine}")
    for title, several in (("Not in it:", without), ("Note:", notes)):
        if several:
            head += ["#", f"# {title}", *(f"#   {_one(line)}" for line in several)]
    text = "\n".join([hide("\n".join(head)), "", written, ""])
    return Migration(text, bool(chain), [hide(line) for line in without], [hide(note) for note in notes])


def _one(text: str) -> str:
    """As a comment has it: in one line."""
    return " ".join(text.split())


def _place(folder: str) -> str:
    """A model's folder, whatever its program adds to it."""
    path = PurePosixPath(folder)
    while path.name == "slice_end" or path.name.startswith("checkpoint-"):
        path = path.parent
    return str(path)


def _chain(stages: Sequence[StageDraft]) -> list[StageDraft]:
    """The last program, the one whose output it starts from, and so on."""
    chain, before = list(stages[-1:]), list(stages[:-1])
    while chain and before:
        found = next((d for d in reversed(before) if _place(d.output_dir) == _place(chain[0].model)), None)
        if found is None:
            break
        chain.insert(0, found)
        before = before[: before.index(found)]
    return chain


def _others(drafts: Sequence[Draft], stages: Sequence[StageDraft], chain: Sequence[StageDraft]) -> list[str]:
    notes = [
        f"command {drafts.index(draft) + 1}, {draft.program} to {draft.output_dir}, is no step of this plan: "
        f"--command {drafts.index(draft) + 1} prints its own"
        for draft in stages
        if draft not in chain
    ]
    if len(chain) > 1:
        folders = ", ".join(f"{d.output_dir} was command {drafts.index(d) + 1}'s" for d in chain[:-1])
        notes.append(f"one plan for {len(chain)} commands, in one folder with a folder for each stage ({folders})")
    return notes


def _plan(chain: Sequence[StageDraft], commands: Sequence[CommandDraft], notes: list[str]) -> list[str]:
    first, last = chain[0], chain[-1]
    args = shared([draft.args for draft in chain])
    stages: list[dict[str, Any]] = []
    beta = None
    comments: Comments = {}
    for draft in chain:
        comments |= draft.comments
        if draft.stage is None:
            continue
        stage = dict(draft.stage)
        if draft.divides_beta:
            stage |= _divided(stage["beta"], beta, draft.program, notes)
        elif beta is None:
            beta = stage["beta"]
        names = [other["name"] for other in stages]
        if stage["name"] in names:
            stage["name"] += f"-{len(names) + 1}"
        own = {key: value for key, value in draft.args.items() if key not in args}
        stages.append(stage | ({"args": own} if own else {}))
        notes += _of_dataset(stage, draft)
    plan: dict[str, Any] = {"model": first.model, "output_dir": last.output_dir}
    plan |= {"seed": last.seed} if last.seed != 42 else {}
    plan["args"] = args
    plan |= {"model_init_kwargs": last.model_init_kwargs} if last.model_init_kwargs else {}
    plan |= {"peft_config": last.peft_config} if last.peft_config else {}
    plan["stages"] = stages
    if any(draft.constraint for draft in chain[:-1]):
        notes.append("a budget of a command that another follows is left out: a plan's budget is met at its end")
    if last.constraint is not None:
        plan |= {"constraint": last.constraint, "rungs": last.rungs}
    lines = write_plan(plan, comments)
    for command in commands:
        lines += ["", f"# {command.program}, beside the plan:", *(f"#   {_one(line)}" for line in command.lines)]
    return lines


def _divided(beta: float, first: float | None, program: str, notes: list[str]) -> dict[str, float]:
    """--beta of a safety stage is β/λ: with the β of the stage before it, λ follows."""
    if first is None:
        notes.append(f"--beta {beta:g} of {program} is β/λ: the β before it is not in the script, so λ stays 1")
        return {"beta": beta}
    return {"beta": first, "constraint_multiplier": float(f"{first / beta:.12g}")}


def _of_dataset(stage: dict[str, Any], draft: StageDraft) -> list[str]:
    name = str(stage["dataset"])
    if is_dataset_spec(name) or "text_to_text" in draft.program or exists(name):
        return []
    return [
        f"{name} is no dataset that is known here: give a file of pairs"
        + (", or remove the stage if it holds prompts only" if draft.constraint else "")
    ]
