"""Where the machine's packages differ from constraints.txt: said in one line, never a reason to stop."""

from importlib import metadata
from pathlib import Path


CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
# What a part imports, directly or not. Other packages are compared if they are there.
NEEDED = ("torch", "triton", "trl", "transformers", "accelerate", "datasets", "peft", "numpy", "tokenizers")


def differences(constraints: str) -> str:
    """One line, empty if nothing differs. A local suffix, as in 2.13.0+cu130, is no difference."""
    other, missing = [], []
    for line in constraints.splitlines():
        name, _, wanted = line.partition("#")[0].strip().partition("==")
        if not wanted:
            continue
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            if name in NEEDED:
                missing.append(name)
            continue
        if found.partition("+")[0] != wanted:
            other.append(f"{name} {found} instead of {wanted}")
    parts = [", ".join(other), f"not installed: {', '.join(missing)}" if missing else ""]
    return "; ".join(part for part in parts if part)
