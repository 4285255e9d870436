"""Fixtures: a tiny BERT with a tokenizer, a tiny text data set, an in-process grid."""

import itertools
import json
import os
import signal
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # tiny models: threads only get in each other's way

import numpy as np
import pytest
from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import settings
from tiny_bert import TOPICS, WORDS, save_tiny_bert

from fedpeft_app import client_app
from fedpeft_app.adapters import AdapterSpec, AdapterState, TensorSpec

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in jobs that a shell put behind
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("fedpeft", deadline=None)  # machines under load are slow, not wrong
settings.load_profile("fedpeft")

LABELS = ("crude", "grain", "money")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer BERT of 32 hidden units with a word-level tokenizer, weights and all."""
    folder = tmp_path_factory.mktemp("tiny-model")
    save_tiny_bert(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer ViT of 32 hidden units for images of 16 x 16 pixels, weights and all."""
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("tiny-vit")
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=16,
        patch_size=4,
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.ViTModel(config).save_pretrained(folder)
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Llama of 32 hidden units with a word-level tokenizer, no chat template."""
    import tokenizers
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("tiny-llama")
    words = ("<pad>", "<unk>", "<s>", "</s>", "user:", "assistant:", "name", "the", "topic", *WORDS)
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    marks = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks).save_pretrained(
        folder
    )
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.1,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def make_texts(count: int, seed: int) -> tuple[list[str], list[str]]:
    """Make texts of which a label's own words give the label away."""
    generator = np.random.default_rng(seed)
    labels = [LABELS[index % len(LABELS)] for index in range(count)]
    texts = [
        " ".join(generator.choice(TOPICS[label], size=int(generator.integers(3, 12))))
        for label in labels
    ]
    return texts, labels


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.csv (120 rows) and test.csv (60 rows), three labels."""
    folder = tmp_path_factory.mktemp("tiny-data")
    for split, count, seed in (("train", 120, 0), ("test", 60, 1)):
        rows = "\n".join(
            f"{text},{label}" for text, label in zip(*make_texts(count, seed), strict=True)
        )
        (folder / f"{split}.csv").write_text(f"text,label\n{rows}\n", encoding="utf-8")
    return folder


@pytest.fixture(autouse=True, scope="session")
def task_identity() -> None:
    """Give this process the identity that Flower gives its app processes."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep every test's cache and runs to itself."""
    home = tmp_path / "home"
    monkeypatch.setenv("FEDPEFT_HOME", str(home))
    return home


@pytest.fixture
def tiny_settings(tiny_model: Path, tiny_data: Path) -> dict[str, Any]:
    """Flat settings of a run that takes a second or two."""
    return short_run(tiny_model, tiny_data)


def short_run(model: Path, data: Path) -> dict[str, Any]:
    """Give `tiny_settings` to fixtures of a wider scope."""
    return {
        "rounds": 2,
        "model.name": str(model),
        "method.rank": 2,
        "data.name": str(data),
        "data.max-length": 16,
        "data.partitioner": "iid",
        "data.min-examples": 2,
        "train.learning-rate": 1e-2,
        "train.head-learning-rate": 5e-2,
        "train.batch-size": 8,
        "train.precision": "fp32",
        "strategy.fraction-train": 0.5,
    }


class LocalGrid(Grid):
    """A grid whose nodes run in this process: real ClientApp, real messages, no transport.

    Attributes:
        broken: Place of a node (in a simulation its partition) → exception that it raises on
            every train message.
        tampered: Place → function that alters its train replies.
        sent, received: Every message, in order.
    """

    def __init__(
        self,
        nodes: int,
        run_config: dict[str, Any],
        node_configs: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        from fedpeft_app.config import defaults

        self._config = {**defaults(), **run_config}
        simulated = [{"partition-id": node, "num-partitions": nodes} for node in range(nodes)]
        self._contexts = {
            1000 + 7 * partition: Context(
                run_id=1,
                node_id=1000 + 7 * partition,
                node_config=dict(own),
                state=RecordDict(),
                run_config=self._config,
            )
            for partition, own in enumerate(node_configs or simulated)
        }
        self._replies: dict[str, Message] = {}
        self._ids = itertools.count()
        self.broken: dict[int, Exception] = {}
        self.tampered: dict[int, Any] = {}
        self.sent: list[Message] = []
        self.received: list[Message] = []

    def get_node_ids(self) -> Iterable[int]:
        return list(reversed(self._contexts))

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return [self._push(message) for message in messages]

    def _push(self, message: Message) -> str:
        identifier = f"message-{next(self._ids)}"
        message.metadata.__dict__["_message_id"] = identifier
        self.sent.append(message)
        context = self._contexts[message.metadata.dst_node_id]
        partition = list(self._contexts).index(message.metadata.dst_node_id)
        training = message.metadata.message_type == "train"
        try:
            if training and partition in self.broken:
                raise self.broken[partition]
            reply = client_app.app(message, context)
            if training and partition in self.tampered:
                reply = self.tampered[partition](message, reply)
        except Exception as error:
            reply = Message(Error(code=0, reason=f"{error}"), reply_to=message)
        self._replies[identifier] = reply
        return identifier

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        found = [self._replies.pop(name) for name in message_ids if name in self._replies]
        self.received += found
        return found

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return self.pull_messages(self.push_messages(messages))

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError


@pytest.fixture
def spec() -> AdapterSpec:
    """A spec of three tensors, seven values, one of them a head."""
    return AdapterSpec(
        method="lora",
        backbone="0123456789abcdef",
        tensors=(
            TensorSpec(name="layer.lora_A", shape=(1, 2)),
            TensorSpec(name="layer.lora_B", shape=(2, 1)),
            TensorSpec(name="head.weight", shape=(3,), head=True),
        ),
        ranks={"layer": 1},
        scaling=2.0,
    )


@pytest.fixture
def state(spec: AdapterSpec) -> AdapterState:
    """The values 0 … 6."""
    return AdapterState(spec=spec, vector=np.arange(7, dtype=np.float32))


def read_events(journal: Path) -> list[dict[str, Any]]:
    """Read a journal."""
    return [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
