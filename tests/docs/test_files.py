"""docs/files.md has the keys of every type of a file, and the files that are written are as the types say.

One short run writes almost all of them: a stage of two steps, a ladder of one rung that is walked back, and an
evaluation of what came of it.
"""

import importlib
import json
import re
from collections import defaultdict
from pathlib import Path
from types import NoneType, SimpleNamespace, UnionType
from typing import Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

import pytest
from cpu_args import CPU_ARGS
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, TrainerState

import trl_rsa
from trl_rsa import Plan, ReanchorCallback, RiskConstraint, RSAConfig, RSATrainer, RungSettings, Stage, align
from trl_rsa.alignment.manifest import ManifestFile
from trl_rsa.alignment.merges import MergeEntry, MergeSettings, make_merges
from trl_rsa.audits.certificate import AuditedCertificateFile
from trl_rsa.audits.queue import AuditFile, LabelLine, RequestsFile
from trl_rsa.audits.settings import AuditSettings
from trl_rsa.data.harm import HarmScale
from trl_rsa.evaluation.branching import NestedHeader, NestedLine
from trl_rsa.evaluation.certificate import CertificateFile
from trl_rsa.evaluation.columns import read_columns
from trl_rsa.evaluation.front_file import FrontFile
from trl_rsa.evaluation.front_measures import Spot, measure_front
from trl_rsa.evaluation.localise import DriftLine, TokenLine
from trl_rsa.evaluation.metrics_file import DriftReference, Metrics
from trl_rsa.evaluation.pressure.base import Sources
from trl_rsa.evaluation.pressure.settings import PressureSettings
from trl_rsa.evaluation.request import CertificateSettings, DriftSettings, Evaluation, NestedSettings
from trl_rsa.evaluation.run import EvaluationRun
from trl_rsa.evaluation.scores import ScoreLine, ScorerSpec
from trl_rsa.evaluation.workspace import EvaluationFile
from trl_rsa.ladder.audit import LadderAudit
from trl_rsa.ladder.audit_files import AuditSummary, CalibrationFile
from trl_rsa.ladder.observations import ObservationRecord
from trl_rsa.ladder.observe import BeginningLine, ResponseRecord
from trl_rsa.ladder.progress import ProgressLog
from trl_rsa.ladder.same_scorers import ScorersFile
from trl_rsa.ladder.summary import TrainedRungFile, WalkedBackFile
from trl_rsa.merging.card import MergedModel, MergeFile
from trl_rsa.merging.merge import merge_models
from trl_rsa.rlaif.constitution import Constitution, Principle
from trl_rsa.rlaif.label import label
from trl_rsa.rlaif.labelling import Labelling
from trl_rsa.rlaif.result import FeedbackLine, FeedbackReport
from trl_rsa.sampling.policies import load_tokenizer
from trl_rsa.sampling.response import Sampling
from trl_rsa.score_models.measures import HeldOut, Measures, measure
from trl_rsa.score_models.model import describe
from trl_rsa.scoring import load_scorer
from trl_rsa.scoring.graded import CONFIG_FIELD, Readout, ScoreModelField
from trl_rsa.storage.locks import LOCK, LockFile, hold_folder
from trl_rsa.storage.names import MERGE
from trl_rsa.storage.records import FIELDS, RecordLine
from trl_rsa.sweep.files import SweepFile, SweepState
from trl_rsa.training import worker
from trl_rsa.training.anchor import ModelSettings, StartFile
from trl_rsa.training.checkpoints import CheckpointFile
from trl_rsa.training.methods.dual_ascent import DualAscent, DualState
from trl_rsa.training.methods.lagrangian import CostPenalty, DualAscentCallback, MultipliersFile
from trl_rsa.training.reanchor import ReferenceFile
from trl_rsa.training.worker import ErrorFile, RequestFile, SampleRequest


ROOT = Path(__file__).parents[2]
PACKAGE = Path(trl_rsa.__file__).parent
# Types of what is only handed on, in memory.
NOT_OF_A_FILE = {"RawSample", "CostEstimate", "LabelledPair", "ObservationState", "SchedulerState", "Sign"}
NOT_OF_A_FILE |= {"NewLabel"}


# The page


