"""The trackers that `report_to` may name, and the packages that they need: `doctor` and a training ask alike."""

from importlib.util import find_spec


# Of each tracker the packages of which one must be there; the first is what to install.
PACKAGES = {
    "wandb": ("wandb",),
    "tensorboard": ("tensorboard", "tensorboardX"),
    "trackio": ("trackio",),
    "mlflow": ("mlflow",),
    "comet_ml": ("comet_ml",),
    "clearml": ("clearml",),
    "neptune": ("neptune",),
    "swanlab": ("swanlab",),
    "dvclive": ("dvclive",),
    "codecarbon": ("codecarbon",),
}


def is_installed(tracker: str) -> bool:
    """Whether a package of the tracker is here; of one that is not in the table nothing is known against it."""
    return tracker not in PACKAGES or any(map(_is_there, PACKAGES[tracker]))


def _is_there(package: str) -> bool:
    """A folder of that name in the working directory, as wandb makes one for its runs, is no package."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None
