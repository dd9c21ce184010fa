"""Every backend gives what the reference gives, and the reference what the equation says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from cases import BOND_DIM, EXECUTORS, SCORES, TOPOLOGIES, Case, assert_close, make_case, table
from equation import EQUATIONS, by_equation

import graphformer as gf
from graphformer.backends import BACKENDS, executors, kernels, name_of, reference

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 1e-2}
# Scores of these tests that round on the way, as a user's own score may.
CARELESS = {"curved", "key alone", "pooled"}
EXTRAS = {"edge_sum": "bond", "return_weights": True}

Patch = pytest.MonkeyPatch


def routes(case: Case, patch: Patch, **settings: object) -> Iterator[str]:
    """Every way the case can be computed, each set up when it is its turn."""
    with patch.context() as inside:
        inside.setattr(reference, "CHUNK_BYTES", 500)
        yield "reference"
    request = plan_of(case, **settings).request
    for backend in BACKENDS[:-1]:
        if backend.why_not(request) is not None:
            continue
        fused = name_of(backend) == "dense" and request.plain
        for executor in EXECUTORS if fused else ("sdpa",):
            with patch.context() as inside:
                inside.setattr(executors, "choose", lambda *_, name=executor: name)
                yield name_of(backend)


def plan_of(case: Case, **settings: object) -> gf.Plan:
    sizes, dtype = case.shape, case.tensors["value"].dtype
    settings = {"normalize": case.normalize, "backend": "reference", **settings}
    return gf.explain(
        case.bind(), case.score, case.heads, sizes.dim, dtype, True,
        kv_heads=sizes.kv_heads, value_dim=sizes.value_dim, **settings,
    )  # fmt: skip


def check(case: Case, dtype: torch.dtype, patch: Patch, **settings: object) -> None:
    """All routes agree with the reference in float64 on the same rounded numbers."""
    rounded = case.to(dtype)
    expected = rounded.to(torch.float64).results(backend="reference", **settings)
    for backend in routes(rounded, patch, **settings):
        found = rounded.results(backend=backend, **settings)
        assert found["out"].dtype == dtype
        assert_close(found, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(
    ("topology", "shape"),
    [
        ("exphormer", "virtual"),
        ("longformer", "grouped heads"),
        ("bonds", "keyless examples"),
    ],
)
def test_reference_is_the_equation(score: str, topology: str, shape: str) -> None:
    case = make_case(score, topology, shape)
    expected = case.differentiate(lambda case: by_equation(case, EQUATIONS[score]))
    assert_close(case.results(backend="reference", **EXTRAS), expected, 1e-12)


def test_every_backend_has_its_share_of_the_table() -> None:
    """Else one that refuses everything would agree with all."""
    count = {name_of(backend): 0 for backend in BACKENDS}
    for row in table(step=2):
        request = plan_of(make_case(*row)).request
        for backend in BACKENDS:
            count[name_of(backend)] += backend.why_not(request) is None
    assert count["reference"] == len(table(step=2))
    assert count["dense"] > 0.75 * count["reference"]
    assert count["band"] > 0.15 * count["reference"]
    assert count["linear"] >= 1
    if kernels.why_missing() is None:
        assert count["sparse"] > 0.95 * count["reference"]


@pytest.mark.parametrize(("score", "topology", "shape"), table(step=2))
def test_backends_agree_with_reference(
    score: str, topology: str, shape: str, monkeypatch: Patch
) -> None:
    check(make_case(score, topology, shape), torch.float64, monkeypatch)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("score", "topology", "shape"), table(step=6))
def test_backends_round_little(
    score: str, topology: str, shape: str, dtype: torch.dtype, monkeypatch: Patch
) -> None:
    if score in CARELESS and dtype == torch.bfloat16:
        pytest.skip("the score itself rounds")
    check(make_case(score, topology, shape), dtype, monkeypatch)


@pytest.mark.parametrize(("score", "topology", "shape"), table(step=4, offset=1))
def test_backends_agree_on_edge_sums_and_weights(
    score: str, topology: str, shape: str, monkeypatch: Patch
) -> None:
    check(make_case(score, topology, shape), torch.float64, monkeypatch, **EXTRAS)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_what_the_planner_picks_agrees_with_reference(topology: str) -> None:
    case = make_case("alibi", topology, "ragged")
    assert_close(case.results(), case.results(backend="reference"), 1e-10)


@pytest.mark.parametrize("missing", [0.7, torch.tensor([0.5, -1.0, 2.0]), "mean"], ids=str)
@pytest.mark.parametrize("score", ["edge dot", "edge bias", "gatv2 bond"])
def test_backends_agree_on_edges_without_data(
    score: str, missing: float | torch.Tensor | str, monkeypatch: Patch
) -> None:
    case = replace(make_case(score, "longformer", "virtual"), missing=missing)
    check(case, torch.float64, monkeypatch, **EXTRAS)


@pytest.mark.parametrize("topology", ["complete", "longformer"])
def test_missing_data_can_be_learned(topology: str, monkeypatch: Patch) -> None:
    missing = torch.randn(BOND_DIM, dtype=torch.float64, requires_grad=True)
    case = replace(make_case("edge dot", topology, "ragged"), missing=missing)
    found = {}
    for backend in routes(case, monkeypatch):
        out = case.attend(backend=backend).out
        found[backend] = torch.autograd.grad(out.square().sum(), missing)[0]
    assert found["reference"].abs().min() > 0
    for gradient in found.values():
        torch.testing.assert_close(gradient, found["reference"])


def test_backends_take_views_of_one_projection(monkeypatch: Patch) -> None:
    for topology in ("complete", "window"):
        for shape in ("uniform", "ragged"):
            case = make_case("dot", topology, shape)
            names = ("query", "key", "value")
            packed = torch.stack([case.tensors[name] for name in names], 2)
            views = dict(zip(names, packed.unbind(2), strict=True))
            strided = replace(case, tensors={**case.tensors, **views})
            expected = case.results(backend="reference")["out"]
            for backend in routes(case, monkeypatch):
                out = strided.attend(backend=backend).out
                torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", ["uniform", "long"])
@pytest.mark.parametrize("score", ["dot", "dot in full", "alibi", "cosine"])
@pytest.mark.parametrize("topology", ["complete", "causal", "window", "longformer"])
def test_sharp_scores_are_not_rounded_to_16_bits(
    topology: str, score: str, shape: str, monkeypatch: Patch
) -> None:
    case = make_case("dot" if score == "dot in full" else score, topology, shape)
    if score == "dot in full":
        # A scale of one, which loses nothing on the way; the reference rounds others.
        case = replace(case, score=gf.DotProduct(scale=1.0))
        case.tensors["query"].mul_(0.5)
    for name in ("query", "key"):
        case.tensors[name].mul_(2.0)
    check(case, torch.bfloat16, monkeypatch)


def test_large_scores_do_not_overflow(monkeypatch: Patch) -> None:
    case = make_case("dot", "causal window", "ragged").to(torch.float32)
    case.tensors["query"].mul_(1e4)
    expected = case.to(torch.float64).attend(backend="reference").out
    for backend in routes(case, monkeypatch):
        torch.testing.assert_close(case.attend(backend=backend).out, expected.float())


@pytest.mark.parametrize("score", ["dot", "mean", "key alone", "gatv2"])
def test_dropout_drops_each_weight_by_itself(score: str, monkeypatch: Patch) -> None:
    """Values that are the identity make of the outputs the weights that were used."""
    case = make_case(score, "complete", "long")
    num_examples, length = len(case.shape.lengths), case.shape.lengths[0]
    value = torch.eye(length, dtype=torch.float64).repeat(num_examples, 1)[:, None]
    value = value.repeat(1, case.heads, 1).requires_grad_()
    case = replace(case, tensors={**case.tensors, "value": value})
    graph = case.bind()
    outside = torch.randn(value.shape, dtype=torch.float64)
    for backend in routes(case, monkeypatch, dropout=0.25):
        plain = case.attend(graph, backend=backend).out
        used = case.attend(graph, backend=backend, dropout=0.25).out
        kept = used != 0
        torch.testing.assert_close(used, plain * kept / 0.75)
        # The backward drops what the forward dropped.
        (gradient,) = torch.autograd.grad(used, value, outside)
        by_example = (x.unflatten(0, (num_examples, length)) for x in (used, outside))
        expected = torch.einsum("nqhk,nqhd->nkhd", *by_example).flatten(0, 1)
        torch.testing.assert_close(gradient, expected)
        surprise = (kept.double() - 0.75) / (0.75 * 0.25) ** 0.5
        assert abs(surprise.mean()) < 4 / kept.numel() ** 0.5
        # Examples, queries, heads and keys draw for themselves: none goes with its neighbor.
        surprise = surprise.unflatten(0, (num_examples, length))
        for axis in range(4):
            product = surprise * surprise.roll(1, axis)
            assert abs(product.mean()) < 4 / kept.numel() ** 0.5, f"axis {axis}"
