"""How a training's photos fall into stages: when trials report, and which of it they share."""

from dataclasses import dataclass
from itertools import accumulate, pairwise

from trainer.config import Config
from trainer.data.loader import open_loader
from trainer.recipes.pingpong import pingpong


@dataclass(frozen=True)
class Course:
    """Photos seen at the end of each stage, where a trial validates and reports."""

    ends: tuple[int, ...]
    """Rising, one for each stage."""
    shared: int
    """Photos of the pretraining that a trial does not spend itself."""

    @classmethod
    def of(cls, config: Config, *, share_pretraining: bool) -> "Course":
        """Of a training with this config.

        Raises:
            ValueError: its training photos cannot be used.
        """
        loader = open_loader(config.data, seed=config.seed, rank=0, world_size=1, pin_memory=False)
        photos, batch_size = loader.samples_per_epoch, config.data.batch_size
        loader.close()
        stages = pingpong(config).stages
        ends = list(accumulate(stage.batches(photos, batch_size) * batch_size for stage in stages))
        shares = share_pretraining and config.rounds.pretrain_color > 0 and len(ends) > 1
        return cls(tuple(ends), ends[0] if shares else 0)

    @property
    def own(self) -> tuple[int, ...]:
        """Photos that a trial itself was trained on at each of its reports."""
        return tuple(end - self.shared for end in self.ends if end > self.shared)

    @property
    def shortest(self) -> int:
        """Photos of its shortest own stage."""
        return min(end - start for start, end in pairwise([0, *self.own]))
