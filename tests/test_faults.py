"""pytest tests/test_faults.py: a sample of the campaign of faults (tests/faults/campaign.py runs all of it)."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

CAMPAIGN = Path(__file__).parent / "faults/campaign.py"
SAMPLE, SEED = 1, 0  # points of each fault and operation; docs/faults.md has more for a night
OPERATIONS, FAULTS = 9, 12


@pytest.mark.long
@pytest.mark.kill
def test_a_sample_of_faults_leaves_what_there_is_without_them():
    """100 seconds of processor time: a point of every operation with every fault, well spread."""
    command = [sys.executable, CAMPAIGN, "--sample", str(SAMPLE), "--seed", str(SEED), "--processes", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[0] == f"a sample of seed {SEED}"
    last = done.stdout.splitlines()[-1]
    assert last.endswith(" 0 holes")
    tried = re.findall(r"(\d+) [A-Za-z ]+", last[last.index("(") : last.index(")")])
    untried = last.count(" not tried: this user may not mount one")
    assert tried == [str(OPERATIONS * SAMPLE)] * (FAULTS - untried)
