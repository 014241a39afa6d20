"""config.json, read option by option: what is asked for is taken, and nothing that may have an effect is left over."""

from typing import Any

from toy_models.errors import ModelError

_REQUIRED = object()

# Options without an effect on the logits of a model in eval mode: training, sampling, tokens, output formats, history.
_HARMLESS = """
_attn_implementation _attn_implementation_autoset _commit_hash _name_or_path _num_labels architectures
attention_dropout attention_probs_dropout_prob attn_pdrop bad_words_ids begin_suppress_tokens bos_token_id
cache_implementation chunk_size_feed_forward classifier_dropout decoder_start_token_id diversity_penalty do_sample
dtype early_stopping embd_pdrop encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty
finetuning_task forced_bos_token_id forced_eos_token_id gradient_checkpointing hidden_dropout hidden_dropout_prob
id2label initializer_range is_decoder keys_to_ignore_at_inference label2id length_penalty max_length min_length
model_type no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_attentions
output_hidden_states output_past output_scores pad_token_id prefix pretraining_tp problem_type
remove_invalid_values reorder_and_upcast_attn repetition_penalty resid_pdrop return_dict return_dict_in_generate
sep_token_id summary_activation summary_first_dropout summary_proj_to_labels summary_type summary_use_proj
suppress_tokens task_specific_params temperature tf_legacy_loss tokenizer_class top_k top_p torch_dtype torchscript
transformers_version transformers.js_config typical_p unsloth_fixed unsloth_version use_bfloat16 use_cache
use_return_dict
"""
WITHOUT_EFFECT = frozenset(_HARMLESS.split())


class Given:
    """The options of a config.json, each of which is taken once; `finish` refuses those that nobody took."""

    def __init__(self, options: dict[str, Any]):
        self._left = dict(options)
        self.only(is_encoder_decoder=False, add_cross_attention=False, tie_encoder_decoder=False, pruned_heads={})
        self.bos_token_id = options.get("bos_token_id")

    def take(self, name: str, default: Any = _REQUIRED) -> Any:
        """The option as it stands, `default` where it is absent or null."""
        value = self._left.pop(name, None)
        if value is None and default is _REQUIRED:
            raise ModelError(f"names no {name}")
        return default if value is None else value

    def null(self, name: str) -> bool:
        """Whether the option is there as null, where that says something else than leaving it out."""
        return name in self._left and self._left[name] is None

    def whole(self, name: str, default: Any = _REQUIRED, least: int = 1) -> int | None:
        """A whole number of at least `least`."""
        value = self.take(name, default)
        if value is not default and not (type(value) is int and value >= least):
            raise ModelError(f"{name}={value!r} must be a whole number of at least {least}")
        return value

    def number(self, name: str, default: Any = _REQUIRED) -> float | None:
        """A number above 0."""
        value = self.take(name, default)
        if value is not default and not (type(value) in (int, float) and value > 0):
            raise ModelError(f"{name}={value!r} must be a number above 0")
        return None if value is None else float(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        return self.one_of(name, {True: True, False: False}, default)

    def one_of(self, name: str, meanings: dict, default: Any = _REQUIRED) -> Any:
        """What the value stands for among `meanings`."""
        value = self.take(name, default)
        if (
            isinstance(value, list | dict)
            or value not in meanings
            or (isinstance(value, int) and type(value) is not bool)
        ):
            raise ModelError(f"{name}={value!r} is not supported: choose {', '.join(map(repr, meanings))}")
        return meanings[value]

    def only(self, **supported: Any) -> None:
        """Options that must be absent or have this one value."""
        for name, value in supported.items():
            if (found := self.take(name, value)) != value:
                raise ModelError(f"{name}={found!r} is not supported, only {value!r}")

    def finish(self) -> None:
        """Refuse what nobody took and what is not known to be without effect."""
        for name, value in self._left.items():
            if value is not None and name not in WITHOUT_EFFECT:
                shown = repr(value)
                shown = shown if len(shown) <= 80 else shown[:77] + "..."
                raise ModelError(f"the option {name}={shown} is not supported: nothing is known of its effect")

    def bos(self, d_vocab: int) -> int | None:
        """`bos_token_id`, if it is one of the vocabulary."""
        token = self.bos_token_id
        return token if type(token) is int and 0 <= token < d_vocab else None


# What config.json calls an activation, and what we call it.
ACTIVATIONS = {
    **{"gelu": "gelu", "gelu_python": "gelu", "gelu_new": "gelu_new", "gelu_pytorch_tanh": "gelu_new"},
    **{"relu": "relu", "silu": "silu", "swish": "silu"},
}