def spelled(annotation: Any) -> str:
    """A type as the page writes it."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return "any"
    if annotation is NoneType:
        return "null"
    if origin in (Union, UnionType):
        return " or ".join(map(spelled, parts))
    if origin is Literal:
        return " or ".join(f'"{part}"' for part in parts)
    if origin is not None:
        return f"{origin.__name__}[{', '.join(map(spelled, parts))}]"
    return annotation.__name__


def type_cells(cls: Any) -> dict[str, str]:
    """By key, inherited ones included, what stands in the column Type."""
    optional = getattr(cls, "__optional_keys__", ())
    return {
        name: f"`{spelled(annotation)}`" + (", optional" if name in optional else "")
        for name, annotation in get_type_hints(cls).items()
    }


def tables() -> dict[str, SimpleNamespace]:
    """The tables under the headings that name a type: its module, the types whose keys it has too, and its rows."""
    found = {}
    for section in re.split(r"^### `", (ROOT / "docs/files.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        name, _, rest = section.partition("`\n")
        intro, _, table = rest.partition("\n| Key | Type | Unit | Meaning |\n")
        intro = " ".join(intro.split())
        module = re.search(r"\]\(\.\./(trl_rsa/[\w/]+)\.py\)", intro)
        too = re.search(r"It has the keys of (`\w+`(?: and `\w+`)*) too\.", intro)
        assert module is not None and name not in found, name
        rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \|", table.partition("\n\n")[0], re.MULTILINE)
        found[name] = SimpleNamespace(
            type=getattr(importlib.import_module(module[1].replace("/", ".")), name),
            bases=re.findall(r"`(\w+)`", too[1]) if too else [],
            rows=dict(rows),
        )
        assert len(rows) == len(found[name].rows) > 0, f"the table of {name} has no rows, or one twice"
    return found


TABLES = tables()


def rows_of(name: str) -> dict[str, str]:
    table = TABLES[name]
    return {key: cell for base in table.bases for key, cell in rows_of(base).items()} | table.rows


@pytest.mark.parametrize("name", TABLES)
def test_the_page_has_every_key_with_its_type(name):
    assert rows_of(name) == type_cells(TABLES[name].type)


def test_the_page_has_every_type():
    known, found = {"TypedDict"}, {"TypedDict"}
    classes = {
        name: set(re.split(r", *", bases))
        for path in PACKAGE.rglob("*.py")
        for name, bases in re.findall(r"^class (\w+)\(([^)]*)\):$", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    while found:
        found = {name for name, bases in classes.items() if name not in known and bases & known}
        known |= found
    assert known - NOT_OF_A_FILE - {"TypedDict"} == {name for name in TABLES if is_typeddict(TABLES[name].type)}


def test_the_fields_of_a_record_are_those_that_are_always_written():
    assert set(FIELDS) == RecordLine.__required_keys__


# What is written

seen: dict[str, set[str]] = defaultdict(set)  # by type, the keys that check has found


def check(value: Any, annotation: Any, where: str) -> None:
    """Fails where a value that was read from JSON is not as its type says."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return
    if origin in (Union, UnionType):
        assert (value is None) <= (NoneType in parts), where
        if value is not None:
            (annotation,) = (part for part in parts if part is not NoneType)
            check(value, annotation, where)
    elif origin is NotRequired:
        check(value, parts[0], where)
    elif origin is Literal:
        assert value in parts, where
    elif origin is list:
        assert isinstance(value, list), where
        for index, item in enumerate(value):
            check(item, parts[0], f"{where}[{index}]")
    elif origin is dict:
        assert isinstance(value, dict), where
        for key, item in value.items():
            check(item, parts[1], f"{where}[{key!r}]")
    elif is_typeddict(annotation):
        assert isinstance(value, dict), where
        assert annotation.__required_keys__ <= value.keys(), f"{where} lacks keys"
        assert value.keys() <= annotation.__annotations__.keys(), f"{where} has other keys"
        seen[annotation.__name__] |= value.keys()
        for key, part in get_type_hints(annotation).items():
            if key in value:
                check(value[key], part, f"{where}.{key}")
    else:
        assert type(value) in ((int, float) if annotation is float else (annotation,)), f"{where} is {value!r}"


def test_what_is_not_as_its_type_says_is_noticed():
    good = {"index": 0, "value": None, "reason": "none"}
    check(good, ScoreLine, "good")
    for bad in (
        {"index": 0},
        good | {"more": 1},
        good | {"index": "0"},
        good | {"index": None},
        good | {"value": "1"},
    ):
        with pytest.raises(AssertionError):
            check(bad, ScoreLine, "bad")


