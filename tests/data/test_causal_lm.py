"""Causal language modelling: what is learnt, the shifted loss, metrics; by hand and decoded."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers

from fedpeft_app.data.columns import Columns
from fedpeft_app.data.encoded import example_set
from fedpeft_app.data.read import read
from fedpeft_app.data.sources import find_source
from fedpeft_app.data.tasks.catalogue import TASKS
from fedpeft_app.data.tasks.causal_lm import CausalLM
from fedpeft_app.errors import DataError

CHAT = (
    "{% for turn in messages %}{{ turn['role'] + ': ' + turn['content'] + ' ' }}"
    "{% if turn['role'] == 'assistant' %}{{ eos_token + ' ' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
# Like Qwen3: only the last answer is written with what the model thought.
FORGETFUL = (
    "{% for turn in messages %}{{ turn['role'] + ': ' }}{% if loop.last and "
    "turn['role'] == 'assistant' %}{{ 'bank ' }}{% endif %}{{ turn['content'] + ' ' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
TALK = [
    {"role": "user", "content": "wheat"},
    {"role": "assistant", "content": "grain"},
    {"role": "user", "content": "oil"},
    {"role": "assistant", "content": "crude"},
]


@pytest.fixture
def tokenizer(tiny_llama: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(str(tiny_llama))


@pytest.fixture
def chatting(tokenizer: Any) -> Any:
    tokenizer.chat_template = CHAT
    return tokenizer


@pytest.fixture
def model(tiny_llama: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(str(tiny_llama)).eval()


def written(task: CausalLM, tokenizer: Any, example: Any) -> str:
    """Write a row out, what is learnt in brackets."""
    (row,) = task.bind(tokenizer).encode([example])
    words = tokenizer.convert_ids_to_tokens([int(~token if token < 0 else token) for token in row])
    return " ".join(
        word if token < 0 else f"[{word}]" for word, token in zip(words, row, strict=True)
    )


def test_the_catalogue_knows_it() -> None:
    assert TASKS.get("causal-lm") is CausalLM


def test_of_an_instruction_the_answer_and_its_end_are_learnt(tokenizer: Any) -> None:
    found = written(CausalLM(), tokenizer, ("wheat corn", "grain"))
    assert found == "<s> wheat corn [grain] [</s>]"
    template = CausalLM(template="user: {prompt} assistant: ")
    found = written(template, tokenizer, ("wheat {corn}", "grain"))
    assert found == "<s> user: wheat <unk> assistant: [grain] [</s>]"


def test_of_a_text_everything_is_learnt(tokenizer: Any) -> None:
    assert written(CausalLM(), tokenizer, "wheat corn") == "<s> [wheat] [corn] [</s>]"


def test_of_a_conversation_every_answer_is_learnt(chatting: Any) -> None:
    assert written(CausalLM(), chatting, TALK) == (
        "user: wheat assistant: [grain] [</s>] user: oil assistant: [crude] [</s>]"
    )
    assert written(CausalLM(turns="last"), chatting, TALK) == (
        "user: wheat assistant: grain </s> user: oil assistant: [crude] [</s>]"
    )


def test_an_instruction_is_written_by_the_chat_template_where_there_is_one(chatting: Any) -> None:
    found = written(CausalLM(), chatting, ("wheat", "grain"))
    assert found == "user: wheat assistant: [grain] [</s>]"


def test_a_template_that_rewrites_earlier_turns_needs_the_last_one_only(tokenizer: Any) -> None:
    tokenizer.chat_template = FORGETFUL
    with pytest.raises(DataError, match="earlier turns otherwise.*turns.*last"):
        written(CausalLM(), tokenizer, TALK)
    assert written(CausalLM(turns="last"), tokenizer, TALK) == (
        "user: wheat assistant: grain user: oil assistant: [bank] [crude]"
    )


def test_conversations_need_a_template_and_an_answer(tokenizer: Any) -> None:
    with pytest.raises(DataError, match="no chat template"):
        written(CausalLM(), tokenizer, TALK)
    tokenizer.chat_template = CHAT
    with pytest.raises(DataError, match="no message whose role is 'assistant'"):
        written(CausalLM(), tokenizer, TALK[:1])
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(DataError, match="refuses it: roles must alternate"):
        written(CausalLM(), tokenizer, TALK)


def test_an_answer_is_learnt_to_its_end_or_not_at_all(tokenizer: Any) -> None:
    task = CausalLM().bind(tokenizer, max_length=5)
    whole, cut = ("wheat corn", "grain"), ("wheat corn", "grain money")  # 5 and 6 tokens
    rows = list(task.encode([whole, cut, ("wheat corn oil bank", "grain")]))
    assert [None if row is None else len(row) for row in rows] == [5, None, None]


def test_a_conversation_is_learnt_to_its_end_or_not_at_all(chatting: Any) -> None:
    lengths = {}
    for most in (9, 10):  # the tokens of both turns are 10
        (row,) = CausalLM().bind(chatting, max_length=most).encode([TALK])
        lengths[most] = None if row is None else len(row)
    assert lengths == {9: None, 10: 10}


def test_a_text_is_cut_for_it_goes_on(tokenizer: Any) -> None:
    (row,) = CausalLM(form="text").bind(tokenizer, max_length=3).encode(["wheat corn oil"])
    assert row is not None
    assert tokenizer.decode([token if token >= 0 else ~token for token in row]) == "<s> wheat corn"


def test_a_first_token_that_nothing_precedes_is_not_learnt(tokenizer: Any) -> None:
    rows = [
        next(iter(CausalLM().bind(_Bare(tokenizer), max_length=length).encode(["wheat corn"])))
        for length in (1, 2)
    ]
    assert rows[0] is None
    assert rows[1] is not None


class _Bare:
    """A tokenizer whose texts do not begin with a token of their own, as GPT-2's."""

    bos_token_id, eos_token_id, pad_token_id, chat_template = None, 3, None, None

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __call__(self, text: str, *, add_special_tokens: bool = False) -> Any:
        return self._inner(text, add_special_tokens=False)


