"""RSAConfig: defaults, files and flags, and the sentence of every refusal."""

import json
from dataclasses import MISSING, fields

import pytest
import yaml
from trl import DPOConfig, SFTConfig, TrlParser

from trl_rsa import RSAConfig
from trl_rsa._device import _warn, has_slow_bfloat16
from trl_rsa.config import _NOT_HONOURED, RISK_OPTIONS, TRL_LOSS_TYPES
from trl_rsa.risk import CVaR, Entropic, Expectation, MeanCVaR, Spectral, UpperSemideviation, WorstCase
from trl_rsa.training import configuration


@pytest.fixture
def make_config(tmp_path):
    return lambda **options: RSAConfig(output_dir=str(tmp_path / "out"), use_cpu=True, bf16=False, **options)


def test_defaults(make_config):
    config = make_config()
    assert config.loss_type == ["rsa2"] and config.risk_alpha == 0.5
    assert config.make_risk_measure() == Entropic(1.0)
    assert config.constraint_multiplier == 1.0 and config.label_smoothing == 0.0 and config.drop_truncated
    assert make_config(loss_type="rsa1").risk_alpha is None


def test_every_other_default_is_dpos(make_config, tmp_path):
    dpo = DPOConfig(output_dir=str(tmp_path / "out"), use_cpu=True, bf16=False)
    theirs, ours = dpo.to_dict(), make_config().to_dict()
    differing = {name for name in theirs if theirs[name] != ours[name]}
    # The folder of the logs is named after the time.
    assert differing - {"logging_dir"} == {"loss_type"}


@pytest.mark.parametrize(
    ("options", "measure"),
    [
        ({"risk_measure": "expectation"}, Expectation()),
        ({"risk_measure": "cvar"}, CVaR(0.1)),
        ({"risk_measure": "cvar", "risk_tail": 0.05}, CVaR(0.05)),
        ({"risk_theta": 0.3}, Entropic(0.3)),
        ({"risk_measure": "mean_cvar", "risk_tail": 0.2, "risk_weight": 0.7}, MeanCVaR(0.2, 0.7)),
        (
            {"risk_measure": "spectral", "risk_tails": [1.0, 0.2], "risk_weights": [0.4, 0.6]},
            Spectral((1.0, 0.2), (0.4, 0.6)),
        ),
        ({"risk_measure": "upper_semideviation"}, UpperSemideviation(0.5)),
        ({"risk_measure": "worst_case"}, WorstCase()),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_measure(make_config, options, measure):
    assert make_config(**options).make_risk_measure() == measure


@pytest.mark.parametrize("loss_type", ["rsa1", "rsa2", ["rsa1"], ["rsa2"], ["rsa1", "sft"], ["sft", "rsa2"]], ids=str)
def test_allowed_losses(make_config, loss_type):
    config = make_config(loss_type=loss_type)
    assert config.loss_type == ([loss_type] if isinstance(loss_type, str) else loss_type)
    assert config.is_risk_aware and config.drop_truncated


@pytest.mark.parametrize("loss_type", [*TRL_LOSS_TYPES, ["sft"], ["sigmoid", "bco_pair", "sft"]], ids=str)
def test_trls_losses_come_with_dpos_habits(make_config, loss_type):
    config = make_config(loss_type=loss_type)
    assert config.loss_type == ([loss_type] if isinstance(loss_type, str) else loss_type)
    assert not config.is_risk_aware and not config.drop_truncated and config.risk_alpha is None
    assert make_config(loss_type=loss_type, drop_truncated=True).drop_truncated


def test_trls_losses_take_every_option_of_dpo(make_config):
    config = make_config(loss_type="sigmoid", beta=0.0, label_smoothing=0.5, **CHANGED)
    assert {name: getattr(config, name) for name in CHANGED} == CHANGED
    assert (config.beta, config.label_smoothing) == (0.0, 0.5)


# Files and flags


OPTIONS = {
    "loss_type": ["rsa2", "sft"],
    "loss_weights": [1.0, 0.1],
    "link": "robust",
    "risk_alpha": 0.25,
    "risk_measure": "spectral",
    "risk_tails": [1.0, 0.2, 0.05],
    "risk_weights": [0.5, 0.25, 0.25],
    "constraint_multiplier": 4.0,
    "label_smoothing": 0.1,
    "beta": 0.2,
    "drop_truncated": False,
}


def test_json_and_back(make_config, tmp_path):
    config = make_config(**OPTIONS)
    saved = json.loads(config.to_json_string())
    assert {name: saved[name] for name in OPTIONS} == OPTIONS
    names = {f.name for f in fields(RSAConfig) if f.init}
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in saved.items() if k in names}))
    (loaded,) = TrlParser(RSAConfig).parse_json_file(str(tmp_path / "config.json"))
    assert loaded.to_dict() == config.to_dict()
    assert loaded.make_risk_measure() == config.make_risk_measure()


