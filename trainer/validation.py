"""Validation by the evaluator's protocol, split over processes, and its headline for the terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jaxtyping import UInt8
from torch import Tensor, nn

from evaluator.metrics import DEFAULT
from evaluator.policies import GuidePolicy, Policy, RandomPolicy
from evaluator.protocol.evaluate import Protocol, evaluate
from evaluator.protocol.no_network import measure_ruler
from evaluator.protocol.results import Results
from trainer.config import Config
from trainer.engines import Cluster, Engine
from trainer.monitoring.watchdog import Watchdog
from trainer.recipes.base import Recipe, Stage


@dataclass(frozen=True)
class Validation:
    """A fixed set of photos with the protocol that they are measured by."""

    photos: UInt8[Tensor, "n 3 h w"]
    """The whole set, on every process."""
    names: list[str]
    protocol: Protocol
    metrics: tuple[str, ...] = DEFAULT
    """Names in `evaluator.metrics.METRICS`."""
    _rulers: dict[tuple[int, int], Results] = field(default_factory=dict, compare=False, repr=False)
    """By first and last photo: what no training changes is measured once per process."""

    @classmethod
    def of(
        cls, photos: UInt8[Tensor, "n 3 h w"], names: list[str], config: Config, more: Sequence[str] = ()
    ) -> "Validation":
        """These photos with the config's budgets, hint size and seed; `more` metrics than the default."""
        clicks = config.validation.clicks if config.recipe.build().colorizer.follows_clicks else (0,)
        protocol = Protocol(clicks=clicks, hint_size=config.validation.hint_size, seed=config.seed)
        return cls(photos, names, protocol, tuple(dict.fromkeys((*DEFAULT, *more))))

    def measure(
        self,
        cluster: Cluster,
        recipe: Recipe,
        engines: Mapping[str, Engine],
        trained: set[str],
        dog: Watchdog,
    ) -> Results:
        """Random clicks beside every guide trained so far, and the ruler; the same results on every rank."""
        networks = {name: engine.whole for name, engine in engines.items()}
        first, last = (len(self.photos) * r // cluster.world_size for r in (cluster.rank, cluster.rank + 1))
        part = evaluate(
            recipe.colorizer.module(networks),
            policies(recipe, networks, trained),
            self.photos[first:last],
            self.protocol,
            cluster.device,
            first_index=first,
            metrics=self.metrics,
            on_progress=lambda done, total: dog.beat(),
        )
        ruler = self._ruler(first, last, cluster, dog)
        dog.mark("waiting for the others' validation")
        return Results.merge(cluster.gather(part.beside(ruler)))

    def _ruler(self, first: int, last: int, cluster: Cluster, dog: Watchdog) -> Results:
        """Results without a network on the same photos and random clicks."""
        if (first, last) not in self._rulers:
            self._rulers[first, last] = measure_ruler(
                self.photos[first:last],
                self.protocol,
                cluster.device,
                first_index=first,
                metrics=self.metrics,
                on_progress=lambda done, total: dog.beat(),
            )
        return self._rulers[first, last]


def middle_budget(clicks: Sequence[int]) -> int:
    """Number of clicks for headlines and searches: the last but one, where there are several."""
    return clicks[max(0, len(clicks) - 2)]


def policies(recipe: Recipe, networks: Mapping[str, nn.Module], trained: set[str]) -> dict[str, Policy]:
    """The baseline and the recipe's trained guides, by published name."""
    found: dict[str, Policy] = {"random": RandomPolicy()}
    for guide in recipe.guides:
        if guide.network in trained:
            module = guide.module(networks)
            found[guide.name] = GuidePolicy(guide=module, blind=getattr(module, "variant", "blind") == "blind")
    return found


def first_losses(stage: Stage, losses: Mapping[str, float]) -> dict[str, float]:
    """First term of each phase, with names short enough for a progress bar."""
    found: dict[str, float] = {}
    for phase in stage.phases:
        terms = [name for name in losses if name.startswith(f"{phase.name}/")]
        if terms:
            alone = len(stage.phases) == 1
            label = terms[0].partition("/")[2] if alone else phase.name.rpartition("-")[2]
            found[label] = losses[terms[0]]
    return found


def headline(results: Results) -> str:
    """Mean ab PSNR of each policy at the middle budget, in one line."""
    middle = middle_budget(results.protocol.clicks)
    found = {one.policy: one.value for one in results.records if one.metric == "ab_psnr" and one.clicks == middle}
    return f"ab PSNR at {middle} clicks: " + ", ".join(f"{name} {value:.2f} dB" for name, value in found.items())
