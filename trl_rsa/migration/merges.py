"""mergekit's configurations: what they merge, and what that is here."""

from collections.abc import Mapping
from typing import Any

from trl_rsa.migration.draft import CommandDraft
from trl_rsa.migration.shell import in_one_line


def is_merge(content: Any) -> bool:
    return isinstance(content, Mapping) and "merge_method" in content


def merge(content: Any, config: str, folder: str = "MERGED") -> CommandDraft:
    """mergekit works on stages' folders as on any other; a linear merge of two is said in words."""
    draft = CommandDraft("mergekit-yaml", [in_one_line(["mergekit-yaml", config, folder])])
    draft.notes.append("mergekit stays as it is: every stage is an ordinary folder; only its models' paths change")
    if not isinstance(content, Mapping):
        draft.notes.append(f"{config} is not beside the script, so that its models are not named here")
        return draft
    models = [model for model in content.get("models") or () if isinstance(model, Mapping) and model.get("model")]
    weights = [(model.get("parameters") or {}).get("weight", 1.0) for model in models]
    if content.get("merge_method") != "linear" or not models:
        draft.notes.append(f"merge_method {content.get('merge_method')}: the same command, no other is needed")
        return draft
    shown = ", ".join(f"{weight} of {model['model']}" for weight, model in zip(weights, models, strict=True))
    draft.notes.append(f"a linear merge: {shown}")
    return draft
