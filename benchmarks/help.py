"""How much longer `lookbook --help` takes than Python with click, which it can't do without.

    python benchmarks/help.py

Both in turn, ten times each; the quickest of each is compared. Prints the ratio; fails above its
baseline.
"""

import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 10
BASELINE = 2.0  # 2-core Intel Xeon: 1.3
CLICK = [sys.executable, "-c", "import click"]
HELP = [str(Path(sys.executable).with_name("lookbook")), "--help"]


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    pairs = [(seconds(CLICK), seconds(HELP)) for _ in range(ROUNDS)]
    click, shown = (min(each) for each in zip(*pairs, strict=True))
    print(f"lookbook --help: {shown:.3f} s, {shown / click:.2f} times python -c 'import click' ({click:.3f} s)")
    sys.exit(shown / click > BASELINE)


if __name__ == "__main__":
    main()
