"""`--accelerate_config` and the other arguments of `accelerate launch`, told apart from a command's own."""

from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from trl_rsa.training.launcher import Launcher


CONFIG = "accelerate_config"
HELP = "a process per accelerator: multi_gpu, zero1…3, fsdp2 … or a file"


def split_arguments(parser: ArgumentParser, argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command's own arguments and those of the launcher. Where both know one, it is the command's."""
    own: list[str] = []
    launch: list[str] = []
    part = own
    for word in argv:
        if word.startswith("--"):
            part = launch if _is_for_the_launcher(word.split("=")[0], parser) else own
        part.append(word)
    return own, launch


def _is_for_the_launcher(flag: str, parser: ArgumentParser) -> bool:
    name = flag.removeprefix("--").replace("-", "_")
    return name == CONFIG or (flag not in parser._option_string_actions and name in launch_names())


@cache
def launch_names() -> frozenset[str]:
    """What `accelerate launch` can be told, and the name of its configuration."""
    from accelerate.commands.launch import launch_command_parser

    flags = launch_command_parser()._option_string_actions
    return frozenset([CONFIG, *(flag.removeprefix("--").replace("-", "_") for flag in flags if flag[:2] == "--")])


def make_launcher(words: Sequence[str], from_file: Mapping[str, Any]) -> Launcher | None:
    """The launcher that the arguments, and the keys of a YAML file, describe; None if they describe none."""
    words = [*(f"--{name}={value}" for name, value in from_file.items()), *words]
    if not words:
        return None
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(f"--{CONFIG}", f"--{CONFIG}".replace("_", "-"))
    found, rest = parser.parse_known_args(words)
    return Launcher(found.accelerate_config, tuple(rest))