def test_flags(make_config, tmp_path):
    arguments = ["--output_dir", str(tmp_path / "out"), "--use_cpu", "--bf16", "false"]
    for name, value in OPTIONS.items():
        arguments += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    (config,) = TrlParser(RSAConfig).parse_args_and_config(arguments)
    assert config.to_dict() == make_config(**OPTIONS).to_dict()


def test_yaml_and_a_flag_over_it(make_config, tmp_path):
    document = OPTIONS | {"output_dir": str(tmp_path / "out"), "use_cpu": True, "bf16": False}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(document))
    arguments = ["--config", str(tmp_path / "config.yaml"), "--constraint_multiplier", "2"]
    (config,) = TrlParser(RSAConfig).parse_args_and_config(arguments)
    assert config.to_dict() == make_config(**OPTIONS | {"constraint_multiplier": 2.0}).to_dict()


def test_every_field_has_help_and_is_documented():
    inherited = {f.name for f in fields(DPOConfig)}
    own = [f for f in fields(RSAConfig) if f.name not in inherited or f.name in ("loss_type", "label_smoothing")]
    assert {"loss_type", "link", "risk_measure", "risk_weights", "constraint_multiplier"} <= {f.name for f in own}
    for f in own:
        assert f.metadata["help"].endswith(".")
        assert f"        {f.name} (`" in RSAConfig.__doc__


# Refusals

CHANGED = {
    "ld_alpha": 0.5,
    "f_divergence_type": "forward_kl",
    "f_alpha_divergence_coef": 0.7,
    "use_weighting": True,
    "discopop_tau": 0.1,
    "precompute_ref_log_probs": True,
    "precompute_ref_batch_size": 4,
    "truncation_mode": "keep_end",
}


@pytest.mark.parametrize("name", _NOT_HONOURED)
def test_options_that_a_risk_aware_loss_cannot_honour_are_refused_when_changed(make_config, name):
    default = next(f.default for f in fields(DPOConfig) if f.name == name)
    with pytest.raises(ValueError) as error:
        make_config(**{name: CHANGED[name]})
    assert str(error.value) == (
        f"You set {name}={CHANGED[name]!r}, but the risk-aware loss_type=['rsa2'] cannot honour it: "
        f"{_NOT_HONOURED[name]}. Leave it at {default!r}, or set loss_type to a loss of TRL's, such as 'sigmoid'."
    )
    make_config(**{name: default})


def test_other_options_of_dpo_are_honoured(make_config):
    options = {"sync_ref_model": True, "ref_model_mixup_alpha": 0.9, "ref_model_sync_steps": 10, "padding_free": True}
    config = make_config(**options)
    assert {name: getattr(config, name) for name in options} == options


RISK = {
    "risk_alpha": 0.0,
    "risk_measure": "cvar",
    "risk_tail": 0.1,
    "risk_theta": 2.0,
    "risk_weight": 0.5,
    "risk_tails": [0.1],
    "risk_weights": [1.0],
    "link": "ipo",
}


@pytest.mark.parametrize("name", [*RISK_OPTIONS, "link"])
def test_options_of_the_risk_are_refused_with_trls_losses(make_config, name):
    with pytest.raises(ValueError) as error:
        make_config(loss_type="ipo", **{name: RISK[name]})
    sentence = f"You set {name}={RISK[name]!r}, but loss_type=['ipo'] is TRL's and has no risk term. Leave {name} at"
    assert str(error.value).startswith(sentence)


@pytest.mark.parametrize(
    "loss_type", [["rsa1", "rsa2"], ["rsa1", "rsa1"], ["rsa1", "sigmoid"], ["rsa1", "sft", "sft"]], ids=str
)
def test_a_risk_aware_loss_stands_alone_or_with_sft(make_config, loss_type):
    with pytest.raises(ValueError, match="'rsa1' and 'rsa2' stand alone or with 'sft', one at a time"):
        make_config(loss_type=loss_type)


@pytest.mark.parametrize("loss_type", ["rsa3", ["sigmoid", "rsa3"], ["rsa2", "rsa3"]], ids=str)
def test_unknown_losses_are_refused(make_config, loss_type):
    with pytest.raises(ValueError, match=r"but there is no loss 'rsa3'\. Set it to 'rsa2' or 'rsa1', or to TRL's"):
        make_config(loss_type=loss_type)


def test_no_loss_is_refused(make_config):
    with pytest.raises(ValueError, match=r"You set loss_type=\[\], but without a loss"):
        make_config(loss_type=[])