def check_json(path: Path, annotation: Any) -> None:
    check(json.loads(path.read_text(encoding="utf-8")), annotation, path.name)


def check_lines(path: Path, annotation: Any, first: Any = None) -> None:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert lines, path
    for number, line in enumerate(lines, start=1):
        check(line, annotation if first is None or number > 1 else first, f"{path.name}:{number}")


ARGS = {
    **CPU_ARGS,
    "per_device_train_batch_size": 4,
    "max_steps": 2,
    "save_steps": 2,
    "learning_rate": 1e-3,
    "logging_steps": 1,
}
TEXT = {"template": "none"}  # the pairs are plain text
OTHER_WORDS = ("cat", "dog", "mat", "hill", "quick", "slow", "is", "was")
PROMPTS = [f"{word} {other} ran" for word in ("the", "a", "red", "blue", "big", "small") for other in OTHER_WORDS]
SETS = {"train": PROMPTS[:4], "decide": PROMPTS[4:40], "certify": PROMPTS[40:]}


def falling_cost() -> Any:
    """A cost for one rung: too high in the first two calls (decide, train), and later far below the budget.

    Responses to one prompt differ, so that they make pairs.
    """
    calls: list[int] = []

    def cost(prompts: list[str], completions: list[str], **kwargs: Any) -> list[float]:
        calls.append(len(completions))
        level = 0.8 if len(calls) <= 2 else -0.9
        return [level + 0.1 * (index % 2) for index in range(len(completions))]

    return cost


def write_alignment(model: Any, tokenizer: Any, pairs: Dataset, folder: Path) -> str:
    """Starts from a model in memory, so that there is a `00-start`. Returns the folder of the result."""
    human = [
        {"prompt": "quick quick", "chosen": f"the {word} ", "rejected": f"red {word} "} for word in ("cat", "dog")
    ]
    constraint = RiskConstraint(
        falling_cost(),
        SETS,
        budget=0.5,
        bounds=(-1.0, 1.0),
        tail=0.5,
        confidence=0.5,
        margin=0.1,
        human_pairs=Dataset.from_list(human),
        human_share=0.5,
        human_options=TEXT,
        under={"prefill": 2, "attack": "leetspeak"},
    )
    rungs = RungSettings(
        sampling={"max_new_tokens": 4}, draws={"train": 2}, batch_size=64, max_rungs=1, max_walk_backs=1, cut="keep"
    )
    stage = Stage("helpful", pairs, eval_dataset=pairs.select(range(2)), dataset_options=TEXT)
    plan = Plan([stage], model=model, output_dir=str(folder), args=ARGS, constraint=constraint, rungs=rungs)
    return align(plan, tokenizer, log=lambda line: None).model


def check_alignment(folder: Path) -> None:
    check_json(folder / "manifest.json", ManifestFile)
    check_json(folder / "certificate-cost.json", CertificateFile)
    check_json(folder / "00-start/complete.json", StartFile)
    check_json(folder / "01-helpful/checkpoint-2/complete.json", CheckpointFile)
    check_json(folder / "ladder/rung-01/done.json", TrainedRungFile)
    check_json(folder / "ladder/scorers.json", ScorersFile)
    (walked_back,) = folder.glob("ladder/rung-01-at-*")
    check_json(walked_back / "done.json", WalkedBackFile)
    check_lines(folder / "constraint.jsonl", ObservationRecord)
    for path in folder.glob("ladder/*.jsonl"):
        check_lines(path, BeginningLine if path.name.startswith("beginnings-") else ResponseRecord)


def write_evaluation(models: dict[str, str], manifest: Path, folder: Path) -> None:
    """With attacks, a reference, the manifest and a budget. The cost of one response fails."""
    evaluation = Evaluation(
        folder,
        models=models,
        rows=[
            {"prompt": prompt, "category": "c", "benign": True, "attack": "none", "base_prompt": prompt}
            for prompt in PROMPTS[:4]
        ],
        sampling=Sampling(draws=2, max_new_tokens=4),
        reward=ScorerSpec(lambda prompts, completions: [float(len(c)) for c in completions], "reward"),
        cost=ScorerSpec(lambda prompts, completions: [0.5, *[-0.5] * (len(completions) - 2), None], "cost"),
        device="cpu",
        drift=DriftSettings(models["before"]),
        nested=NestedSettings(2),
        manifest=str(manifest),
        certificate=CertificateSettings(budget=0.0, bounds=(-1.0, 1.0), model="after"),
        pressure=PressureSettings(["prefill:2"], Sources(reference=models["before"])),
    )
    EvaluationRun(evaluation, log=lambda line: None).run()


