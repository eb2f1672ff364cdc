import json
from pathlib import Path

from tests.benchmarks.trainer.tried_clicks import Arguments, main


def test_the_benchmark_of_tries_reports_both_networks(tmp_path: Path):
    main(Arguments(size=64, repeats=1, json=tmp_path / "trials.json"))
    found = json.loads((tmp_path / "trials.json").read_text())
    policies = ("GreedyPolicy", "ExpectedReductionPolicy")
    wanted = {(policy, network) for policy in policies for network in ("U-Net", "split")}
    assert {(row["policy"], row["network"]) for row in found["rows"]} == wanted
    assert [goal["goal"] for goal in found["goals"]] == [5.0, 5.0]
