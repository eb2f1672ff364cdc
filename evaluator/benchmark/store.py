"""A benchmark's folder: what it measures, and its results as Parquet, in parts and then in one file.

Columns: photo (name), index (in the whole set), height, width (as measured), policy, clicks, one float64 column
per metric, click_rows and click_cols (of every click so far, in order), seconds_per_click. Each file also says
which photos it covers, with the SHA-256 of their bytes, and which it leaves out, and why.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from evaluator.protocol.finished import ROWS_FILE
from evaluator.protocol.results import CLICK_LISTS, Results
from evaluator.system.files import write_atomically

PART_FILES = "photos-*.parquet"
_KEY = b"chromaclick"
_ROWS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Coverage:
    """The photos that a file deals with, by index in the whole set."""

    measured: dict[int, str]
    """SHA-256 of each measured photo's bytes, hexadecimal."""
    left_out: dict[int, str]
    """Why each other one is not measured."""
    enlarged: int = 0
    """Measured photos whose short side was below the measured size."""

    @property
    def indices(self) -> set[int]:
        """All of them."""
        return {*self.measured, *self.left_out}

    @classmethod
    def joined(cls, parts: Sequence["Coverage"]) -> "Coverage":
        """Of several files, rising."""
        measured = {index: sha for part in parts for index, sha in part.measured.items()}
        left_out = {index: reason for part in parts for index, reason in part.left_out.items()}
        enlarged = sum(part.enlarged for part in parts)
        return cls(dict(sorted(measured.items())), dict(sorted(left_out.items())), enlarged)

    def to_json(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Coverage":
        """What `to_json` gave."""
        content = json.loads(text)
        measured, left_out = (
            {int(index): value for index, value in content[key].items()} for key in ("measured", "left_out")
        )
        return cls(measured, left_out, content["enlarged"])


def schema(metrics: Sequence[str]) -> pa.Schema:
    """The columns of every file: see `Results.frame`."""
    heads = {"photo": pa.string(), "index": pa.int64(), "height": pa.int32(), "width": pa.int32()}
    measured = dict.fromkeys(metrics, pa.float64())
    ends = {**dict.fromkeys(CLICK_LISTS, pa.list_(pa.int32())), "seconds_per_click": pa.float64()}
    return pa.schema({**heads, "policy": pa.string(), "clicks": pa.int32(), **measured, **ends})


def to_table(results: Results, names: Sequence[str]) -> pa.Table:
    """The rows of some photos: by photo, then policy, then budget.

    Args:
        results: of these photos.
        names: of all photos, by their index in the whole set.
    """
    frame = results.frame.assign(photo=[names[index] for index in results.frame["index"]])
    columns = schema(results.metrics)
    return pa.table({name: frame[name].to_numpy() for name in columns.names}, columns)  # NaN stays NaN, not null


def write_part(folder: Path, table: pa.Table, coverage: Coverage) -> Path:
    """Write one part in one step: it is there whole, or not at all."""
    sink = pa.BufferOutputStream()
    parquet.write_table(table.replace_schema_metadata({_KEY: coverage.to_json()}), sink)
    path = folder / f"photos-{min(coverage.indices):08d}.parquet"
    write_atomically(path, sink.getvalue().to_pybytes())
    return path


def parts_of(folder: Path) -> list[Path]:
    """The parts of a running benchmark, by the first photo of each."""
    return sorted(folder.glob(PART_FILES))


def coverage_of(folder: Path) -> Coverage:
    """The photos that are dealt with, in parts or in the whole file."""
    whole = folder / ROWS_FILE
    if whole.exists():  # beside it the parts may still lie, which it was made of
        return _coverage(whole)
    return Coverage.joined([_coverage(file) for file in parts_of(folder)])


def merge(folder: Path, metrics: Sequence[str]) -> Coverage:
    """Join the parts of a finished measurement into one file, a few at a time, if that was not done before.

    The parts stay; the file is there whole or not at all.
    """
    coverage = coverage_of(folder)
    if (folder / ROWS_FILE).exists():
        return coverage
    parts = parts_of(folder)
    temporary = folder / f".{ROWS_FILE}.{os.getpid()}"
    about = schema(metrics).with_metadata({_KEY: coverage.to_json()})
    try:
        with parquet.ParquetWriter(temporary, about) as writer:
            for table in _batches(parts):
                writer.write_table(table.cast(about))
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, folder / ROWS_FILE)
    finally:
        temporary.unlink(missing_ok=True)
    return coverage


def remove_parts(folder: Path) -> None:
    """Take away what `merge` has joined, and what a killed process left half-written."""
    for path in (*parts_of(folder), *folder.glob(f".{PART_FILES}*"), *folder.glob(f".{ROWS_FILE}.*")):
        path.unlink(missing_ok=True)


def _batches(parts: Sequence[Path]) -> Iterator[pa.Table]:
    """The parts' tables, small ones together."""
    waiting: list[pa.Table] = []
    for path in parts:
        waiting.append(parquet.read_table(path))
        if sum(map(len, waiting)) >= _ROWS_AT_ONCE:
            yield pa.concat_tables(waiting).replace_schema_metadata()
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting).replace_schema_metadata()


def _coverage(file: Path) -> Coverage:
    metadata = parquet.read_schema(file).metadata or {}
    if _KEY not in metadata:
        raise ValueError(f"{file} was not written by this benchmark; give another --out")
    return Coverage.from_json(metadata[_KEY])


IDENTITY_FILE = "benchmark.json"

Identity = Mapping[str, Any]
"""Everything that decides the numbers, as JSON values by the name of the setting."""


def prepare(folder: Path, identity: Identity, *, resume: bool) -> set[int]:
    """Begin in an empty folder, or continue what was begun with the same settings.

    Args:
        folder: `--out`.
        identity: of the measurement that is asked for.
        resume: whether to continue; in a folder without a benchmark this begins one, so that a job that is queued
            again can always say it.

    Returns:
        Indices of the photos that are dealt with.

    Raises:
        ValueError: a benchmark is there and `resume` is not asked for, or it measures something else (the message
            names the settings).
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / IDENTITY_FILE
    if not file.exists():
        if (folder / ROWS_FILE).exists() or parts_of(folder):
            raise ValueError(f"{folder} holds results without {IDENTITY_FILE}; give another --out")
        write_atomically(file, (json.dumps(identity, indent=1) + "\n").encode())
        return set()
    if not resume:
        raise ValueError(f"{folder} holds a benchmark; add --resume to continue it, or give another --out")
    refuse_others(folder, json.loads(file.read_text()), identity)
    return coverage_of(folder).indices


def refuse_others(folder: Path, begun: Identity, asked: Identity) -> None:
    """Raise a ValueError that names the settings in which two measurements differ."""
    wanted = json.loads(json.dumps(asked))
    differences = [
        f"{name} was {_short(begun.get(name))} and is {_short(wanted.get(name))}"
        for name in dict.fromkeys([*begun, *wanted])
        if begun.get(name) != wanted.get(name)
    ]
    if differences:
        raise ValueError(
            f"{folder} was begun with other settings: {'; '.join(differences)}; repeat them, or give another --out"
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
