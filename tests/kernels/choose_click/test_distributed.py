"""Two gloo processes with DistributedDataParallel against one process that sees the whole batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests import ROOT
from tests.kernels.choose_click.two_processes import PHOTOS, gradients

pytestmark = pytest.mark.launch

PROGRAM = Path(__file__).with_name("two_processes.py")


@pytest.mark.launch
def test_two_processes_average_to_the_gradient_of_the_whole_batch(tmp_path: Path):
    file = tmp_path / "gradients.pt"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, str(PROGRAM), str(file)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found, expected = torch.load(file, weights_only=True), gradients(0, PHOTOS)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        # The last bias moves all logits alike, which no softmax feels: its gradient is rounding noise.
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")
        assert gradient.abs().max() > 1e-6 or name.endswith("2.bias"), name
