"""The networks at work: coloring and scoring for many requests at once, and other networks without a restart.

Photos are computed as they come, in batches or alone, with all threads. The benchmark sees to it that a photo's
numbers are bit-equal in any company (`evaluator.system.threads.each_on_one_core`), so that rounding by 1e-7 moves
no click; a preview has 8 bits, and a person would only wait longer for it.

A split colorizer looks at a photo once: what it saw is kept, and a click is answered from that.
"""

import asyncio
import hashlib
import logging
import tempfile
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from evaluator import weights
from evaluator.registry.mlflow_registry import CHAMPION
from evaluator.registry.session import Colored
from evaluator.service.inference.batcher import Batcher
from evaluator.service.inference.networks import (
    Mismatch,
    Networks,
    Runner,
    current_source,
    in_onnxruntime,
    is_alias,
    load_runner,
    names_to_load,
    runner_of,
)
from evaluator.service.inference.tensor_cache import TensorCache
from evaluator.service.settings import RUNTIMES
from evaluator.system.threads import in_daemon_thread

_log = logging.getLogger("chromaclick")


class Engine:
    """A colorizer and a blind guide behind a batcher."""

    def __init__(
        self,
        colorizer: str = f"models:/colornet@{CHAMPION}",
        guide: str = f"models:/editnet-blind@{CHAMPION}",
        *,
        tracking_uri: str | None = None,
        working_size: int = 256,
        most_batch: int = 8,
        most_waiting: int = 32,
        wait_seconds: float = 0.0,
        deadline_seconds: float = 10.0,
        refresh_seconds: float = 30.0,
        runtimes: Sequence[str] = RUNTIMES,
        cache: Path | None = None,
        embeddings_mib: int = 256,
    ) -> None:
        """An engine; nothing is loaded before `start`.

        Args:
            colorizer: see `evaluator.registry.mlflow_registry.load`; empty: see `networks.names_to_load`.
            guide: a blind one.
            tracking_uri: MLflow server or database.
            working_size: long side of photos, at which networks are warmed.
            most_batch: see `Batcher`.
            most_waiting: see `Batcher`.
            wait_seconds: see `Batcher`.
            deadline_seconds: see `Batcher`.
            refresh_seconds: how often aliases are looked up again; 0: never.
            runtimes: names of `settings.RUNTIMES`: torch alone, onnxruntime alone, or both: then torch answers at
                once, and ONNX Runtime as soon as it is ready, if it gives the same numbers.
            cache: folder for converted networks, which a later start then need not convert again.
            embeddings_mib: memory for what a split colorizer saw in photos; at 256 px a photo takes about 8 MiB.

        Raises:
            ValueError: a number that cannot work.
        """
        self._wanted = (colorizer, guide)
        if not runtimes or set(runtimes) - set(RUNTIMES):
            raise ValueError(f"the runtimes are {list(runtimes)}; name some of {list(RUNTIMES)}")
        self._tracking_uri, self._runtimes, self._cache = tracking_uri, tuple(runtimes), cache
        self._sizes = ((working_size, working_size), (working_size, max(1, working_size * 3 // 4)))
        self._refresh_seconds = refresh_seconds
        self._batcher = Batcher(most_batch, most_waiting, wait_seconds, deadline_seconds)
        self._embeddings: TensorCache[tuple[Tensor, ...]] = TensorCache(embeddings_mib << 20)
        self._networks: Networks | None = None
        self._changing = asyncio.Lock()
        self._refreshing: asyncio.Task[None] | None = None
        self._improving: asyncio.Task[None] | None = None

    @classmethod
    def from_networks(
        cls,
        colorizer: Callable[..., Tensor],
        guide: Callable[..., Tensor],
        *,
        hint_size: int = 3,
        temperature: float = 1.0,
        **options: Any,
    ) -> "Engine":
        """An engine with networks that are at hand, such as formulas; it is ready without `start`.

        Args:
            colorizer: `colorizer(lightness, clicks) -> ab`, or a `SplitColorizer`.
            guide: `guide(lightness, predicted_ab, clicks) -> logits`; one with `reads_features` gets features=.
            hint_size: side of a click's patch.
            temperature: of the guide's heat map.
            options: the other arguments of an engine.
        """
        runners = [
            runner_of(network, kind, hint_size=hint_size, temperature=temperature)
            for kind, network in (("colorizer", colorizer), ("guide", guide))
        ]
        return cls.from_pair(Networks(colorizer=runners[0], guide=runners[1]), **options)

    @classmethod
    def from_pair(cls, networks: Networks, **options: Any) -> "Engine":
        """An engine with a pair that is loaded already; options are the other arguments of an engine."""
        engine = cls(**{"refresh_seconds": 0.0, **options})
        engine._use(networks)
        return engine

    @property
    def ready(self) -> bool:
        """Whether both networks are loaded and warmed."""
        return self._networks is not None

    @property
    def networks(self) -> Networks:
        """The pair at work. Who needs several answers of one pair keeps it, and passes it to each call.

        Raises:
            RuntimeError: there is none yet.
        """
        if self._networks is None:
            raise RuntimeError("the networks are not loaded; await start() first")
        return self._networks

    @property
    def hint_size(self) -> int:
        """Side of a click's patch where a click names none."""
        return self.networks.colorizer.hint_size

    def describe(self) -> dict[str, Any]:
        """Both networks, as JSON values; see `Networks.describe`."""
        return self.networks.describe()

    async def start(self) -> None:
        """Load and warm both networks, where there are none yet.

        Champions that do not fit together, and were not named, are left for the networks that ship.

        Raises:
            ValueError: a network is missing or bad; the message says what makes one.
            ConnectionError: the registry does not answer.
        """
        async with self._changing:
            if self._networks is None:
                chosen = await in_daemon_thread(names_to_load, *self._wanted, self._tracking_uri)
                try:
                    await self._change(*chosen)
                except Mismatch as error:
                    if any(self._wanted) or not weights.available():
                        raise
                    why = "the champions are no pair; the networks that ship are used until a start finds one: %s"
                    _log.warning(why, error)
                    await self._change(weights.SHIPPED, weights.SHIPPED)
        aliases = [runner.wanted for runner in _both(self.networks) if is_alias(runner.wanted)]
        if self._refresh_seconds and aliases and self._refreshing is None:
            self._refreshing = asyncio.create_task(self._keep_fresh())

    async def close(self) -> None:
        """Answer what waits with an error, and stop."""
        for task in (self._refreshing, self._improving):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        await in_daemon_thread(self._batcher.close)

    async def colorize(
        self,
        lightness: Float[Tensor, "1 1 h w"],
        clicks: Float[Tensor, "1 3 h w"],
        networks: Networks | None = None,
    ) -> Float[Tensor, "1 2 h w"]:
        """Colors of a photo, ab in CIE / 128.

        Args:
            lightness: CIE L* / 100.
            clicks: see `click_map`.
            networks: a pair to use; default: the present one.

        Raises:
            Overloaded: too many requests wait.
        """
        return (await self.look(lightness, clicks, networks)).ab

    async def look(
        self,
        lightness: Float[Tensor, "1 1 h w"],
        clicks: Float[Tensor, "1 3 h w"],
        networks: Networks | None = None,
        keep: bool = True,
    ) -> Colored:
        """Colors of a photo, with the features that they were made of where the colorizer is a split one.

        It looks at the photo itself only where it has not lately. Arguments and errors as of `colorize`.

        Args:
            lightness: see `colorize`.
            clicks: see there.
            networks: see there.
            keep: whether what a split colorizer saw in the photo is kept; others may have to go for it.
        """
        colorizer = (networks or self.networks).colorizer
        if colorizer.split is None:
            return Colored(await self._run(colorizer, lightness, clicks), None)
        return await self._batcher.alone(partial(self._look, colorizer, lightness, clicks, keep))

    def _look(self, colorizer: Runner, lightness: Tensor, clicks: Tensor, keep: bool) -> Colored:
        """In the batcher's thread, the only one that embeds."""
        assert colorizer.split is not None
        key = (colorizer, _photo_key(lightness))
        embedding = self._embeddings.get(key)
        if embedding is None:
            embedding = colorizer.split.embed(lightness)
            if keep:
                self._embeddings.put(key, embedding)
        return Colored(*colorizer.split.color(embedding, lightness, clicks))

    async def logits(
        self,
        lightness: Float[Tensor, "1 1 h w"],
        predicted_ab: Float[Tensor, "1 2 h w"],
        clicks: Float[Tensor, "1 3 h w"],
        networks: Networks | None = None,
        features: Tensor | None = None,
    ) -> Float[Tensor, "1 h w"]:
        """The guide's z / T, whose softmax is the heat map.

        Args:
            lightness: CIE L* / 100.
            predicted_ab: the present colors.
            clicks: see `click_map`.
            networks: a pair to use; default: the present one.
            features: of `look`, for a guide that reads them; others are called without.

        Raises:
            ValueError: the guide reads features, and there are none.
            Overloaded: too many requests wait.
        """
        guide = (networks or self.networks).guide
        if guide.reads_features and features is None:
            raise ValueError(f"the guide {guide.source} reads its colorizer's features; pass those of look()")
        read = () if features is None or not guide.reads_features else (features,)
        return await self._run(guide, lightness, predicted_ab, clicks, *read) / guide.temperature

    async def _run(self, runner: Runner, *inputs: Tensor) -> Tensor:
        return await self._batcher.submit(runner.run, *inputs, most_batch=runner.most_batch)

    async def score(
        self,
        lightness: Float[Tensor, "1 1 h w"],
        predicted_ab: Float[Tensor, "1 2 h w"],
        clicks: Float[Tensor, "1 3 h w"],
        networks: Networks | None = None,
        features: Tensor | None = None,
    ) -> Float[Tensor, "1 h w"]:
        """Where the next click helps: softmax(z / T), sums to 1. Arguments and errors as of `logits`."""
        logits = await self.logits(lightness, predicted_ab, clicks, networks, features)
        return logits.flatten(1).softmax(1).view_as(logits)

    async def switch(self, colorizer: str | None = None, guide: str | None = None) -> None:
        """Load other networks, warm them, and take them in one step; what is under way keeps the old ones.

        Args:
            colorizer: None keeps the present one.
            guide: None keeps the present one.

        Raises:
            ValueError: neither is named, or one is missing or bad. Nothing changes then.
            ConnectionError: the registry does not answer. Nothing changes then.
        """
        if colorizer is None and guide is None:
            raise ValueError("neither a colorizer nor a guide is named; name one, such as models:/colornet/2")
        async with self._changing:
            await self._change(colorizer, guide)

    async def refresh(self) -> bool:
        """Look up the aliases again, and switch where one stands for another version now.

        Returns:
            Whether something changed.

        Raises:
            ValueError: an alias is gone. The present networks stay.
            ConnectionError: the registry does not answer. The present networks stay.
        """
        async with self._changing:
            stale = await in_daemon_thread(self._stale, self.networks)
            if not any(stale):
                return False
            await self._change(*stale)
            return True

    def _stale(self, networks: Networks) -> list[str | None]:
        return [
            runner.wanted if is_alias(runner.wanted) and self._source_now(runner) != runner.source else None
            for runner in _both(networks)
        ]

    def _source_now(self, runner: Runner) -> str:
        return current_source(runner.wanted, self._tracking_uri)

    async def settled(self) -> None:
        """Wait until the networks run as they will go on running; see `__init__`."""
        if self._improving is not None:
            await asyncio.gather(self._improving, return_exceptions=True)

    async def _change(self, colorizer: str | None, guide: str | None) -> None:
        """Load a pair and use it. ONNX Runtime takes over when it is ready, or at once where forced."""
        networks = await in_daemon_thread(self._load_pair, colorizer, guide)
        if "torch" not in self._runtimes:
            networks = await self._in_onnxruntime(networks)
            for runner in _both(networks):
                if why := runner.about["skipped"]:
                    raise ValueError(f"{runner.source} runs in none of the runtimes: {why}")
        self._use(networks)
        if "torch" in self._runtimes and "onnxruntime" in self._runtimes:
            if self._improving is not None:
                self._improving.cancel()
            self._improving = asyncio.create_task(self._improve(networks))

    async def _improve(self, networks: Networks) -> None:
        """Run a pair in ONNX Runtime, unless another one was chosen meanwhile."""
        try:
            quick = await self._in_onnxruntime(networks)
        except Exception:  # a full disk, say
            _log.exception("ONNX Runtime could not be made ready; torch goes on answering")
            return
        async with self._changing:
            if self._networks is networks:
                self._use(quick)

    async def _in_onnxruntime(self, networks: Networks) -> Networks:
        """The pair, each network in ONNX Runtime if that can run it; one is converted after the other."""
        with tempfile.TemporaryDirectory(prefix="converted-") as scratch:
            where = (self._tracking_uri, self._sizes, self._cache or Path(scratch))
            colorizer = await in_onnxruntime(networks.colorizer, "colorizer", *where)
            return Networks(colorizer=colorizer, guide=await in_onnxruntime(networks.guide, "guide", *where))

    def _load_pair(self, colorizer: str | None, guide: str | None) -> Networks:
        """Both in torch; None keeps the present one."""
        where = (self._tracking_uri, self._sizes)
        return Networks(
            colorizer=load_runner("colorizer", colorizer, *where) if colorizer else self.networks.colorizer,
            guide=load_runner("guide", guide, *where) if guide else self.networks.guide,
        )

    def _use(self, networks: Networks) -> None:
        self._networks = networks
        self._embeddings.forget(lambda key: isinstance(key, tuple) and key[0] is not networks.colorizer)

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(self._refresh_seconds)
            try:
                await self.refresh()
            except (ValueError, ConnectionError) as error:
                _log.warning("aliases could not be looked up, the present networks stay: %s", error)


def _photo_key(lightness: Tensor) -> Hashable:
    """The same for the same photo at the same size: 0.2 ms, and no caller has to name its photos."""
    content = hashlib.sha1(lightness.numpy().tobytes(), usedforsecurity=False).digest()
    return tuple(lightness.shape), content


def _both(networks: Networks) -> tuple[Runner, Runner]:
    return networks.colorizer, networks.guide
