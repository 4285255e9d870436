"""The model card of an exported folder, and the code that loads it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_PEFT_IMPORTS = """\
from peft import AutoPeftModelForSequenceClassification
from transformers import AutoTokenizer"""
_PLAIN_IMPORTS = "from transformers import AutoModelForSequenceClassification, AutoTokenizer"

_LOADERS = {
    # The base model's config knows nothing of these labels.
    "adapter": """\
labels = json.loads(Path(folder, "labels.json").read_text(encoding="utf-8"))
model = AutoPeftModelForSequenceClassification.from_pretrained(
    folder, num_labels=len(labels), id2label=dict(enumerate(labels)), dtype="{dtype}"
).eval()
""",
    "self-contained": """\
labels = json.loads(Path(folder, "labels.json").read_text(encoding="utf-8"))
model = AutoPeftModelForSequenceClassification.from_pretrained(folder).eval()
""",
    "merged": """\
labels = json.loads(Path(folder, "labels.json").read_text(encoding="utf-8"))
model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
""",
}

_SNIPPET = """\
import json
from pathlib import Path

import torch
{imports}

folder = {folder}
{loader}tokenizer = AutoTokenizer.from_pretrained(folder)
inputs = tokenizer(
    ["some text"], truncation=True, max_length={max_length}, padding=True, return_tensors="pt"
)
with torch.inference_mode():
    best = model(**inputs).logits.argmax(-1)
print([labels[index] for index in best])
"""

_TRAINED = {
    "federated": "Clients sent trained tensors and metrics; their data stayed where it was.",
    "central": "A baseline: all training data lay on one node.",
    "local": "A baseline: the best of several nodes, each trained alone on its own data.",
}


def loading_snippet(form: str, folder: Path, *, max_length: int, dtype: str) -> str:
    """Write Python code that loads an exported folder and classifies a text.

    Args:
        form: "adapter", "self-contained" or "merged".
        folder: The exported folder.
        max_length: Tokens that training kept of each text.
        dtype: Of the frozen weights in training, such as "float32".

    Returns:
        Code that needs torch, transformers and (for the first two forms) peft, and runs as
        it is on the machine that exported.
    """
    return _SNIPPET.format(
        imports=_PLAIN_IMPORTS if form == "merged" else _PEFT_IMPORTS,
        folder=json.dumps(str(folder), ensure_ascii=False),
        loader=_LOADERS[form].format(dtype=dtype),
        max_length=max_length,
    )


def model_card(
    *,
    base_id: str,
    labels: Sequence[str],
    snippet: str,
    facts: Mapping[str, Any],
    peft: bool,
    moving: str,
) -> str:
    """Write the README.md of an exported folder.

    Args:
        base_id: Hub id of the base model; empty where it has none.
        labels: Label names in order.
        snippet: Python code that loads this folder.
        facts: What is known about the run: name → value.
        peft: Whether the folder is a PEFT adapter.
        moving: What must be changed on another machine.

    Returns:
        Markdown with a YAML front matter as the Hugging Face hub reads it.
    """
    known = {**facts, "labels": ", ".join(labels)}
    rows = "\n".join(f"| {_cell(name)} | {_cell(value)} |" for name, value in known.items())
    front = {
        **({"base_model": base_id} if base_id else {}),  # the hub takes ids only, no paths
        "library_name": "peft" if peft else "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["federated-learning", "fedpeft"],
    }
    # JSON values are YAML values, whatever characters a name has.
    matter = "\n".join(f"{key}: {json.dumps(value)}" for key, value in front.items())
    trained = _TRAINED.get(str(facts.get("mode")), "")
    return f"""\
---
{matter}
---

# Fine-tuned with fedpeft

{trained}

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
    return " ".join(str(value).split()).replace("|", "\\|")
