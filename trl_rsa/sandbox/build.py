"""The sandbox as one object: its parts are built when first asked for, and cached as ordinary folders."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl_rsa.sandbox.cache import build_once, default_cache_dir, fingerprint
from trl_rsa.sandbox.policy import PolicySettings, train_policy
from trl_rsa.sandbox.preferences import (
    helpful_score,
    model_sampler,
    preference_pairs,
    safety_score,
    sample_preferences,
)
from trl_rsa.sandbox.prompts import SPLITS, Prompt, split_prompts
from trl_rsa.sandbox.sampling import sample_responses
from trl_rsa.sandbox.scorers import ScorerSettings, train_cost_model, train_reward_model
from trl_rsa.sandbox.streams import integer
from trl_rsa.sandbox.tokenizer import build_tokenizer
from trl_rsa.sandbox.worlds import World, get_world


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True)
class SandboxSettings:
    """How large the parts of a sandbox are.

    Args:
        policy (`PolicySettings`), scorer (`ScorerSettings`):
            Shape and training of the SFT policy, training of the reward and cost models.
        splits (`Mapping[str, int]`):
            Number of prompts for `train`, `decide`, `certify` and `test`.
        responses_per_prompt (`int`, *optional*, defaults to 4), pairs_per_prompt (`int`, *optional*, defaults to 2):
            Responses sampled from the SFT policy for each train prompt, and pairs made of them, for each of the two
            preference sets.
    """

    policy: PolicySettings = field(default_factory=PolicySettings)
    scorer: ScorerSettings = field(default_factory=ScorerSettings)
    splits: Mapping[str, int] = field(default_factory=lambda: dict(SPLITS))
    responses_per_prompt: int = 4
    pairs_per_prompt: int = 2


class Sandbox:
    """A world and everything that is made of it. Use [`build_sandbox`].

    Each part is a folder under `folder`: `tokenizer`, `sft`, `responses`, `helpful`, `safe`, `reward_model`,
    `cost_model`. It is built when it is first asked for, together with what it needs.
    """

    def __init__(self, world: World, seed: int, settings: SandboxSettings, cache_dir: Path, progress: bool) -> None:
        self.world, self.seed, self.settings, self.progress = world, seed, settings, progress
        key = {"world": world.name, "seed": seed, **asdict(settings)}
        # The rules too: a person's own world may bear a known name.
        rules = repr((world.grammar.rules, world.spilled, world.exposure, world.refusal_reward))
        self.folder = cache_dir / f"{world.name}-{seed}-{fingerprint([key, rules])}"
        self._key = key

    def _part(self, name: str, build: Callable[[Path], None]) -> Path:
        def write(folder: Path) -> None:
            build(folder)
            # A person who opens the cache should see what this is.
            (folder / "sandbox.json").write_text(json.dumps(self._key, indent=2) + "\n")

        return build_once(self.folder / name, write)

    @cached_property
    def prompts(self) -> dict[str, list[Prompt]]:
        """The disjoint prompt sets: `train`, `decide`, `certify`, `test`."""
        return split_prompts(self.seed, self.settings.splits)

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerFast":
        """The tokenizer of all worlds."""
        return build_tokenizer()

    @cached_property
    def sft_path(self) -> Path:
        """Folder of the SFT policy (a `LlamaForCausalLM`) and its tokenizer."""

        def build(folder: Path) -> None:
            arguments = (self.world, self.prompts["train"], self.tokenizer, self.settings.policy, self.seed)
            self._save(train_policy(*arguments, progress=self.progress), folder)

        return self._part("sft", build)

    def sft(self) -> "PreTrainedModel":
        """The SFT policy, freshly loaded."""
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(self.sft_path).eval()

    @cached_property
    def responses(self) -> list[list[str]]:
        """The SFT policy's responses to the train prompts, of which both preference sets are made."""

        def build(folder: Path) -> None:
            k, seed = self.settings.responses_per_prompt, integer(self.seed, "sft responses")
            responses = sample_responses(self.sft(), self.tokenizer, self.prompts["train"], k, seed)
            (folder / "responses.json").write_text(json.dumps(responses))

        return json.loads((self._part("responses", build) / "responses.json").read_text())

    @cached_property
    def helpful(self) -> "Dataset":
        """Preference pairs by true reward, labels drawn by Bradley–Terry."""
        return self._pairs("helpful", helpful_score(self.world))

    @cached_property
    def safe(self) -> "Dataset":
        """Preference pairs by true cost, `chosen` the safer one, labels drawn by Bradley–Terry."""
        return self._pairs("safe", safety_score(self.world))

    def _pairs(self, name: str, score: Callable[..., list[float]]) -> "Dataset":
        from datasets import load_from_disk

        def build(folder: Path) -> None:
            arguments = (self.world, self.prompts["train"], self.responses, score)
            most = self.settings.pairs_per_prompt
            preference_pairs(*arguments, integer(self.seed, name), pairs_per_prompt=most).save_to_disk(folder)

        return load_from_disk(self._part(name, build))

    def pairs_from(
        self, model: "PreTrainedModel", objective: str, seed: int, split: str = "train", **kwargs: Any
    ) -> "Dataset":
        """On-policy pairs: responses sampled from `model`, labelled by true `"helpful"` or `"safe"`; not cached.

        `kwargs` go to [`sample_preferences`], `soft=True` for instance.
        """
        scores = {"helpful": helpful_score, "safe": safety_score}
        if objective not in scores:
            raise ValueError(
                f"You set objective={objective!r}, but pairs are labelled by 'helpful' or 'safe'. Set one."
            )
        sampler = model_sampler(model, self.tokenizer)
        score = scores[objective](self.world)
        return sample_preferences(self.world, sampler, self.prompts[split], score, seed, **kwargs)

    @cached_property
    def reward_model_path(self) -> Path:
        """Folder of the learned reward model: higher is more helpful."""
        return self._scorer("reward_model", train_reward_model, "helpful")

    @cached_property
    def cost_model_path(self) -> Path:
        """Folder of the learned cost model: higher is more costly, above 0 unsafe."""
        return self._scorer("cost_model", train_cost_model, "safe")

    def _scorer(self, name: str, learn: "Callable[..., PreTrainedModel]", pairs: str) -> Path:
        def build(folder: Path) -> None:
            seed = integer(self.seed, name)
            arguments = (self.sft(), self.tokenizer, getattr(self, pairs), self.settings.scorer, seed)
            self._save(learn(*arguments, progress=self.progress), folder)

        return self._part(name, build)

    def _save(self, model: "PreTrainedModel", folder: Path) -> None:
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def build_sandbox(
    world: str | World = "tail",
    seed: int = 0,
    cache_dir: str | Path | None = None,
    settings: SandboxSettings | None = None,
    progress: bool = False,
) -> Sandbox:
    """The sandbox of a world and a seed. Nothing is built yet: parts are built when first asked for.

    Args:
        world (`str` or `World`, *optional*, defaults to `"tail"`):
            One of `WORLDS`, or its name.
        seed (`int`, *optional*, defaults to 0):
            Seed of everything: prompt sets, policy, pairs, scorers.
        cache_dir (`str` or `Path`, *optional*):
            Where parts are cached. Default: `$TRL_RSA_CACHE/sandbox`, else `~/.cache/trl-rsa/sandbox`. What is cached
            depends on the world, the seed, the settings, the sandbox's source and the versions of the libraries.
        settings (`SandboxSettings`, *optional*):
            Sizes of the parts.
        progress (`bool`, *optional*, defaults to `False`):
            Whether to show progress bars.

    Raises:
        `ValueError`: if there is no such world.
    """
    found = get_world(world) if isinstance(world, str) else world
    folder = Path(cache_dir) if cache_dir is not None else default_cache_dir()
    return Sandbox(found, seed, settings or SandboxSettings(), folder, progress)
