"""A net for item sets whose weights are set by hand, so that its answers are known."""

import torch

from toy_models.set_retrieval import SetRetrieval, SetRetrievalConfig
from toy_models.tasks.item_sets import MaxRetrieval


def largest_priority_head(slope: float) -> SetRetrieval:
    """Weights set by hand: scores are slope * priority, and the values are the classes."""
    task = MaxRetrieval()
    sizes = {"n_features": task.n_features, "d_model": task.n_features, "d_mlp": task.n_features}
    net = SetRetrieval(SetRetrievalConfig(**sizes, act_fn="relu"))
    with torch.no_grad():
        for weight in net.parameters():
            weight.zero_()
        passing = torch.eye(task.n_features)  # relu leaves priorities and classes as they are: none is negative
        for weight in (net.embed.W_in, net.embed.W_out, net.unembed.W_in, net.blocks[0].attn.W_O[0]):
            weight.copy_(passing)
        net.unembed.W_out.copy_(passing[:, 1:])
        net.embed_query.b_out[0] = slope / net.blocks[0].attn.scale
        net.blocks[0].attn.W_Q[0].copy_(passing)
        net.blocks[0].attn.W_K[0, 0, 0] = 1.0
        net.blocks[0].attn.W_V[0].copy_(passing)
        net.blocks[0].attn.W_V[0, 0, 0] = 0.0
    return net
