"""Instructions, answers and conversations → token ids, each marked learnt or context."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fedpeft_app.errors import DataError

Row = npt.NDArray[np.int32]
Message = dict[str, str]
Example = str | tuple[str, str] | list[Message]
Segment = tuple[str, bool]  # a piece of text, and whether it is to be learnt

PROMPT = "{prompt}"  # where a template takes the instruction
_ANSWERS = "assistant"  # the role whose turns are learnt


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """Writes examples as a model reads them.

    Pieces are tokenised one by one: when the model answers, its instruction is tokenised
    without the answer too.

    Attributes:
        tokenizer: The model's tokenizer.
        template: An instruction's form where the tokenizer has no chat template.
        turns: Which of its turns an assistant learns: "all", or the "last".
        max_length: Tokens kept of a text, from its start; the most of any other example.
    """

    tokenizer: Any
    template: str
    turns: Literal["all", "last"]
    max_length: int

    @property
    def has_template(self) -> bool:
        """Whether the tokenizer knows how conversations are written."""
        return getattr(self.tokenizer, "chat_template", None) is not None

    @property
    def begins(self) -> bool:
        """Whether the tokenizer sets a token that texts begin with."""
        begin = self.tokenizer.bos_token_id
        return begin is not None and begin in self.tokenizer("")["input_ids"]

    def row(self, example: Example) -> Row | None:
        """Write one example.

        Args:
            example: A text, every token of which is learnt; an (instruction, answer) pair,
                or a list of messages, of which the assistant's turns are.

        Returns:
            Token ids, those of context as their complement (see `ExampleSet`); None for what
            would lose an answer's end, so that the model never learnt to stop, and where no
            learnt token has a token before it.

        Raises:
            DataError: If a conversation cannot be written as the tokenizer's template asks.
        """
        pieces = [
            self._ids(text) if learnt else ~self._ids(text)
            for text, learnt in self._segments(example)
        ]
        if isinstance(example, str) or not self.has_template:  # a template writes its own
            pieces = [~self._start(), *pieces, self._end()]
        row: Row = np.concatenate(pieces)
        if len(row) > self.max_length and not isinstance(example, str):
            return None  # it ends with what is learnt
        row = row[: self.max_length]
        return row if (row[1:] >= 0).any() else None

    def prompt(self, instruction: str) -> list[int]:
        """Write an instruction that waits for its answer.

        Args:
            instruction: Its text.

        Returns:
            Token ids.
        """
        if not self.has_template:
            return self.opening(self._filled(instruction))
        turn = {"role": "user", "content": instruction}
        return [*map(int, self._ids(self._render([turn], answer=True)))]

    def opening(self, text: str) -> list[int]:
        """Write a text that waits for its continuation.

        Args:
            text: Its beginning.

        Returns:
            Token ids.
        """
        return [*map(int, self._start()), *map(int, self._ids(text))]

    def _segments(self, example: Example) -> Iterator[Segment]:
        """Cut an example into what is given and what is learnt."""
        if isinstance(example, str):
            yield example, True
        elif self.has_template:
            yield from self._chat(_messages(example))
        elif isinstance(example, tuple):
            yield self._filled(example[0]), False
            yield example[1], True
        else:
            raise DataError(
                "The tokenizer has no chat template, so conversations cannot be written. Give "
                "columns of prompts and responses, or a model that chats."
            )

    def _chat(self, messages: Sequence[Message]) -> Iterator[Segment]:
        """Cut a conversation at the start and end of each turn of the assistant."""
        answers = [at for at, turn in enumerate(messages) if turn["role"] == _ANSWERS]
        if not answers:
            raise DataError(f"The conversation has no message whose role is '{_ANSWERS}'.")
        done = ""
        for at in answers if self.turns == "all" else answers[-1:]:
            given = self._render(messages[:at], answer=True)
            whole = self._render(messages[: at + 1], answer=False)
            if not (given.startswith(done) and whole.startswith(given)):
                raise DataError(
                    "The tokenizer's chat template writes earlier turns otherwise once there "
                    'are later ones. Set task.options to \'{"turns": "last"}\' to learn the '
                    "last answer of each conversation only."
                )
            yield given[len(done) :], False
            yield whole[len(given) :], True
            done = whole

    def _render(self, messages: Sequence[Message], *, answer: bool) -> str:
        """Let the tokenizer's template write a conversation, up to where an answer begins."""
        try:
            text: str = self.tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=answer
            )
        except Exception as error:  # templates raise what they like about the order of roles
            raise DataError(f"The tokenizer's chat template refuses it: {error}") from error
        return text

    def _ids(self, text: str) -> Row:
        """Tokenise a piece of text."""
        return np.array(self.tokenizer(text, add_special_tokens=False)["input_ids"], np.int32)

    def _start(self) -> Row:
        """Give the token that texts begin with, if the tokenizer sets one."""
        return np.array([self.tokenizer.bos_token_id] if self.begins else [], np.int32)

    def _end(self) -> Row:
        """Give the token that ends a text."""
        end = self.tokenizer.eos_token_id
        if end is None:
            raise DataError(
                "Expected a tokenizer with an end-of-text token (eos_token), found none: what it "
                "writes would never end. Set one in its tokenizer_config.json."
            )
        return np.array([end], np.int32)

    def _filled(self, instruction: str) -> str:
        """Write an instruction without a chat template."""
        return self.template.replace(PROMPT, instruction)


def _messages(example: tuple[str, str] | list[Message]) -> list[Message]:
    """Write an instruction and its answer as a conversation."""
    if isinstance(example, list):
        return example
    instruction, answer = example
    return [{"role": "user", "content": instruction}, {"role": _ANSWERS, "content": answer}]