def check_evaluation(folder: Path) -> None:
    check_json(folder / "evaluation.json", EvaluationFile)
    check_json(folder / "pressure/prefill-2/evaluation.json", EvaluationFile)
    for name in ("responses", "records", "beginnings"):
        check_lines(folder / f"pressure/prefill-2/{name}.jsonl", RecordLine)
    check_lines(folder / "responses.jsonl", RecordLine)
    check_lines(folder / "records.jsonl", RecordLine)
    check_lines(folder / "reward_scores.jsonl", ScoreLine)
    check_lines(folder / "cost_scores.jsonl", ScoreLine)
    check_json(folder / "metrics.json", Metrics)
    check_lines(folder / "drift.jsonl", DriftLine, first=DriftReference)
    check_lines(folder / "nested.jsonl", NestedLine, first=NestedHeader)
    check_lines(folder / "nested_scores.jsonl", ScoreLine)
    check_lines(folder / "tokens.jsonl", TokenLine)
    check_json(folder / "certificate.json", CertificateFile)
    check_json(folder / "manifest.json", ManifestFile)


def evaluate_a_file(folder: Path) -> None:
    (folder / "own.jsonl").write_text('{"prompt": "a", "response": "b", "cost": 1.0}\n' * 2)
    EvaluationRun(Evaluation(folder / "out", responses=folder / "own.jsonl"), log=lambda line: None).run()
    check_json(folder / "out/evaluation.json", EvaluationFile)
    check_json(folder / "out/metrics.json", Metrics)


# Written where the run does not go: by the harness, a sweep and the demo, with a pair rule, with pairs held out from a
# stage's own data, and if no bound holds.
NOT_SEEN = {
    "Metrics": {"benchmarks", "demo"},
    "DemoSettings": {*TABLES["DemoSettings"].rows},
    "DataReportJSON": {"left_out_by_rule", "pair_rule", "pairs_swapped"},
    "StageEntry": {"copied_from"},
    "HumanCounts": {"left_out_by_rule", "pair_rule", "pairs_swapped"},
    "StageData": {"held_out_pairs"},
    "ManifestFile": {"merges"},
    "ConstraintSummary": {"compared", "audit"},
    "CostNumbers": {"audit"},
    "Comparison": {*TABLES["Comparison"].rows},
    "RecordLine": {"reward_problem"},
}
# Types of files that have tests of their own below.
OTHERS = {"LockFile", "ReferenceFile", "ScoreModelField", "HarmScaleJSON", "RequestFile", "ErrorFile"}
# Of an audit.
AUDIT = {"AuditFile", "RequestsFile", "Request", "LabelLine", "CalibrationFile", "AuditNumbers", "Rated"}
AUDIT |= {"AuditSummary", "CurveJSON", "AgreementJSON", "CalibrationJSON", "AuditedCertificateFile", "AuditJSON"}
OTHERS |= AUDIT | {"PlanFile", "PlannedAudit"}
OTHERS |= {"Measures", "Calibration", "GradeCalibration", "ScoreCalibration"}
OF_A_SWEEP = {"SweepFile", "SweepPoint", "FrontFile", "FrontMethod", "FrontPoint", "RewardWithin", "FrontDifference"}
OF_A_SWEEP |= {"FrontReference"}
OTHERS |= OF_A_SWEEP | {"MultipliersFile", "DualState"}
OTHERS |= {"MergeFile", "MergedModel", "MergeEntry", "FeedbackLine", "FeedbackReport"}


