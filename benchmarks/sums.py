"""Instructions to try language models on: 600 sums of two digits, most of them several times.

python benchmarks/sums.py > sums.jsonl
"""

import json
import random


def main() -> None:
    digits = random.Random(0)
    for _ in range(600):
        first, second = digits.randrange(10), digits.randrange(10)
        row = {"prompt": f"{first} + {second} = ?", "response": str(first + second)}
        print(json.dumps(row))


if __name__ == "__main__":
    main()
