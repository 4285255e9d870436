"""The model card of an exported folder, and the code that loads it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedpeft_app.data.tasks.task import Usage

_AUTO = {  # kind of model → transformers' class, PEFT's class, the hub's name of the task
    "sequence-classification": (
        "AutoModelForSequenceClassification",
        "AutoPeftModelForSequenceClassification",
        "text-classification",
    ),
    "image-classification": (
        "AutoModelForImageClassification",
        "AutoPeftModel",
        "image-classification",
    ),
    "causal-lm": ("AutoModelForCausalLM", "AutoPeftModelForCausalLM", "text-generation"),
}

_USE = {
    "sequence-classification": """\
tokenizer = AutoTokenizer.from_pretrained(folder)
inputs = tokenizer(
    ["some text"], truncation=True, max_length={max_length}, padding=True, return_tensors="pt"
)
""",
    "image-classification": """\
processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
image = Image.new("RGB", (64, 64))  # yours: Image.open("picture.png").convert("RGB")
inputs = processor(image, return_tensors="pt"){interpolate}
""",
    "causal-lm": """\
tokenizer = AutoTokenizer.from_pretrained(folder)
{prompt}
ids = {begin}tokenizer(prompt, add_special_tokens=False)["input_ids"]
inputs = torch.tensor([ids])
with torch.inference_mode():
    written = model.generate(
        input_ids=inputs,
        attention_mask=torch.ones_like(inputs),
        max_new_tokens={max_new_tokens},
        do_sample=False,
        eos_token_id={ends},
    )
print(tokenizer.decode(written[0, len(ids) :], skip_special_tokens=True))
""",
}

_ONE_LABEL = """\
with torch.inference_mode():
    best = model(**inputs).logits.argmax(-1)
print([labels[index] for index in best])
"""

_MANY_LABELS = """\
with torch.inference_mode():
    found = model(**inputs).logits.sigmoid() > 0.5
print([[label for label, has in zip(labels, row) if has] for row in found])
"""

_CHAT = """\
turn = {"role": "user", "content": "some instruction"}
prompt = tokenizer.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)"""

_NEW_HEAD = "# transformers reports a new head: it comes with the adapter"

_TRAINED = {
    "federated": "Clients sent trained tensors and metrics; their data stayed where it was.",
    "private": "Clients sent trained tensors, and no metrics of their data, which stayed where it "
    "was; the table says what that guarantees.",
    "central": "A baseline: all training data lay on one node.",
    "local": "A baseline: the best of several nodes, each trained alone on its own data.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What an exported folder holds, as far as loading it goes.

    Attributes:
        kind: What the model is for: a key of `backbone.load.AUTO_CLASSES`.
        form: "adapter", "self-contained" or "merged".
        peft: Whether the adapter is one that PEFT loads; otherwise it is a file of tensors.
        portable: Modules beside the weights that loading needs ("pooling", "bottleneck").
        pooling: "model", or how the head pools tokens.
        dtype: Of the frozen weights in training, such as "float32".
        max_length: Tokens that training kept of each text.
        interpolate: Whether images come in another size than the model's own.
        usage: How the task uses the model.
        ends: Tokens that end what a language model writes.
    """

    kind: str
    form: str
    peft: bool
    portable: tuple[str, ...] = ()
    pooling: str = "model"
    dtype: str = "float32"
    max_length: int = 64
    interpolate: bool = False
    usage: Usage = field(default_factory=Usage)
    ends: tuple[int, ...] = ()

    @property
    def pooled(self) -> bool:
        """Whether the head is fedpeft's own."""
        return self.pooling != "model"

    @property
    def settings(self) -> str:
        """The file that names the base model."""
        return "adapter_config.json" if self.peft else "adapter.json"


def loading_snippet(shape: Shape, folder: Path) -> str:
    """Write Python code that loads an exported folder and uses it once.

    Args:
        shape: What the folder holds.
        folder: The exported folder.

    Returns:
        Code that needs torch, transformers and, for a PEFT adapter, peft; it runs as it is on
        the machine that exported.
    """
    lines = [f"folder = {json.dumps(str(folder), ensure_ascii=False)}"]
    if shape.portable:
        lines += ["sys.path.insert(0, folder)  # for what lies beside the weights"]
        lines += [_portable_import(name) for name in shape.portable]
    if shape.kind != "causal-lm":
        lines += ['labels = json.loads(Path(folder, "labels.json").read_text(encoding="utf-8"))']
    lines += [*_loading(shape), "model = model.eval()", ""]
    body = "\n".join(lines) + "\n" + _use(shape)
    needed = {"json.": "import json", "sys.": "import sys", "Path(": "from pathlib import Path"}
    standard = [line for use, line in needed.items() if use in body]
    head = [*standard, *([""] if standard else []), "import torch", *_imports(shape), "", ""]
    return "\n".join(head) + body


def _use(shape: Shape) -> str:
    """Use the model once."""
    interpolate = ' | {"interpolate_pos_encoding": True}' if shape.interpolate else ""
    usage = shape.usage
    begin = _USE[shape.kind].format(
        max_length=shape.max_length,
        interpolate=interpolate,
        prompt=_prompt(usage),
        begin="[tokenizer.bos_token_id] + " if usage.begins else "",
        max_new_tokens=usage.max_new_tokens,
        ends=list(shape.ends),
    )
    if shape.kind == "causal-lm":
        return begin
    return begin + (_MANY_LABELS if usage.many else _ONE_LABEL)


