"""Results of an evaluation that never ran."""

from collections.abc import Mapping

import numpy as np

from evaluator.protocol.results import Protocol, Results


def made_up_results(
    values: Mapping[str, Mapping[str, np.ndarray]],
    protocol: Protocol,
    *,
    size: tuple[int, int] = (8, 8),
    first_index: int = 0,
    positions: Mapping[str, np.ndarray] | None = None,
    seconds: float = 0.5,
) -> Results:
    """`values[policy][metric]` are (photos, budgets); `positions[policy]` flat, (photos, clicks), else pixel 0."""
    policies = list(values)
    columns = {
        metric: np.stack([np.asarray(values[policy][metric], dtype=float) for policy in policies], axis=1)
        for metric in values[policies[0]]
    }
    shape = next(iter(columns.values())).shape
    clicked = np.zeros((*shape[:2], protocol.clicks[-1]), dtype=np.int64)
    for policy, flat in (positions or {}).items():
        if policy in policies:
            clicked[:, policies.index(policy)] = flat
    columns["seconds_per_click"] = np.full(shape, seconds)
    return Results.of(protocol, size, first_index, policies, columns, clicked)
