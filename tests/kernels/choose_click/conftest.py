import pytest
import torch

from tests.kernels.choose_click.positions import poison


@pytest.fixture(autouse=True)
def _needs_a_device(request: pytest.FixtureRequest) -> None:
    """Skip what is marked `gpu` where there is none."""
    if request.node.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no CUDA device")


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill fresh memory with NaN or the largest integer, so that a lane that no kernel writes is noticed."""
    monkeypatch.setattr(torch, "empty", poison(torch.empty))
    monkeypatch.setattr(torch.Tensor, "new_empty", poison(torch.Tensor.new_empty))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the kernels' tests as `interpreter`, but for those of one estimator: a small cross for every run."""
    for item in items:
        kernels = item.path.name == "test_cuda.py" or any(
            part in item.name for part in ("to_the_kernels", "near_ties", "triton")
        )
        if kernels and "argmax_ste" not in item.name:
            item.add_marker(pytest.mark.interpreter)