@pytest.mark.slow
def test_files_are_as_their_types_say_and_every_key_is_written(
    tiny_model_path, tiny_tokenizer, make_preference_dataset, tmp_path
):
    seen.clear()
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path)
    result = write_alignment(model, tiny_tokenizer, make_preference_dataset(12), tmp_path / "run")
    check_alignment(tmp_path / "run")
    models = {"before": str(tmp_path / "run/00-start"), "after": result}
    write_evaluation(models, tmp_path / "run", tmp_path / "evaluation")
    check_evaluation(tmp_path / "evaluation")
    evaluate_a_file(tmp_path)
    # What others only inherit from is no shape of its own.
    bases = {base for table in TABLES.values() for base in table.bases}
    missing = {
        name: TABLES[name].type.__annotations__.keys() - seen[name]
        for name in TABLES.keys() - (bases - seen.keys()) - OTHERS
        if is_typeddict(TABLES[name].type)
    }
    assert {name: keys for name, keys in missing.items() if keys} == NOT_SEEN


def test_a_checkpoint_of_a_re_anchored_run(save_tiny_llama, preference_dataset, tiny_args):
    path = save_tiny_llama()
    model, reference = (AutoModelForCausalLM.from_pretrained(path) for _ in range(2))
    args = RSAConfig(**tiny_args(max_steps=1, save_strategy="steps", save_steps=1))
    trainer = RSATrainer(
        model, reference, args=args, train_dataset=preference_dataset, processing_class=load_tokenizer(path)
    )
    trainer.add_callback(ReanchorCallback(trainer, constraint_steps=1))
    trainer.train()
    check_json(Path(args.output_dir) / "checkpoint-1/reference/rung.json", ReferenceFile)


def test_multipliers_of_a_checkpoint(tmp_path):
    seen.clear()
    penalty = CostPenalty(
        "harm", load_scorer(lambda prompts, completions: [1.0], "cost"), DualAscent(0.5, costs=[1.0])
    )
    callback, state = DualAscentCallback([penalty]), TrainerState(global_step=3, is_world_process_zero=True)
    (tmp_path / "checkpoint-3").mkdir()
    callback.on_save(SimpleNamespace(output_dir=tmp_path), state, None)
    check_json(tmp_path / "checkpoint-3/multipliers.json", MultipliersFile)
    for shape in (MultipliersFile, DualState):
        assert seen[shape.__name__] == shape.__annotations__.keys()


def test_a_score_model(tmp_path):
    seen.clear()
    scale, config = HarmScale(), LlamaConfig()
    describe(config, Readout("cost", scale), {"template": "chat", "truncation": "left", "max_length": 64})
    config.save_pretrained(tmp_path)
    check(json.loads((tmp_path / "config.json").read_text())[CONFIG_FIELD], ScoreModelField, CONFIG_FIELD)
    held_out = HeldOut(
        scores=[-1.0, 0.5, 3.0, 8.0],
        unsafe=[False, True, True, True],
        grades=[0, 1, 2, 3],
        severities=[0.0, 1.0, 2.0, 3.0],
        pairs=[(0, 1)],
        prompts=4,
    )
    check(json.loads(json.dumps(measure(held_out, "cost", scale))), Measures, "eval_results.json")
    for shape in (ScoreModelField, Measures):
        assert seen[shape.__name__] == shape.__annotations__.keys()


def test_a_sweep(tmp_path):
    seen.clear()
    rows = [
        {"prompt": f"p{i}", "response": "r", "cost": float(i), "reward": 1.0, "model": name}
        for name in "AB"
        for i in range(4)
    ]
    parts = {name: read_columns([row for row in rows if row["model"] == name]) for name in "AB"}
    spots = {"one": [Spot("A")], "two": [Spot("B", {"beta": 1.0}, 2.0, True)]}
    front = measure_front(spots, parts) | {"notes": ["1 point is not on the page."]}
    check(json.loads(json.dumps(front)), FrontFile, "front.json")
    point = {"name": "β=1", "settings": {"beta": 1.0}, "folder": "points/1", "status": "planned", "budget": 2.0}
    state = SweepState(tmp_path, "one", {"seed": 0}, {"beta": [1.0]}, [point])
    state.update("points/1", status="failed", problem="p", reused=["a"], model="m", seconds=1.0, met=True)
    check_json(tmp_path / "sweep.json", SweepFile)
    for shape in OF_A_SWEEP:
        assert seen[shape] == TABLES[shape].type.__annotations__.keys(), shape


