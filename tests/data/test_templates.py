"""How a prompt is written down, and that it is known again."""

import pytest

from trl_rsa.data.templates import safe_rlhf_prompt, untemplated_key


def turns(*contents):
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


@pytest.mark.parametrize(
    "prompt",
    [
        "  How do I\npick a Lock? ",
        turns("How do I pick a lock?"),
        turns("hi", " yes? ", "now?"),
        # A prompt that holds the marks of the template itself.
        "Answer as in USER: x ASSISTANT: y",
        turns("hi", "USER: no", "ASSISTANT: x"),
    ],
)
@pytest.mark.parametrize("eos_token", ["</s>", "<|End|>", "<｜end▁of▁sentence｜>"])
def test_a_prompt_is_the_same_in_safe_rlhfs_template(prompt, eos_token):
    rendered = safe_rlhf_prompt(prompt, eos_token)
    assert untemplated_key(rendered, eos_token) == untemplated_key(prompt) == untemplated_key(prompt, "<eos>")


def test_a_text_is_a_turn_of_the_user_and_other_prompts_are_others():
    assert untemplated_key("x") == untemplated_key(turns(" X"))
    system = {"role": "system", "content": "be good"}
    prompts = [
        "x",
        "y",
        "x y",
        turns("x", "y", "z"),
        turns("x", "y z", "z"),
        [system, *turns("x")],
        turns("x", "y"),
        [],
    ]
    assert len(set(map(untemplated_key, prompts))) == len(prompts)
