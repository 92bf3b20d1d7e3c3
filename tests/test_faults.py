"""pytest tests/test_faults.py: a sample of the campaign of faults (tests/faults/campaign.py runs all of it)."""

import subprocess
import sys
from pathlib import Path

import pytest

CAMPAIGN = Path(__file__).parent / "faults/campaign.py"


@pytest.mark.long
@pytest.mark.kill
def test_a_sample_of_faults_leaves_what_there_is_without_them():
    """About five minutes: each 37th call that changes a file, of every operation, with every fault."""
    done = subprocess.run([sys.executable, CAMPAIGN, "--every", "37"], capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith(" 0 holes")