def test_an_audit(tmp_path):
    """A ladder's, without its models: draws, labels, a calibration, the summary and a certificate."""
    seen.clear()
    settings = AuditSettings(
        labeller=lambda prompts, completions, **columns: [
            "severe" if "red" in text else "safe" for text in completions
        ],
        labels=40,
        certify_labels=40,
        errors=True,
    )
    constraint = RiskConstraint(falling_cost(), SETS, budget=2.0, bounds=(-1.0, 10.0), tail=0.5, audit=settings)
    records: list[Any] = [
        {
            "prompt": f"prompt {i}",
            "response": "red" if i % 9 == 0 else "blue",
            "costs": {"cost": i / 80},
            "prompt_number": i,
            "draw": 0,
        }
        for i in range(80)
    ]
    audit = LadderAudit(constraint, tmp_path, ProgressLog(lambda line: None))
    learned = constraint.estimate([r["costs"]["cost"] for r in records], [r["prompt"] for r in records])
    audit.ask(0, "decide", "m", records)
    audit.observe(0, records, 0.9, learned)
    audit.ask(1, "certify", "m", records)
    about = {"tail": 0.5, "bounds": constraint.bounds, "ledger_path": tmp_path / "certificate.json"}
    audit.certify(1, records, **about)
    folder = tmp_path / "audit-cost"
    check_json(folder / "audit.json", AuditFile)
    for split in ("00-decide", "01-certify"):
        check_json(folder / f"requests-{split}-1.json", RequestsFile)
    check_lines(folder / "labels.jsonl", LabelLine)
    check_json(folder / "calibration-00.json", CalibrationFile)
    check(json.loads(json.dumps(audit.summary(0))), AuditSummary, "summary")
    check_json(tmp_path / "certificate.json", AuditedCertificateFile)
    assert {name: TABLES[name].type.__annotations__.keys() - seen[name] for name in AUDIT if name in seen} == {
        name: set() for name in AUDIT
    }


def test_what_launched_processes_are_told_and_answer(tmp_path, monkeypatch, capsys):
    request = SampleRequest("m", ModelSettings({}, None, True), ["a"], Sampling(), 1, frozenset())
    check(json.loads(worker.write_request(request, "here")), RequestFile, worker.REQUEST)
    monkeypatch.setattr(worker, "end_with_parent", lambda: None)
    assert worker.main(tmp_path) == 1, "there is no request"
    check_json(tmp_path / "error-0.json", ErrorFile)
    assert "FileNotFoundError" in capsys.readouterr().err


def test_a_lock(tmp_path):
    with hold_folder(tmp_path):
        check_json(tmp_path / LOCK, LockFile)


def test_a_merge(tiny_model_path, other_tiny_model_path, tmp_path):
    adapters = []
    for seed in range(2):
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(tiny_model_path), LoraConfig(r=1, target_modules=["q_proj"])
        )
        model.save_pretrained(tmp_path / str(seed))
        adapters.append(str(tmp_path / str(seed)))
    seen.clear()
    for number, models in enumerate(([tiny_model_path, other_tiny_model_path], adapters)):
        merge = merge_models(models, [0.5, 0.5], tmp_path / f"merge-{number}")
        check_json(merge.folder / MERGE, MergeFile)
    for shape in (MergeFile, MergedModel):
        assert seen[shape.__name__] == shape.__annotations__.keys()
    settings = MergeSettings(["a", "b"], [0.5])
    folders = {"a": Path(adapters[0]), "b": Path(adapters[1])}
    for entry in make_merges(settings, folders, tmp_path, log=lambda line: None):
        check(json.loads(json.dumps(entry)), MergeEntry, "merges")


class SaysLittle:
    """A chat endpoint that always takes response A, and has one sentence for everything else."""

    url, model = "here", "m"

    def complete(self, requests: Any) -> list[str]:
        return ["[[A]]" if "<response A" in str(request) else "I would." for request in requests]


def test_labels_of_a_judge(tmp_path):
    seen.clear()
    rows = [{"prompt": "a", "response_0": "b", "response_1": "c", "response": "d"}]
    principles = (Principle("one", "Which?", "What?", "Write."),)
    for method in ("compare", "revise"):
        output = tmp_path / f"{method}.jsonl"
        labelling = Labelling(rows, Constitution(principles, "digest"), SaysLittle(), output, method=method)
        label(labelling, log=lambda line: None)
        check_lines(tmp_path / f"{method}.jsonl.lines.jsonl", FeedbackLine)
        check_json(tmp_path / f"{method}.jsonl.report.json", FeedbackReport)
    for shape in (FeedbackLine, FeedbackReport):
        assert seen[shape.__name__] == shape.__annotations__.keys()
