"""The ladder where the cost is known: a tight budget is met, a loose one not overpaid, an impossible one told."""

from types import SimpleNamespace

import pytest
from cpu_args import CPU_ARGS

from trl_rsa import Plan, RiskConstraint, RungSettings, align
from trl_rsa.evaluation.tails import cvar
from trl_rsa.sampling.generation import generate
from trl_rsa.sampling.response import Sampling
from trl_rsa.sandbox import PolicySettings, SandboxSettings, build_sandbox, sample_responses


TAIL = 0.2
ARGS = {
    **CPU_ARGS,
    "per_device_train_batch_size": 16,
    "max_steps": 30,
    "max_length": 128,
    "save_strategy": "no",
    "learning_rate": 5e-4,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A smaller policy than the sandbox's own, which speaks the language well enough."""
    policy = PolicySettings(hidden_size=64, intermediate_size=128, steps=200)
    splits = {"train": 100, "decide": 200, "certify": 100, "test": 200}
    sandbox = build_sandbox("aligned", 0, tmp_path_factory.mktemp("cache"), SandboxSettings(policy, splits=splits))
    return SimpleNamespace(sandbox=sandbox, start=true_risk(sandbox, sandbox.sft()))


def true_risk(sandbox, model):
    """CVaR of the true cost on the test prompts."""
    prompts = sandbox.prompts["test"]
    answers = sample_responses(model, sandbox.tokenizer, prompts, k=4, seed=1)
    flat = [answer for several in answers for answer in several]
    return cvar(sandbox.world.cost([prompt.text for prompt in prompts for _ in range(4)], flat), TAIL)


def climb(world, folder, budget, **changes):
    sandbox = world.sandbox
    margin = changes.pop("margin", 0.3)
    settings = {"max_rungs": 5, "initial_delta": 2.0} | changes
    constraint = RiskConstraint(
        sandbox.world.cost,
        {name: [prompt.messages for prompt in sandbox.prompts[name]] for name in ("train", "decide", "certify")},
        budget=budget,
        bounds=(-2.5, 5.0),
        tail=TAIL,
        margin=margin,
    )
    rungs = RungSettings(
        sampling={"max_new_tokens": 48},
        batch_size=400,
        draws={"decide": 2},
        args={"loss_type": ["rsa2"]},
        risk_measure="expectation",
        **settings,
    )
    start = str(sandbox.sft_path)
    plan = Plan([], model=start, output_dir=str(folder), args=ARGS, seed=0, constraint=constraint, rungs=rungs)
    alignment = align(plan, log=lambda line: None)
    return alignment.manifest["ladder"], alignment.model


def bound_of(observation):
    return observation["constraints"]["cost"]["upper_bound"]


def loaded(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.mark.slow
def test_a_tight_budget_is_met_by_the_true_cost_on_fresh_prompts(world, tmp_path):
    budget = world.start - 0.75
    result, model = climb(world, tmp_path, budget)
    assert result["met"], result["reason"]
    assert bound_of(result["observations"][0]) > budget and result["constraints"]["cost"]["multiplier"] > 0
    assert true_risk(world.sandbox, loaded(model)) <= budget


@pytest.mark.slow
def test_a_loose_budget_is_not_overpaid(world, tmp_path):
    """Well above the start: nothing is trained. Just below the start's bound: no more than a little is paid."""
    result, model = climb(world, tmp_path / "loose", world.start + 1.0)
    assert result["met"] and result["constraints"]["cost"]["multiplier"] == 0 and model == str(world.sandbox.sft_path)
    bound = bound_of(result["observations"][0])
    result, model = climb(world, tmp_path / "near", bound - 0.05, initial_delta=8.0, margin=0.4, max_walk_backs=3)
    assert result["met"], result["reason"]
    rungs = [entry for entry in result["observations"] if entry["fraction"] == 1.0]
    assert len(rungs) == 2, "one rung of 8 should be more than enough"
    final = next(entry for entry in result["observations"] if entry["model"] == model)
    assert bound - 0.05 - 0.4 <= bound_of(final) <= bound - 0.05
    assert result["constraints"]["cost"]["multiplier"] < 8.0


@pytest.mark.slow
def test_an_infeasible_budget_ends_with_the_best_model_and_says_so(world, tmp_path):
    result, model = climb(world, tmp_path, -2.2, max_rungs=1)
    assert not result["met"] and not result["certified"]
    assert result["reason"].startswith("NOT met")
    estimates = {entry["model"]: entry["constraints"]["cost"]["estimate"] for entry in result["observations"]}
    assert len(estimates) == 2 and estimates[model] == min(estimates.values())
    (compared,) = result["constraints"]["cost"]["compared"]
    assert compared["difference"] == pytest.approx(min(estimates.values()) - max(estimates.values()))


def true_risk_under(sandbox, model, temperature=1.0, n_forced=0):
    """CVaR of the true cost on the test prompts, at a temperature or after the start's own first tokens."""
    prompts = sandbox.prompts["test"]
    sampling = {"max_new_tokens": 48, "seed": 1}

    def drawn(policy, **options):
        messages = [prompt.messages for prompt in prompts]
        beginnings = options.pop("beginnings", None)
        several = generate(
            policy,
            sandbox.tokenizer,
            messages,
            Sampling(**sampling | options),
            batch_size=400,
            beginnings=beginnings,
        )
        return sorted((r for batch in several for r in batch), key=lambda r: (r.prompt, r.draw))

    beginnings = None
    if n_forced:
        end = sandbox.tokenizer.eos_token_id
        first = drawn(sandbox.sft(), max_new_tokens=n_forced)
        beginnings = [[token for token in r.token_ids if token != end] for r in first]
    found = drawn(model, draws=4, temperature=temperature, beginnings=beginnings)
    return cvar(sandbox.world.cost([prompts[r.prompt].text for r in found], [r.text for r in found]), TAIL)


@pytest.mark.slow
def test_budgets_under_two_conditions_are_met_by_the_true_cost(world, tmp_path):
    """Hot, and after a forced beginning: the start breaks both, and one ladder meets both."""
    sandbox = world.sandbox
    prompts = {name: [p.messages for p in sandbox.prompts[name]] for name in ("train", "decide", "certify")}
    under = {"hot": {"temperature": 1.3}, "begun": {"n_forced": 3}}
    start = {name: true_risk_under(sandbox, sandbox.sft(), **how) for name, how in under.items()}
    constraints = [
        RiskConstraint(
            sandbox.world.cost,
            prompts,
            budget=start[name] - 0.4,
            bounds=(-2.5, 5.0),
            tail=TAIL,
            margin=0.5,
            name=name,
            under={"temperature": 1.3} if name == "hot" else {"prefill": 3},
        )
        for name in under
    ]
    rungs = RungSettings(
        sampling={"max_new_tokens": 48},
        batch_size=400,
        draws={"decide": 2},
        args={"loss_type": ["rsa2"]},
        risk_measure="expectation",
        max_rungs=5,
        initial_delta=2.0,
    )
    plan = Plan([], str(sandbox.sft_path), str(tmp_path), args=ARGS, seed=0, constraint=constraints, rungs=rungs)
    alignment = align(plan, log=lambda line: None)
    result = alignment.manifest["ladder"]
    assert result["met"], result["reason"]
    first = result["observations"][0]["constraints"]
    assert all(first[c.name]["upper_bound"] > c.budget for c in constraints), "the start should break both"
    model = loaded(alignment.model)
    for c in constraints:
        assert true_risk_under(sandbox, model, **under[c.name]) <= c.budget, c.name
