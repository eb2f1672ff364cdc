"""`results.json`: the means with their intervals, the protocol, and all that a reader needs to judge them."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluator.benchmark.config import Level, Plan
from evaluator.benchmark.networks import Networks, described
from evaluator.benchmark.presets import beside, is_coco_validation
from evaluator.benchmark.store import Coverage
from evaluator.metrics import METRICS
from evaluator.metrics.clicks import nri
from evaluator.photos.dataset import PhotoSource
from evaluator.protocol.bootstrap import mean_intervals
from evaluator.protocol.finished import SCHEMA, SUMMARY_FILE
from evaluator.protocol.results import Results
from evaluator.system.environment import PACKAGES, commit, machine, versions
from evaluator.system.files import write_atomically


def summarise(
    plan: Plan,
    networks: Networks,
    results: Results,
    coverage: Coverage,
    photos: PhotoSource,
    source: Path,
    *,
    fid: Sequence[Mapping[str, Any]] = (),
    cycles: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The content of `results.json`.

    Args:
        plan: what was asked.
        networks: what was measured.
        results: every value.
        coverage: which photos, and which not.
        photos: their names.
        source: where they are from, as it was given.
        fid: distances by policy and clicks.
        cycles: means after each cycle of a training.
    """
    coco = is_coco_validation(photos.names)
    nri_found = [row for level in plan.levels for row in nri_rows(results, level)]
    return {
        "schema": SCHEMA,
        "protocol": plan.stated(),
        "preset": {"name": plan.preset, "changed": plan.changed} if plan.preset else None,
        "machine": machine(),
        "versions": versions(("chromaclick", *PACKAGES, "lpips", "torchmetrics")),
        "commit": commit(),
        "colorizer": described(networks.colorizer),
        "guides": {policy: described(guide) for policy, guide in networks.guides.items()},
        "ruler": described(networks.ruler) if networks.ruler else None,
        "photos": {
            "source": str(source),
            "count": len(coverage.measured),
            "sha256": contents(coverage, photos.names),
            "enlarged": coverage.enlarged,
            "skipped": [{"photo": photos.names[index], "reason": why} for index, why in coverage.left_out.items()],
        },
        "not_measured": [{"metric": name, "reason": why} for name, why in plan.not_measured.items()],
        "rows": results.rows(),
        "nri": nri_found,
        "fid": list(fid),
        "cycles": list(cycles),
        "papers": [beside(table, results.records, nri_found, coco) for table in plan.papers],
    }


def contents(coverage: Coverage, names: Sequence[str]) -> str:
    """SHA-256 over the measured photos' names and the SHA-256 of their bytes, by name."""
    pairs = sorted((names[index], sha256) for index, sha256 in coverage.measured.items())
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def nri_rows(results: Results, level: Level) -> list[dict[str, Any]]:
    """Clicks to a level by policy, with the bootstrap 95 % interval of the mean and the share of failures."""
    budgets, higher = results.protocol.clicks, METRICS[level.metric].higher_is_better
    rows = []
    for policy in results.policies:
        values = results.values(policy, level.metric)
        found = nri(values, budgets, level.value, higher_is_better=higher is not False)
        low, high = mean_intervals(found.clicks.astype(float)[:, None], results.protocol.seed)
        ends = {"mean": found.mean, "low": float(low[0]), "high": float(high[0]), "failures": found.failures}
        rows.append({"policy": policy, "metric": level.metric, "level": level.value, **_finite(ends)})
    return rows


def save(folder: Path, summary: Mapping[str, Any]) -> Path:
    """Write `results.json` in one step: its presence says that the measurement is finished."""
    path = folder / SUMMARY_FILE
    write_atomically(path, (json.dumps(summary, indent=1, allow_nan=False) + "\n").encode())
    return path


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
