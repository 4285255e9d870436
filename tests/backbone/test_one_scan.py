"""The models of transformers are looked through once, and all of them are still found."""

import subprocess
import sys

_COUNTED = """
import io, sys
opened = []
sys.addaudithook(lambda event, about: opened.append(str(about[0])) if event == "open" else None)
from fedpeft_app.backbone.one_scan import scan_models_once
SCAN
from transformers import BertConfig, models
from transformers.models.llama import modeling_llama
assert BertConfig().model_type == "bert"
names = sorted(dir(models))
read = sum(path.endswith("/transformers/models/bert/modeling_bert.py") for path in opened)
print(read, len(names))
"""


def looked_through(call: str) -> tuple[int, int]:
    """Import models in a process; give how often a model's source is read, and what is offered."""
    code = _COUNTED.replace("SCAN", call)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    read, offered = map(int, done.stdout.split())
    return read, offered


def test_models_are_looked_through_once_and_none_is_lost() -> None:
    usual, once = looked_through(""), looked_through("scan_models_once(); scan_models_once()")
    assert once[1] == usual[1] > 1000
    assert once[0] < usual[0]