def test_a_tokenizer_without_an_end_is_refused(tokenizer: Any) -> None:
    tokenizer.eos_token = None
    with pytest.raises(DataError, match="end-of-text token"):
        written(CausalLM(), tokenizer, "wheat")


def test_collate_unmarks_context_and_hides_it_from_the_loss(tokenizer: Any) -> None:
    task = CausalLM().bind(tokenizer)
    examples = example_set([[~2, ~9, 10, 3], [~2, 11]])
    batch = task.collate(examples, np.array([1, 0]))
    assert batch["input_ids"].tolist() == [[2, 11, 0, 0], [2, 9, 10, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert batch["labels"].tolist() == [[-100, 11, -100, -100], [-100, -100, 10, 3]]


def test_collate_pads_to_a_multiple_but_not_beyond_the_longest_there_can_be(
    tokenizer: Any,
) -> None:
    task = CausalLM().bind(tokenizer, max_length=5)
    batch = task.collate(example_set([[~2, 10, 3]]), np.array([0]), multiple=4)
    assert batch["labels"].tolist() == [[-100, 10, 3, -100]]
    batch = task.collate(example_set([[~2, 10, 3]]), np.array([0]), multiple=8)
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0]]


class Constant:
    """A model of two words that gives word 1 a logit of ln 3, whatever comes before."""

    def __init__(self, virtual: int = 0) -> None:
        self._virtual = virtual  # soft prompts put positions in front

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        rows, width = input_ids.shape
        logits = torch.zeros(rows, self._virtual + width, 2, dtype=torch.bfloat16)
        logits[:, :, 1] = math.log(3)
        return SimpleNamespace(logits=logits)


@pytest.mark.parametrize("virtual", [0, 5])
def test_loss_and_outputs_by_hand(virtual: int) -> None:
    task = CausalLM()
    examples = example_set([[~0, 1, 1, 0], [~0, ~0, 1]])
    batch = task.collate(examples, np.array([0, 1]))
    unlikely, likely = math.log(4), math.log(4 / 3)  # 1/4 and 3/4
    loss = task.loss(Constant(virtual), batch)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx((3 * likely + unlikely) / 4, rel=5e-3)
    losses = task.losses(Constant(virtual), batch)
    assert losses.dtype == torch.float32
    assert losses.tolist() == pytest.approx([(2 * likely + unlikely) / 3, likely], rel=5e-3)
    outputs = task.outputs(Constant(virtual), batch).numpy()
    assert outputs[:, 0] == pytest.approx([2 * likely + unlikely, likely], rel=5e-3)
    assert outputs[:, 1:].tolist() == [[3, 2, 0], [1, 1, 1]]


def test_metrics_are_per_token_and_exact_match_per_example() -> None:
    outputs = np.array([[3.0, 3, 2, 0], [1.0, 1, 1, 1]], np.float32)
    task = CausalLM()
    metrics = task.metrics(outputs, np.zeros(2, np.int64))
    assert metrics == {
        "loss": 1.0,
        "perplexity": pytest.approx(math.e),
        "accuracy": 3 / 4,
        "exact-match": 1 / 2,
    }
    assert set(metrics) == set(task.metric_names)


def test_a_hopeless_loss_overflows_nothing() -> None:
    metrics = CausalLM().metrics(np.array([[1e6, 1, 0, 0]], np.float32), np.zeros(1, np.int64))
    assert math.isfinite(metrics["perplexity"])


def test_the_loss_is_what_transformers_computes(model: Any, tokenizer: Any) -> None:
    task = CausalLM().bind(tokenizer)
    rows = list(task.encode([("wheat corn oil", "grain money"), ("rate", "bank")]))
    batch = task.collate(example_set(rows), np.array([0, 1]))
    expected = model(**batch).loss
    torch.testing.assert_close(task.loss(model, batch), expected)
    outputs = task.outputs(model, batch)
    torch.testing.assert_close(outputs[:, 0].sum() / outputs[:, 1].sum(), expected)


