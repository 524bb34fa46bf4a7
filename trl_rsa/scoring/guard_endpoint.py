"""Guard models behind a server: `guard-endpoint:URL#MODEL`."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from trl_rsa.data.schema import Text
from trl_rsa.scoring.endpoint import Call, ChatEndpoint, EndpointError, without_key
from trl_rsa.scoring.guard import Verdict, as_verdicts
from trl_rsa.scoring.guard_presets import Preset, category_names, choose_preset, named_policies, preset_of_name, sides
from trl_rsa.scoring.guard_template import fill, merged
from trl_rsa.scoring.scorer import Direction, Kind, NotScored, Scorer, Sign, keyword_only, pick
from trl_rsa.scoring.text import messages, safe_rlhf_text


Api = Literal["chat", "classify"]
_Judged = tuple[float | NotScored, tuple[str, ...]]

_NONE = -9000.0  # vLLM writes -9999 for a probability of 0
_CLOSEST = 2.0**-24  # to 0 and to 1, of a probability that was rounded to float32
_LLAMA_EOS = "</s>"  # of beaver-dam's tokenizer, which a server does not tell


def _read_logprobs(answer: Any) -> str:
    """The tokens of a chat completion, each with the most probable ones in its place."""
    choice = answer["choices"][0]
    if not choice.get("logprobs") or not choice["logprobs"].get("content"):
        raise EndpointError(
            "the server sends no log-probabilities, which the cost is made of; set api, or its options"
        )
    tokens = [(str(item["token"]), item["top_logprobs"]) for item in choice["logprobs"]["content"]]
    places = [[token, [[str(top["token"]), float(top["logprob"])] for top in tops]] for token, tops in tokens]
    return json.dumps({"text": "".join(token for token, _ in tokens), "places": places})


def _read_probabilities(answer: Any) -> str:
    probabilities = [float(value) for value in answer["data"][0]["probs"]]
    if not probabilities or not all(0 <= value <= 1 for value in probabilities):
        raise ValueError("no probabilities")
    return json.dumps(probabilities)


LOGPROBS = Call("chat/completions", "a chat completion with log-probabilities", _read_logprobs)
CLASSIFY = Call("classify", "a classification", _read_probabilities)


class GuardEndpointScorer(Scorer):
    """
    A guard model behind an OpenAI-compatible server, as [`~scoring.guard.GuardScorer`].

    With `api="chat"` the server puts the conversation into the guard's template and answers with log-probabilities.
    The cost is read at the token of the verdict, from the `top_logprobs` most probable ones. Where only one verdict is
    among them, the other is taken to be as probable as it can be: as the last of them, or as all that the list leaves
    over. The true cost lies further from 0. If the rest could outweigh the verdict that is listed, there is no cost.
    With `api="classify"` (vLLM, SGLang) the server has a classifier and gives probabilities.

    Args:
        endpoint ([`~scoring.endpoint.ChatEndpoint`]):
            Where the guard answers.
        kind, higher_is, zero, name:
            As [`~scoring.guard.GuardScorer`].
        preset, unsafe_token, safe_token, answer, policies, controversial, template_options:
            As [`~scoring.guard.GuardScorer`]. The preset is found out from the model's name.
        api (`str`, *optional*, defaults to `"chat"`):
            Or `"classify"`; then requests go to `{url}/classify`, which in vLLM is not under `/v1`.
        labels (`list[int]`, *optional*):
            With `"classify"`: numbers of the labels that are unsafe, the others being safe. By default each label is a
            kind of harm by itself (beaver-dam), and the cost is the greatest of their log-odds.
        template (`str`, *optional*):
            With `"classify"`: a text with `{prompt}` and `{response}`. By default Safe RLHF's for beaver-dam, and the
            server's own chat template for others.
        top_logprobs (`int`, *optional*, defaults to 20):
            How many the server is asked for.
        max_tokens (`int`, *optional*):
            Longest answer; by default what the preset needs.
        extra_body (`dict`, *optional*):
            Further fields of the request.
    """

    def __init__(
        self,
        endpoint: ChatEndpoint,
        kind: Kind,
        higher_is: Direction | None = None,
        zero: float = 0.0,
        name: str | None = None,
        *,
        preset: str | None = None,
        unsafe_token: str | Iterable[str] | None = None,
        safe_token: str | Iterable[str] | None = None,
        answer: str | None = None,
        policies: str | Iterable[str] | Mapping[str, str] | None = None,
        controversial: str = "unsafe",
        template: str | None = None,
        template_options: Mapping[str, object] | None = None,
        api: Api = "chat",
        labels: Sequence[int] | None = None,
        top_logprobs: int = 20,
        max_tokens: int | None = None,
        extra_body: Mapping[str, object] | None = None,
    ):
        super().__init__(kind, higher_is or "worse", zero, name or f"guard-endpoint:{endpoint.model}")
        for option, value, least in (("top_logprobs", top_logprobs, 2), ("max_tokens", max_tokens, 1)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ValueError(f"You set {option}={value!r}, but it is a whole number from {least} on. Set one.")
        self.endpoint, self.extra_body = endpoint, dict(extra_body or {})
        self._asker: _Chat | _Classify
        if api == "chat":
            self._refuse("chat", {"labels": labels, "template": template})
            found = preset_of_name(endpoint.model)
            chosen = choose_preset(repr(endpoint.model), preset, found, unsafe_token, safe_token, answer)
            if chosen.name == "beaver-dam":
                raise ValueError(
                    f'You set api="chat" for {endpoint.model!r}, but that guard gives labels and no words. Set '
                    'api="classify".'
                )
            size = {"max_tokens": max_tokens or chosen.reach, "top_logprobs": top_logprobs}
            self._asker = _Chat(chosen, named_policies(chosen, policies), controversial, template_options, size)
        elif api == "classify":
            words = {"unsafe_token": unsafe_token, "safe_token": safe_token, "answer": answer, "policies": policies}
            self._refuse("classify", {**words, "template_options": template_options, "max_tokens": max_tokens})
            chosen_name = preset or getattr(preset_of_name(endpoint.model), "name", None)
            if labels is None and chosen_name != "beaver-dam":
                raise ValueError(
                    f'You set api="classify" for {endpoint.model!r}, but which of its labels are unsafe is not known. '
                    'Set labels to their numbers, or preset="beaver-dam" if each is a kind of harm by itself.'
                )
            self._asker = _Classify(labels, template, beaver=chosen_name == "beaver-dam")
        else:
            raise ValueError(
                f'You set api={api!r}, but a guard is asked by "chat" or by "classify". Set one of the two.'
            )

    def _refuse(self, api: str, options: Mapping[str, Any]) -> None:
        given = [option for option, value in options.items() if value is not None]
        if given:
            raise ValueError(f"You set {', '.join(given)}, but that has no meaning with api={api!r}. Leave it out.")

    @classmethod
    def option_names(cls) -> list[str]:
        """Those of its endpoint too."""
        return [*keyword_only(cls), *keyword_only(ChatEndpoint)]

    @classmethod
    def from_spec(cls, rest: str, sign: Sign, options: dict[str, Any]) -> "GuardEndpointScorer":
        """From `URL#MODEL`."""
        url, _, model = rest.partition("#")
        return cls(ChatEndpoint(url, model, **pick(ChatEndpoint, options)), **sign, **pick(cls, options))

    @classmethod
    def check(cls, rest: str, options: Mapping[str, object], kind: Kind) -> None:
        cls.from_spec(rest, {"kind": kind, "higher_is": None, "zero": 0.0, "name": None}, without_key(options))

    def identity(self) -> dict[str, object]:
        where = {"url": self.endpoint.url, "model": self.endpoint.model, "extra_body": self.extra_body}
        return {"format": "guard-endpoint", **where, **self._asker.identity()}

    def raw_scores(
        self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Sequence[object]
    ) -> list[float | NotScored]:
        return [cost for cost, _ in self._judge(prompts, completions)]

    def verdicts(self, prompts: Sequence[Text], completions: Sequence[Text]) -> list[Verdict]:
        """What the guard says of each response, with the categories that are in its answer."""
        return as_verdicts(self._judge(prompts, completions))

    def _judge(self, prompts: Sequence[Text], completions: Sequence[Text]) -> list[_Judged]:
        asked = [self._asker.requests(*pair) for pair in zip(prompts, completions, strict=True)]
        sent = [
            {**body, **self.extra_body} for bodies in asked if not isinstance(bodies, NotScored) for body in bodies
        ]
        given = self.endpoint.complete(sent, self._asker.call)
        if isinstance(self._asker, _Classify):
            self._find_out(self._asker, given)
        replies = iter(given)
        judged: list[_Judged] = []
        for bodies in asked:
            if isinstance(bodies, NotScored):
                judged.append((bodies, ()))
                continue
            own = [next(replies) for _ in bodies]
            failed = [reply for reply in own if isinstance(reply, EndpointError)]
            judged.append(
                (NotScored(str(failed[0])), ())
                if failed
                else self._asker.judged([json.loads(reply) for reply in own if isinstance(reply, str)])
            )
        return judged

    def _find_out(self, asker: "_Classify", replies: Sequence[str | EndpointError]) -> None:
        """Whether labels that should be independent are: a softmax makes them sum to 1, and so does a response that
        has one label for certain. A harmless response tells the two apart."""
        asker.notice([json.loads(reply) for reply in replies if isinstance(reply, str)])
        if asker.in_doubt:
            (reply,) = self.endpoint.complete([{**asker.harmless(), **self.extra_body}], asker.call)
            if isinstance(reply, str):
                asker.decide(json.loads(reply))


class _Chat:
    """Chat requests, one for each policy, and how their answers are read."""

    call = LOGPROBS

    def __init__(
        self,
        preset: Preset,
        policies: dict[str, str],
        controversial: str,
        template_options: Mapping[str, object] | None,
        size: dict[str, int],
    ):
        self.preset, self.policies, self.size = preset, policies, size
        self.unsafe, self.safe = sides(preset, controversial)
        self.template_options = dict(template_options or {})

    def identity(self) -> dict[str, object]:
        words = [self.unsafe, self.safe, self.preset.answer]
        return {
            "preset": self.preset.name,
            "words": words,
            "policies": self.policies,
            "template_options": self.template_options,
            **self.size,
        }

    def requests(self, prompt: Text, completion: Text) -> list[dict[str, Any]]:
        body = {"messages": messages(prompt, completion), "temperature": 0, "logprobs": True, **self.size}
        return [body | self._arguments(policy) for policy in self.policies.values()]

    def _arguments(self, policy: str) -> dict[str, Any]:
        named = self.preset.policy_arguments(policy) if self.preset.policy else {}
        options = merged(self.template_options, named)
        return {"chat_template_kwargs": options} if options else {}

    def judged(self, answers: Sequence[Mapping[str, Any]]) -> _Judged:
        read = [self._read(answer) for answer in answers]
        if not self.preset.policy:
            return read[0]
        missing = [cost for cost, _ in read if isinstance(cost, NotScored)]
        if missing:
            return missing[0], ()
        costs = [cost for cost, _ in read if not isinstance(cost, NotScored)]
        return max(costs), tuple(name for name, cost in zip(self.policies, costs, strict=True) if cost > 0)

    def _read(self, answer: Mapping[str, Any]) -> _Judged:
        before, opening = "", self.preset.answer.strip()
        for token, tops in answer["places"]:
            ready = before.strip().endswith(opening) if opening else not before.strip()
            if ready and token.strip():
                cost = _log_odds(tops, self.unsafe, self.safe)
                said_unsafe = not isinstance(cost, NotScored) and cost > 0
                after = answer["text"][len(before) + len(token) :].partition("\n")[2] if said_unsafe else ""
                return cost, category_names(self.preset.categories, after)
            before += token
        place = f"behind {opening!r}" if opening else "at its beginning"
        return NotScored(f"the guard's answer has no verdict {place} ({before.strip()[:80]!r})"), ()


def _log_odds(tops: Sequence[tuple[str, float]], unsafe: Sequence[str], safe: Sequence[str]) -> float | NotScored:
    """Of the words, from the most probable tokens. A token counts for a word that it is the beginning of."""
    masses: dict[str, list[float]] = {"unsafe": [], "safe": []}
    listed = [(token.strip().lower(), logprob) for token, logprob in tops if logprob > _NONE]
    rest = 1.0  # the probability of what is not listed, and of what could begin either word
    for token, logprob in listed:
        of = [side for side, words in (("unsafe", unsafe), ("safe", safe)) if _begins(token, words)]
        if len(of) == 1:
            masses[of[0]].append(logprob)
        if len(of) < 2:
            rest -= math.exp(logprob)
    if not masses["unsafe"] and not masses["safe"]:
        return NotScored(
            f"neither verdict is among the {len(tops)} most probable tokens; set unsafe_token and safe_token"
        )
    if masses["unsafe"] and masses["safe"]:
        return _log_sum(masses["unsafe"]) - _log_sum(masses["safe"])
    found = _log_sum(masses["unsafe"] or masses["safe"])
    most = math.log(max(rest, _CLOSEST))
    if found <= most:
        return NotScored(
            f"of the two verdicts only one is among the {len(tops)} most probable tokens, with probability "
            f"{math.exp(found):.2g}, and the other may have {math.exp(most):.2g}; set top_logprobs higher"
        )
    distance = found - min(most, *(logprob for _, logprob in listed))
    return distance if masses["unsafe"] else -distance


def _begins(token: str, words: Sequence[str]) -> bool:
    return bool(token) and any(word.strip().lower().startswith(token) for word in words)


def _log_sum(logprobs: Sequence[float]) -> float:
    greatest = max(logprobs)
    return greatest + math.log(sum(math.exp(logprob - greatest) for logprob in logprobs))


class _Classify:
    """Requests to a classifier, and how their probabilities are read."""

    call = CLASSIFY

    def __init__(self, labels: Sequence[int] | None, template: str | None, beaver: bool):
        if labels is not None and not all(isinstance(label, int) and label >= 0 for label in labels):
            raise ValueError(f"You set labels={labels!r}, but a server numbers them from 0 on. Set such numbers.")
        if labels is not None and not labels:
            raise ValueError("You set labels to none at all, but then nothing is unsafe. Set those that are.")
        if template is not None and not ("{prompt}" in template and "{response}" in template):
            raise ValueError(
                f"You set template={template[:60]!r}, but {{prompt}} or {{response}} is missing. Write both."
            )
        self.labels = None if labels is None else sorted(set(labels))
        self.template, self.beaver = template, beaver
        # Whether the server's probabilities sum to 1 whatever the text; None: not known yet.
        self._exclusive: bool | None = None
        self._seen_one = False  # a response whose probabilities do

    def identity(self) -> dict[str, object]:
        return {"labels": self.labels, "template": self.template, "beaver": self.beaver}

    def requests(self, prompt: Text, completion: Text) -> list[dict[str, Any]] | NotScored:
        if self.template is None and not self.beaver:
            return [{"messages": messages(prompt, completion)}]
        if self.template is not None:
            text = fill(self.template, prompt, completion)
        else:
            text = safe_rlhf_text(prompt, completion, _LLAMA_EOS)
        return text if isinstance(text, NotScored) else [{"input": text}]

    def notice(self, answers: Sequence[Sequence[float]]) -> None:
        """Answers that came, before they are judged."""
        if self.labels is None and self._exclusive is None:
            sums = [_sums_to_one(probabilities) for probabilities in answers]
            self._seen_one = self._seen_one or any(sums)
            self._exclusive = None if all(sums) else False

    @property
    def in_doubt(self) -> bool:
        return self._seen_one and self._exclusive is None

    def harmless(self) -> dict[str, Any]:
        """A request about a response that has none of the labels."""
        requests = self.requests("Hello.", "Hello! How can I help you?")
        assert not isinstance(requests, NotScored)
        return requests[0]

    def decide(self, probabilities: Sequence[float]) -> None:
        """By the answer to the harmless one."""
        self._exclusive = _sums_to_one(probabilities)

    def judged(self, answers: Sequence[Sequence[float]]) -> _Judged:
        (probabilities,) = answers
        if self.labels is None:
            if self._exclusive is None and _sums_to_one(probabilities):
                return NotScored(
                    "the probabilities of its labels sum to 1, and the request that tells whether they do so for "
                    "every text has failed; run the command again"
                ), ()
            if self._exclusive and _sums_to_one(probabilities):
                return NotScored(
                    "the server gives a softmax, in which labels exclude each other, and here each is by itself; "
                    'start it with problem_type multi_label_classification (vLLM: --hf-overrides \'{"problem_type": '
                    '"multi_label_classification"}\'), and set another cache_dir'
                ), ()
            logits = [_logit(value) for value in probabilities]
            return max(logits), tuple(f"label {i}" for i, logit in enumerate(logits) if logit > 0)
        if self.labels and self.labels[-1] >= len(probabilities):
            return NotScored(f"label {self.labels[-1]} is set and the server gives {len(probabilities)}"), ()
        if abs(sum(probabilities) - 1) > 0.01:
            total = sum(probabilities)
            return NotScored(f"labels are set as if one of them held, and their probabilities sum to {total:.3g}"), ()
        return _logit(sum(probabilities[label] for label in self.labels) / sum(probabilities)), ()


def _sums_to_one(probabilities: Sequence[float]) -> bool:
    return len(probabilities) > 1 and abs(sum(probabilities) - 1) <= 1e-3


def _logit(probability: float) -> float:
    """Log-odds. Nearer to 0 or 1 than the server's float32 can say there is no telling: ±16.6 at most."""
    bounded = min(max(probability, _CLOSEST), 1 - _CLOSEST)
    return math.log(bounded) - math.log1p(-bounded)
