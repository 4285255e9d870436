"""Every method's export, loaded by the code of its own README alone, computes the same."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from fedpeft_app.adapters import AdapterState
from fedpeft_app.backbone.load import load_model
from fedpeft_app.backbone.locate import locate
from fedpeft_app.backbone.processor import load_processor
from fedpeft_app.data.tasks.causal_lm import CausalLM
from fedpeft_app.data.tasks.task import Usage
from fedpeft_app.errors import BackboneError
from fedpeft_app.methods.adapted import AdaptedModel, adapt
from fedpeft_app.methods.catalogue import METHODS, find_method
from fedpeft_app.methods.method import MethodSettings
from fedpeft_app.runs.export import export, kept_by_nodes, shape_of

LABELS = ("crude", "grain", "money")
TEXT, IMAGE, WRITER = "sequence-classification", "image-classification", "causal-lm"
OPTIONS: dict[str, dict[str, Any]] = {"vera": {"r": 8}}
POOLED = ("lora", "pissa", "bias", "bottleneck", "head", "full", "prefix", "prompt", "p-tuning")

_STRANGER = """
import json, sys
sys.modules["fedpeft_app"] = None
import numpy, torch

found = {}
for name, (code, inputs) in json.load(open(sys.argv[1])).items():
    for beside in ("bottleneck", "pooling", "visual_prompts"):
        sys.modules.pop(beside, None)  # each folder brings its own
    path, scope = list(sys.path), {}
    exec(code, scope)
    sys.path[:] = path
    given = {key: torch.tensor(value) for key, value in inputs.items()}
    with torch.inference_mode():
        found[name] = scope["model"](**given).logits.float().numpy()
numpy.savez(sys.argv[2], **found)
"""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One export.

    Attributes:
        animal: The model.
        method: The method.
        form: The form.
        pooling: Of the head.
        head: Its policy.
    """

    animal: str
    method: str
    form: str = "adapter"
    pooling: str = "model"
    head: str = "train"

    def __str__(self) -> str:
        return f"{self.animal}-{self.method}-{self.form}-{self.pooling}-{self.head}"


def cases() -> Iterator[Case]:
    """Every method on every model, and further forms, heads and policies of some."""
    for animal in ("bert", "vit", "gpt2", "llama"):
        for method in METHODS.names():
            yield Case(animal=animal, method=method)
            if find_method(method).merges:
                yield Case(animal=animal, method=method, form="merged")
    for animal in ("bert", "vit"):
        for method in POOLED:
            yield Case(animal=animal, method=method, pooling="mean")
        for form in ("self-contained", "merged"):
            yield Case(animal=animal, method="lora", form=form, pooling="cls")
        for method in ("lora", "bottleneck", "bias"):
            yield Case(animal=animal, method=method, form="self-contained")
            yield Case(animal=animal, method=method, head="frozen")


CASES = list(cases())


@dataclass(frozen=True, kw_only=True)
class Computed:
    """What was found out about a case.

    Attributes:
        own: Logits that fedpeft computes.
        stranger: Logits that the exported folder's code computes.
        start: Logits before the adapter was changed.
    """

    own: np.ndarray
    stranger: np.ndarray
    start: np.ndarray


