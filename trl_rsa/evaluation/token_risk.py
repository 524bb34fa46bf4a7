"""Where in a response the risk is, token by token: drift risk, and token harm. The two are different things.

*Drift risk* is ρ(X_t) with X = log π_ref − log π: how far the policy's whole law of the next token has left the
reference at that place, in nats. It says nothing about the token that was drawn, nor about harm.

*Token harm* is −(β/λ)(log π_safe − log π_helpful) of the token that was drawn: what safety training made of it. At the
optimum of a safety stage at temperature β/λ it is the token's cost-to-go, less a constant of the prefix and in units
of the cost that the labels follow; it is negative where the safe policy prefers the token.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from trl_rsa.kernels.chunked import LOGITS_PER_CHUNK, chunked_token_statistics
from trl_rsa.kernels.dense import project
from trl_rsa.kernels.head import output_head
from trl_rsa.kernels.statistics import TokenStatistics
from trl_rsa.risk import CVaR, Expectation, RiskMeasure
from trl_rsa.storage.names import MANIFEST


def token_drift(
    model: Any,
    ref_model: Any,
    prompt_ids: Sequence[Sequence[int]],
    completion_ids: Sequence[Sequence[int]],
    measure: RiskMeasure | None = None,
    batch_size: int = 8,
) -> list[list[float]]:
    """Drift risk ρ(X_t) of each token, in nats.

    Args:
        model, ref_model ([`~transformers.PreTrainedModel`]):
            π and π_ref, with one vocabulary. Neither is changed.
        prompt_ids, completion_ids (`Sequence[Sequence[int]]`):
            Token ids of the prompts (none empty) and of the responses, their end-of-sequence tokens included.
        measure ([`~risk.RiskMeasure`], *optional*):
            ρ; by default the CVaR with tail 0.1.
        batch_size (`int`, *optional*, defaults to 8):
            Responses per forward. The logits are made in chunks of tokens, whatever the batch.

    Returns:
        `list[list[float]]`: one number per token of each completion.
    """
    measure = CVaR(0.1) if measure is None else measure

    def drift(batch: _Batch) -> Any:
        return _statistics(batch, model, ref_model, measure).risk

    return _per_token(prompt_ids, completion_ids, batch_size, drift)


def token_drift_and_kl(
    model: Any,
    ref_model: Any,
    prompt_ids: Sequence[Sequence[int]],
    completion_ids: Sequence[Sequence[int]],
    measure: RiskMeasure,
    batch_size: int = 8,
) -> list[list[list[float]]]:
    """[`token_drift`] and KL(π‖π_ref) of each token, in nats, with one forward of each model for both.

    Arguments as in [`token_drift`].

    Returns:
        `list[list[list[float]]]`: two numbers per token of each completion.
    """

    def both(batch: _Batch) -> Any:
        import torch

        of, ref = _seen(batch, model), _seen(batch, ref_model)
        drift = _compared(batch, of, ref, measure).risk
        # The drift of π_ref from π under the expectation: KL(reference‖policy) with the roles exchanged.
        kl = _compared(batch, ref, of, Expectation()).risk
        return torch.stack([drift, kl.to(drift.device)], dim=-1)

    return _per_token(prompt_ids, completion_ids, batch_size, both)


def token_harm(
    safe_model: Any,
    helpful_model: Any,
    prompt_ids: Sequence[Sequence[int]],
    completion_ids: Sequence[Sequence[int]],
    temperature: float,
    batch_size: int = 8,
) -> list[list[float]]:
    """Token harm −(β/λ)(log π_safe − log π_helpful) of each token.

    Args:
        safe_model, helpful_model ([`~transformers.PreTrainedModel`]):
            The policies after and before the safety stages.
        temperature (`float`):
            β/λ. For several stages 1/Σ 1/temperature, as in [`HarmModels`].
        prompt_ids, completion_ids, batch_size:
            As in [`token_drift`].
    """
    if not 0 < temperature < float("inf"):
        raise ValueError(f"You set temperature={temperature!r}, but β/λ is positive and finite. Set, say, 0.05.")

    def harm(batch: _Batch) -> Any:
        # Any measure will do: only the log-probabilities are read. Tail 1 is the cheapest, the expectation.
        of = _statistics(batch, safe_model, helpful_model, CVaR(1.0))
        return -temperature * (of.log_probs - of.ref_log_probs)

    return _per_token(prompt_ids, completion_ids, batch_size, harm)


def token_surprise(
    model: Any, prompt_ids: Sequence[Sequence[int]], completion_ids: Sequence[Sequence[int]], batch_size: int = 8
) -> list[list[float]]:
    """Surprise −log π of each token, in nats: how unlikely the model finds a text, its own or another's.

    Arguments as in [`token_drift`].
    """

    def surprise(batch: _Batch) -> Any:
        import torch

        hidden, head = batch.hidden(model), output_head(model)
        labels = batch.labels.to(hidden.device)
        size = max(1, LOGITS_PER_CHUNK // head.weight.shape[0])
        chunks = zip(hidden.split(size), labels.split(size), strict=True)
        return torch.cat([torch.nn.functional.cross_entropy(project(h, head), y, reduction="none") for h, y in chunks])

    return _per_token(prompt_ids, completion_ids, batch_size, surprise)


@dataclass(frozen=True)
class _Batch:
    """Prompts and completions, padded.

    Args:
        ids, mask (`torch.Tensor` of shape `[B, L]`):
            Token ids, and 1 where there is one.
        predicting (`torch.Tensor` of shape `[B, L]`):
            Whether the next token is a completion's.
        labels (`torch.Tensor` of shape `[N]`):
            All completion tokens, one response after the other.
    """

    ids: Any
    mask: Any
    predicting: Any
    labels: Any

    def hidden(self, model: Any) -> Any:  # [N, H]
        where = model.device
        # The weights of an adapter are inside the model that it wraps.
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        output = inner.base_model(input_ids=self.ids.to(where), attention_mask=self.mask.to(where))
        return output.last_hidden_state[self.predicting.to(where)]


def _per_token(
    prompt_ids: Sequence[Sequence[int]],
    completion_ids: Sequence[Sequence[int]],
    batch_size: int,
    value: Callable[[_Batch], Any],
) -> list[list[Any]]:
    import torch

    result: list[list[Any]] = [[] for _ in prompt_ids]
    # The longest go first, so that running out of memory shows at once.
    order = sorted(range(len(result)), key=lambda i: -(len(prompt_ids[i]) + len(completion_ids[i])))
    order = [i for i in order if len(completion_ids[i])]
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        with torch.no_grad():
            values = value(_batch([(prompt_ids[i], completion_ids[i]) for i in batch])).tolist()
        for i in batch:
            result[i], values = values[: len(completion_ids[i])], values[len(completion_ids[i]) :]
    return result


def _batch(pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> _Batch:
    import torch

    if any(not len(prompt) for prompt, _ in pairs):
        raise ValueError("You gave an empty prompt, but the first token is predicted from it. Give at least one id.")
    rows = [torch.tensor([*prompt, *completion]) for prompt, completion in pairs]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    places = torch.arange(ids.shape[1])
    ends = torch.tensor([len(row) for row in rows])[:, None]
    first = torch.tensor([len(prompt) - 1 for prompt, _ in pairs])[:, None]
    predicting = (places >= first) & (places < ends - 1)
    return _Batch(ids, (places < ends).long(), predicting, ids.roll(-1, 1)[predicting])


class _Seen(NamedTuple):
    """What a model makes of a batch: hidden states `[N, H]`, and its head."""

    hidden: Any
    head: Any


def _seen(batch: _Batch, model: Any) -> _Seen:
    return _Seen(batch.hidden(model), output_head(model))


def _statistics(batch: _Batch, model: Any, ref_model: Any, measure: RiskMeasure) -> TokenStatistics:
    return _compared(batch, _seen(batch, model), _seen(batch, ref_model), measure)


def _compared(batch: _Batch, of: _Seen, ref: _Seen, measure: RiskMeasure) -> TokenStatistics:
    if of.head.weight.shape[0] != ref.head.weight.shape[0]:
        raise ValueError(
            f"You compare models with {of.head.weight.shape[0]} and {ref.head.weight.shape[0]} tokens, but token "
            "risks need one vocabulary. Give models of one family."
        )
    device = of.head.weight.device
    labels = batch.labels.to(device)
    return chunked_token_statistics(of.hidden, of.head, ref.hidden.to(device), ref.head, labels, measure)


def token_pieces(tokenizer: Any, token_ids: Sequence[int], response: str) -> list[str]:
    """The piece of the response that each sampled token stands for; they join to it.

    A token that is part of a character has "", and the token that completes the character has it.
    """
    pieces, done = [], 0
    for n in range(1, len(token_ids) + 1):
        so_far = tokenizer.decode(token_ids[:n], skip_special_tokens=True)
        end = max(done, len(so_far)) if response.startswith(so_far) else done
        pieces.append(response[done:end])
        done = end
    if pieces:
        pieces[-1] += response[done:]
    return pieces


def encode_response(
    tokenizer: Any, response: str, finished: bool = True, end: int | None = None
) -> tuple[list[int], list[str]]:
    """Token ids of a response and the piece of text that each stands for; the pieces join to the response.

    The text is tokenized afresh, which now and then cuts it otherwise than the model had. A finished response gets
    the token `end`, by default the end-of-sequence token, whose piece is "".
    """
    end = tokenizer.eos_token_id if end is None else end
    if tokenizer.is_fast:
        encoding = tokenizer(response, add_special_tokens=False, return_offsets_mapping=True)
        ids, ends = encoding["input_ids"], [end for _, end in encoding["offset_mapping"]]
        ends = [len(response) if i == len(ends) - 1 else end for i, end in enumerate(ends)]
        pieces = [response[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    else:
        ids = tokenizer(response, add_special_tokens=False)["input_ids"]
        pieces = [tokenizer.decode([token]) for token in ids]
    if finished and end is not None:
        ids, pieces = [*ids, end], [*pieces, ""]
    return list(ids), pieces


class NothingToCompare(ValueError):
    """A finished run has no helpful part and then a safe one: it has no token harm."""


@dataclass(frozen=True)
class HarmModels:
    """What token harm is read from.

    Args:
        helpful (`str`), safe (`str`):
            Folders or repositories of the policies before and after the safety stages and rungs.
        temperature (`float`):
            β/λ in all: stages at temperatures T_i tilt by Σ 1/T_i together. A rung has T_i = β/Δλ_i; one that was
            walked back to a fraction f of its update counts as f/T_i.
    """

    helpful: str
    safe: str
    temperature: float

    @classmethod
    def from_manifest(cls, path: str | os.PathLike[str]) -> "HarmModels":
        """Reads the manifest.json that `align` wrote (or its folder).

        Safety stages are those whose pairs are `preferred_by: safer`, and the rungs of a ladder. If there are neither,
        all stages but the first.
        """
        file = Path(path)
        file = file / MANIFEST if file.is_dir() else file
        if not file.is_file():
            raise FileNotFoundError(
                f"You set the manifest to {str(path)!r}, but there is no such file. Give the output_dir of an align "
                "run, or its manifest.json."
            )
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            steps, start = _stages(file, content) + _rungs(file, content), content["plan"]["model"]
        except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
            raise ValueError(
                f"You set the manifest to {str(path)!r}, but it is none that align wrote ({error!r}). Give another."
            ) from error
        unfinished = [step for step in steps if step.folder is None]
        # A plan with a budget is done when its ladder is.
        if unfinished or ("ladder" not in content and content["plan"].get("constraint")):
            done = f"only {len(steps) - len(unfinished)} of its {len(steps)} stages are complete"
            raise ValueError(
                f"You set the manifest to {str(file)!r}, but {done if unfinished else 'its ladder is not finished'}. "
                "Finish the run first: align resumes it."
            )
        return cls._from_steps(str(file), start, steps)

    @classmethod
    def _from_steps(cls, name: str, start: str, steps: Sequence["_Step"]) -> "HarmModels":
        safety = [i for i, step in enumerate(steps) if step.safer] or list(range(1, len(steps)))
        if not safety or safety != list(range(safety[0], safety[-1] + 1)):
            raise NothingToCompare(
                f"You set the manifest to {name!r}, but its stages are not a helpful part and then a safe one, which "
                "token harm compares. Compute token_harm with two models of your choice."
            )
        folders = [start, *(str(step.folder) for step in steps)]
        rate = sum(steps[i].rate for i in safety)
        return cls(folders[safety[0]], folders[safety[-1] + 1], 1 / rate)


@dataclass(frozen=True)
class _Step:
    """A stage or a rung: its policy (None if it is not trained yet), whether it is for safety, and 1/temperature."""

    folder: Path | None
    safer: bool
    rate: float


def _stages(file: Path, content: dict[str, Any]) -> list[_Step]:
    return [
        _Step(
            file.parent / done["folder"] if done["status"] == "complete" else None,
            plan.get("preferred_by") == "safer",
            plan["constraint_multiplier"] / plan["beta"],
        )
        for done, plan in zip(content["stages"], content["plan"]["stages"], strict=True)
        if plan.get("method") not in ("reward", "cost")  # these train scorers
    ]


def _rungs(file: Path, content: dict[str, Any]) -> list[_Step]:
    """The rungs up to the model that the ladder handed out, the last of them to the fraction that was kept."""
    ladder = content.get("ladder")
    if ladder is None:
        return []
    final = Path(ladder["model"])
    last = next(entry for entry in ladder["observations"] if Path(entry["model"]) == final)
    beta = content["plan"]["rungs"]["beta"]
    steps = []
    rungs = [rung for rung in ladder["rungs"] if rung["rung"] <= last["rung"]]
    if len(rungs) < last["rung"]:
        raise ValueError(
            f"You ask for token harm along the ladder in {file.parent}, but the folders of some of its rungs were "
            "deleted. Restore them."
        )
    for rung in rungs:
        kept = last["fraction"] if rung["rung"] == last["rung"] else 1.0
        # The folder may have been moved since: only its name counts.
        folder = file.parent / "ladder" / (final.name if rung["rung"] == last["rung"] else f"rung-{rung['rung']:02d}")
        steps.append(_Step(folder, True, kept * sum(rung["delta_multipliers"].values()) / beta))
    return steps
