"""One of several runs that are written at once: `python -m tests.trainer.child_run WORK PARENT NUMBER`.

Prints the run's id. Warnings go to the error output; a test expects none.
"""

import sys
from pathlib import Path

from PIL import Image

from trainer.config import flatten
from trainer.config.presets import tiny
from trainer.monitoring.mlflow_tracker import Tracker
from trainer.monitoring.tracker import Place

STEPS = 400


def main(work: Path, parent: str, number: str) -> None:
    """Write what a training writes, as quickly as it can be."""
    place = Place(
        work=work,
        folder=work / number,
        name=f"child {number}",
        parent_run=parent,
        tracking_uri=f"sqlite:///{work}/mlflow.db",
        warn=lambda text: print(text, file=sys.stderr),
    )
    with Tracker(place) as tracker:
        tracker.log_config(flatten(tiny()))
        for step in range(STEPS):
            tracker.log_metrics({f"loss/{name}": step / 7 for name in "abcde"}, step)
            if step % 20 == 0:
                tracker.set_tags({"number": number, "latest": step})
                tracker.flush()
        tracker.log_picture(Image.new("RGB", (4, 4)), "clicks.png")
    print(tracker.run_id)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
