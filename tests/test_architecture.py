"""Who may know whom: the import arrows between the rooms of the package, read from the source by ast.

Imports inside functions and under TYPE_CHECKING count too: an arrow is an arrow. What a room may not import it may not
reach by a detour through `from trl_rsa import …` either.
"""

import ast
import sys
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

import trl_rsa


PACKAGE = Path(trl_rsa.__file__).parent
ANY = None


@dataclass(frozen=True)
class Rule:
    """What a room may import: our own modules, and other packages. The standard library is always allowed.

    Args:
        ours: rooms (`"risk"`, `"alignment.plan"`) that may be imported; `ANY` for all but `never`.
        never: rooms that may not be.
        others: packages that may be imported, by top-level name; `ANY` for all but `never_others`.
        never_others: packages that may not be.
    """

    ours: tuple[str, ...] | None = ()
    never: tuple[str, ...] = ()
    others: tuple[str, ...] | None = ()
    never_others: tuple[str, ...] = ()


TRAINING = ("config", "losses", "metrics", "collator", "refusals", "trainer", "training", "ladder", "alignment")
TRAINING += ("sweep",)
COMMANDS = ("compat", "demo", "scripts", "cli", "__main__")
HEAVY = ("accelerate", "datasets", "peft", "torch", "transformers", "trl")

