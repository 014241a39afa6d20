"""Hugging Face checkpoints in our Transformer and back: one file per family, each a mapping and no model code.

`reading.py` and `writing.py` do the work; `given.py` and `rope.py` read config.json, `stored.py` the weights;
`family.py` says what a family is, `decoder.py` what several share.  config.json's names for architectures are ours.
"""

import pkgutil

from toy_models.errors import ModelError

# One line per architecture.
NAMES = {
    "GPT2LMHeadModel": "toy_models.hf.gpt2:GPT2",
    "GPTNeoXForCausalLM": "toy_models.hf.neox:NEOX",
    "LlamaForCausalLM": "toy_models.hf.llama:LLAMA",
    "MistralForCausalLM": "toy_models.hf.llama:MISTRAL",
    "Qwen2ForCausalLM": "toy_models.hf.llama:QWEN2",
    "Qwen3ForCausalLM": "toy_models.hf.llama:QWEN3",
    "GemmaForCausalLM": "toy_models.hf.gemma:GEMMA",
    "Gemma2ForCausalLM": "toy_models.hf.gemma:GEMMA2",
    "Gemma3ForCausalLM": "toy_models.hf.gemma:GEMMA3",
}


def find(architecture: str):
    """The Family of an architecture.

    Raises:
        ModelError: an architecture that is not known; the known ones are listed.
    """
    if architecture not in NAMES:
        raise ModelError(f"architecture {architecture!r} is not supported: supported are {', '.join(NAMES)}")
    return pkgutil.resolve_name(NAMES[architecture])
