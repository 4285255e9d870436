"""Export: a folder that stock PEFT or transformers loads, no fedpeft needed.

What PEFT has is a PEFT folder. What it has not is a file of tensors, with a copy of the few
lines that put them where they belong (`fedpeft_app.portable`).
"""

import inspect
import json
import shutil
import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from peft import PeftModel
from peft.utils import ModulesToSaveWrapper
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from fedpeft_app.adapters import AdapterState
from fedpeft_app.atomic import write_bytes, write_json
from fedpeft_app.backbone.locate import WEIGHTS, LocatedModel
from fedpeft_app.backbone.quiet import quiet
from fedpeft_app.data.tasks.causal_lm import ends
from fedpeft_app.data.tasks.image_classification import own_size
from fedpeft_app.data.tasks.image_input import image_input
from fedpeft_app.data.tasks.task import Usage
from fedpeft_app.errors import RunFolderError
from fedpeft_app.methods.adapted import AdaptedModel
from fedpeft_app.runs import card
from fedpeft_app.runs.card import Shape

FORMS = ("adapter", "self-contained", "merged")
_CARD, _LABELS, _BASE = "README.md", "labels.json", "base"
_TENSORS = "adapter.safetensors"


def export(
    adapted: AdaptedModel,
    state: AdapterState,
    processor: Any,
    target: Path,
    *,
    form: str,
    max_length: int,
    usage: Usage,
    facts: Mapping[str, Any],
    personal: AdapterState | None = None,
) -> str:
    """Write a loadable folder, atomically.

    Args:
        adapted: The model the state belongs to; "merged" changes it for good.
        state: What to export.
        processor: The tokenizer or image processor, saved beside it.
        target: The folder to write, absolute; an earlier export there is replaced.
        form: "adapter", "self-contained" (with the base model and labels inside), or "merged"
            (plain model folder). What trains every weight is always a plain model folder.
        max_length: Tokens, for the snippet.
        usage: How the run's task uses the model.
        facts: What the model card says about the run.
        personal: One node's own parameters; without them they are as they were drawn, and the
            model card says so.

    Returns:
        Python code that loads the folder.

    Raises:
        RunFolderError: If the folder cannot be written, is something else than an export, or
            the method cannot be merged.

    Guarantee:
        With a float32 base model, the loaded folder computes what fedpeft evaluated.
    """
    require_replaceable(target)
    shape = shape_of(adapted, processor, form, max_length, usage)
    adapted.pour(state)
    adapted.personal.pour(personal or adapted.personal.initial)
    warning = "" if personal else _untrained(adapted)
    snippet = card.loading_snippet(shape, target)
    scratch: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        scratch.chmod(0o755)
        _save_model(scratch, adapted, shape, target)
        processor.save_pretrained(scratch)
        _describe(scratch, adapted, shape, target, snippet=snippet, facts=facts, warning=warning)
        if target.exists():
            shutil.rmtree(target)
        scratch.rename(target)
    except (OSError, SafetensorError) as error:
        raise RunFolderError(f"Cannot export to {target}: {error}") from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
    return snippet


def kept_by_nodes(adapted: AdaptedModel) -> str:
    """Name what each node keeps for itself, and an export without a node therefore lacks.

    Args:
        adapted: The model.

    Returns:
        "head", "part of the adapter", or both, joined; empty if nodes keep nothing.
    """
    found = dict.fromkeys(
        "head" if tensor.head else "part of the adapter" for tensor in adapted.personal.spec.tensors
    )
    return " and ".join(sorted(found))


def _untrained(adapted: AdaptedModel) -> str:
    """Say what in a folder of no node in particular is as it was before training."""
    if not (kept := kept_by_nodes(adapted)):
        return ""
    zero = "" if adapted.personal.initial.vector.any() else " and is zero"
    return (
        f"Each node kept a {kept} of its own; the {kept} in this folder was never trained{zero}. "
        f"`fedpeft export RUN --node K` writes the model of one node."
    )


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
    if not (
        readme.is_file()
        and "# Fine-tuned with fedpeft" in readme.read_text(encoding="utf-8", errors="replace")
    ):
        raise RunFolderError(
            f"{target} exists and is no export of fedpeft; it is not replaced. Name another folder."
        )


def shape_of(
    adapted: AdaptedModel, processor: Any, form: str, max_length: int, usage: Usage
) -> Shape:
    """Say what an export of a form will hold.

    Args:
        adapted: The model.
        processor: Its tokenizer or image processor.
        form: As for `export`.
        max_length: Tokens, for the snippet.
        usage: How the run's task uses the model.

    Raises:
        RunFolderError: If the method cannot be merged.
    """
    method, backbone = adapted.method, adapted.backbone
    if len(adapted.spec.tensors) + len(adapted.personal.spec.tensors) == _count(adapted):
        form = "merged"  # every weight is trained: there is nothing to put an adapter on
    if form == "merged" and not method.merges:
        raise RunFolderError(
            f"method.name = '{method.name}' cannot be folded into plain weights. Export the "
            f"adapter, or use --self-contained."
        )
    portable = [adapted.adaptation.portable] if form != "merged" else []
    if backbone.pooling != "model":
        portable.append("pooling")
    return Shape(
        kind=backbone.kind,
        form=form,
        peft=isinstance(adapted.model, PeftModel),
        portable=tuple(sorted(name for name in portable if name)),
        pooling=backbone.pooling,
        dtype=str(backbone.model.dtype).removeprefix("torch."),
        max_length=max_length,
        interpolate=backbone.kind == "image-classification"
        and own_size(backbone.model.config) not in (None, image_input(processor).size),
        usage=usage,
        ends=tuple(ends(backbone.model, processor)) if backbone.kind == "causal-lm" else (),
    )


