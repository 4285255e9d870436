"""Export: a folder that stock PEFT or transformers loads, no fedpeft needed."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedpeft_app.adapters import AdapterState
from fedpeft_app.errors import RunFolderError
from fedpeft_app.methods.adapted import AdaptedModel
from fedpeft_app.runs import card
from fedpeft_app.runs.atomic import write_bytes, write_json

FORMS = ("adapter", "self-contained", "merged")


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
        target: The folder to write, absolute; replaced if it is there.
        form: "adapter" (PEFT folder), "self-contained" (with the base model and labels
            inside), or "merged" (plain model folder). Methods that PEFT does not have are
            always written as a plain model folder.
        max_length: Tokens, for the snippet.
        facts: What the model card says about the run.

    Returns:
        Python code that loads the folder.

    Raises:
        RunFolderError: If the folder cannot be written.
    """
    adapted.pour(state)
    config = adapted.backbone.model.config
    labels = [config.id2label[index] for index in range(config.num_labels)]
    as_peft = adapted.method.peft and form != "merged"
    snippet = _snippet(form if adapted.method.peft else "merged", target, max_length)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        scratch.chmod(0o755)
        if as_peft:
            _save_peft(adapted, scratch, target, self_contained=form == "self-contained")
        else:
            _plain_model(adapted).save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        write_json(scratch / "labels.json", labels)
        text = card.model_card(
            base=adapted.backbone.located.name,
            labels=labels,
            snippet=snippet,
            facts=facts,
            peft=as_peft,
        )
        write_bytes(scratch / "README.md", text.encode())
        shutil.rmtree(target, ignore_errors=True)
        scratch.rename(target)
    except OSError as error:
        raise RunFolderError(f"Cannot export to {target}: {error}") from error
    return snippet


def _save_peft(adapted: AdaptedModel, folder: Path, target: Path, *, self_contained: bool) -> None:
    """Save the adapter as PEFT does, and the base model beside it if asked for."""
    adapted.model.save_pretrained(folder, save_embedding_layers=False)
    located = adapted.backbone.located
    base = located.name if located.origin == "hub" else str(located.path)
    if self_contained:
        base = str(target / "base")
        (folder / "base").mkdir()
        for file in located.path.glob("*"):
            if file.suffix in (".safetensors", ".bin"):
                shutil.copy2(file, folder / "base" / file.name)
        adapted.backbone.model.config.save_pretrained(folder / "base")
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["base_model_name_or_path"] = base
    settings["revision"] = located.revision or None
    write_json(path, settings)


def _plain_model(adapted: AdaptedModel) -> Any:
    """Give a plain transformers model with the adapter folded in."""
    if adapted.method.peft:
        return adapted.model.merge_and_unload()
    return adapted.model


def _snippet(form: str, target: Path, max_length: int) -> str:
    """Choose the code that loads a folder of this form."""
    template = {
        "adapter": card.SNIPPET,
        "self-contained": card.SELF_CONTAINED,
        "merged": card.MERGED,
    }[form]
    return template.format(folder=target, max_length=max_length)
