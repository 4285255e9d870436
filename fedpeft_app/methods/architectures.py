"""Where the linear layers lie in the blocks of known architectures, by `config.model_type`.

Names are relative to a block, as transformers 5 has them.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The parts of one transformer block.

    Attributes:
        projections: Query, key and value, in this order, or the one layer they are fused into.
        attention_output: The last layer of the attention.
        mlp: The MLP's layers before its last; names that a variant lacks are passed over.
        mlp_output: The last layer of the MLP; where variants differ, all its names.
        beside: What an adapter parallel to the MLP is attached to: the module that holds the
            whole MLP, or the one that adds the MLP's input to its output; empty where the
            block computes its MLP without such a module.
        adds_input: Whether `beside` is of the second sort.
    """

    projections: tuple[str, ...]
    attention_output: str
    mlp: tuple[str, ...]
    mlp_output: tuple[str, ...]
    beside: str
    adds_input: bool = False

    def layers(self, role: str) -> tuple[str, ...]:
        """Name the layers that play a role.

        Args:
            role: "query-value", "key-value", "attention", "mlp", "attention-output",
                "mlp-output", or "both" for attention and MLP.
        """
        attention = (*self.projections, self.attention_output)
        mlp = (*self.mlp, *self.mlp_output)
        return {
            "query-value": tuple(dict.fromkeys((self.projections[0], self.projections[-1]))),
            "key-value": self.projections[1:] or self.projections,
            "attention": attention,
            "mlp": mlp,
            "both": attention + mlp,
            "attention-output": (self.attention_output,),
            "mlp-output": self.mlp_output,
        }[role]


def _within(module: str, *names: str) -> tuple[str, ...]:
    """Prefix names by the module that they lie in."""
    return tuple(f"{module}.{name}" for name in names)


_BERT = Block(
    projections=_within("attention.self", "query", "key", "value"),
    attention_output="attention.output.dense",
    mlp=("intermediate.dense",),
    mlp_output=("output.dense",),
    beside="output",
    adds_input=True,
)
_DISTILBERT = Block(
    projections=_within("attention", "q_lin", "k_lin", "v_lin"),
    attention_output="attention.out_lin",
    mlp=("ffn.lin1",),
    mlp_output=("ffn.lin2",),
    beside="ffn",
)
_MODERNBERT = Block(
    projections=("attn.Wqkv",),
    attention_output="attn.Wo",
    mlp=("mlp.Wi",),
    mlp_output=("mlp.Wo",),
    beside="mlp",
)
_DEBERTA = Block(
    projections=("attention.self.in_proj",),
    attention_output="attention.output.dense",
    mlp=("intermediate.dense",),
    mlp_output=("output.dense",),
    beside="output",
    adds_input=True,
)
_DEBERTA_V2 = Block(
    projections=_within("attention.self", "query_proj", "key_proj", "value_proj"),
    attention_output="attention.output.dense",
    mlp=("intermediate.dense",),
    mlp_output=("output.dense",),
    beside="output",
    adds_input=True,
)
_ALBERT = Block(
    projections=_within("attention", "query", "key", "value"),
    attention_output="attention.dense",
    mlp=("ffn",),
    mlp_output=("ffn_output",),
    beside="",
)
_VIT = Block(
    projections=_within("attention", "q_proj", "k_proj", "v_proj"),
    attention_output="attention.o_proj",
    mlp=("mlp.fc1",),
    mlp_output=("mlp.fc2",),
    beside="mlp",
)
_DINOV2 = Block(  # the largest has a gated MLP
    projections=_VIT.projections,
    attention_output="attention.o_proj",
    mlp=("mlp.fc1", "mlp.gate_proj", "mlp.up_proj"),
    mlp_output=("mlp.fc2", "mlp.down_proj"),
    beside="mlp",
)
_CLIP = Block(
    projections=_within("self_attn", "q_proj", "k_proj", "v_proj"),
    attention_output="self_attn.out_proj",
    mlp=("mlp.fc1",),
    mlp_output=("mlp.fc2",),
    beside="mlp",
)
_GPT2 = Block(
    projections=("attn.c_attn",),
    attention_output="attn.c_proj",
    mlp=("mlp.c_fc",),
    mlp_output=("mlp.c_proj",),
    beside="mlp",
)
_LLAMA = Block(
    projections=_within("self_attn", "q_proj", "k_proj", "v_proj"),
    attention_output="self_attn.o_proj",
    mlp=("mlp.gate_proj", "mlp.up_proj"),
    mlp_output=("mlp.down_proj",),
    beside="mlp",
)
_PHI = Block(
    projections=_within("self_attn", "q_proj", "k_proj", "v_proj"),
    attention_output="self_attn.dense",
    mlp=("mlp.fc1",),
    mlp_output=("mlp.fc2",),
    beside="mlp",
)
_PHI3 = Block(
    projections=("self_attn.qkv_proj",),
    attention_output="self_attn.o_proj",
    mlp=("mlp.gate_up_proj",),
    mlp_output=("mlp.down_proj",),
    beside="mlp",
)

BLOCKS: Mapping[str, Block] = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "camembert": _BERT,
    "electra": _BERT,
    "distilbert": _DISTILBERT,
    "modernbert": _MODERNBERT,
    "deberta": _DEBERTA,
    "deberta-v2": _DEBERTA_V2,
    "albert": _ALBERT,
    "vit": _VIT,
    "deit": _VIT,
    "beit": _VIT,
    "swin": _VIT,
    "dinov2": _DINOV2,
    "clip": _CLIP,
    "clip_vision_model": _CLIP,
    "gpt2": _GPT2,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": _LLAMA,
    "gemma3_text": _LLAMA,
    "phi": _PHI,
    "phi3": _PHI3,
}
