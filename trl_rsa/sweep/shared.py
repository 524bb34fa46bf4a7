"""What several points have in common is made once: finished stages, and the first responses of a ladder, are copied.

Two plans have a stage in common if everything that decides its result is equal, from the model on: the base model's
content, how it is loaded, the adapter, the seed, the arguments, and this stage and all before it. The data is compared
by `align`, which refuses a copied stage whose pairs have other fingerprints.

Two ladders from one model draw the same responses of it, and score them alike, whatever their budgets: the draws
follow from seed, prompts and sampling.
"""

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trl_rsa.alignment.manifest import Manifest, StageEntry, describe
from trl_rsa.alignment.plan import Plan
from trl_rsa.ladder.done import DONE
from trl_rsa.ladder.observations import FILE_NAME as OBSERVATIONS
from trl_rsa.storage.files import replacing
from trl_rsa.storage.lines import LineWriter, read_lines
from trl_rsa.storage.names import MANIFEST
from trl_rsa.storage.provenance import now, versions
from trl_rsa.training.anchor import model_identity


_COMMON = ("model", "args", "peft_config", "model_init_kwargs", "seed")


def common_stages(one: Plan, other: Plan) -> int:
    """How many stages, from the first on, end with the same model in both plans."""
    if not _begin_alike(one, other):
        return 0
    # No more than is compared: a constraint is described by its prompts, which are read for it.
    described, others, count = describe(one, ("stages",)), describe(other, ("stages",)), 0
    # As objects too: a dataset in memory is described by its columns only.
    for first, second, a, b in zip(one.stages, other.stages, described["stages"], others["stages"], strict=False):
        if a != b or not all(
            _is_same(getattr(first, f.name), getattr(second, f.name)) for f in dataclasses.fields(first)
        ):
            break
        count += 1
    return count


def _begin_alike(one: Plan, other: Plan) -> bool:
    """Whether all that stages share is equal."""
    return describe(one, _COMMON) == describe(other, _COMMON) and _is_same(one.model, other.model)


def _is_same(one: Any, other: Any) -> bool:
    """Equal as JSON values are, or the same object."""
    plain = (str, int, float, bool, dict, list, type(None))
    return one is other or (isinstance(one, plain) and isinstance(other, plain) and one == other)


def _usable_manifest(plan: Plan, donor: Plan) -> dict[str, Any] | None:
    """The donor's manifest. None if it has none, or not this plan's: another version of a library may train another
    model, and so does another base model under the same name."""
    content = _manifest_of(donor)
    if content is None or content["versions"] != versions() or not _has_same_base(plan, content["models"]):
        return None
    return content


def _manifest_of(plan: Plan) -> dict[str, Any] | None:
    path = Path(plan.output_dir) / MANIFEST
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _has_same_base(plan: Plan, models: Mapping[str, str | None]) -> bool:
    if not isinstance(plan.model, str):
        return True  # one object in memory
    identity = model_identity(plan.model, plan.model_init_kwargs.get("revision"))
    return models.get(f"the model {plan.model}") == identity


def copy_finished_stages(plan: Plan, donors: Sequence[Plan]) -> list[str]:
    """Takes over what another point has trained already. Nothing where the plan has begun by itself.

    Args:
        plan ([`Plan`]):
            About to be run; its folder gets the models, and a manifest that says where they come from.
        donors (`Sequence[Plan]`):
            Plans that were run, wholly or in part.

    Returns:
        `list[str]`: names of the stages that were copied.
    """
    folder = Path(plan.output_dir)
    if (folder / MANIFEST).exists():
        return []
    found = max((_finished(plan, donor) for donor in donors), key=len, default=[])
    if not found:
        return []
    for source, _ in found:
        target = folder / source.name
        shutil.rmtree(target, ignore_errors=True)  # of a copy that was killed: nothing says yet that it is whole
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("checkpoint-*"))
    manifest = Manifest(plan)
    for index, (source, entry) in enumerate(found):
        manifest.stage(index).update({**entry, "status": "planned"})
        # The fingerprint is made of the copy.
        manifest.update(index, status="complete", copied_from=str(source), finished=now())
        if manifest.stage(index).get("fingerprint") != entry.get("fingerprint"):
            (folder / MANIFEST).unlink()
            raise OSError(f"The copy of {source} in {folder} is not as its origin. Start again.")
    return [entry["name"] for _, entry in found]


