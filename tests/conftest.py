"""What several floors' tests need: no network, one torch thread, and two tiny Hugging Face directories."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

VOCABULARY = 23
N_CTX = 32
# Read once, when huggingface_hub is first imported: no hook or fixture runs before the other conftests' imports.
os.environ["HF_HUB_OFFLINE"] = "1"
# Read when the kernels are first imported: where there is no GPU they run in Triton's interpreter.
if not list(Path("/dev").glob("nvidia[0-9]*")):
    os.environ["TRITON_INTERPRET"] = "1"
# A loaded machine is slow, not wrong: laws are judged by their cases, not by the clock.
settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread():
    """These models are too small to share out, and pytest-xdist already fills the cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def gpt2_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random GPT-2 of two layers and two heads, with a tokenizer of 23 words."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=N_CTX,
        n_embd=16,
        n_layer=2,
        n_head=2,
        attn_pdrop=0.0,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    return _write(tmp_path_factory.mktemp("gpt2"), GPT2LMHeadModel, config)


@pytest.fixture(scope="session")
def llama_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers, four heads that share two key-value heads, and the same tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=N_CTX,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return _write(tmp_path_factory.mktemp("llama"), LlamaForCausalLM, config)


def _write(directory: Path, model_class, config) -> Path:
    """Random weights, with queries and keys scaled up so that the patterns are far from uniform."""
    import torch

    generator = torch.Generator().manual_seed(0)
    model = model_class(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                scale = 0.5 if any(part in name for part in ("c_attn", "q_proj", "k_proj")) else 0.1
                weight.copy_(scale * torch.randn(weight.shape, generator=generator))
    model.save_pretrained(directory)
    _write_tokenizer(directory)
    return directory


def _write_tokenizer(directory: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<s>": 0, "<unk>": 1, **{f"w{i}": i for i in range(2, VOCABULARY)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"bos_token": "<s>", "eos_token": "<s>", "pad_token": "<s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(directory)
