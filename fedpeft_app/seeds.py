"""Randomness as a function of (seed, purpose, round, partition), never of history."""

import hashlib

import numpy as np


def derive_seed(seed: int, purpose: str, *, round_number: int = 0, partition: int = 0) -> int:
    """Derive an independent seed for one use of randomness.

    Args:
        seed: The run's seed.
        purpose: What the randomness is for ("cohort", "batches", "dropout", …).
        round_number: Round, from 1; 0 where rounds do not matter.
        partition: The node's partition, from 0.

    Returns:
        A seed in [0, 2**63), the same on every machine.
    """
    text = f"{seed}|{purpose}|{round_number}|{partition}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def numpy_generator(
    seed: int, purpose: str, *, round_number: int = 0, partition: int = 0
) -> np.random.Generator:
    """Make an isolated NumPy generator for one use of randomness.

    Args:
        seed: The run's seed.
        purpose: What the randomness is for.
        round_number: Round, from 1; 0 where rounds do not matter.
        partition: The node's partition, from 0.

    Returns:
        A generator seeded with `derive_seed` of the same arguments.
    """
    derived = derive_seed(seed, purpose, round_number=round_number, partition=partition)
    return np.random.default_rng(derived)
