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
    return tracker not in PACKAGES or any(map(find_spec, PACKAGES[tracker]))