def _count(adapted: AdaptedModel) -> int:
    """Count the model's tensors."""
    return sum(1 for _ in adapted.model.parameters())


@quiet()  # transformers shows a bar for the files that it writes
def _save_model(folder: Path, adapted: AdaptedModel, shape: Shape, target: Path) -> None:
    """Write the weights, and the modules that loading them needs."""
    if shape.kind != "causal-lm":  # pipelines choose between sigmoid and softmax by it
        labels = "multi" if shape.usage.many else "single"
        adapted.backbone.model.config.problem_type = f"{labels}_label_classification"
    for name in shape.portable:
        source = inspect.getsource(import_module(f"fedpeft_app.portable.{name}"))
        (folder / f"{name}.py").write_text(source, encoding="utf-8")
    if shape.form == "merged":
        _save_merged(adapted, folder, shape)
        return
    base = _base(adapted, folder, target, self_contained=shape.form == "self-contained")
    if shape.peft:
        _save_peft(adapted, folder, base)
    else:
        _save_tensors(adapted, folder, base)


def _base(
    adapted: AdaptedModel, folder: Path, target: Path, *, self_contained: bool
) -> dict[str, str | None]:
    """Say where the base model is; copy it into the folder if asked for."""
    located = adapted.backbone.located
    if self_contained:
        _copy_base(adapted, folder / _BASE)
        return {"base_model_name_or_path": str(target / _BASE), "revision": None}
    name = located.name if located.origin == "hub" else str(located.path)
    return {"base_model_name_or_path": name, "revision": located.revision or None}


def _save_peft(adapted: AdaptedModel, folder: Path, base: Mapping[str, str | None]) -> None:
    """Save the adapter as PEFT does, restated where PEFT alone would load something else."""
    adapted.model.save_pretrained(folder, save_embedding_layers=False)
    weights, settings = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    saved = json.loads(settings.read_text(encoding="utf-8"))
    tensors, config = adapted.adaptation.restate(load_file(weights), saved)
    save_file(tensors, weights, metadata={"format": "pt"})
    write_json(settings, {**config, **base})


def _save_tensors(adapted: AdaptedModel, folder: Path, base: Mapping[str, str | None]) -> None:
    """Save what PEFT does not know: tensors by name, and how to put their modules in."""
    save_file(_own_tensors(adapted), folder / _TENSORS, metadata={"format": "pt"})
    adaptation = adapted.adaptation
    settings = {
        "format": "fedpeft-tensors-1",
        "method": adapted.method.name,
        "module": adaptation.portable,
        "layout": dict(adaptation.layout),
        **base,
    }
    write_json(folder / "adapter.json", settings)


def _own_tensors(adapted: AdaptedModel) -> dict[str, Any]:
    """Collect what the base model does not have: the adapter, and the head in any case."""
    parts = (adapted.shared, adapted.personal)
    names = {tensor.name for part in parts for tensor in part.spec.tensors} | adapted.backbone.head
    return {
        name: parameter.detach().float().cpu().contiguous().numpy()
        for name, parameter in adapted.model.named_parameters()
        if name in names
    }


def _save_merged(adapted: AdaptedModel, folder: Path, shape: Shape) -> None:
    """Save a plain model with the adapter folded in; a head of our own lies beside it."""
    model = _merged(adapted.model) if shape.peft else adapted.model
    if not shape.pooled:
        model.save_pretrained(folder)
        return
    head = {
        name: parameter.detach().cpu().numpy()
        for name, parameter in model.named_parameters()
        if name in adapted.backbone.head
    }
    model.body.save_pretrained(folder)
    save_file(head, folder / _TENSORS, metadata={"format": "pt"})


def _merged(model: PeftModel) -> Any:
    """Fold the adapter in, the head too: PEFT's LayerNorm tuning leaves it wrapped."""
    plain = model.merge_and_unload()
    for path, module in list(plain.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):
            parent, _, name = path.rpartition(".")
            setattr(plain.get_submodule(parent), name, module.modules_to_save["default"])
    return plain


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


def _describe(
    folder: Path,
    adapted: AdaptedModel,
    shape: Shape,
    target: Path,
    *,
    snippet: str,
    facts: Mapping[str, Any],
    warning: str,
) -> None:
    """Write labels and model card."""
    config, located = adapted.backbone.model.config, adapted.backbone.located
    labels: list[str] = []
    if shape.kind != "causal-lm":
        labels = [config.id2label[index] for index in range(config.num_labels)]
        write_json(folder / _LABELS, labels)
    text = card.model_card(
        shape,
        base_id="" if located.origin in ("folder", "scratch") else located.name,
        labels=labels,
        snippet=snippet,
        facts=facts,
        moving=_moving(shape, located, target),
        warning=warning,
    )
    write_bytes(folder / _CARD, text.encode())


def _moving(shape: Shape, located: LocatedModel, target: Path) -> str:
    """Say what to change when the folder is used elsewhere."""
    change = "On another machine, or after moving this folder, change `folder` above"
    entry = f"`base_model_name_or_path` in `{shape.settings}`"
    if shape.form == "merged":
        return f"{change}; nothing else: the base model is part of this folder."
    if shape.form == "self-contained":
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
