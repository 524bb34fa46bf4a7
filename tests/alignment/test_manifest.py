"""The manifest: atomic, comparable, and it names what has changed."""

import json

import pytest
from peft import LoraConfig

from trl_rsa import Plan, RiskConstraint, Stage
from trl_rsa.alignment.manifest import Manifest, describe
from trl_rsa.audits.settings import AuditSettings
from trl_rsa.risk import CVaR
from trl_rsa.storage.files import write_json
from trl_rsa.storage.provenance import differences


def make_plan(folder, **stage):
    return Plan(
        [Stage("helpful", "a.jsonl"), Stage("safe", "b.jsonl", **stage)],
        model="m",
        output_dir=str(folder),
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"]),
    )


def test_a_description_is_the_same_for_equal_plans_and_json(tmp_path):
    described = describe(make_plan(tmp_path, risk_measure=CVaR(0.2)))
    assert described == json.loads(json.dumps(describe(make_plan(tmp_path / "moved", risk_measure=CVaR(0.2)))))
    assert described["stages"][1]["risk_measure"] == {"type": "CVaR", "tail": 0.2}
    assert described["peft_config"]["r"] == 4


def test_weights_in_memory_are_described_by_their_content(tiny_model_path, other_tiny_model_path, tmp_path):
    from transformers import AutoModelForCausalLM

    def described(path):
        model = AutoModelForCausalLM.from_pretrained(path)
        return describe(Plan([Stage("s", "a.jsonl")], model=model, output_dir="o"))["model"]

    assert described(tiny_model_path) == described(tiny_model_path)
    assert described(tiny_model_path) != described(other_tiny_model_path)


def test_differences_are_named_by_their_path():
    old = {"seed": 1, "stages": [{"beta": 0.1, "args": {}}]}
    new = {"seed": 1, "stages": [{"beta": 0.2, "args": {"bf16": True}}], "extra": 3}
    assert list(differences(old, new)) == [
        "stages.0.beta: 0.1 before, 0.2 now",
        "stages.0.args.bf16: null before, true now",
        "extra: null before, 3 now",
    ]
    assert list(differences([1], [1, 2], "stages")) == ["stages: 1 items before, 2 items now"]


def test_a_changed_plan_is_refused_by_name(tmp_path):
    Manifest(make_plan(tmp_path)).update()
    Manifest(make_plan(tmp_path))  # the same plan goes on
    with pytest.raises(ValueError, match=r"stages\.1\.beta: 0\.1 before, 0\.3 now.*another output_dir"):
        Manifest(make_plan(tmp_path, beta=0.3))


def test_the_labels_of_an_audit_may_become_more_and_what_is_kept_back_with_them(tmp_path):
    def plan(**audit):
        settings = AuditSettings(labeller=len, **audit)
        constraint = RiskConstraint(len, ["a", "b", "c"], budget=1.0, bounds=(-1.0, 10.0), audit=settings)
        return Plan([Stage("s", "a.jsonl")], model="m", output_dir=str(tmp_path), constraint=constraint)

    Manifest(plan(budget=200)).update()
    Manifest(plan(budget=400)).update()
    with pytest.raises(ValueError, match=r"audit\.budget: 400 before, 200 now; .*audit\.confirm: 100 before, 50 now"):
        Manifest(plan(budget=200))
    # A run from before there was such a thing.
    path = tmp_path / "manifest.json"
    content = json.loads(path.read_text())
    del content["plan"]["constraint"]["audit"]["confirm"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"audit\.confirm: null before, 100 now"):
        Manifest(plan(budget=400))
    Manifest(plan(budget=400, confirm=0))


def test_a_broken_or_foreign_manifest_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        Manifest(make_plan(tmp_path))
    (tmp_path / "manifest.json").write_text('{"schema_version": 99}')
    with pytest.raises(ValueError, match="schema version 99"):
        Manifest(make_plan(tmp_path))


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


@pytest.mark.parametrize("left", ["constraint.jsonl", "ladder/rung-01/done.json"])
def test_a_ladder_without_its_manifest_is_no_other_plan_s(left, tmp_path):
    (tmp_path / left).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / left).write_text("{}")
    with pytest.raises(ValueError, match=r"a ladder without its manifest.json.*another output_dir"):
        Manifest(make_plan(tmp_path))
