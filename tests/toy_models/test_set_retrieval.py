"""Item sets and the net that looks one item up: the task, the forward pass by hand, hooks, a head set by hand."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from probes.model import HookedModel
from probes.sharpness import sharpness
from probes.weights import head_weights
from tests.toy_models.item_nets import largest_priority_head
from toy_models.attention import reference
from toy_models.errors import ConfigError, InputError, TrainingError
from toy_models.normalisers.log_n import LogN
from toy_models.seeding import generator
from toy_models.set_retrieval import SetRetrieval, SetRetrievalConfig, learn
from toy_models.tasks.item_sets import ItemSets, MaxRetrieval, Needle
from toy_models.train import TrainConfig

TINY = SetRetrievalConfig(n_features=4, n_classes=3, d_model=6, d_mlp=8)


def perturbed(config: SetRetrievalConfig = TINY) -> SetRetrieval:
    """Random biases too, so that none can be left out unnoticed."""
    net = SetRetrieval(config).double()
    with torch.no_grad():
        for name, weight in net.named_parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator(1, name), dtype=torch.float64))
    return net


# The task -----------------------------------------------------------------------------------------


@given(
    task=st.sampled_from([MaxRetrieval(), MaxRetrieval(3, 2, 9), Needle(), Needle(4, 1, 5, margin=0.6)]),
    seed=st.integers(0, 2**31),
)
def test_the_target_is_the_class_of_the_largest_priority(task, seed):
    batch = task.sample(5, generator(seed))
    assert isinstance(batch, ItemSets)
    n = batch.tokens.shape[1] - 1
    assert task.shortest <= n <= task.longest
    for rows, target, place in zip(batch.tokens.tolist(), batch.targets.tolist(), batch.places.tolist(), strict=True):
        *items, query = rows
        assert all(sorted(item[1:]) == [0.0] * (task.n_classes - 1) + [1.0] for item in items)
        assert query[1:] == [0.0] * task.n_classes
        best = max(items)
        assert items[place][0] == best[0]
        assert [items[place][1:].index(1.0)] == target
        assert all(0 <= item[0] <= 1 for item in rows)
        if isinstance(task, Needle):
            others = [item[0] for i, item in enumerate(items) if i != place]
            assert best[0] == 1.0
            assert all(other < 1 - task.margin + 1e-6 for other in others)
    assert batch.scored.all()
    assert batch.scored.shape == batch.targets.shape == (5, 1)


def test_the_same_generator_gives_the_same_sets_and_the_global_state_is_left_alone():
    state = torch.get_rng_state()
    one, again, other = (Needle().sample(4, generator(seed, "data")).tokens for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert one.shape != other.shape or not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("task", [MaxRetrieval(), Needle()])
def test_sizes_classes_and_places_are_uniform(task):
    sizes = torch.tensor([task.sample(1, generator(0, "size", i)).tokens.shape[1] - 1 for i in range(1200)])
    batch = task.at(8).sample(6000, generator(0, "sets"))
    for counts in (sizes.bincount()[5:], batch.targets[:, 0].bincount(), batch.places.bincount()):
        expected = counts.sum() / len(counts)
        assert len(counts) in (12, 10, 8)
        assert ((counts - expected) ** 2 / expected).sum() < chi2.ppf(1 - 1e-6, len(counts) - 1)


def test_the_gap_of_the_two_largest_priorities_shrinks_like_1_over_n_and_the_needles_does_not():
    """The spacings of n uniform numbers are 1 / (n + 1) on average."""
    for n in (15, 255):
        top = MaxRetrieval().at(n).sample(2000, generator(0, n)).tokens[:, :-1, 0].topk(2).values
        gap = top[:, 0] - top[:, 1]
        assert gap.mean().item() == pytest.approx(1 / (n + 1), abs=5 * gap.std().item() / math.sqrt(2000))
        top = Needle(margin=0.1).at(n).sample(2000, generator(0, n)).tokens[:, :-1, 0].topk(2).values
        assert (top[:, 0] - top[:, 1]).min() > 0.1 - 1e-6


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: MaxRetrieval(n_classes=1), "n_classes=1 must be 2 or more"),
        (lambda: MaxRetrieval(shortest=0), "shortest=0, longest=16"),
        (lambda: MaxRetrieval(shortest=9, longest=4), "shortest=9, longest=4"),
        (lambda: Needle(margin=0.0), r"margin=0.0 must lie in \(0, 1\]"),
        (lambda: Needle(margin=1.5), "margin=1.5"),
        (lambda: SetRetrievalConfig(d_mlp=0), "d_mlp=0 must be 1 or more"),
        (lambda: SetRetrievalConfig(act_fn="step"), "act_fn='step' must be one of relu, gelu"),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_one_line(make, complaint):
    with pytest.raises(ConfigError, match=complaint) as caught:
        make()
    assert "\n" not in str(caught.value)


# The net ------------------------------------------------------------------------------------------


def two_layers(x, part):
    return torch.nn.functional.gelu(x @ part.W_in + part.b_in) @ part.W_out + part.b_out


def test_the_forward_pass_is_that_of_the_docstring_item_by_item():
    net = perturbed()
    tokens = MaxRetrieval(3, 5, 5).sample(4, generator(0)).tokens.double()
    head = net.blocks[0].attn
    expected = []
    for *items, query in tokens:
        x = [two_layers(item, net.embed) for item in items]
        q = two_layers(query[:1], net.embed_query) @ head.W_Q[0] + head.b_Q[0]
        scores = torch.stack([q @ (one @ head.W_K[0] + head.b_K[0]) for one in x]) / math.sqrt(6)
        values = [one @ head.W_V[0] + head.b_V[0] for one in x]
        z = sum(p * v for p, v in zip(scores.softmax(0), values, strict=True))
        expected.append(two_layers(z @ head.W_O[0] + head.b_O, net.unembed)[None])
    torch.testing.assert_close(net(tokens), torch.stack(expected), rtol=1e-12, atol=1e-12)


def test_the_order_of_the_items_does_not_matter_and_the_query_row_does():
    net = perturbed()
    tokens = MaxRetrieval(3, 7, 7).sample(4, generator(0)).tokens.double()
    turned = torch.cat([tokens[:, :-1].roll(3, 1), tokens[:, -1:]], dim=1)
    torch.testing.assert_close(net(turned), net(tokens), rtol=1e-12, atol=1e-12)
    asked = tokens.clone()
    asked[:, -1, 0] += 1
    assert (net(asked) - net(tokens)).abs().max() > 1e-6


def test_hooks_have_transformer_lens_names_and_their_edits_count():
    net = perturbed()
    tokens = MaxRetrieval(3, 7, 7).sample(4, generator(0)).tokens.double()
    logits, cache = net.run_with_cache(tokens)
    shapes = {"q": (4, 1, 1, 6), "k": (4, 7, 1, 6), "v": (4, 7, 1, 6), "z": (4, 1, 1, 6)}
    shapes |= {"attn_scores": (4, 1, 1, 7), "pattern": (4, 1, 1, 7)}
    for name, shape in shapes.items():
        assert cache[f"blocks.0.attn.hook_{name}"].shape == shape
    torch.testing.assert_close(
        cache["blocks.0.attn.hook_attn_scores"].softmax(-1), cache["blocks.0.attn.hook_pattern"], rtol=0, atol=0
    )
    for name in shapes:
        edited = net.run_with_hooks(tokens, fwd_hooks=[(f"blocks.0.attn.hook_{name}", lambda x, hook: x.roll(1, 0))])
        assert (edited - logits).abs().max() > 1e-6


def test_probes_read_the_net():
    net = perturbed()
    assert isinstance(net, HookedModel)
    tokens = MaxRetrieval(3, 7, 7).sample(4, generator(0)).tokens.double()
    pattern = net.run_with_cache(tokens)[1]["blocks.0.attn.hook_pattern"]
    found = sharpness(pattern, torch.ones(1, 7, dtype=torch.bool))
    assert (found.peak >= 1 / 7).all()
    assert head_weights(net, 0).W_Q.shape == (1, 6, 6)


def test_a_normaliser_takes_the_place_of_softmax():
    net = perturbed()
    tokens = MaxRetrieval(3, 7, 7).sample(4, generator(0)).tokens.double()
    plain = net(tokens)
    net.blocks[0].attn.normaliser = LogN(s=1 / math.log(7))  # at 7 items softmax
    torch.testing.assert_close(net(tokens), plain, rtol=1e-12, atol=1e-12)
    net.blocks[0].attn.normaliser = LogN(s=2.0)
    head = net.blocks[0].attn
    query, items = net.encode(tokens)
    pattern = (2 * math.log(7) * head.scores(query, items)).softmax(-1)
    expected = net.unembed(head.out(pattern, head.values(items)))
    torch.testing.assert_close(net(tokens), expected, rtol=1e-12, atol=1e-12)
    assert reference.mix(pattern, head.values(items)).shape == (4, 1, 1, 6)


@pytest.mark.parametrize("slope", [1.0, 20.0])
def test_the_head_set_by_hand_has_the_scores_it_was_given(slope):
    net = largest_priority_head(slope)
    tokens = MaxRetrieval().at(40).sample(50, generator(0)).tokens
    query, items = net.encode(tokens)
    scores = net.blocks[0].attn.scores(query, items)
    torch.testing.assert_close(scores[:, 0, 0], slope * tokens[:, :-1, 0], rtol=1e-5, atol=1e-6)


def test_a_sharp_head_set_by_hand_solves_the_task_and_a_flat_one_counts_classes():
    batch = MaxRetrieval().at(40).sample(200, generator(0))
    assert (largest_priority_head(1e5)(batch.tokens).argmax(-1) == batch.targets).all()
    logits = largest_priority_head(0.0)(batch.tokens)
    torch.testing.assert_close(logits[:, 0], batch.tokens[:, :-1, 1:].mean(1), rtol=0, atol=1e-6)


def test_training_learns_the_task_the_same_way_twice():
    def trained(seed: int) -> tuple[SetRetrieval, list[float]]:
        net = SetRetrieval(replace(TINY, d_model=16, d_mlp=16), seed)
        config = TrainConfig(steps=150, batch_size=32, lr=1e-2, warmup=10, weight_decay=0.0)
        return net, [loss for _, loss in learn(net, MaxRetrieval(3, 2, 4), config, seed=seed)]

    (net, losses), (again, _) = trained(0), trained(0)
    assert sum(losses[-10:]) / 10 < 0.6 < math.log(3) < losses[0] + 0.2
    for name, weight in net.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])


def test_training_that_diverges_stops_before_the_bad_update():
    net = SetRetrieval(TINY)
    with torch.no_grad():
        net.unembed.b_out[0] = torch.inf
    before = net.embed.W_in.clone()
    with pytest.raises(TrainingError, match=r"the loss is nan .* at step 0 \(seed 4, lr .*: lower lr=") as caught:
        next(learn(net, MaxRetrieval(3, 2, 4), TrainConfig(steps=2), seed=4))
    assert "\n" not in str(caught.value)
    assert torch.equal(net.embed.W_in, before)


@pytest.mark.parametrize("shape", [(2, 1, 4), (2, 6, 5)])
def test_what_is_no_set_of_items_is_refused_with_its_shape(shape):
    with pytest.raises(InputError, match=rf"shape \({shape[0]}, {shape[1]}.*n_features=4"):
        SetRetrieval(TINY)(torch.zeros(shape))