@pytest.fixture(scope="module")
def folders(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_vit: Path, tiny_llama: Path
) -> dict[str, tuple[Path, str]]:
    """The models: folder and kind."""
    gpt2 = tmp_path_factory.mktemp("gpt2")
    config = transformers.GPT2Config(
        vocab_size=80,
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.GPT2LMHeadModel(config).save_pretrained(gpt2)
    transformers.AutoTokenizer.from_pretrained(tiny_model).save_pretrained(gpt2)
    return {
        "bert": (tiny_model, TEXT),
        "vit": (tiny_vit, IMAGE),
        "gpt2": (gpt2, TEXT),
        "llama": (tiny_llama, WRITER),
    }


def make(case: Case, folder: Path, kind: str) -> AdaptedModel:
    """Adapt a freshly loaded model."""
    backbone = load_model(locate(str(folder)), kind=kind, labels=LABELS, pooling=case.pooling)
    settings = MethodSettings(rank=2, prompt_length=3, options=OPTIONS.get(case.method, {}))
    return adapt(backbone, find_method(case.method), settings, seed=0, head=case.head)


def inputs_of(model: Any, kind: str) -> dict[str, Any]:
    """Make a batch of two."""
    if kind == IMAGE:
        size = model.config.image_size
        pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
        return {"pixel_values": pixels.tolist()}
    ids, mask = [[5, 6, 7, 8], [9, 10, 0, 0]], [[1, 1, 1, 1], [1, 1, 0, 0]]
    return {"input_ids": ids, "attention_mask": mask}


def logits(model: Any, inputs: dict[str, Any]) -> np.ndarray:
    """Run a model."""
    model.eval()
    with torch.inference_mode():
        found = model(**{key: torch.tensor(value) for key, value in inputs.items()}).logits
    array: np.ndarray = found.float().numpy()
    return array


@pytest.fixture(scope="module")
def computed(
    folders: dict[str, tuple[Path, str]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Computed | str]:
    """Case → what was found out, or why the method was refused."""
    home = tmp_path_factory.mktemp("exports")
    found: dict[str, Any] = {}
    job, own = {}, {}
    for case in CASES:
        folder, kind = folders[case.animal]
        try:
            adapted = make(case, folder, kind)
        except BackboneError as error:
            found[str(case)] = str(error)
            continue
        inputs = inputs_of(adapted.backbone.model, kind)
        start = logits(adapted.model, inputs)
        changed, kept = perturbed(adapted.initial), perturbed(adapted.personal.initial)
        adapted.pour(changed)
        adapted.personal.pour(kept)
        own[str(case)] = (logits(adapted.model, inputs), start)
        processor = load_processor(locate(str(folder)), kind)
        code = export(
            adapted,
            changed,
            processor,
            home / str(case),
            form=case.form,
            max_length=8,
            usage=Usage(),
            facts={},
            personal=kept,
        )
        job[str(case)] = (code, inputs)
    (home / "job.json").write_text(json.dumps(job), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _STRANGER, "job.json", "found.npz"],
        cwd=home,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(home / "found.npz") as arrays:
        for name, (after, before) in own.items():
            found[name] = Computed(own=after, stranger=arrays[name], start=before)
    return found


def perturbed(initial: AdapterState) -> AdapterState:
    """Stand in for training, and for a server: move every value a little."""
    noise = np.random.default_rng(0).normal(scale=0.05, size=initial.spec.size)
    vector = (initial.vector + noise).astype(np.float32)
    return AdapterState(spec=initial.spec, vector=vector)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_readme_loads_what_was_trained(case: Case, computed: dict[str, Any]) -> None:
    found = computed[str(case)]
    if isinstance(found, str):
        assert case.method in found.lower()  # refused by name; docs/methods.md has the reasons
        return
    assert np.abs(found.own - found.start).max() > 1e-4  # the change shows
    np.testing.assert_allclose(found.stranger, found.own, rtol=0, atol=1e-4)


def test_refusals_are_the_exception(computed: dict[str, Any]) -> None:
    refused = [name for name, found in computed.items() if isinstance(found, str)]
    assert len(refused) < len(CASES) / 4


@pytest.mark.parametrize(
    ("method", "head", "kept"),
    [
        ("lora", "train", ""),
        ("lora", "personal", "head"),
        ("lora-sa", "train", "part of the adapter"),
        ("lora-sa", "personal", "head and part of the adapter"),
    ],
)
def test_a_folder_of_no_node_says_what_was_never_trained(
    folders: dict[str, tuple[Path, str]], tmp_path: Path, method: str, head: str, kept: str
) -> None:
    folder, task = folders["bert"]
    adapted = make(Case(animal="bert", method=method, head=head), folder, task)
    assert kept_by_nodes(adapted) == kept
    for node, personal in ((False, None), (True, perturbed(adapted.personal.initial))):
        export(
            adapted,
            adapted.initial,
            load_processor(locate(str(folder)), task),
            tmp_path / "out",
            form="adapter",
            max_length=8,
            usage=Usage(),
            facts={},
            personal=personal,
        )
        readme = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
        said = f"Each node kept a {kept} of its own; the {kept} in this folder was never trained"
        assert (said in readme) == (bool(kept) and not node)
        assert ("and is zero" in readme) == (kept == "part of the adapter" and not node)


def test_what_cannot_be_merged_says_so(folders: dict[str, tuple[Path, str]]) -> None:
    from fedpeft_app.errors import RunFolderError

    adapted = make(Case(animal="bert", method="bottleneck"), *folders["bert"])
    with pytest.raises(RunFolderError, match="'bottleneck' cannot be folded into plain weights"):
        shape_of(adapted, None, "merged", 8, Usage())


_CHAT = (
    "{% for turn in messages %}user: {{ turn['content'] + ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "options", "given"),
    [
        ("", {}, "some text"),
        ("", {"template": 'the "topic"\nof {prompt}\n', "max_new_tokens": 3}, "some text"),
        ("", {"form": "text"}, "some text"),
        (_CHAT, {}, "some instruction"),
        (_CHAT, {"form": "text"}, "some text"),
    ],
)
def test_the_readme_writes_what_predict_writes(
    tiny_llama: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    template: str,
    options: dict[str, Any],
    given: str,
) -> None:
    adapted = make(Case(animal="llama", method="lora"), tiny_llama, WRITER)
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(tiny_llama))
    tokenizer.chat_template = template or None
    task = CausalLM(**options).bind(tokenizer)
    changed = perturbed(adapted.initial)
    adapted.pour(changed)
    expected = task.predict(adapted.model.eval(), [given], 1)[0].answer
    capfd.readouterr()
    code = export(
        adapted,
        changed,
        tokenizer,
        tmp_path / "out",
        form="merged",
        max_length=8,
        usage=task.usage,
        facts={},
    )
    assert capfd.readouterr().err == ""  # no bars
    exec(code, {})
    assert expected
    assert capfd.readouterr().out == f"{expected}\n"


@pytest.mark.parametrize("form", ["merged", "self-contained"])
@pytest.mark.parametrize(("many", "kind"), [(False, "single"), (True, "multi")])
def test_the_models_config_knows_how_many_labels_an_example_has(
    folders: dict[str, tuple[Path, str]], tmp_path: Path, form: str, kind: str, *, many: bool
) -> None:
    folder, task = folders["bert"]
    adapted = make(Case(animal="bert", method="lora"), folder, task)
    export(
        adapted,
        adapted.initial,
        load_processor(locate(str(folder)), task),
        tmp_path / "out",
        form=form,
        max_length=8,
        usage=Usage(many=many),
        facts={},
    )
    path = tmp_path / "out" / ("base" if form == "self-contained" else "") / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    assert config["problem_type"] == f"{kind}_label_classification"