def copy_first_responses(plan: Plan, donors: Sequence[Plan]) -> str | None:
    """Takes over the responses of the model that the ladder starts from, with their scores, from another ladder that
    starts from it. Nothing where the plan's own ladder has begun.

    Args:
        plan ([`Plan`]):
            About to be run; its stages, if it has any, are finished.
        donors (`Sequence[Plan]`):
            Plans that were run, or still run.

    Returns:
        `str`, *optional*: the donor's folder, if anything was copied.
    """
    folder = Path(plan.output_dir) / "ladder"
    if not plan.constraints or folder.exists():
        return None
    for donor in donors:
        files = _complete_responses(donor) if _starts_alike(plan, donor) else []
        for file in files:
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(folder / file.name) as partial, LineWriter(partial) as writer:
                for record in read_lines(file):
                    writer.write(record | _as_in(plan))
        if files:
            return donor.output_dir
    return None


def _as_in(plan: Plan) -> dict[str, str]:
    """Each plan has a copy of the stages' model, in its own folder."""
    return {"model": str(plan.folder_of(len(plan.stages) - 1))} if plan.stages else {}


def _starts_alike(plan: Plan, donor: Plan) -> bool:
    """Whether both ladders start from one model, and draw and score its responses alike."""
    # The cheapest first: a manifest is compared by the digest of the base model.
    if len(donor.stages) != len(plan.stages) or not _draws_alike(plan, donor) or not _begin_alike(plan, donor):
        return False
    theirs = _usable_manifest(plan, donor)
    if theirs is None:
        return False
    if not plan.stages:
        return True
    last = [content["stages"][-1] for content in (_manifest_of(plan), theirs) if content is not None]
    complete = [entry["status"] for entry in last] == ["complete"] * 2
    return complete and last[0]["fingerprint"] == last[1]["fingerprint"]


def _draws_alike(plan: Plan, donor: Plan) -> bool:
    if any(getattr(plan.rungs, name) != getattr(donor.rungs, name) for name in ("sampling", "draws", "reward")):
        return False
    if len(plan.constraints) != len(donor.constraints):
        return False
    # Objects too: prompts in memory are described by their number only.
    decisive = ("name", "scorer", "scorer_options", "prompts", "under")
    return all(
        getattr(mine, name) == getattr(other, name)
        for mine, other in zip(plan.constraints, donor.constraints, strict=True)
        for name in decisive
    )


def _complete_responses(donor: Plan) -> list[Path]:
    """Files of the donor's first responses that it has completed: those to train on once the first rung is trained."""
    folder = Path(donor.output_dir)
    if not any(read_lines(folder / OBSERVATIONS)):
        return []
    trained = (folder / "ladder" / "rung-01" / DONE).exists()
    splits = ("train", "decide") if trained else ("decide",)
    return [path for split in splits for path in sorted((folder / "ladder").glob(f"00-{split}*.jsonl"))]


def _finished(plan: Plan, donor: Plan) -> list[tuple[Path, StageEntry]]:
    """Folder and entry of the stages that the donor has finished for both."""
    count = common_stages(plan, donor)
    content = _usable_manifest(plan, donor) if count else None
    if content is None:
        return []
    found: list[tuple[Path, StageEntry]] = []
    for entry in content["stages"][:count]:
        if entry["status"] != "complete":
            break
        found.append((Path(donor.output_dir) / entry["folder"], entry))
    return found