# The most specific rule of a module counts: "kernels.head" before "kernels".
RULES = {
    "": Rule(),  # trl_rsa/__init__.py: names are imported on first use
    "storage": Rule(ours=("storage",), others=("numpy",)),
    "risk": Rule(ours=("risk",), others=("torch",)),
    "losses": Rule(ours=("risk",), others=("torch",)),
    "metrics": Rule(others=("torch",)),
    "kernels": Rule(ours=("kernels", "risk"), others=("torch", "triton")),
    "kernels.head": Rule(ours=("kernels", "risk"), others=("torch", "transformers")),
    "_device": Rule(others=("torch",)),
    "_process": Rule(),
    "_finite": Rule(others=("torch",)),
    "_quiet": Rule(),
    "_trl": Rule(others=("packaging", "trl")),
    "config": Rule(ours=("_device", "losses", "risk"), others=("trl",)),
    "collator": Rule(ours=("_trl",), others=("torch",)),
    "refusals": Rule(ours=("collator", "config", "risk"), others=HEAVY),
    "trainer": Rule(
        ours=("_trl", "collator", "config", "kernels", "losses", "metrics", "refusals", "risk"),
        others=HEAVY,
    ),
    "data": Rule(ours=("data", "storage"), others=ANY, never_others=("peft", "trl")),
    "scoring": Rule(ours=("scoring", "data", "storage"), others=ANY),
    "score_models": Rule(ours=("score_models", "scoring", "data", "storage", "_finite"), others=ANY),
    "sampling": Rule(ours=("sampling", "scoring", "data", "storage"), others=ANY, never_others=("trl",)),
    "sampling.server_engine": Rule(ours=("sampling", "data", "_trl"), others=ANY, never_others=("trl",)),
    "evaluation": Rule(
        ours=("evaluation", "sampling", "scoring", "data", "storage", "kernels", "risk"),
        others=ANY,
        never_others=("trl",),
    ),
    "evaluation.pressure.half_way": Rule(ours=("evaluation", "merging", "sampling", "scoring", "storage"), others=ANY),
    # Ordinary fine-tuning, as users do it: TRL's own trainer.
    "evaluation.pressure.benign": Rule(ours=("evaluation", "sampling", "scoring", "data", "storage"), others=ANY),
    # Labels by people. What decides who is asked, and what follows, is pure mathematics.
    "audits": Rule(ours=("audits", "evaluation", "data", "scoring", "storage"), others=ANY, never_others=HEAVY),
    "audits.shuffle": Rule(others=("numpy",)),
    "audits.selection": Rule(ours=("audits.shuffle",), others=("numpy",)),
    "audits.calibration": Rule(others=("numpy", "scipy")),
    "audits.plan_picture": Rule(ours=("audits", "report.style", "storage")),
    "audits.bound": Rule(ours=("audits", "evaluation"), others=("numpy",)),
    "report": Rule(ours=("report", "storage"), others=ANY, never_others=HEAVY),
    "merging": Rule(ours=("merging", "sampling", "scoring", "storage"), others=ANY, never_others=("trl",)),
    "rlaif": Rule(
        ours=("rlaif", "ladder.progress", "sampling", "scoring", "data", "storage"), others=ANY, never_others=("trl",)
    ),
    "sandbox": Rule(ours=ANY, never=(*TRAINING, *COMMANDS, "report"), others=ANY),
    "training": Rule(
        ours=("training", "trainer", "config", "risk", "sampling", "storage", "_device", "_finite"),
        others=ANY,
    ),
    "training.__main__": Rule(ours=("_process", "training.worker")),
    # The methods of a stage: some of them train scorers, or are steered by them.
    "training.methods": Rule(
        ours=("training", "trainer", "config", "score_models", "scoring", "sampling", "storage", "_trl"),
        others=ANY,
    ),
    # What a multiplier does: the standard library alone.
    "training.methods.dual_ascent": Rule(),
    "ladder": Rule(
        ours=(
            *("ladder", "training", "merging", "audits", "evaluation", "sampling", "scoring", "data", "config"),
            *("risk", "storage"),
        ),
        others=ANY,
    ),
    # The scheduler and what it is made of: the standard library and each other.
    "ladder.scheduler": Rule(),
    "ladder.joint": Rule(ours=("ladder.scheduler",)),
    "alignment": Rule(
        ours=(
            *("alignment", "ladder", "training", "merging", "audits", "sampling", "scoring.load", "data", "config"),
            *("risk", "storage", "evaluation.prompt_sets", "score_models.encoding", "score_models.rows"),
        ),
        others=ANY,
    ),
    "sweep": Rule(
        ours=("sweep", "alignment", "ladder", "training", "evaluation", "sampling", "storage"),
        others=ANY,
        never_others=("trl",),
    ),
    # Other people's scripts, read and never run.
    "migration": Rule(ours=("migration", "data"), others=("yaml",)),
    "demo": Rule(ours=ANY, never=("compat", "scripts", "cli", "__main__"), others=ANY),
    # Doors for other people's scripts: nothing imports them.
    "compat": Rule(ours=ANY, never=("demo", "sandbox", "cli", "__main__"), others=ANY),
    "scripts": Rule(ours=ANY, never=("compat", "cli", "__main__"), others=ANY),
    "cli": Rule(ours=("_process", "scripts")),
    "__main__": Rule(ours=("cli",)),
}