def test_loss_weights_must_match(make_config):
    with pytest.raises(ValueError, match="loss_weights"):
        make_config(loss_type=["rsa1", "sft"], loss_weights=[1.0])


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        *(({"label_smoothing": v}, f"You set label_smoothing={v}, but it is the probabili") for v in (-0.1, 0.5, NAN)),
        *(({"beta": v}, f"You set beta={v}, but the stage's temperature is") for v in (0.0, -1.0, INF, NAN)),
        *(({"constraint_multiplier": v}, f"You set constraint_multiplier={v}, but") for v in (0.0, -1.0, INF, NAN)),
        *(
            ({"loss_type": "rsa2", "risk_alpha": v}, f"You set risk_alpha={v}, but a negative")
            for v in (-1.0, INF, NAN)
        ),
        ({"loss_type": "rsa1", "risk_alpha": 0.5}, "You set risk_alpha=0.5, but 'rsa1' has no such weight"),
        (
            {"link": "logit"},
            "You set link='logit', which does not exist. Set it to one of sigmoid, robust",
        ),
        ({"risk_measure": "var"}, "You set the risk measure to 'var', which does not exist"),
        ({"risk_tail": 0.1}, "You set tail, but the risk measure 'entropic' takes only theta"),
        ({"risk_measure": "cvar", "risk_theta": 1.0}, "You set theta, but the risk measure 'cvar' takes only tail"),
        ({"risk_measure": "expectation", "risk_weight": 1.0}, "'expectation' takes no parameter"),
        ({"risk_measure": "cvar", "risk_tail": 0.0}, "You set tail=0.0, but the tail is the probability mass"),
        ({"risk_measure": "cvar", "risk_tail": 1.5}, "You set tail=1.5, but the tail is the probability mass"),
        ({"risk_theta": 0.0}, "You set theta=0.0, but the entropic risk needs a finite theta > 0"),
        ({"risk_measure": "mean_cvar", "risk_weight": 2.0}, "You set weight=2.0, but outside"),
        ({"risk_measure": "spectral", "risk_tails": [0.1]}, "You set 1 tails and 3 weights"),
        (
            {"risk_measure": "spectral", "risk_tails": [0.1, 1.0], "risk_weights": [0.5, 0.6]},
            "a spectral measure needs non-negative weights that sum to 1",
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_refusal_says_what_was_set_and_why(make_config, options, sentence):
    with pytest.raises(ValueError) as error:
        make_config(**options)
    assert sentence in str(error.value)


def test_a_refusal_comes_before_transformers_looks_for_a_gpu(tmp_path):
    """TrainingArguments raises on machines without bf16; the user's own mistake is told first."""
    with pytest.raises(ValueError, match="You set beta=0"):
        RSAConfig(output_dir=str(tmp_path), beta=0.0)


def test_what_is_refused_exists_in_dpo_config_with_a_plain_default():
    plain = {f.name for f in fields(DPOConfig) if f.default is not MISSING}
    assert set(_NOT_HONOURED) <= plain
    assert set(_NOT_HONOURED) == set(CHANGED)


def test_without_an_accelerator_it_is_the_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr("trl_rsa.config.has_accelerator", lambda: False)
    assert RSAConfig(output_dir=str(tmp_path)).use_cpu


@pytest.mark.parametrize(("slow", "bf16", "told"), [(True, None, 1), (True, False, 0), (False, None, 0)])
def test_bf16_on_a_processor_without_it_is_named(tmp_path, monkeypatch, slow, bf16, told):
    said = []
    monkeypatch.setattr("trl_rsa._device.has_slow_bfloat16", lambda: slow)
    monkeypatch.setattr("trl_rsa._device.logger.warning", said.append)
    _warn.cache_clear()
    for _ in range(2):
        RSAConfig(output_dir=str(tmp_path), bf16=bf16, use_cpu=True)
    _warn.cache_clear()
    assert len(said) == told and all("Set bf16 to false" in line for line in said)


@pytest.mark.parametrize(
    ("found", "slow"),
    [({"avx2": True}, True), ({"avx512_bf16": True}, False), ({"amx_bf16": True}, False), ({"bf16": True}, False)],
)
def test_what_makes_bfloat16_slow_on_a_processor(monkeypatch, found, slow):
    monkeypatch.setattr("trl_rsa._device.has_accelerator", lambda: False)
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: found, raising=False)
    assert has_slow_bfloat16() is slow
    monkeypatch.delattr("torch.cpu.get_capabilities")
    assert has_slow_bfloat16() is None


def test_bf16_of_a_method_of_trl_is_named_too(tmp_path, monkeypatch):
    """A stage may be trained with another configuration than RSAConfig."""
    said = []
    monkeypatch.setattr("trl_rsa._device.has_slow_bfloat16", lambda: True)
    monkeypatch.setattr("trl_rsa._device.logger.warning", said.append)
    _warn.cache_clear()
    configuration.make_config("sft", {"output_dir": str(tmp_path), "bf16": True, "use_cpu": True}, SFTConfig)
    _warn.cache_clear()
    assert len(said) == 1
