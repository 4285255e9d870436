"""Transformers looks through the sources of its models once per process, not twice."""

from pathlib import Path
from typing import Any


def scan_models_once() -> None:
    """Let `transformers.models` reuse what `import transformers` has just found out.

    Both read 3,000 files to list what each model's folder offers. The second time is meant to
    come from a cache, but in transformers 5.23 that forgets all but 128 of 500 folders: 0.3 s of
    processor time in every process. To be called before any model is imported; where another
    version has another function, nothing is done.
    """
    from transformers.utils import import_utils

    scan = getattr(import_utils, "create_import_structure_from_path", None)
    if scan is None or not hasattr(scan, "cache_info"):  # another version's, or ours already
        return

    def scan_folder(path: str | Path) -> Any:
        folder = Path(path)
        return scan(folder.parent if folder.is_file() else folder)  # as the first one was named

    import_utils.create_import_structure_from_path = scan_folder