def imports_of(source: str, module: str, is_package: bool = False) -> set[tuple[str, str]]:
    """Everything that `source` imports, as (module, full name): `from a import b` gives `("a", "a.b")`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {(alias.name, alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parents = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parents, *([base] if base else [])])
            found |= {(base, f"{base}.{alias.name}") for alias in node.names}
    return found


def our_room(name: str) -> str:
    """`trl_rsa.risk.CVaR` → `risk.CVaR`; a public name → the module that defines it; `trl_rsa.__version__` → ``."""
    room = name.removeprefix("trl_rsa").removeprefix(".")
    room = trl_rsa._MODULE_OF.get(room, room)
    first = PACKAGE / room.split(".")[0]
    return room if first.is_dir() or first.with_suffix(".py").exists() else ""


def is_inside(room: str, rooms: tuple[str, ...]) -> bool:
    return any(room == r or (r and room.startswith(f"{r}.")) for r in rooms)


def rule_for(room: str) -> Rule:
    parts = room.split(".")
    for n in range(len(parts), 0, -1):
        if (prefix := ".".join(parts[:n])) in RULES:
            return RULES[prefix]
    raise AssertionError(f"trl_rsa.{room} is in a room without a rule: say in RULES whom it may know")


def violations(source: str, room: str, is_package: bool = False) -> list[str]:
    """What the module `trl_rsa.<room>` imports against the rules, as sentences."""
    rule = rule_for(room)
    module = f"trl_rsa.{room}" if room else "trl_rsa"
    found = []
    for base, name in sorted(imports_of(source, module, is_package)):
        top = name.split(".")[0]
        if top == "trl_rsa":
            ours = our_room(name)
            forbidden = is_inside(ours, rule.never) or (rule.ours is not ANY and not is_inside(ours, rule.ours))
            forbidden = forbidden and bool(ours)  # the package itself knows nobody
        elif top in sys.stdlib_module_names:
            forbidden = False
        else:
            forbidden = top in rule.never_others or (rule.others is not ANY and top not in rule.others)
        if forbidden:
            found.append(f"{module} may not import {name}")
        elif base.startswith("trl.") and room != "_trl":
            found.append(f"{module} may not import {name}: what TRL does not export at its top level goes to _trl.py")
    return found


def rooms() -> list[tuple[str, Path]]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found.append((".".join(part for part in parts if part != "__init__"), path))
    return found


@pytest.mark.parametrize(("room", "path"), rooms(), ids=[room or "trl_rsa" for room, _ in rooms()])
def test_arrows(room, path):
    assert violations(path.read_text(encoding="utf-8"), room, path.name == "__init__.py") == []


def modules_imported(source: str, module: str, known: Container[str], is_package: bool = False) -> set[str]:
    """The `known` modules that `source` imports, wherever it does: `from a import b` means `a.b` if that is one."""
    names = imports_of(source, module, is_package)
    return {name if name in known else base for base, name in names} & set(known)


def find_circle(graph: Mapping[str, set[str]]) -> list[str]:
    """A path of the graph that ends where it begins; empty if there is none."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for other in sorted(graph[node]):
            if circle := visit(other, [*path, node]):
                return circle
        done.add(node)
        return []

    return next((circle for node in sorted(graph) if (circle := visit(node, []))), [])


def test_no_circle():
    """Among all imports, those inside functions and under TYPE_CHECKING too. (A public name that the package imports
    on first use is an arrow to the module that defines it: nobody inside may take that detour.)"""
    paths = {f"trl_rsa.{room}".removesuffix("."): path for room, path in rooms()}
    graph = {
        module: modules_imported(path.read_text(encoding="utf-8"), module, paths, path.name == "__init__.py")
        for module, path in paths.items()
    }
    assert sum(map(len, graph.values())) > len(graph), "the graph is far too thin: imports are not seen"
    assert find_circle(graph) == []


