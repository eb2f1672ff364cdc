"""A sweep that never ran: its folder, with trials of every status and values that follow a rule."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.random import default_rng

from trainer.run_folder import as_json
from tuner.objectives import measures_of
from tuner.records import Report, Sweep, Trial, write_trials
from tuner.search.presets import question_space, smoke
from tuner.search.space import Domain, Space

METRICS = ("ab_psnr", "lpips", "dispersion")
NASTY = "<script>alert('1')</script> & \"co\""
PHOTOS = 1600
"""Of one round."""
_EFFECT = {"argmax_ste": 0.0, "gumbel_softmax": 1.0, "gumbel_softmax_soft": -1.0}


class RandomDraw:
    """An Optuna trial's part that a space needs, with numpy's randomness."""

    def __init__(self, seed: int) -> None:
        self._random = default_rng(seed)

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        if log:
            return math.exp(self._random.uniform(math.log(low), math.log(high)))
        return float(self._random.uniform(low, high))

    def suggest_int(self, name: str, low: int, high: int) -> int:
        return int(self._random.integers(low, high + 1))

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return choices[int(self._random.integers(len(choices)))]


def quality(values: dict[str, Any]) -> float:
    """ab PSNR at the end: the estimator matters most, the entropy weight a little, the rest not at all."""
    return 24.0 + _EFFECT[values["recipe.choice.estimator"]] + 2 * values["recipe.loss.entropy"]


def made_up_trial(number: int, values: dict[str, Any], stages: int | None = None, **changes: Any) -> Trial:
    """That reported at the first so many stages, or at all."""
    all_stages = smoke().base.recipe.build().stages
    seen, reports = 0.0, []
    for place, stage in enumerate(all_stages[:stages]):
        seen += stage.rounds * PHOTOS
        if place == 0:
            continue
        level = quality(values) - 1.0 / place
        metrics = {
            "ab_psnr": level,
            "lpips": 0.2 - level / 200 + 0.002 * values["recipe.loss.entropy"] * number,
            "dispersion": 0.1 + values["recipe.loss.entropy"],
        }
        reports.append(Report(round(seen), stage.name, 10.0 * place, metrics))
    trial = Trial(
        f"t{number:03}", number, "finished", values, tuple(reports), None, f"run{number}", "", 60.0 + number
    )
    return replace(trial, **changes)


def made_up_sweep(folder: Path, trials: int = 40, **changes: Any) -> Path:
    """A folder with so many trials: each fifth was stopped after its second report, two failed."""
    base = smoke().base
    measures = measures_of(base)
    domains = (*question_space(), Domain(path="seed", kind="choice", values=(0, 1)))
    sweep = Sweep(
        name="made-up",
        started="2026-11-26T12:00:00+00:00",
        commit="0123abc",
        machine={"cpu": "A made-up processor", "cores": 2, "gpu": None},
        versions={"python": "3.11", "torch": "2.15.0"},
        seed=3,
        search="tpe",
        scheduler="asha",
        budget=f"{max(1, trials)} trials",
        metrics=tuple(measures[name] for name in METRICS),
        space=tuple(domain.as_json() for domain in domains),
        base=as_json(base),
        parent_run="parent",
        tracking_uri="sqlite:///mlflow.db",
        options={"finished": "2026-11-26T13:00:00+00:00"},
    )
    folder.mkdir(parents=True, exist_ok=True)
    replace(sweep, **changes).write(folder)
    space = Space(domains, base)
    made = [made_up_trial(number, space.suggest(RandomDraw(number))) for number in range(trials)]
    for number in range(4, trials, 5):
        made[number] = made_up_trial(number, made[number].values, 3, status="stopped")
    for number in (1, 6):
        if number < trials:
            made[number] = made_up_trial(number, made[number].values, 0, status="failed", error=NASTY)
    write_trials(folder, made)
    (folder / "best.json").write_text("{}")
    return folder
