"""The model card and the loading snippets of an exported adapter."""

from collections.abc import Mapping, Sequence
from typing import Any

SNIPPET = """\
import json
from peft import AutoPeftModelForSequenceClassification
from transformers import AutoTokenizer

folder = "{folder}"
labels = json.load(open(f"{{folder}}/labels.json"))
model = AutoPeftModelForSequenceClassification.from_pretrained(
    folder, num_labels=len(labels), id2label=dict(enumerate(labels))
).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
inputs = tokenizer(["some text"], truncation=True, max_length={max_length}, padding=True, return_tensors="pt")
print(labels[model(**inputs).logits.argmax(-1).item()])
"""

SELF_CONTAINED = """\
from peft import AutoPeftModelForSequenceClassification

model = AutoPeftModelForSequenceClassification.from_pretrained("{folder}")
"""

MERGED = """\
from transformers import AutoModelForSequenceClassification

model = AutoModelForSequenceClassification.from_pretrained("{folder}")
"""


def model_card(
    *, base: str, labels: Sequence[str], snippet: str, facts: Mapping[str, Any], peft: bool
) -> str:
    """Write the README.md of an exported adapter.

    Args:
        base: Name of the base model.
        labels: Label names in order.
        snippet: Python code that loads this folder.
        facts: What is known about the run: name → value.
        peft: Whether the folder is a PEFT adapter.
    """
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    library = "peft" if peft else "transformers"
    return f"""\
---
base_model: {base}
library_name: {library}
pipeline_tag: text-classification
tags: [federated-learning, fedpeft]
---

# Fine-tuned by federated learning with fedpeft

Only adapter tensors left the clients; their data did not.

| | |
|---|---|
{rows}
| labels | {", ".join(labels)} |

## Load it

```python
{snippet}```
"""