def test_circle_is_found():
    known = {"trl_rsa.a", "trl_rsa.b", "trl_rsa.b.c"}
    graph = {
        "trl_rsa.a": modules_imported("def f():\n    from trl_rsa.b import c", "trl_rsa.a", known),
        "trl_rsa.b": modules_imported("import json", "trl_rsa.b", known, is_package=True),
        "trl_rsa.b.c": modules_imported("if TYPE_CHECKING:\n    from trl_rsa.a import A", "trl_rsa.b.c", known),
    }
    assert find_circle(graph) == ["trl_rsa.a", "trl_rsa.b.c", "trl_rsa.a"]
    assert find_circle(graph | {"trl_rsa.b.c": set()}) == []


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("risk.measures", "import transformers"),
        ("risk.measures", "from trl_rsa.losses import rsa1_loss"),
        ("losses", "from trl_rsa.kernels.dense import project"),
        ("losses", "from trl_rsa import config"),
        ("losses", "from trl_rsa import RSATrainer"),
        ("kernels.dense", "from transformers import PreTrainedModel"),
        ("kernels.head", "from trl.trainer.utils import use_adapter"),
        ("kernels.chunked", "def f():\n    import trl_rsa.losses"),
        ("kernels.chunked", "from ..config import RSAConfig"),
        ("kernels.chunked", "from .. import config"),
        ("config", "import torch"),
        ("config", "from trl_rsa.trainer import RSATrainer"),
        ("trainer", "from trl_rsa.ladder.scheduler import ConstraintScheduler"),
        ("trainer", "from trl_rsa import align"),
        ("trainer", "from trl.trainer.dpo_trainer import DataCollatorForPreference"),
        ("trainer", "import trl.trainer.utils"),
        ("alignment.run", "from trl.models.utils import disable_gradient_checkpointing"),
        ("alignment.run", "from trl_rsa.scripts.align import main"),
        ("ladder.scheduler", "import numpy"),
        ("ladder.scheduler", "from trl_rsa.alignment.plan import Plan"),
        ("data.schema", "from trl_rsa.trainer import RSATrainer"),
        ("scoring.rewards", "from trl_rsa.trainer import RSATrainer"),
        ("evaluation.metrics", "if TYPE_CHECKING:\n    from trl_rsa.trainer import RSATrainer"),
        ("evaluation.metrics", "from trl_rsa.alignment.run import align"),
        ("evaluation.metrics", "from trl_rsa.ladder.constraint import RiskConstraint"),
        ("storage.records", "import torch"),
        ("storage.records", "from trl_rsa.data.schema import Text"),
        ("sampling.noise", "from trl_rsa.evaluation.metrics import cvar"),
        ("training.stage", "from trl_rsa import Plan"),
        ("training.stage", "from trl_rsa.ladder.constraint import RiskConstraint"),
        ("training.stage", "from trl_rsa.scoring import load_scorer"),
        ("training.methods.dual_ascent", "import torch"),
        ("ladder.constraint", "from trl_rsa.alignment.plan import Plan"),
        ("report.page", "import torch"),
        ("report.page", "from trl_rsa.evaluation.metrics import cvar"),
        ("sandbox.worlds", "from trl_rsa import RSAConfig"),
        ("sandbox.worlds", "from trl_rsa.alignment import plan"),
        ("scripts.train", "from trl_rsa.compat.safe_rlhf.models import AutoModelForScore"),
        ("cli", "from trl_rsa.trainer import RSATrainer"),
        ("cli", "import torch"),
        ("", "import torch"),
    ],
)
def test_violation_is_found(room, source):
    assert violations(source, room), f"{source!r} in trl_rsa.{room} went unnoticed"


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("risk.names", "from trl_rsa.risk.measures import CVaR\nimport torch\nfrom collections.abc import Sequence"),
        ("kernels.dense", "from . import statistics\nfrom .statistics import Head\nfrom ..risk import RiskMeasure"),
        ("config", "from trl import DPOConfig\nfrom trl_rsa.risk import RISK_MEASURES"),
        ("trainer", "from trl import DPOTrainer\nfrom trl_rsa._trl import use_adapter"),
        ("alignment.run", "from trl_rsa import RSAConfig\nfrom trl_rsa.ladder import climb\nimport trl"),
        ("ladder.scheduler", "import math\nfrom dataclasses import dataclass"),
        ("cli", "from trl_rsa import __version__\nfrom trl_rsa.scripts import train"),
    ],
)
def test_allowed_arrow_is_allowed(room, source):
    assert violations(source, room) == []


def test_room_without_a_rule_is_named():
    with pytest.raises(AssertionError, match=r"trl_rsa\.helpers is in a room without a rule"):
        violations("", "helpers")


def test_rules_follow_the_most_specific_room():
    assert rule_for("kernels.head") is not rule_for("kernels.dense")
    assert rule_for("ladder.scheduler").others == () and rule_for("alignment.run").others is ANY
