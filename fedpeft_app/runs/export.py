"""Export: a folder that stock PEFT or transformers loads, no fedpeft needed."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from fedpeft_app.adapters import AdapterState
from fedpeft_app.backbone.locate import WEIGHTS, LocatedModel
from fedpeft_app.errors import RunFolderError
from fedpeft_app.methods.adapted import AdaptedModel
from fedpeft_app.runs import card
from fedpeft_app.runs.atomic import write_bytes, write_json

FORMS = ("adapter", "self-contained", "merged")
_CARD, _LABELS, _BASE = "README.md", "labels.json", "base"


def export(
    adapted: AdaptedModel,
    state: AdapterState,
    tokenizer: Any,
    target: Path,
    *,
    form: str,
    max_length: int,
    facts: Mapping[str, Any],
) -> str:
    """Write a loadable folder, atomically.

    Args:
        adapted: The model the state belongs to; "merged" changes it for good.
        state: What to export.
        tokenizer: Saved beside it.
        target: The folder to write, absolute; an earlier export there is replaced.
        form: "adapter" (PEFT folder), "self-contained" (with the base model and labels
            inside), or "merged" (plain model folder). Methods that PEFT does not have are
            always written as a plain model folder.
        max_length: Tokens, for the snippet.
        facts: What the model card says about the run.

    Returns:
        Python code that loads the folder.

    Raises:
        RunFolderError: If the folder cannot be written, or is something else than an export.

    Guarantee:
        With a float32 base model, the loaded folder computes what fedpeft evaluated.
    """
    require_replaceable(target)
    adapted.pour(state)
    form = form if adapted.method.peft else "merged"
    dtype = str(adapted.backbone.model.dtype).removeprefix("torch.")
    snippet = card.loading_snippet(form, target, max_length=max_length, dtype=dtype)
    scratch: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        scratch.chmod(0o755)
        _fill(scratch, adapted, tokenizer, target, form=form, snippet=snippet, facts=facts)
        if target.exists():
            shutil.rmtree(target)
        scratch.rename(target)
    except (OSError, SafetensorError) as error:
        raise RunFolderError(f"Cannot export to {target}: {error}") from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
    return snippet


def require_replaceable(target: Path) -> None:
    """Refuse to replace what is no earlier export.

    Args:
        target: The folder to be written.

    Raises:
        RunFolderError: If it is a file, or a folder of something else that is not empty.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    readme = target / _CARD
    ours = readme.is_file() and "fedpeft" in readme.read_text(encoding="utf-8", errors="replace")
    if not (ours and (target / _LABELS).is_file()):
        raise RunFolderError(
            f"{target} exists and is no export of fedpeft; it is not replaced. Name another folder."
        )


def _fill(
    folder: Path,
    adapted: AdaptedModel,
    tokenizer: Any,
    target: Path,
    *,
    form: str,
    snippet: str,
    facts: Mapping[str, Any],
) -> None:
    """Write everything that belongs to an export of a form."""
    config = adapted.backbone.model.config
    labels = [config.id2label[index] for index in range(config.num_labels)]
    if form == "merged":
        _plain_model(adapted).save_pretrained(folder)
    else:
        _save_peft(adapted, folder, target, self_contained=form == "self-contained")
    tokenizer.save_pretrained(folder)
    write_json(folder / _LABELS, labels)
    located = adapted.backbone.located
    text = card.model_card(
        base_id="" if located.origin == "folder" else located.name,
        labels=labels,
        snippet=snippet,
        facts=facts,
        peft=form != "merged",
        moving=_moving(form, located, target),
    )
    write_bytes(folder / _CARD, text.encode())


def _save_peft(adapted: AdaptedModel, folder: Path, target: Path, *, self_contained: bool) -> None:
    """Save the adapter as PEFT does, and the base model beside it if asked for."""
    adapted.model.save_pretrained(folder, save_embedding_layers=False)
    located = adapted.backbone.located
    base = located.name if located.origin == "hub" else str(located.path)
    if self_contained:
        base = str(target / _BASE)
        _copy_base(adapted, folder / _BASE)
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["base_model_name_or_path"] = base
    settings["revision"] = None if self_contained else located.revision or None
    write_json(path, settings)


def _copy_base(adapted: AdaptedModel, folder: Path) -> None:
    """Copy the base model's weights beside a config that knows the labels."""
    folder.mkdir()
    located = adapted.backbone.located
    for pattern in WEIGHTS:
        if weights := sorted(located.path.glob(pattern)):
            for file in (*weights, *located.path.glob("*.index.json")):
                shutil.copyfile(file, folder / file.name)
            break
    adapted.backbone.model.config.save_pretrained(folder)


def _plain_model(adapted: AdaptedModel) -> Any:
    """Give a plain transformers model with the adapter folded in."""
    if adapted.method.peft:
        return adapted.model.merge_and_unload()
    return adapted.model


def _moving(form: str, located: LocatedModel, target: Path) -> str:
    """Say what to change when the folder is used elsewhere."""
    change = "On another machine, or after moving this folder, change `folder` above"
    entry = "`base_model_name_or_path` in `adapter_config.json`"
    if form == "merged":
        return f"{change}; nothing else: the base model is part of this folder."
    if form == "self-contained":
        return (
            f"{change}, and {entry}, which is `{target / _BASE}`: it names the folder "
            f"`{_BASE}` in here, by its absolute path."
        )
    if located.origin == "hub":
        return f"{change}; the base model is fetched from the hub as `{located.name}`."
    elsewhere = (
        f"`{located.name}`, its id on the hub, or to a local copy"
        if located.origin == "mirror"
        else "where a copy of that folder lies"
    )
    return (
        f"{change}, and {entry}: it is `{located.path}`, the base model's folder on the "
        f"machine that trained. Set it to {elsewhere}."
    )
