"""Accuracy over seeds: run a recipe once per seed and print mean and spread.

python benchmarks/seeds.py recipes/demo.toml 0 1 2 3 4 -- [KEY=VALUE ...]
"""

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # Student's t, two-sided, n - 1 degrees


def main() -> None:
    cut = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    recipe, seeds, settings = sys.argv[1], sys.argv[2:cut], sys.argv[cut + 1 :]
    accuracies = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as runs:
            command = [str(Path(sys.executable).with_name("fedpeft")), "run", "--recipe", recipe]
            command += [f"seed={seed}", f"output.dir={runs}", *settings]
            started = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds = time.perf_counter() - started
            journal = max(Path(runs).glob("*/journal.jsonl"))
            final = json.loads(journal.read_text(encoding="utf-8").splitlines()[-1])
        accuracies.append(final["test"]["accuracy"])
        print(
            f"seed {seed}: accuracy {accuracies[-1]:.4f}, "
            f"macro-F1 {final['test']['macro-f1']:.4f}, round {final['round']}, "
            f"{final['times_fewer']:.0f} times fewer bytes, {seconds:.0f} s",
            flush=True,
        )
    mean = statistics.mean(accuracies)
    if len(accuracies) in T_95:
        spread = T_95[len(accuracies)] * statistics.stdev(accuracies) / math.sqrt(len(accuracies))
        print(f"mean {mean:.4f} ± {spread:.4f} (95 %), min {min(accuracies):.4f}")


if __name__ == "__main__":
    main()