def _prompt(usage: Usage) -> str:
    """Write a prompt as training did."""
    if usage.chat:
        return _CHAT
    form = json.dumps(usage.template, ensure_ascii=False)
    return f'prompt = {form}.replace("{{prompt}}", "some text")'


def _imports(shape: Shape) -> list[str]:
    """Import what loading and using the model takes."""
    image = shape.kind == "image-classification"
    reader = "AutoImageProcessor" if image else "AutoTokenizer"
    stock, auto_peft, _ = _AUTO[shape.kind]
    adapter = shape.form != "merged"
    lines = ["from PIL import Image"] if image else []
    if adapter and shape.peft:
        lines += [f"from peft import {'PeftModel' if shape.pooled else auto_peft}"]
    if (adapter and not shape.peft) or (not adapter and shape.pooled):
        lines += ["from safetensors.torch import load_file"]
    needed = {reader}
    if shape.pooled:
        needed |= {"AutoModel"}
    elif not (adapter and shape.peft):
        needed |= {stock}
    return [*lines, f"from transformers import {', '.join(sorted(needed))}"]


def _portable_import(name: str) -> str:
    """Import one of the modules that lie in the folder."""
    if name == "pooling":
        return "from pooling import PooledForSequenceClassification"
    return f"import {name}"


def _loading(shape: Shape) -> list[str]:
    """Load the model."""
    stock, auto_peft, _ = _AUTO[shape.kind]
    labelled = shape.kind != "causal-lm"
    heads = "num_labels=len(labels), id2label=dict(enumerate(labels)), " if labelled else ""
    dtype = f'dtype="{shape.dtype}"'
    if shape.form == "merged":
        return _loading_merged(shape, stock)
    if shape.peft and not shape.pooled:
        arguments = "" if shape.form == "self-contained" else f"\n    folder, {heads}{dtype}\n"
        report = [_NEW_HEAD] if labelled else []
        return [*report, f"model = {auto_peft}.from_pretrained({arguments or 'folder'})"]
    lines = [
        f'settings = json.loads(Path(folder, "{shape.settings}").read_text(encoding="utf-8"))',
        'base = settings["base_model_name_or_path"]',
    ]
    if shape.pooled:
        lines += [
            f"body = AutoModel.from_pretrained(base, {dtype})",
            f'model = PooledForSequenceClassification(body, len(labels), "{shape.pooling}")',
        ]
    else:
        ignore = "ignore_mismatched_sizes=True, " if labelled else ""
        lines += [_NEW_HEAD] if labelled else []
        lines += [f"model = {stock}.from_pretrained(\n    base, {heads}{ignore}{dtype}\n)"]
    if shape.peft:
        return [*lines, "model = PeftModel.from_pretrained(model, folder)"]
    own = [name for name in shape.portable if name != "pooling"]
    lines += [f'{name}.attach(model, **settings["layout"])' for name in own]
    return [*lines, *_TENSORS]


_TENSORS = [
    'trained = load_file(f"{folder}/adapter.safetensors")',
    "assert not model.load_state_dict(trained, strict=False).unexpected_keys",
]


def _loading_merged(shape: Shape, stock: str) -> list[str]:
    """Load a model with the adapter folded in."""
    if not shape.pooled:
        return [f"model = {stock}.from_pretrained(folder)"]
    return [
        "body = AutoModel.from_pretrained(folder)",
        f'model = PooledForSequenceClassification(body, len(labels), "{shape.pooling}")',
        *_TENSORS,
    ]


def model_card(
    shape: Shape,
    *,
    base_id: str,
    labels: Sequence[str],
    snippet: str,
    facts: Mapping[str, Any],
    moving: str,
    warning: str = "",
) -> str:
    """Write the README.md of an exported folder.

    Args:
        shape: What the folder holds.
        base_id: Hub id of the base model; empty where it has none.
        labels: Label names in order; empty for language models.
        snippet: Python code that loads this folder.
        facts: What is known about the run: name → value.
        moving: What must be changed on another machine.
        warning: What a user must know before using it; empty = nothing.

    Returns:
        Markdown with a YAML front matter as the Hugging Face hub reads it.
    """
    known = {**facts, **({"labels": ", ".join(labels)} if labels else {})}
    rows = "\n".join(f"| {_cell(name)} | {_cell(value)} |" for name, value in known.items())
    front = {
        **({"base_model": base_id} if base_id else {}),  # the hub takes ids only, no paths
        "library_name": "peft" if shape.peft and shape.form != "merged" else "transformers",
        "pipeline_tag": _AUTO[shape.kind][2],
        "tags": ["federated-learning", "fedpeft"],
    }
    # JSON values are YAML values, whatever characters a name has.
    matter = "\n".join(f"{key}: {json.dumps(value)}" for key, value in front.items())
    private = "privacy" in facts and facts.get("mode") == "federated"
    trained = _TRAINED.get("private" if private else str(facts.get("mode")), "")
    return f"""\
---
{matter}
---

# Fine-tuned with fedpeft

{trained}{f" **{warning}**" if warning else ""}

| | |
|---|---|
{rows}

## Load it

```python
{snippet}```

{moving}
"""


def _cell(value: object) -> str:
    """Keep a value within one cell of a Markdown table."""
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return " ".join(text.split()).replace("|", "\\|")
