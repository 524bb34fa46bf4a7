"""Which program a command starts, and who knows what it becomes here."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os.path import isfile
from pathlib import Path

from trl_rsa.migration import align_anything, ppo, sacpo, safe_rlhf
from trl_rsa.migration.draft import Draft
from trl_rsa.migration.flags import Flags


Translate = Callable[[str, Flags], Draft]

# By the end of a module's name: forks keep it, and put other names before it. The first that fits counts.
_KNOWN: list[tuple[str, str, Translate]] = [
    (r"algorithms\.dpo", "safe_rlhf.algorithms.dpo", safe_rlhf.dpo),
    (r"(algorithms\.)?safe_?dpo", "safe_rlhf.algorithms.safedpo", safe_rlhf.safedpo),
    (r"algorithms\.ppo_lag", "safe_rlhf.algorithms.ppo_lag", ppo.ppo_lag),
    (r"algorithms\.ppo", "safe_rlhf.algorithms.ppo", ppo.ppo),
    (r"values\.(reward|cost)", "safe_rlhf.values.{reward,cost}", safe_rlhf.value_model),
    (r"evaluate\.arena", "safe_rlhf.evaluate.arena", safe_rlhf.arena),
    (
        r"train\.(helpfulness|safety)_(dpo|kto)",
        "SACPO's src.train.{helpfulness,safety}_{dpo,kto}",
        sacpo.stage,
    ),
    (r"text_to_text\.dpo", "align_anything.trainers.text_to_text.dpo", align_anything.dpo),
    (r"text_to_text\.rm", "align_anything.trainers.text_to_text.rm", align_anything.reward_model),
]
KNOWN = [*(shown for _, shown, _ in _KNOWN), "mergekit-yaml"]

_OUT_OF_SCOPE = {
    r"verl\..*": "verl has its own trainers and reward servers, for which there is no plan; write its answers as "
    ".jsonl (prompt, response) and score them with trl-rsa evaluate --responses FILE",
    r"trl": "TRL's own command: trl-rsa train takes the flags of trl dpo, with the risk beside them",
}
_MODULE_FLAGS = ("-m", "--module")
_STARTS = re.compile(r"i?python[\d.]*|torchrun|accelerate(-launch)?|deepspeed(\.pt)?|ds|uv")
_BEFORE = ("env", "exec", "nohup", "nice", "srun", "sudo", "time", "command")
# Modules that start another one.
_LAUNCHERS = (
    *("torch.distributed.run", "torch.distributed.launch", "accelerate.commands.launch"),
    *("accelerate.commands.accelerate_cli", "deepspeed.launcher.runner", "deepspeed.launcher.launch", "deepspeed"),
)
# What a launcher is told that decides how many processes train, and so how many rows a step has.
_MACHINES = "one machine trains here: its rows per step are those of its processes alone"
_PROCESSES = "add --num_processes N to the command: rows per step are per device, times processes, times accumulation"
_LAUNCHER = {
    "num_nodes": _MACHINES,
    "nnodes": _MACHINES,
    "hostfile": _MACHINES,
    "include": _MACHINES,
    "exclude": _MACHINES,
    "num_gpus": _PROCESSES,
    "num_accelerators": _PROCESSES,
    "nproc_per_node": _PROCESSES,
    "nproc-per-node": _PROCESSES,
    "num_processes": _PROCESSES,
}


@dataclass(frozen=True)
class Started:
    """A program and its words."""

    name: str
    words: list[str]
    launcher: list[str]  # what stands before it


def find_started(words: Sequence[str], folder: Path) -> Started | None:
    """The Python program that a command starts, behind any launcher; a file that starts a module is that module."""
    if words and Path(words[0]).name in ("mergekit-yaml", "trl"):
        return Started(Path(words[0]).name, list(words[1:]), [])
    # `-m` and files mean a program behind what starts one: mkdir has -m, and cp copies files, too.
    start = next((i for i, word in enumerate(words) if _STARTS.fullmatch(Path(word).name)), len(words))
    unknown = next((i for i, word in enumerate(words) if word not in _BEFORE and "=" not in word), len(words))
    if unknown < start and words[unknown].startswith("${"):  # an interpreter that the environment names
        start = unknown
    for at, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag in _MODULE_FLAGS:
            rest = list(words[at + 1 :])
            name = value if equals else rest.pop(0) if rest else ""
            found = Started(name, rest, list(words[:at]))
            if name not in _LAUNCHERS and (at > start or translator(found) is not None):
                return found
        elif word.endswith(".py") and (at == unknown or at > start):
            return Started(_module_in(folder / word) or _dotted(word), list(words[at + 1 :]), list(words[:at]))
    return None


def launched_by(started: Started) -> list[tuple[str, str]]:
    """Arguments of the launcher that the plan does not have, and why they matter; one machine is what there is."""
    flags = Flags.parse(started.launcher)
    flags.drop(_LAUNCHER)
    return [found for found in flags.without if found[0] not in ("--num_nodes 1", "--nnodes 1")]


def translator(started: Started) -> Translate | None:
    """Who knows the program; a fork's algorithm with a cost model and a threshold is taken as PPO-Lag."""
    for pattern, _, translate in _KNOWN:
        if re.fullmatch(rf"(?:\w+\.)*{pattern}", started.name):
            return translate
    flags = {word.split("=", 1)[0] for word in started.words}
    if ".algorithms." in f".{started.name}" and {"--cost_model_name_or_path", "--actor_model_name_or_path"} <= flags:
        return ppo.ppo_lag
    return None


def why_not(started: Started) -> str | None:
    """The sentence for a program that is known to have no plan."""
    return next((why for pattern, why in _OUT_OF_SCOPE.items() if re.fullmatch(pattern, started.name)), None)


def _dotted(path: str) -> str:
    return ".".join(part for part in Path(path).with_suffix("").parts if part not in (".", "..", "/"))


def _module_in(path: Path) -> str | None:
    if not isfile(path):
        return None
    found = re.search(r"run_module\(\s*[\"']([\w.]+)[\"']", path.read_text(encoding="utf-8", errors="replace"))
    return found[1] if found else None
