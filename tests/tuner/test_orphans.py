import os
import subprocess
import sys

from tests import ROOT

PARENT = """
import subprocess, sys
child = "import sys; from tuner.processes import end_with_parent; end_with_parent(); end_with_parent(); " \\
    "print('watching', flush=True); sys.stdin.read()"
subprocess.Popen([sys.executable, "-c", child])
sys.stdin.read()
"""


def test_a_process_ends_when_its_parent_is_killed_and_never_collected():
    """Its end closes the pipe that it writes to; what it reads from stays open."""
    asked, answers = os.pipe(), os.pipe()
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdin=asked[0], stdout=answers[1], cwd=ROOT)
    os.close(answers[1])
    with os.fdopen(answers[0]) as said, os.fdopen(asked[1], "w"):
        assert said.readline() == "watching\n"
        parent.kill()
        assert said.read() == ""
    parent.wait()
    os.close(asked[0])
