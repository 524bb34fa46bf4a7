"""What is in a folder, file by file: written down when it is made, and compared when it is used again."""

import os
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any, TypedDict

from trl_rsa.storage.names import CERTIFICATE, MERGE


# A larger file is known by its size and by pieces of it: many gigabytes must not be read at every start.
WHOLE = 1 << 28
PIECES, PIECE = 64, 1 << 20

# What a training or a look at a folder leaves beside a model, and does not change what the model says.
_BESIDE = (
    "README.md",
    "trainer_state.json",
    "training_args.bin",
    "complete.json",
    "done.json",
    ".gitattributes",
    MERGE,
)
_OF_A_MODEL = (".safetensors", ".bin", ".pt", ".json", ".jinja", ".model", ".txt", ".py")


class FileEntry(TypedDict):
    """A file as it was written: bytes, and what [`file_digest`] gives."""

    size: int
    sha256: str


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file; of one above `WHOLE` bytes, of its size and of `PIECES` pieces spread over it."""
    digest, size = sha256(), path.stat().st_size
    with path.open("rb") as file:
        if size <= WHOLE:
            while block := file.read(PIECE):
                digest.update(block)
        else:
            digest.update(str(size).encode())
            for number in range(PIECES):
                file.seek((size - PIECE) * number // (PIECES - 1))
                digest.update(file.read(PIECE))
    return digest.hexdigest()


def describe_files(folder: Path, leave_out: Iterable[str] = ()) -> dict[str, FileEntry]:
    """Size and digest of every file below a folder, by its path in it."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {
        name: {"size": (folder / name).stat().st_size, "sha256": file_digest(folder / name)}
        for name in names
        if name not in set(leave_out)
    }


def find_damage(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The first thing that is not as [`describe_files`] found it, in words; None if nothing is."""
    for name, expected in files.items():
        try:
            size = (folder / name).stat().st_size
            if size != expected["size"]:
                return f"{name} has {size:,} bytes, not {expected['size']:,}"
            if file_digest(folder / name) != expected["sha256"]:
                return f"{name} has another content"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return None


def model_files(folder: Path) -> Iterator[Path]:
    """The files of a model that decide what it says: weights, configuration, tokenizer, code."""
    for path in sorted(folder.iterdir()):
        beside = path.name in _BESIDE or path.name.startswith(Path(CERTIFICATE).stem)
        if path.suffix in _OF_A_MODEL and not beside and path.is_file():
            yield path


def model_fingerprint(folder: Path) -> str:
    """16 bytes (hex) that stand for the model in a folder, whatever the folder is called."""
    digest = blake2b(digest_size=16)
    for path in model_files(folder):
        digest.update(f"{path.name}:{file_digest(path)}\n".encode())
    return digest.hexdigest()


def sync_folder(folder: Path) -> None:
    """Asks the disk to keep every file below a folder, and the folders that name them."""
    for path in [*folder.rglob("*"), folder, folder.parent]:
        sync(path)


def sync(path: Path) -> None:
    """Asks the disk to keep one file, or the names in one folder. A file system that cannot is let be."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
