"""How much a sweep may spend: trials, time or photos, over all trials together."""

import re
from dataclasses import dataclass

FEWEST_STARTUP, MOST_STARTUP = 4, 10
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0}
_THOUSANDS = {"": 1, "k": 1_000, "M": 1_000_000}
_TRIALS = re.compile(r"(\d+)( trials?)?")
_TIME = re.compile(r"(?:(?P<h>\d+(?:\.\d+)?)h)?(?:(?P<m>\d+(?:\.\d+)?)m)?(?:(?P<s>\d+(?:\.\d+)?)s)?")
_PHOTOS = re.compile(r"(\d+(?:\.\d+)?)([kM]?) photos?")


@dataclass(frozen=True)
class Budget:
    """What is allowed; None does not limit."""

    trials: int | None = None
    """Trials that may start."""
    seconds: float | None = None
    """Wall time of the sweep, its interruptions left out."""
    photos: int | None = None
    """Photos that trials are trained on; a shared pretraining's do not count."""

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """From words such as `20`, `20 trials`, `2h`, `1h30m`, `500k photos`, or several with commas.

        Raises:
            ValueError: it is none of these, or nothing at all is allowed.
        """
        limits: dict[str, float] = {}
        for part in map(str.strip, text.split(",")):
            name, amount = _amount(part)
            if amount <= 0:
                raise ValueError(f"the budget {text!r} allows nothing; give more than 0")
            if name in limits:
                raise ValueError(f"the budget {text!r} limits the {name} twice; give one number of {name}")
            limits[name] = amount
        whole = {name: int(amount) for name, amount in limits.items() if name != "seconds"}
        return cls(seconds=limits.get("seconds"), **whole)

    def spent(self, *, seconds: float, photos: int) -> str:
        """Which limit has been reached, as a sentence; empty while there is some left.

        The number of trials is not among them: a last trial that has started may finish.
        """
        if self.seconds is not None and seconds >= self.seconds:
            return f"{seconds / 60:.1f} minutes have passed"
        if self.photos is not None and photos >= self.photos:
            return f"{photos:,} photos have been trained on"
        return ""


def startup(trials: int | None) -> int:
    """Trials that TPE draws at random before it learns: a quarter of the budget's, within 4 to 10."""
    if trials is None:
        return MOST_STARTUP
    return min(MOST_STARTUP, max(FEWEST_STARTUP, trials // 4))


def _amount(part: str) -> tuple[str, float]:
    if match := _TRIALS.fullmatch(part):
        return "trials", float(match[1])
    if match := _PHOTOS.fullmatch(part):
        return "photos", float(match[1]) * _THOUSANDS[match[2]]
    match = _TIME.fullmatch(part)
    if match and part:
        return "seconds", sum(float(match[unit] or 0) * length for unit, length in _SECONDS.items())
    raise ValueError(f"the budget {part!r} is no amount; write 20, 2h, 30m or '500k photos'")
