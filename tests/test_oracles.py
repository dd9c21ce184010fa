"""Attention over edges is PyG's layers, over all pairs torch's, with the same weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pytest
import torch
from cases import assert_close, gradients, make_tokens
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn import GATConv, GATv2Conv, GCNConv, SAGEConv, TransformerConv
from torch_geometric.nn.conv import MessagePassing

import graphformer as gf
from graphformer.layers import Attention, Block, FeedForward, GraphConvolution

DIM, WIDTH, HEADS, HEAD_DIM, BOND_DIM = 12, 10, 3, 5, 4
NUM_NODES, NUM_SOURCES = 14, 9
LENGTHS = (5, 2, 7)


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    """Layers and numbers are float64, so that only a wrong formula makes a difference."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def random_edges(num_keys: int, num_queries: int, density: float = 0.3) -> Tensor:
    """Directed edges in no order, without self loops; the last query hears nobody."""
    there = torch.rand(num_keys, num_queries) < density
    there.fill_diagonal_(False)
    there[:, -1] = False
    edge_index = there.nonzero().T
    return edge_index[:, torch.randperm(edge_index.shape[1])]


def with_weights(module: nn.Module, **weights: Tensor) -> nn.Module:
    """The module with tensors of another layer in place of its parameters."""
    for name, weight in weights.items():
        delattr(module, name)
        setattr(module, name, weight)
    return module


