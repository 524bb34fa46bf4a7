"""From programs to a plan: which belong together, what they share, and what is said about them."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from os.path import exists
from pathlib import Path, PurePosixPath
from typing import Any

from trl_rsa.data.spec import is_dataset_spec
from trl_rsa.migration.draft import CommandDraft, Comments, Draft, StageDraft, shared, write_plan


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


def finish(
    path: Path, drafts: Sequence[Draft], notes: list[str], number: int | None, hide: Callable[[str], str]
) -> Migration:
    """One plan of the last program and those before it, or a script of commands. `hide` takes secrets out."""
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
    if first is None or not beta > 0:
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