def test_padding_changes_no_output(model: Any, tokenizer: Any) -> None:
    task = CausalLM().bind(tokenizer)
    rows = list(task.encode([("wheat corn oil", "grain money"), ("rate", "bank")]))
    together = task.outputs(model, task.collate(example_set(rows), np.array([0, 1])))
    alone = task.outputs(model, task.collate(example_set(rows), np.array([1])))
    torch.testing.assert_close(together[1:], alone, rtol=1e-5, atol=1e-5)


def test_an_examples_own_loss_does_not_depend_on_how_long_the_others_are(
    model: Any, tokenizer: Any
) -> None:
    task = CausalLM().bind(tokenizer)
    rows = list(task.encode([("wheat corn oil", "grain money"), ("rate", "bank")]))
    alone, among, share = (
        call(model, task.collate(example_set(rows), np.array(positions)))
        for call, positions in ((task.losses, [1]), (task.losses, [0, 1]), (task.loss, [0, 1]))
    )
    torch.testing.assert_close(among[1:], alone)
    assert abs(among.mean() - share) > 1e-3  # the mean over tokens is another: it weighs lengths


def test_exact_match_is_what_greedy_decoding_reproduces(model: Any, tokenizer: Any) -> None:
    task = CausalLM(max_new_tokens=4).bind(tokenizer)
    exact = {}
    for instruction in ("wheat corn", "oil", "bank rate money"):
        start = task.collate(
            example_set([[2, *tokenizer(instruction, add_special_tokens=False)["input_ids"], 9]]),
            np.array([0]),
        )["input_ids"][:, :-1]
        greedy = model.generate(
            start, attention_mask=torch.ones_like(start), max_new_tokens=4, do_sample=False
        )[0, start.shape[1] :].tolist()
        for answer in (greedy, [*greedy[:-1], (greedy[-1] + 1) % 18]):
            row = [*(~token for token in start[0].tolist()), *answer]
            outputs = task.outputs(model, task.collate(example_set([row]), np.array([0])))
            exact[instruction, tuple(answer)] = (bool(outputs[0, 3]), answer == greedy)
    assert all(found == expected for found, expected in exact.values())


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks for it
@pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning")  # soft prompts
@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "PREFIX_TUNING", "LORA"])
def test_soft_prompts_in_front_do_not_shift_the_loss(model: Any, tokenizer: Any, kind: str) -> None:
    settings = {"peft_type": kind, "task_type": "CAUSAL_LM"}
    extra = {"r": 2} if kind == "LORA" else {"num_virtual_tokens": 3}
    config = peft.get_peft_config({**settings, **extra})
    wrapped = peft.get_peft_model(model, config)
    task = CausalLM(max_new_tokens=3).bind(tokenizer)
    rows = list(task.encode([("wheat corn oil", "grain money"), ("rate", "bank")]))
    batch = task.collate(example_set(rows), np.array([0, 1]))
    task.loss(wrapped, batch).backward()
    assert task.outputs(wrapped.eval(), batch)[:, 1].tolist() == [3, 2]
    (found,) = task.predict(wrapped, ["wheat corn"], batch_size=1)
    assert len(found.answer.split()) <= 3


def test_an_answer_follows_the_form_that_was_learnt(model: Any, chatting: Any) -> None:
    seen = []

    class Spy:
        generation_config = model.generation_config
        parameters = model.parameters

        def generate(self, input_ids: torch.Tensor, **settings: Any) -> torch.Tensor:
            seen.append((chatting.decode(input_ids[0]), settings["eos_token_id"]))
            return torch.cat([input_ids, torch.tensor([[11, 3]])], dim=1)

    for task in (CausalLM(), CausalLM(form="text")):
        (found,) = task.bind(chatting).predict(Spy(), ["wheat"], batch_size=1)
        assert (found.answer, found.probability) == (chatting.decode([11]), None)
    assert seen == [("user: wheat assistant:", [3]), ("<s> wheat", [3])]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"template": "{}"}, r"template must hold \{prompt\}"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        CausalLM(**options)


def test_a_form_asks_for_its_columns_only() -> None:
    assert CausalLM(form="text").reads.inputs == (("text",),)
    assert CausalLM().reads.inputs == (("messages",), ("prompt", "response"))


def test_plain_texts_must_be_asked_for(tmp_path: Path) -> None:
    """A form that only data tell would be unknown to whoever uses the model without them."""
    (tmp_path / "texts.csv").write_text("text\nwheat and corn\nmore wheat\n", encoding="utf-8")
    source = find_source(str(tmp_path / "texts.csv"))
    with pytest.raises(DataError, match=r"It has: text\. If .* set task.options = '.*\"text\"}'"):
        read(source, Columns(), CausalLM().reads)
    splits, _ = read(source, Columns(), CausalLM(form="text").reads)
    assert splits["train"].inputs == ["wheat and corn", "more wheat"]