def differentiated(make: Callable[[], Tensor], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `make` gives, and its gradients by name."""
    attended = gf.Attended(make())
    return {"out": attended.out.detach(), **gradients(attended, inputs)}


def compare(ours: Callable[[], Tensor], theirs: Callable[[], Tensor], **inputs: Tensor) -> None:
    """Outputs and gradients agree, those of the inputs and those of all weights."""
    expected = differentiated(theirs, inputs)
    assert max(float(part.abs().max()) for part in expected.values()) > 0
    assert_close(differentiated(ours, inputs), expected, 1e-10)


def parameters(module: nn.Module) -> dict[str, Tensor]:
    """Its parameters, each with a value that is not zero."""
    named = {name.replace(".", "_"): weight for name, weight in module.named_parameters()}
    for weight in named.values():
        nn.init.normal_(weight, std=0.5)
    return named


def leaf(*size: int) -> Tensor:
    return torch.randn(*size, requires_grad=True)


# ---- PyG's layers ----


def by_transformer_conv(
    layer: TransformerConv, graph: gf.TokenGraph, x: Tensor, memory: Tensor
) -> Tensor:
    query = layer.lin_query(x).view(-1, HEADS, HEAD_DIM)
    key = layer.lin_key(memory).view(-1, HEADS, HEAD_DIM)
    value = layer.lin_value(memory).view(-1, HEADS, HEAD_DIM)
    if layer.edge_dim is None:
        out = gf.attend(query, key, value, graph)
    else:
        weight = layer.lin_edge.weight.view(HEADS, HEAD_DIM, BOND_DIM)
        score = gf.EdgeDot("bond", weight)
        out, bonds, _ = gf.attend(query, key, value, graph, score, edge_sum="bond")
        out = out + torch.einsum("qhe,hde->qhd", bonds, weight)
    out = out.flatten(1) if layer.concat else out.mean(1)
    skipped = layer.lin_skip(x) if layer.root_weight else 0.0
    if not layer.beta:
        return out + skipped
    beta = layer.lin_beta(torch.cat([out, skipped, out - skipped], -1)).sigmoid()
    return beta * skipped + (1 - beta) * out


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"edge_dim": BOND_DIM},
        {"edge_dim": BOND_DIM, "concat": False, "beta": True},
        {"root_weight": False, "bias": False},
    ],
    ids=str,
)
def test_edge_dot_is_transformer_conv(settings: dict[str, object]) -> None:
    layer = TransformerConv(DIM, HEAD_DIM, HEADS, **settings)
    edge_index, x = random_edges(NUM_NODES, NUM_NODES), leaf(NUM_NODES, DIM)
    bond = leaf(edge_index.shape[1], BOND_DIM)
    attributes = bond if layer.edge_dim else None

    def ours() -> Tensor:
        graph = gf.edges("bond").bind(
            make_tokens((NUM_NODES,)), bond=gf.EdgeValues(edge_index, bond)
        )
        return by_transformer_conv(layer, graph, x, x)

    compare(ours, lambda: layer(x, edge_index, attributes), x=x, bond=bond, **parameters(layer))


def test_repeated_edges_are_terms_of_their_own_as_in_pyg() -> None:
    layer = TransformerConv((DIM, DIM), HEAD_DIM, HEADS, edge_dim=BOND_DIM)
    edge_index = random_edges(NUM_SOURCES, NUM_NODES)
    edge_index = torch.cat([edge_index, edge_index[:, ::2], edge_index[:, ::3]], 1)
    memory, x = leaf(NUM_SOURCES, DIM), leaf(NUM_NODES, DIM)
    bond = leaf(edge_index.shape[1], BOND_DIM)

    def ours() -> Tensor:
        graph = gf.TokenGraph.from_edge_index(edge_index, NUM_NODES, NUM_SOURCES, bond=bond)
        return by_transformer_conv(layer, graph, x, memory)

    compare(
        ours,
        lambda: layer((memory, x), edge_index, bond),
        x=x,
        memory=memory,
        bond=bond,
        **parameters(layer),
    )


@pytest.mark.parametrize("edge_dim", [None, BOND_DIM])
def test_additive_is_gat_conv(edge_dim: int | None) -> None:
    layer = GATConv(DIM, HEAD_DIM, HEADS, edge_dim=edge_dim)
    edge_index, x = random_edges(NUM_NODES, NUM_NODES), leaf(NUM_NODES, DIM)
    bond = leaf(edge_index.shape[1], BOND_DIM)

    def ours() -> Tensor:
        graph = (gf.edges("bond") | gf.self_loops()).bind(
            make_tokens((NUM_NODES,)), bond=gf.EdgeValues(edge_index, bond, missing="mean")
        )
        score = with_weights(
            gf.Additive(HEADS, HEAD_DIM), query_weight=layer.att_dst[0], key_weight=layer.att_src[0]
        )
        if edge_dim is not None:
            projection = layer.lin_edge.weight.view(HEADS, HEAD_DIM, BOND_DIM)
            weight = torch.einsum("hde,hd->eh", projection, layer.att_edge[0])
            score = score + with_weights(gf.EdgeBias("bond", HEADS, BOND_DIM), weight=weight)
        projected = layer.lin(x).view(-1, HEADS, HEAD_DIM)
        out = gf.attend(projected, projected, projected, graph, score)
        return out.flatten(1) + layer.bias

    attributes = None if edge_dim is None else bond
    compare(ours, lambda: layer(x, edge_index, attributes), x=x, bond=bond, **parameters(layer))


@pytest.mark.parametrize("bipartite", [False, True])
def test_gatv2_is_gatv2_conv(bipartite: bool) -> None:
    layer = GATv2Conv(DIM, HEAD_DIM, HEADS, edge_dim=BOND_DIM, add_self_loops=not bipartite)
    num_keys = NUM_SOURCES if bipartite else NUM_NODES
    edge_index, x = random_edges(num_keys, NUM_NODES), leaf(NUM_NODES, DIM)
    memory = leaf(num_keys, DIM) if bipartite else x
    bond = leaf(edge_index.shape[1], BOND_DIM)

    def ours() -> Tensor:
        topology = gf.edges("bond") if bipartite else gf.edges("bond") | gf.self_loops()
        graph = topology.bind(
            make_tokens((NUM_NODES,)),
            make_tokens((num_keys,)) if bipartite else None,
            bond=gf.EdgeValues(edge_index, layer.lin_edge(bond), missing="mean"),
        )
        score = gf.GATv2(HEADS, HEAD_DIM, edge_data="bond")
        with_weights(score, weight=layer.att[0])
        query = layer.lin_r(x).view(-1, HEADS, HEAD_DIM)
        key = layer.lin_l(memory).view(-1, HEADS, HEAD_DIM)
        return gf.attend(query, key, key, graph, score).flatten(1) + layer.bias

    tokens = (memory, x) if bipartite else x
    compare(
        ours,
        lambda: layer(tokens, edge_index, bond),
        x=x,
        memory=memory,
        bond=bond,
        **parameters(layer),
    )


@pytest.mark.parametrize("add_self_loops", [True, False])
def test_symmetric_degree_is_gcn_conv(add_self_loops: bool) -> None:
    layer = GCNConv(DIM, WIDTH, add_self_loops=add_self_loops)
    edge_index, x = random_edges(NUM_NODES, NUM_NODES), leaf(NUM_NODES, DIM)

    def ours() -> Tensor:
        topology = gf.edges(edge_index)
        graph = (topology | gf.self_loops() if add_self_loops else topology).bind(
            make_tokens((NUM_NODES,))
        )
        value = layer.lin(x)[:, None]
        out = gf.attend(None, None, value, graph, gf.SymmetricDegree(), normalize="none")
        return out[:, 0] + layer.bias

    compare(ours, lambda: layer(x, edge_index), x=x, **parameters(layer))


@pytest.mark.parametrize("bipartite", [False, True])
def test_mean_is_sage_conv(bipartite: bool) -> None:
    layer = SAGEConv((DIM, DIM) if bipartite else DIM, WIDTH)
    num_keys = NUM_SOURCES if bipartite else NUM_NODES
    edge_index, x = random_edges(num_keys, NUM_NODES), leaf(NUM_NODES, DIM)
    memory = leaf(num_keys, DIM) if bipartite else x

    def ours() -> Tensor:
        keys = make_tokens((num_keys,)) if bipartite else None
        graph = gf.edges(edge_index).bind(make_tokens((NUM_NODES,)), keys)
        mean = gf.attend(None, None, memory[:, None], graph, gf.Mean())[:, 0]
        return layer.lin_l(mean) + layer.lin_r(x)

    tokens = (memory, x) if bipartite else x
    compare(ours, lambda: layer(tokens, edge_index), x=x, memory=memory, **parameters(layer))


# ---- our layers, with the weights of PyG's ----


def copied(ours: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """The layer with all its parameters replaced."""
    ours.load_state_dict({name: weight.detach().clone() for name, weight in weights.items()})
    return ours


def compare_layers(
    ours: Callable[[], Tensor],
    theirs: Callable[[], Tensor],
    x: Tensor,
    weights: Mapping[Tensor, Tensor],
) -> None:
    """Outputs and gradients agree; `weights` says which of ours is which of theirs."""
    names = [f"weight {number}" for number in range(len(weights))]
    found = differentiated(ours, {"x": x, **dict(zip(names, weights.keys(), strict=True))})
    expected = differentiated(theirs, {"x": x, **dict(zip(names, weights.values(), strict=True))})
    shaped = {name: part.view(found[name].shape) for name, part in expected.items()}
    assert_close(found, shaped, 1e-10)


@pytest.mark.parametrize("conv", [GCNConv, GATConv])
def test_graph_convolution_is_gcn_conv_and_gat_conv(conv: type[MessagePassing]) -> None:
    edge_index, x = random_edges(NUM_NODES, NUM_NODES), leaf(NUM_NODES, DIM)
    graph = (gf.edges(edge_index) | gf.self_loops()).bind(make_tokens((NUM_NODES,)))
    if conv is GCNConv:
        theirs = GCNConv(DIM, WIDTH)
        parameters(theirs)
        ours = GraphConvolution(DIM, 1, gf.SymmetricDegree(), head_dim=WIDTH, normalize="none")
        weights = {"projection.weight": theirs.lin.weight, "bias": theirs.bias}
    else:
        theirs = GATConv(DIM, HEAD_DIM, HEADS)
        parameters(theirs)
        ours = GraphConvolution(DIM, HEADS, gf.Additive(HEADS), head_dim=HEAD_DIM, shared=True)
        weights = {
            "projection.weight": theirs.lin.weight,
            "score.query_weight": theirs.att_dst[0],
            "score.key_weight": theirs.att_src[0],
            "bias": theirs.bias,
        }
    copied(ours, weights)
    if conv is GATConv:
        weights |= {
            "score.query_weight": theirs.att_dst,
            "score.key_weight": theirs.att_src,
        }
    pairs = {weight: weights[name] for name, weight in ours.named_parameters()}
    compare_layers(lambda: ours(x, graph), lambda: theirs(x, edge_index), x, pairs)


# ---- torch's attention ----


def flat_mask(lengths: tuple[int, ...]) -> Tensor:
    """Where tokens stand in the rectangle."""
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def in_rectangle(x: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """Flat tokens, padded."""
    return nn.utils.rnn.pad_sequence(x.split(lengths), batch_first=True)


@pytest.mark.parametrize("backend", [None, "dense", "reference"])
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_attend_is_scaled_dot_product_attention(
    backend: str | None, is_causal: bool, kv_heads: int
) -> None:
    tokens = make_tokens((6, 6))
    graph = (gf.causal() if is_causal else gf.complete()).bind(tokens)
    query, key, value = leaf(12, 4, 5), leaf(12, kv_heads, 5), leaf(12, kv_heads, 3)

    def theirs() -> Tensor:
        boxes = (x.unflatten(0, (2, 6)).transpose(1, 2) for x in (query, key, value))
        out = F.scaled_dot_product_attention(*boxes, is_causal=is_causal, enable_gqa=True)
        return out.transpose(1, 2).flatten(0, 1)

    compare(
        lambda: gf.attend(query, key, value, graph, backend=backend),
        theirs,
        query=query,
        key=key,
        value=value,
    )


def test_attend_over_ragged_pairs_is_masked_scaled_dot_product_attention() -> None:
    key_lengths = (3, 6, 4)
    graph = gf.window(2).bind(make_tokens(LENGTHS), make_tokens(key_lengths))
    query, key = leaf(sum(LENGTHS), HEADS, HEAD_DIM), leaf(sum(key_lengths), HEADS, HEAD_DIM)
    near = (torch.arange(max(LENGTHS))[:, None] - torch.arange(max(key_lengths))).abs() <= 2
    mask = near & flat_mask(key_lengths)[:, None]

    def theirs() -> Tensor:
        query_box = in_rectangle(query, LENGTHS).transpose(1, 2)
        key_box = in_rectangle(key, key_lengths).transpose(1, 2)
        # Queries without keys are ours to define: torch gets a key for them, and they are zeroed.
        unheard = ~mask.any(-1, keepdim=True)
        out = F.scaled_dot_product_attention(
            query_box, key_box, key_box, attn_mask=(mask | unheard)[:, None]
        )
        out = out.masked_fill(unheard[:, None], 0.0)
        return out.transpose(1, 2)[flat_mask(LENGTHS)]

    compare(lambda: gf.attend(query, key, key, graph), theirs, query=query, key=key)


@pytest.mark.parametrize("is_causal", [False, True])
def test_attention_is_multihead_attention(is_causal: bool) -> None:
    """Ragged: torch hears of padding by a mask, ours has none."""
    theirs = nn.MultiheadAttention(DIM, HEADS, batch_first=True)
    parameters(theirs)
    ours = copied(
        Attention(DIM, HEADS),
        {
            "projection.weight": theirs.in_proj_weight,
            "projection.bias": theirs.in_proj_bias,
            "output.weight": theirs.out_proj.weight,
            "output.bias": theirs.out_proj.bias,
        },
    )
    graph = (gf.causal() if is_causal else gf.complete()).bind(make_tokens(LENGTHS))
    x, there = leaf(sum(LENGTHS), DIM), flat_mask(LENGTHS)
    future = torch.ones(max(LENGTHS), max(LENGTHS), dtype=torch.bool).triu(1)

    def padded() -> Tensor:
        box = in_rectangle(x, LENGTHS)
        mask = future if is_causal else None
        return theirs(box, box, box, key_padding_mask=~there, attn_mask=mask)[0][there]

    pairs = {
        ours.projection.weight: theirs.in_proj_weight,
        ours.projection.bias: theirs.in_proj_bias,
        ours.output.weight: theirs.out_proj.weight,
        ours.output.bias: theirs.out_proj.bias,
    }
    compare_layers(lambda: ours(x, graph), padded, x, pairs)


def test_weights_are_those_of_multihead_attention() -> None:
    layer = nn.MultiheadAttention(DIM, HEADS, batch_first=True)
    ours = copied(
        Attention(DIM, HEADS),
        {
            "projection.weight": layer.in_proj_weight,
            "projection.bias": layer.in_proj_bias,
            "output.weight": layer.out_proj.weight,
            "output.bias": layer.out_proj.bias,
        },
    )
    x = leaf(6, DIM)
    graph = gf.complete().bind(make_tokens((6,)))
    weights = gf.attend(*ours.project(x), graph, return_weights=True).weights
    box = weights.new_zeros(HEADS, 6, 6)
    box[:, graph.edge_index[1], graph.edge_index[0]] = weights.T
    expected = layer(x[None], x[None], x[None], average_attn_weights=False)[1][0]
    torch.testing.assert_close(box, expected)


def our_block(theirs: nn.TransformerEncoderLayer | nn.TransformerDecoderLayer) -> Block:
    """A block with the weights of torch's layer."""
    decodes = isinstance(theirs, nn.TransformerDecoderLayer)
    cross = Attention(DIM, HEADS) if decodes else None
    norm_first = theirs.norm_first
    ours = Block(DIM, Attention(DIM, HEADS), FeedForward(DIM, 20), cross, norm_first=norm_first)
    weights = {}
    attentions = {"attention": theirs.self_attn}
    if decodes:
        attentions["cross"] = theirs.multihead_attn
    for part, attention in attentions.items():
        weights |= {
            f"{part}.layer.projection.weight": attention.in_proj_weight,
            f"{part}.layer.projection.bias": attention.in_proj_bias,
            f"{part}.layer.output.weight": attention.out_proj.weight,
            f"{part}.layer.output.bias": attention.out_proj.bias,
        }
    linears = {"expand": theirs.linear1, "contract": theirs.linear2}
    norms = [theirs.norm1, theirs.norm2] + ([theirs.norm3] if decodes else [])
    parts = [*attentions, "feed_forward"]
    weights |= {
        f"feed_forward.layer.{name}.{kind}": getattr(linear, kind)
        for name, linear in linears.items()
        for kind in ("weight", "bias")
    }
    weights |= {
        f"{part}.norm.{kind}": getattr(norm, kind)
        for part, norm in zip(parts, norms, strict=True)
        for kind in ("weight", "bias")
    }
    return copied(ours, weights)


@pytest.mark.parametrize("norm_first", [False, True])
def test_block_is_transformer_encoder_layer(norm_first: bool) -> None:
    theirs = nn.TransformerEncoderLayer(
        DIM, HEADS, 20, dropout=0.0, batch_first=True, norm_first=norm_first
    )
    parameters(theirs)
    ours, x, there = our_block(theirs), leaf(sum(LENGTHS), DIM), flat_mask(LENGTHS)
    graph = gf.complete().bind(make_tokens(LENGTHS))

    def padded() -> Tensor:
        return theirs(in_rectangle(x, LENGTHS), src_key_padding_mask=~there)[there]

    compare_layers(lambda: ours(x, graph), padded, x, {})


@pytest.mark.parametrize("norm_first", [False, True])
def test_block_with_memory_is_transformer_decoder_layer(norm_first: bool) -> None:
    theirs = nn.TransformerDecoderLayer(
        DIM, HEADS, 20, dropout=0.0, batch_first=True, norm_first=norm_first
    )
    parameters(theirs)
    key_lengths = (3, 6, 4)
    ours, memory = our_block(theirs), leaf(sum(key_lengths), DIM)
    x, there = leaf(sum(LENGTHS), DIM), flat_mask(LENGTHS)
    tokens = make_tokens(LENGTHS)
    graph, cross = gf.causal().bind(tokens), gf.complete().bind(tokens, make_tokens(key_lengths))
    future = torch.ones(max(LENGTHS), max(LENGTHS), dtype=torch.bool).triu(1)

    def padded() -> Tensor:
        out = theirs(
            in_rectangle(x, LENGTHS),
            in_rectangle(memory, key_lengths),
            tgt_mask=future,
            tgt_key_padding_mask=~there,
            memory_key_padding_mask=~flat_mask(key_lengths),
        )
        return out[there]

    compare_layers(lambda: ours(x, graph, memory, cross), padded, x, {})
    compare_layers(lambda: ours(x, graph, memory, cross), padded, memory, {})


def test_virtual_tokens_are_tokens_that_pyg_would_be_given() -> None:
    layer = TransformerConv(DIM, HEAD_DIM, HEADS, root_weight=False)
    edge_index = torch.tensor([[0, 1, 2, 3, 4], [1, 2, 0, 4, 3]])
    graph = (gf.edges(edge_index) | gf.global_tokens(1)).bind(make_tokens((3, 2), num_virtual=1))
    # In PyG's ids the virtual tokens are 0 and 4.
    given = [(1, 2), (2, 3), (3, 1), (5, 6), (6, 5)]
    hubs = [(0, other) for other in range(4)] + [(4, other) for other in range(4, 7)]
    both_ways = {pair for hub, other in hubs for pair in ((hub, other), (other, hub))}
    everything, x = torch.tensor([*given, *both_ways]).T, leaf(7, DIM)
    compare(
        lambda: by_transformer_conv(layer, graph, x, x),
        lambda: layer(x, everything),
        x=x,
        **parameters(layer),
    )
