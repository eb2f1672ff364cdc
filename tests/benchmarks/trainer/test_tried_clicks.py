"""The benchmark of policies that try clicks."""

from collections.abc import Callable

import pytest
import torch

from evaluator.registry.session import PhotoSession
from tests.benchmarks.__main__ import main


@pytest.mark.training
def test_both_networks_are_timed_under_both_policies(report_of: Callable):
    content = report_of("tried_clicks", "--size", 64, "--repeats", 1)
    policies = ("GreedyPolicy", "ExpectedReductionPolicy")
    wanted = {(policy, network) for policy in policies for network in ("U-Net", "split")}
    assert {(row["policy"], row["network"]) for row in content["rows"]} == wanted
    assert [goal["goal"] for goal in content["goals"]] == [5.0, 5.0]


def test_tries_that_differ_from_whole_calls_are_not_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    right = PhotoSession.rows

    def wrong(self: PhotoSession, *given: torch.Tensor) -> torch.Tensor:
        return right(self, *given) + 0.01

    monkeypatch.setattr(PhotoSession, "rows", wrong)
    assert main(["tried_clicks", "--size", "64"]) == 1
    assert "tries differ from whole calls by 0.01" in capsys.readouterr().err
