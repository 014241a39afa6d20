"""What the currying studies share: the models that come with the project, contexts, queries, pairs and tables."""

from types import SimpleNamespace

import pytest
import torch

from analyses.core.errors import WorkbenchError
from analyses.core.results import trainings
from analyses.currying.nets import published
from analyses.currying.nets.asking import fit_and_held, own_queries
from analyses.currying.nets.contexts import mixed, pooled
from analyses.currying.nets.ladder import pair_ladder
from analyses.currying.nets.seeds import table_by_seed
from analyses.currying.nets.trained import Mixture, Pools
from probes.currying.curried import curry
from probes.currying.oracle import Oracle
from probes.currying.report import compare
from toy_models.seeding import generator
from toy_models.tasks.chain_pool import ChainPool
from toy_models.tasks.in_deployment import InDeployment
from toy_models.transformer import Transformer

MEGABYTE = 1_000_000
TASK = InDeployment()


def test_the_models_of_quick_profiles_come_with_the_project_in_a_megabyte(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_RESULTS", str(tmp_path))
    runs = list(published.published())
    for run, steps in runs:
        assert run.folder.parent == trainings()["kept"]
        assert run.steps == sorted({0, *steps, run.config.train.steps})
    assert list(tmp_path.iterdir()) == []
    kept = [path for path in trainings()["kept"].rglob("*") if path.is_file()]
    assert {path.parent.name for path in kept} == {run.config.hash for run, _ in runs}
    assert sum(path.stat().st_size for path in kept) < MEGABYTE


def test_the_kept_mixture_knows_its_sources_and_the_word():
    net = Mixture()
    model, task = net.trained(published.SEED).model, net.task_of(published.SEED)
    batch = task.sample(64, generator(99, "texts"))
    with torch.no_grad():
        said = model(batch.tokens).double().log_softmax(-1)
    exact = task.predict(batch.tokens)
    mine, best, none = (
        -one.gather(-1, batch.targets[..., None])[:, 8:].mean().item()
        for one in (said, exact, torch.full_like(exact, -torch.tensor(13.0).log().item()))
    )
    assert best < mine < best + 0.4 * (none - best)


@pytest.mark.parametrize("source", ["chain 1", "biased die", "copy 4", "in deployment"])
def test_a_context_its_sibling_and_a_wrong_one_are_texts_of_their_sources(source):
    case, again = mixed(TASK, source, 20, 3), mixed(TASK, source, 20, 3)
    other = mixed(TASK, source, 20, 3, index=1)
    assert torch.equal(case.context, again.context)
    assert len({tuple(x.tolist()) for x in (case.context, case.sibling, case.wrong, other.context)}) == 4
    for context in (case.context, case.sibling):
        assert (TASK.switch in context) == (source == "in deployment")
    assert (TASK.switch in case.wrong) == (source == "copy 4")


@pytest.mark.parametrize("n_chains", [4, 0])
def test_siblings_of_a_pool_come_from_the_same_chain_and_wrong_ones_do_not(n_chains):
    task = ChainPool(n_symbols=2, n_chains=n_chains, concentration=0.05)
    case = pooled(task, 4000, 0)

    def rows(text: torch.Tensor) -> torch.Tensor:
        pairs = torch.zeros(3, 3)
        pairs.index_put_((text[:-1], text[1:]), torch.ones(len(text) - 1), accumulate=True)
        return (pairs[1:, 1:] + 1) / (pairs[1:, 1:] + 1).sum(-1, keepdim=True)

    own, same, wrong = rows(case.context), rows(case.sibling), rows(case.wrong)
    assert (own - same).abs().max() < 0.1 < (own - wrong).abs().max()


def test_queries_are_the_models_own_without_the_tokens_that_are_no_symbols():
    net = Mixture()
    model, context = net.trained(published.SEED).model, mixed(TASK, "chain 0", 20, 0).context
    drawn = own_queries(model, context, 300, 8, generator(0), TASK.switch)
    assert 0 < len(drawn) < 300
    assert ((drawn > 0) & (drawn < TASK.switch)).all()
    fit, held = fit_and_held(model, context, (50, 20), 8, generator(0), TASK.switch)
    assert len(fit) == 50
    assert 0 < len(held) <= 20
    assert not {tuple(row) for row in fit.tolist()} & {tuple(row) for row in held.tolist()}
    assert torch.equal(fit, fit_and_held(model, context, (50, 20), 8, generator(0), TASK.switch)[0])
    with pytest.raises(WorkbenchError, match="were fitted on"):
        fit_and_held(model, context, (4000, 5), 1, generator(0), TASK.switch)


def test_a_ladder_of_pairs_is_kv_r_at_every_number():
    model = Transformer(Mixture().model, seed=0)
    draw = generator(0, "ladder")
    context, fit, held = (torch.randint(1, 13, size, generator=draw) for size in ((8,), (24, 6), (24, 6)))
    ladder = pair_ladder(model, context, fit, 3, steps=3)
    oracle = Oracle(model, context)
    for pairs, made in enumerate(ladder, 1):
        alone = curry(model, context, "kv_r", fit, pairs=pairs, steps=3)
        assert made.stored == alone.stored
        assert made.token_forwards == pytest.approx(alone.token_forwards, rel=0.1)
        mine, other = (compare(one, oracle, held).kl.item() for one in (made, alone))
        assert mine == pytest.approx(other, rel=1e-3)


def _squares(job: tuple[SimpleNamespace, int]) -> list[dict]:
    config, seed = job
    return [{"seed": seed, "power": power, "value": config.base * seed**power} for power in (1, 2)]


def test_a_table_has_the_rows_of_every_seed_in_the_order_of_the_config(run_here):
    config = SimpleNamespace(seeds=(5, 2, 3), base=10)
    table = run_here(lambda one: table_by_seed(_squares, one, ("value", "seed", "unknown")), config)
    assert list(table.columns) == ["value", "seed", "unknown"]
    assert table.value.tolist() == [50, 250, 20, 40, 30, 90]
    assert table.seed.tolist() == [5, 5, 2, 2, 3, 3]
    assert table.unknown.isna().all()


def test_studies_share_trainings_by_their_hash():
    assert Pools().trained(4, 0).config.hash == Pools().trained(4, 0).config.hash
    assert Pools().task_of(4, 3).source_seed == 3
    assert Mixture().task_of(2) != Mixture().task_of(3)
