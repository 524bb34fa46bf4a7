"""Arguments of any trainer for a quiet run on the CPU: the part that tests share, wherever their steps differ.

A module of its own, because scripts that tests start in other processes need them too. Standard library only.
"""

from typing import Any


CPU_ARGS: dict[str, Any] = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
    "disable_tqdm": True,
}
