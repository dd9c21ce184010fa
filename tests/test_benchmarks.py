"""Benchmarks compare what computes the same, and say what they found."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphformer import TokenGraph, sequences
from graphformer.models.decode import beam_search
from graphformer.models.sequence import Size, Transformer

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Imports a module of the benchmarks as they import each other."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
@pytest.mark.parametrize("peer", ["propagate", "torch_sparse", "masked_sdpa"])
def test_peers_compute_what_we_compute(peer: str, module: Callable[[str], Any]) -> None:
    peers = module("peers")
    num_nodes, heads, dim = 40, 2, 5
    ring = torch.stack([torch.arange(num_nodes), (torch.arange(num_nodes) + 1) % num_nodes])
    drawn = module("graphs").power_law(num_nodes, 150)
    edge_index = torch.cat([ring, drawn], 1).unique(dim=1)
    graph = TokenGraph.from_edge_index(edge_index, num_nodes)
    given = [torch.randn(num_nodes, heads, dim) for _ in range(4)]
    theirs = {
        "propagate": lambda: peers.propagate(edge_index, heads, dim),
        "torch_sparse": lambda: peers.torch_sparse(graph),
        "masked_sdpa": lambda: peers.masked_sdpa(module("masks").mask_of(graph)),
    }[peer]()

    def forward(attention: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *operands: attention(*operands).view(num_nodes, heads, dim)

    for backward in (False, True):
        run = module("timing").pass_of
        expected = run(forward(peers.ours(graph)), given, backward)()
        found = run(forward(theirs), given, backward)()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["window", "blocks", "random", "power_law"])
def test_a_rule_allows_exactly_the_edges(kind: str, module: Callable[[str], Any]) -> None:
    masks = module("masks")
    graph = masks.draw(kind, 50, 0.1)
    ids = torch.arange(50)
    allowed = masks.rule_of(kind, graph)(ids[:, None], ids[None, :])
    assert torch.equal(allowed, masks.mask_of(graph))


@pytest.mark.parametrize(
    ("bound", "met"), [("at most", [True, False]), ("at least", [False, True])]
)
def test_a_demand_is_met_within_its_bound(
    bound: str, met: list[bool], module: Callable[[str], Any]
) -> None:
    demands = [module("timing").Demand("ratio", each, 2, "x", bound) for each in (1, 3)]
    assert [each.is_met for each in demands] == met
    assert [str(each).startswith("met") for each in demands] == met


def test_what_does_not_run_is_left_out_with_its_reason(
    module: Callable[[str], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise NotImplementedError("no backward on a CPU")

    runs = {"one": lambda: None, "other": refuse}
    assert list(module("peers").those_that_run("window", runs)) == ["one"]
    assert "window, left out: other. NotImplementedError: no backward" in capsys.readouterr().out


def test_figures_are_left_with_machine_and_command(
    module: Callable[[str], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = module("figures").Figures("a graph of no size")
    figures.compare("all", "nothing", {"theirs": lambda: None, "ours": lambda: None}, 1)
    figures.demand_least("speed", 3.0, 14)
    figures.finish(tmp_path, "nothing")
    assert "MISSED speed: 3 x, at least 14" in capsys.readouterr().out
    written = json.loads((tmp_path / "nothing.json").read_text("utf-8"))
    assert written["what"] == "a graph of no size"
    assert "threads" in written["machine"]
    assert list(written["median_seconds"]["all"]["nothing"]) == ["theirs", "ours"]
    assert not written["demands"][0]["is_met"]
    assert "a graph of no size" in (tmp_path / "nothing-all.svg").read_text("utf-8")


def test_a_training_step_on_a_large_graph_learns(module: Callable[[str], Any]) -> None:
    step = module("large_graph").Step(num_nodes=200, num_edges=2000, dropout=0.0)
    step.run()
    first = step.loss
    step.run()
    assert step.loss < first


# Parts of our Transformer, and what `torch.nn.Transformer` calls them.
PARTS = (
    ("source", "table"),
    ("encoder.", "core.encoder.layers."),
    ("decoder.", "core.decoder.layers."),
    ("encoder_norm", "core.encoder.norm"),
    ("decoder_norm", "core.decoder.norm"),
    ("attention.layer.projection.", "self_attn.in_proj_"),
    ("cross.layer.projection.", "multihead_attn.in_proj_"),
    ("attention.layer.output", "self_attn.out_proj"),
    ("cross.layer.output", "multihead_attn.out_proj"),
    ("feed_forward.layer.expand", "linear1"),
    ("feed_forward.layer.contract", "linear2"),
    ("attention.norm", "norm1"),
    ("cross.norm", "norm2"),
)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor:UserWarning")
@torch.no_grad()
def test_the_translator_that_ours_is_measured_against_computes_and_finds_the_same(
    module: Callable[[str], Any],
) -> None:
    peers, size = module("translation_peers"), Size(dim=16, heads=2, layers=2, hidden=24)
    ours, theirs = Transformer(20, size).eval(), peers.TorchTranslator(20, size).eval()
    weights = {called_by_torch(name): 3 * weight for name, weight in ours.named_parameters()}
    theirs.load_state_dict(weights | {"places": theirs.places})
    ours.load_state_dict({name: 3 * weight for name, weight in ours.state_dict().items()})
    sources = [torch.randint(4, 20, (length,)) for length in (5, 2, 7)]
    targets = [torch.randint(4, 20, (length,)) for length in (6, 3, 4)]
    source, target = (
        nn.utils.rnn.pad_sequence(each, batch_first=True) for each in (sources, targets)
    )
    memory = theirs.encode(source, source == 0)
    hidden = theirs.decode(target, memory, source == 0)[target != 0]
    expected = ours(sequences(sources), sequences(targets))
    torch.testing.assert_close(theirs.logits(hidden), expected, rtol=1e-3, atol=1e-4)
    best = beam_search(ours, sequences(sources), begin=2, end=-1, beam=3, max_length=9)
    for search in (peers.search, peers.search_whole):
        found = search(theirs, source, source == 0, 3, 9)
        assert [each[0].ids.tolist() for each in best] == found[:, 1:].tolist()


def called_by_torch(name: str) -> str:
    """What `torch.nn.Transformer` calls a parameter of ours."""
    of_decoder = name.startswith("decoder.")
    for ours, theirs in PARTS:
        name = name.replace(ours, theirs)
    return name.replace("feed_forward.norm", "norm3" if of_decoder else "norm2")
