"""Starts a Python module in several processes through `accelerate launch`, and ends them with this one."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, NoReturn


# What a launcher tells the processes it starts: those started from one of them must not inherit it.
_RANK_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE")


@dataclass(frozen=True)
class Launcher:
    """
    How processes are started.

    Args:
        accelerate_config (`str`, *optional*):
            Name of a bundled configuration (`"multi_gpu"`, `"zero1"`, `"zero2"`, `"zero3"`, `"zero3_offload"`,
            `"fsdp2"`, `"single"`) or path of one that `accelerate config` has written. Without it, accelerate's
            default configuration.
        arguments (`Sequence[str]`, *optional*):
            Further arguments of `accelerate launch`, such as `("--num_processes", "2")`. A bundled configuration
            leaves the number of processes open: it is the number of accelerators.

    Raises:
        ValueError: if there is no such configuration, or accelerate does not know an argument.
    """

    accelerate_config: str | None = None
    arguments: Sequence[str] = ()

    def __post_init__(self) -> None:
        self._parse("script")

    @property
    def machines(self) -> int:
        return self._parse("script").num_machines or self._content().get("num_machines") or 1

    def check(self, use_cpu: bool) -> None:
        """
        Raises:
            ValueError: if the processes would not be what was asked for.
        """
        from trl_rsa._device import has_accelerator

        is_fsdp = self._parse("script").use_fsdp or self._content().get("distributed_type") == "FSDP"
        if is_fsdp and (use_cpu or not has_accelerator()):
            raise ValueError(
                f"You set FSDP{' and use_cpu' if use_cpu else ', and this machine has no accelerator'}, but "
                "accelerate shards on accelerators only: on a CPU it falls back to DDP without a word. Set "
                "accelerate_config to multi_gpu (which is DDP) or zero3."
            )

    def command(self, module: str, arguments: Sequence[str]) -> list[str]:
        """The command line that runs `python -m module arguments` in every process."""
        known = self._parse(module)
        launch = list(self.arguments)
        if self.accelerate_config is not None:
            launch = ["--config_file", str(_config_path(self.accelerate_config)), *launch]
            if known.num_processes is None and "num_processes" not in self._content():
                launch += ["--num_processes", str(self._count())]
        if known.main_process_port is None and self.machines == 1:
            launch += ["--main_process_port", "0"]  # a free one: stages of two plans may run side by side
        return [sys.executable, "-m", "accelerate.commands.launch", *launch, "-m", module, *arguments]

    def run(self, module: str, arguments: Sequence[str]) -> int:
        """Runs the module and waits; returns the exit status."""
        with self.start(module, arguments) as process:
            return process.wait()

    @contextmanager
    def start(self, module: str, arguments: Sequence[str]) -> Iterator["subprocess.Popen[bytes]"]:
        """Runs the module while the context is open. The processes end when it is closed, or when this process ends,
        however it ends: they read its end from their standard input (see [`end_with_parent`])."""
        environment = {name: value for name, value in os.environ.items() if name not in _RANK_VARIABLES}
        # What can be imported here can be imported there.
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        process = subprocess.Popen(
            self.command(module, arguments), env=environment, stdin=subprocess.PIPE, start_new_session=True
        )
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.terminate()
            process.wait()

    def _count(self) -> int:
        """How many processes a bundled configuration starts."""
        import torch

        if self._content()["distributed_type"] == "NO":
            return 1
        if (count := torch.accelerator.device_count()) == 0:
            raise ValueError(
                f"You set accelerate_config={self.accelerate_config!r}, which starts one process per accelerator, but "
                "there is none. Add --num_processes, and --use_cpu if that is what you want."
            )
        return count

    def _content(self) -> dict[str, Any]:
        import yaml

        if self.accelerate_config is None:
            return {}
        return yaml.safe_load(_config_path(self.accelerate_config).read_text(encoding="utf-8"))

    def _parse(self, module: str) -> Any:
        from accelerate.commands.launch import launch_command_parser

        if self.accelerate_config is not None:
            _config_path(self.accelerate_config)
        parser = launch_command_parser()
        parser.error = _refuse
        return parser.parse_args([*self.arguments, module])


def bundled_configs() -> dict[str, Path]:
    """The configurations that come with trl-rsa, by name."""
    folder = Path(str(resources.files("trl_rsa").joinpath("accelerate_configs")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _config_path(name: str) -> Path:
    path = bundled_configs().get(name, Path(name))
    if not path.is_file():
        raise ValueError(
            f"You set accelerate_config={name!r}, but that is neither a file nor one of "
            f"{', '.join(bundled_configs())}. Set one of these, or the path of a file."
        )
    return path


def _refuse(message: str) -> NoReturn:
    raise ValueError(f"You gave arguments that `accelerate launch` does not accept: {message}.")


def end_with_parent() -> None:
    """Ends this process as soon as the one that launched it is gone: nobody would read its result, and it would hold
    the devices that the next start needs."""

    def watch() -> None:
        # Not `sys.stdin.read`, whose lock a daemon thread would hold while the interpreter shuts down.
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
