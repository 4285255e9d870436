"""Settings that make a run private, at either level."""

from typing import Any

SAMPLE: dict[str, Any] = {"privacy.mode": "sample", "privacy.noise-multiplier": 1.0}
USER: dict[str, Any] = {
    "privacy.mode": "user",
    "privacy.trust": "server",
    "privacy.noise-multiplier": 1.0,
    "privacy.delta": 1e-3,
}
