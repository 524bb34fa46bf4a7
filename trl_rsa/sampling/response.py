"""A response, and how responses are drawn."""

from dataclasses import dataclass

from trl_rsa.scoring.address import checked_address


ENGINES = ("transformers", "vllm", "server")


@dataclass(frozen=True)
class Response:
    """One draw.

    Args:
        prompt (`int`), draw (`int`):
            Index of the prompt in the list that was given, and of the draw, both from 0.
        text (`str`):
            Without special tokens.
        token_ids (`list[int]`):
            The completion, its end-of-sequence token included if there is one.
        finished (`bool`):
            Whether it ended by itself; otherwise it was cut at `max_new_tokens`.
        n_forced (`int`, *optional*, defaults to 0):
            How many of the first tokens were not drawn but forced upon it.
    """

    prompt: int
    draw: int
    text: str
    token_ids: list[int]
    finished: bool
    n_forced: int = 0


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn.

    Args:
        draws (`int`, *optional*, defaults to 1):
            Responses to each prompt.
        seed (`int`, *optional*, defaults to 0):
            Seed of the draws.
        max_new_tokens (`int`, *optional*, defaults to 256):
            Longest response.
        temperature (`float`, *optional*, defaults to 1):
            Softmax temperature; 0 is greedy decoding, with one draw.
        top_p (`float`, *optional*, defaults to 1), top_k (`int`, *optional*, defaults to 0):
            Nucleus, and number of tokens kept (0: all). By default the model's own law is drawn from.
        template (`str`, *optional*, defaults to `"auto"`):
            As in [`~sampling.encoding.encode_prompt`].
        engine (`str`, *optional*, defaults to `"transformers"`):
            `"vllm"` draws with vLLM, which must be installed; `"server"` asks a server that is running, vLLM's or
            another that speaks OpenAI's completions. Their draws are seeded too, but they are others.
        server_url (`str`, *optional*):
            Address of the server, such as `http://localhost:8000`, with `engine="server"`.
        server_model (`str`, *optional*):
            Which of the server's models to ask, if it serves several.
        server_key_env (`str`, *optional*):
            Name of the environment variable that holds the server's key, if it wants one.
    """

    draws: int = 1
    seed: int = 0
    max_new_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    template: str = "auto"
    engine: str = "transformers"
    server_url: str | None = None
    server_model: str | None = None
    server_key_env: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("draws", 1), ("max_new_tokens", 1), ("top_k", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(
                    f"You set {name}={value!r}, but it is a whole number from {least} on. Set such a one."
                )
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(
                f"You set temperature={self.temperature!r}, but it is at least 0 (greedy) and finite. Set 1, say."
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(f"You set top_p={self.top_p!r}, but it is a probability in (0, 1]. Set 1 to keep all.")
        if self.temperature == 0 and self.draws > 1:
            raise ValueError(
                f"You set draws={self.draws} with temperature=0, but greedy decoding has one answer only. Set draws "
                "to 1, or a temperature above 0."
            )
        if self.engine not in ENGINES:
            raise ValueError(f"You set engine={self.engine!r}, but the engines are {', '.join(ENGINES)}. Set one.")
        if self.engine == "server":
            if not str(self.server_url).startswith(("http://", "https://")):
                raise ValueError(
                    f"You set engine='server' with server_url={self.server_url!r}, but the server has an address. Set "
                    "http://localhost:8000, say."
                )
            checked_address(str(self.server_url), "server_url", "server_key_env")
            return
        for name in ("server_url", "server_model", "server_key_env"):
            if getattr(self, name) is not None:
                raise ValueError(
                    f"You set {name}={getattr(self, name)!r} with engine={self.engine!r}, but only the engine "
                    "'server' asks a server. Set engine to server, or leave it out."
                )

    @property
    def limits(self) -> list[str]:
        """A sentence for a certificate, unless the model's own law was drawn from."""
        named = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
        changed = [f"{name} {getattr(self, name):g}" for name, usual in named.items() if getattr(self, name) != usual]
        if not changed:
            return []
        return [
            f"The responses were drawn at {', '.join(changed)}. Drawn at temperature 1, from all tokens, they may be "
            "worse."
        ]
