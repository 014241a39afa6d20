"""What the tests of patching share: small models, a clean text beside a corrupted one, and a patch made by hand."""

from dataclasses import dataclass
from functools import partial

import torch

from probes.contrast import logit_difference
from toy_models import Transformer, TransformerConfig, constructed

N_POS, CHANGED = 6, 1  # the texts differ in one token
MODELS = {
    "learned": {},
    "gqa rope": {"position": "rope", "n_heads": 4, "d_head": 4, "n_key_value_heads": 2, "normalization_type": "RMS"},
    "shortformer": {"position": "shortformer"},
    "none": {"position": "none"},
    "smeared window": {"smeared_keys": True, "window": 3, "position": "rope"},
    "post-norm": {"norm_position": "post"},
    "attention only": {"d_mlp": 0, "normalization_type": None},
    "gated reference": {"gated_mlp": True, "normalization_type": "RMS", "attention": "reference"},
    "bidirectional": {"causal": False},
}


def perturbed(seed: int = 0, **options) -> Transformer:
    """A small float64 model with random gains and biases, so that none can be left out unnoticed."""
    size = {"n_layers": 3, "n_heads": 2, "d_model": 12, "d_mlp": 20, "d_vocab": 9, "n_ctx": 16}
    model = Transformer(TransformerConfig(**{**size, "dtype": "float64", **options}), seed=seed)
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_((0.3 * torch.randn(weight.shape, generator=noise, dtype=torch.float64)).to(weight.dtype))
    return model


@dataclass(frozen=True)
class Case:
    """Two texts per row of the batch; the answers differ between the rows."""

    model: object
    clean: torch.Tensor
    corrupt: torch.Tensor
    metric: object

    @property
    def inputs(self) -> tuple:
        return self.model, self.clean, self.corrupt, self.metric

    def by_hand(self, edits: dict) -> torch.Tensor:
        """The metric of the corrupted run with `edits`: name of a hook -> (index behind the batch, value there)."""

        def put(x, hook, name):
            index, value = edits[name]
            x = x.clone()
            x[(slice(None), *index)] = value
            return x

        hooks = [(name, partial(put, name=name)) for name in edits]
        with torch.no_grad(), self.model.hooks(fwd_hooks=hooks):
            return self.metric(self.model(self.corrupt))

    def activation(self, tokens: torch.Tensor, name: str) -> torch.Tensor:
        with torch.no_grad():
            return self.model.run_with_cache(tokens, names_filter=[name])[1][name]


def case(model, d_vocab: int = 9, seed: int = 3) -> Case:
    """Random texts that differ in one token."""
    tokens = torch.randint(d_vocab, (2, N_POS), generator=torch.Generator().manual_seed(seed))
    corrupt = tokens.clone()
    corrupt[:, CHANGED] = (tokens[:, CHANGED] + 3) % d_vocab
    correct, wrong = torch.tensor([4, 2]), torch.tensor([6, 1])
    return Case(model, tokens, corrupt, partial(logit_difference, correct=correct, wrong=wrong))


def induction_case() -> Case:
    """The constructed induction circuit on 0 5 7 1 2 5, which asks for 7; the corrupted text has a 3 for the first 5.

    Position 2 holds the 7, and layer 0 writes there which token stood before it.
    """
    clean = torch.tensor([[0, 5, 7, 1, 2, 5]])
    corrupt = torch.tensor([[0, 3, 7, 1, 2, 5]])
    metric = partial(logit_difference, correct=7, wrong=1)
    return Case(constructed.induction_circuit(), clean, corrupt, metric)
