"""Which code a process runs: the bundle of the run it serves, and the Python around it."""

import hashlib
import sys
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import fedpeft_app


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """What a process runs.

    Attributes:
        root: Folder from which the app is imported.
        digest: SHA-256 of all modules in it.
        python: Prefix of the Python environment with its libraries.
        version: The version of fedpeft.
    """

    root: str
    digest: str
    python: str
    version: str

    def to_json(self) -> dict[str, str]:
        """Write it for a frame."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Code":
        """Read what `to_json` wrote.

        Raises:
            TypeError: If something is missing, or too much.
        """
        return cls(**{key: str(value) for key, value in values.items()})


@lru_cache(maxsize=1)
def own_code() -> Code:
    """Say what this process runs."""
    package = Path(fedpeft_app.__file__).parent
    return Code(
        root=str(package.parent),
        digest=_digest(package),
        python=sys.prefix,
        version=fedpeft_app.__version__,
    )


def _digest(package: Path) -> str:
    """Fingerprint an app: of a bundle all modules, so those that users added; else the package."""
    bundle = package.parent
    whole = (bundle / "pyproject.toml").is_file()
    found = hashlib.sha256()
    for path in sorted((bundle if whole else package).rglob("*.py")):
        name = path.relative_to(bundle)
        if not any(part.startswith(".") for part in name.parts):
            content = path.read_bytes()
            found.update(f"{name.as_posix()}\0{len(content)}\0".encode() + content)
    return found.hexdigest()
