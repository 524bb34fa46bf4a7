"""What is known of published guard models: with which words a verdict begins, and what stands before it.

Only that is here. How a conversation is put to a guard stands in the template that comes with its weights, which is
read from the model's folder. Sources are the model cards of the publishers and, for beaver-dam, the moderation code of
the BeaverTails repository.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal


Categories = Literal["codes", "line"] | None


@dataclass(frozen=True)
class Preset:
    """
    How the verdict of a guard is read.

    Args:
        name (`str`):
            What `preset=` is set to.
        unsafe, safe (`tuple[str, ...]`):
            Words of the verdict, with the space before them if there is one.
        borderline (`tuple[str, ...]`):
            Words of a verdict between the two, which the option `controversial` counts to one side.
        answer (`str`):
            What the guard writes before the verdict.
        before (`tuple[str, ...]`):
            Beginnings of the questions that the guard answers before it, each with one of the two words.
        policy (`tuple[str, ...]`):
            Path of the template's argument that names the one policy which is asked about; empty if the template has
            all of them in it.
        default_policy (`str`, *optional*):
            What it is if nothing is set. None: it has to be set.
        categories (`str`, *optional*):
            What follows an unsafe verdict: a line of `"codes"` such as `S1,S10`, which the template explains, or a
            `"line"` of names.
        reach (`int`):
            Tokens that a server is asked for, so that the verdict and the categories are among them.
        marks (`tuple[str, ...]`):
            Stand, all of them, in the template.
        names (`tuple[str, ...]`):
            One of them stands in the name that a server gives the model, in small letters.
    """

    name: str
    unsafe: tuple[str, ...]
    safe: tuple[str, ...]
    borderline: tuple[str, ...] = ()
    answer: str = ""
    before: tuple[str, ...] = ()
    policy: tuple[str, ...] = ()
    default_policy: str | None = None
    categories: Categories = None
    reach: int = 4
    marks: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    def policy_arguments(self, policy: str) -> dict[str, Any]:
        """The template's arguments that name `policy`: `{"guardian_config": {"risk_name": policy}}`."""
        arguments: Any = policy
        for key in reversed(self.policy):
            arguments = {key: arguments}
        return arguments


_ALL = (
    # meta-llama/Llama-Guard-3-8B, -3-1B, -4-12B, Meta-Llama-Guard-2-8B: the first line is "safe" or "unsafe", the
    # second has the codes of the violated categories, which the template lists. The 1B and the 12B take contents as
    # lists of parts; whether a template does is found out by trying.
    Preset(
        "llama-guard",
        unsafe=("unsafe",),
        safe=("safe",),
        categories="codes",
        reach=16,
        marks=("BEGIN UNSAFE CONTENT CATEGORIES", "'safe' or 'unsafe'"),
        names=("llama-guard", "llamaguard"),
    ),
    # google/shieldgemma-2b, -9b, -27b: the answer begins with "Yes" (the policy is violated) or "No"; one guideline at
    # a time, an argument of the template. The card takes the softmax of the two tokens.
    Preset(
        "shieldgemma",
        unsafe=("Yes",),
        safe=("No",),
        policy=("guideline",),
        marks=("policy expert", "guideline"),
        names=("shieldgemma",),
    ),
    # allenai/wildguard: three lines, "Harmful request: yes", "Response refusal: no", "Harmful response: yes". The
    # instruction, with {prompt} and {response}, stands in the README.
    Preset(
        "wildguard",
        unsafe=(" yes",),
        safe=(" no",),
        answer="Harmful response:",
        before=("Harmful request:", "Response refusal:"),
        reach=32,
        marks=("{prompt}", "{response}", "whether the AI assistant's response is harmful"),
        names=("wildguard",),
    ),
    # ibm-granite/granite-guardian-3.3-8b without thinking: "<score> yes </score>". The template takes a criterion.
    Preset(
        "granite-guardian-3.3",
        unsafe=(" yes",),
        safe=(" no",),
        answer="<score>",
        policy=("guardian_config", "criteria_id"),
        default_policy="harm",
        reach=16,
        marks=("guardian_config", "criteria_id"),
        names=("granite-guardian-3.3",),
    ),
    # ibm-granite/granite-guardian-3.0, -3.1, -3.2: "Yes" (there is the risk) or "No". The template takes a risk.
    Preset(
        "granite-guardian",
        unsafe=("Yes",),
        safe=("No",),
        policy=("guardian_config", "risk_name"),
        default_policy="harm",
        marks=("guardian_config", "risk_name"),
        names=("granite-guardian-3.0", "granite-guardian-3.1", "granite-guardian-3.2"),
    ),
    # Qwen/Qwen3Guard-Gen-0.6B, -4B, -8B: "Safety: Unsafe" (or Safe, or Controversial), then "Categories: …", then
    # "Refusal: …". The report counts Controversial as unsafe (strict) or as safe (loose).
    Preset(
        "qwen3guard",
        unsafe=(" Unsafe",),
        safe=(" Safe",),
        borderline=(" Controversial",),
        answer="Safety:",
        categories="line",
        reach=32,
        marks=("Safety: Unsafe", "Controversial"),
        names=("qwen3guard-gen",),
    ),
    # PKU-Alignment/beaver-dam-7b: no text but 14 labels, each a sigmoid, on Safe RLHF's template; flagged if any is
    # above a threshold.
    Preset("beaver-dam", unsafe=(), safe=(), names=("beaver-dam",)),
)
PRESETS: dict[str, Preset] = {preset.name: preset for preset in _ALL}


