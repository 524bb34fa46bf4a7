"""Names that may be a folder on this machine or a repository on the Hub."""

from pathlib import Path


# Of a repository: weights in forms that transformers does not load, or the same ones once more.
NOT_READ = ["*.gguf", "*.onnx", "*.h5", "*.msgpack", "*.pth", "consolidated*"]


def is_path(text: str) -> bool:
    """Whether `text` can only be a path: it is not written as an id on the Hub is."""
    path = Path(text)
    return path.is_absolute() or text.startswith((".", "~")) or len(path.parts) > 2


def why_not_loaded(name: str, error: Exception) -> str:
    """Why the model `name` cannot be loaded, as the end of a sentence. Of a name that is no folder, libraries say that
    the Hub does not answer or that an id is malformed, where most often a path is wrong."""
    if Path(name).exists():
        return f"it cannot be loaded: {' '.join(str(error).split()).rstrip('.')}"
    if is_path(name):
        return f"there is no such folder (looked for from {Path.cwd()})"
    return (
        f"there is no such folder (looked for from {Path.cwd()}), and no such model could be fetched from the Hub "
        f"({type(error).__name__})"
    )
