"""The networks that ship with the package, and the check of their integrity.

`python -m evaluator.weights` puts them there. Imports the standard library and the contract only.
"""

import hashlib
from pathlib import Path

from evaluator.registry.contract import FILE_NAME, Contract

SHIPPED = "shipped"
"""Their name, wherever a network is named."""
FOLDER = Path(__file__).parent
COLORIZER, GUIDE = "colornet", "editnet-blind"
"""Their folders, and their names in a registry."""
SUMS_FILE = "SHA256SUMS"
"""Hash and path of every file, as `sha256sum --check` reads it. Without it there are no weights."""


def available() -> bool:
    """Whether this installation has weights."""
    return (FOLDER / SUMS_FILE).is_file()


def verified(name: str) -> Path:
    """Folder of a shipped network after comparing each of its files with its hash.

    Args:
        name: `COLORIZER` or `GUIDE`.

    Raises:
        ValueError: the package has no weights, or a file is missing or differs.
    """
    if not available():
        raise ValueError(
            f"this installation ships no networks ({FOLDER / SUMS_FILE} is missing); name others, such as "
            f"models:/{name}@champion, which `accelerate launch trainer/main.py` trains, or install a release"
        )
    sums = read_sums(FOLDER / SUMS_FILE)
    files = [path for path in sums if path.startswith(f"{name}/")]
    for path in (f"{name}/{FILE_NAME}", *files):
        if path not in sums:
            raise ValueError(f"{FOLDER / SUMS_FILE} does not list {path}; install the package again")
        if not (FOLDER / path).is_file():
            raise ValueError(f"the shipped {path} is missing in {FOLDER}; install the package again")
        found = sha256(FOLDER / path)
        if found != sums[path]:
            raise ValueError(
                f"the shipped {path} in {FOLDER} is damaged: its SHA-256 is {found[:12]}..., not "
                f"{sums[path][:12]}... as in {SUMS_FILE}; install the package again"
            )
    return FOLDER / name


def read_sums(file: Path) -> dict[str, str]:
    """SHA-256 by path, from a file in the format of `sha256sum`.

    Raises:
        ValueError: a line that has not the two.
    """
    sums: dict[str, str] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        digest, _, path = line.partition("  ")
        if len(digest) != 64 or not path:
            raise ValueError(f"line {number} of {file} is {line[:80]!r}; it must be a SHA-256, two spaces, a path")
        sums[path] = digest
    return sums


def sha256(file: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def source_of(contract: Contract) -> str:
    """Source of a shipped network in results: its name and the beginning of its weights' hash."""
    return f"{SHIPPED}:{contract.weights[:12]}"