def choose_preset(
    what: str,
    preset: str | None,
    found: Preset | None,
    unsafe_token: str | Iterable[str] | None,
    safe_token: str | Iterable[str] | None,
    answer: str | None,
) -> Preset:
    """
    The preset that the options ask for, or the one that was found.

    Args:
        what (`str`):
            The guard, for messages.
        preset, unsafe_token, safe_token, answer:
            The options.
        found ([`Preset`], *optional*):
            By the template, or by the model's name.

    Raises:
        ValueError: if there is none, or if an option cannot be used.
    """
    check_preset(preset)
    chosen = PRESETS[preset] if preset is not None else found
    if (unsafe_token is None) != (safe_token is None):
        raise ValueError(
            "You set one of unsafe_token and safe_token, but the cost compares the two. Set both: the words with "
            "which an unsafe and a safe verdict begin."
        )
    if unsafe_token is not None and safe_token is not None:
        unsafe, safe = _words("unsafe_token", unsafe_token), _words("safe_token", safe_token)
        chosen = replace(chosen or Preset("own", unsafe, safe, reach=16), unsafe=unsafe, safe=safe, borderline=())
    if chosen is None:
        raise ValueError(
            f"You set the scorer to {what}, but how it says its verdict is not known: it is none of the guards that "
            f"we recognise. Set preset to one of {', '.join(PRESETS)}, or unsafe_token and safe_token to the words "
            "with which its verdict begins."
        )
    return chosen if answer is None else replace(chosen, answer=answer)


def check_preset(preset: object) -> None:
    if preset is not None and preset not in PRESETS:
        raise ValueError(
            f"You set preset={preset!r}, but the guards that we know are {', '.join(PRESETS)}. Set one of them, or "
            "unsafe_token and safe_token."
        )


def _words(option: str, given: str | Iterable[str]) -> tuple[str, ...]:
    words = (given,) if isinstance(given, str) else tuple(given)
    if not words or not all(isinstance(word, str) and word.strip() for word in words):
        raise ValueError(f"You set {option}={given!r}, but a verdict begins with a word. Set one, or a list of them.")
    return words


def preset_of_template(text: str) -> Preset | None:
    """The guard whose marks stand in a template, or None."""
    plain = re.sub(r"\s+", " ", text.replace("\\n", " ").replace("\\", ""))
    return next((p for p in PRESETS.values() if p.marks and all(mark in plain for mark in p.marks)), None)


def preset_of_name(name: str) -> Preset | None:
    """The guard that a server's name for a model speaks of, or None."""
    return next((p for p in PRESETS.values() if any(part in name.lower() for part in p.names)), None)


def named_policies(preset: Preset, policies: str | Iterable[str] | Mapping[str, str] | None) -> dict[str, str]:
    """
    What the guard is asked about, one at a time, by name.

    Returns:
        `dict[str, str]`: `{"": ""}` for a guard that is asked about everything at once.

    Raises:
        ValueError: if a guard needs a policy and there is none, or takes none and there is one.
    """
    if not preset.policy:
        if policies is not None:
            raise ValueError(
                f"You set policies for a guard of the kind {preset.name}, but its template has all of them in it. "
                "Leave the option out, or use template_options if the template takes categories."
            )
        return {"": ""}
    if policies is None:
        if preset.default_policy is None:
            raise ValueError(
                f"You set no policies, but a guard of the kind {preset.name} is asked about one guideline at a time. "
                "Set policies to a guideline, such as those of its model card, or to several by name."
            )
        policies = preset.default_policy
    if isinstance(policies, str):
        policies = [policies]
    named = dict(policies) if isinstance(policies, Mapping) else {policy: policy for policy in policies}
    if not named or not all(isinstance(policy, str) and policy.strip() for policy in named.values()):
        raise ValueError(f"You set policies={policies!r}, but a policy is a text. Set one, a list, or texts by name.")
    return named


def check_controversial(value: object) -> None:
    if value not in ("unsafe", "safe"):
        raise ValueError(
            f'You set controversial={value!r}, but a verdict between safe and unsafe counts as "unsafe" or as "safe". '
            "Set one of the two."
        )


def sides(preset: Preset, controversial: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The words that count as unsafe, and those that count as safe."""
    check_controversial(controversial)
    if controversial == "unsafe":
        return preset.unsafe + preset.borderline, preset.safe
    return preset.unsafe, preset.safe + preset.borderline


def category_names(categories: Categories, text: str, prompt: str = "") -> tuple[str, ...]:
    """
    The categories in what a guard has written after an unsafe verdict.

    Args:
        categories (`str`, *optional*):
            As in [`Preset`].
        text (`str`):
            What it has written after the verdict.
        prompt (`str`, *optional*):
            What it was given, in which codes are explained: `S1: Violent Crimes.`
    """
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    if categories is None or not lines:
        return ()
    if categories == "line":
        names = lines[0].removeprefix("Categories:").split(",")
        return tuple(name.strip() for name in names if name.strip() not in ("", "None"))
    explained = dict(re.findall(r"^[ \t]*(S\d+):[ \t]*(.+?)\.?[ \t]*$", prompt, re.MULTILINE))
    return tuple(f"{code}: {explained[code]}" if code in explained else code for code in re.findall(r"S\d+", lines[0]))
