from collections import Counter

import torch

from tests.benchmarks.kernels.choose_click_paths import make_inputs
from tests.benchmarks.kernels.choose_click_traffic import SIDE, main, of_chain, of_cpu, traffic


def test_passes_and_bytes_are_those_of_the_operations():
    x = torch.rand(SIDE, SIDE)
    row = torch.rand(SIDE)

    def run() -> torch.Tensor:
        y = x.view(-1).mul(2.0)  # reads and writes 4 bytes a pixel; the view moves nothing
        y.add_(1.0)  # as much
        row.add(1.0)  # less than a pass
        y.new_zeros(3)
        return (y.view(SIDE, SIDE) + row.expand(SIDE, SIDE)).sum()  # 8 bytes and a row; 4 bytes and a number

    found, result = traffic(run)
    assert found.operations == Counter(mul=1, add_=1, add=1, sum=1)
    assert found.bytes == 8 + 8 + 8 + 4 * SIDE / SIDE**2 + 4 + 4 / SIDE**2
    torch.testing.assert_close(result, (2 * x + 1 + row).sum())


def test_the_cpu_s_implementation_makes_fewer_passes_than_the_chain():
    inputs = make_inputs(1, SIDE, SIDE, torch.device("cpu"))
    for estimator in ("argmax_ste", "gumbel_softmax"):
        chain, ours = (sum(found.bytes for found in measure(inputs, estimator)) for measure in (of_chain, of_cpu))
        assert ours < 0.7 * chain


def test_every_estimator_is_listed(capsys):
    main(listed=True)
    assert "gumbel_rao chain backward {" in capsys.readouterr().out
