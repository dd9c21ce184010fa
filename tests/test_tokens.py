"""Sentences, images, series and graphs become one flat list of tokens, and come back."""

from __future__ import annotations

import pickle

import networkx
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch_geometric.data import Batch, Data

from graphformer.layout import Layout
from graphformer.tokens import Tokens, nodes, patches, sequences, series


def ragged(lengths: tuple[int, ...] = (3, 0, 5, 1), dim: int = 2) -> list[Tensor]:
    return [torch.randn(length, dim) for length in lengths]


def assert_same(one: Tokens, other: Tokens) -> None:
    assert type(one) is type(other) is Tokens
    assert one.num_virtual == other.num_virtual
    for ours, theirs in zip(one[:4], other[:4], strict=True):
        assert torch.equal(ours, theirs)
        assert ours.dtype == theirs.dtype


@pytest.mark.parametrize("dim", [None, 2])
def test_sequences_lie_one_after_another(dim: int | None) -> None:
    examples = (
        [torch.randint(9, (n,)) for n in (3, 0, 5)] if dim is None else ragged((3, 0, 5), dim)
    )
    tokens = sequences(examples)
    assert torch.equal(tokens.x, torch.cat(examples))
    assert tokens.ptr.tolist() == [0, 3, 3, 8]
    assert tokens.at.tolist() == [[0], [1], [2], [0], [1], [2], [3], [4]]
    assert tokens.lengths.tolist() == [3, 0, 5]
    assert (tokens.num_tokens, tokens.num_examples, tokens.num_virtual) == (8, 3, 0)
    assert {part.dtype for part in tokens[1:4]} == {torch.int64}


@pytest.mark.parametrize("dim", [None, 2])
def test_padded_sequences_are_those_of_a_list(dim: int | None) -> None:
    lengths = [3, 0, 5]
    padded = torch.randint(9, (3, 6)) if dim is None else torch.randn(3, 6, dim)
    listed = sequences([example[:n] for example, n in zip(padded, lengths, strict=True)])
    assert_same(sequences(padded, lengths), listed)
    assert_same(sequences(padded, torch.tensor(lengths, dtype=torch.int32)), listed)
    assert_same(sequences(padded), sequences(list(padded)))


def test_padding_may_hold_nan() -> None:
    padded = torch.tensor([[1.0, 2.0], [3.0, torch.nan]])[..., None]
    assert sequences(padded, [2, 1]).x.flatten().tolist() == [1.0, 2.0, 3.0]


def test_unbatch_and_padded_give_the_examples_back() -> None:
    examples = ragged()
    tokens = sequences(examples)
    for back, example in zip(tokens.unbatch(), examples, strict=True):
        assert torch.equal(back, example)
    values, mask = tokens.padded(fill=-1.0)
    assert values.shape == (4, 5, 2)
    assert mask.sum(1).tolist() == [3, 0, 5, 1]
    assert torch.equal(values[mask], tokens.x)
    assert (values[~mask] == -1.0).all()
    assert_same(sequences(values, tokens.lengths), tokens)


def test_equal_lengths_are_padded_without_a_copy() -> None:
    tokens = sequences(ragged((4, 4)))
    values, mask = tokens.padded()
    assert values.data_ptr() == tokens.x.data_ptr()
    assert mask.all()


def test_ids_are_padded_with_ids() -> None:
    ids, mask = sequences([torch.tensor([7, 8]), torch.tensor([9])]).padded(fill=3)
    assert ids.tolist() == [[7, 8], [9, 3]]
    assert mask.tolist() == [[True, True], [True, False]]


@pytest.mark.parametrize("given", [True, False])
def test_virtual_tokens_stand_before_each_example(given: bool) -> None:
    tokens = sequences(ragged())
    x = torch.randn(2, 2) if given else None
    more = tokens.with_virtual(2, x)
    expected = torch.zeros(2, 2) if x is None else x
    for example, old in zip(more.unbatch(), tokens.unbatch(), strict=True):
        assert torch.equal(example, torch.cat([expected, old]))
    assert more.lengths.tolist() == [5, 2, 7, 3]
    assert more.ptr.tolist() == [0, 5, 7, 14, 17]
    assert more.at[:7, 0].tolist() == [-2, -1, 0, 1, 2, -2, -1]
    assert more.layout.contiguous
    assert_same(more.without_virtual(), tokens)


def test_virtual_tokens_are_negative_on_every_axis() -> None:
    tokens = patches(torch.randn(1, 1, 2, 2), 1).with_virtual(2)
    assert tokens.at[:3].tolist() == [[-2, -2, -2], [-1, -1, -1], [0, 0, 0]]


def test_more_virtual_tokens_stand_before_those_there_are() -> None:
    tokens = sequences([torch.tensor([5, 6])])
    more = tokens.with_virtual(1, torch.tensor([1])).with_virtual(1, torch.tensor([2]))
    assert more.x.tolist() == [2, 1, 5, 6]
    assert more.at.flatten().tolist() == [-2, -1, 0, 1]
    assert more.num_virtual == 2
    assert_same(more.without_virtual(), tokens)


def test_gradients_reach_values_through_virtual_tokens_and_padding() -> None:
    x = torch.randn(9, 2, dtype=torch.float64, requires_grad=True)
    virtual = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    empty = sequences(ragged()).with_x(x)

    def there_and_back(x: Tensor, virtual: Tensor) -> Tensor:
        more = empty.with_x(x).with_virtual(2, virtual)
        return more.padded()[0].sin().sum() + more.without_virtual().x.cos().sum()

    assert torch.autograd.gradcheck(there_and_back, (x, virtual))


def test_layout_is_that_of_the_tokens() -> None:
    tokens = sequences(ragged()).with_virtual(1)
    layout = tokens.layout
    assert isinstance(layout, Layout)
    assert layout.contiguous
    assert layout.example.tolist() == [0, 0, 0, 0, 1, 2, 2, 2, 2, 2, 2, 3, 3]
    assert not tokens._replace(at=tokens.at + 1).layout.contiguous


def test_a_linear_layer_on_patches_is_a_convolution() -> None:
    images = torch.randn(2, 3, 4, 9)
    convolution = nn.Conv2d(3, 5, kernel_size=(2, 3), stride=(2, 3))
    tokens = patches(images, (2, 3))
    ours = tokens.x @ convolution.weight.flatten(1).T + convolution.bias
    torch.testing.assert_close(
        ours.unflatten(0, (2, 2, 3)).permute(0, 3, 1, 2), convolution(images)
    )
    assert tokens.at[:6].tolist() == [
        [0, 0, 0],
        [1, 0, 1],
        [2, 0, 2],
        [3, 1, 0],
        [4, 1, 1],
        [5, 1, 2],
    ]
    assert tokens.lengths.tolist() == [6, 6]


def test_images_of_different_sizes_are_patched_as_each_alone() -> None:
    images = [torch.randn(1, 4, 4), torch.randn(1, 2, 6)]
    together = patches(images, 2)
    alone = [patches(image[None], 2) for image in images]
    assert together.lengths.tolist() == [4, 3]
    assert torch.equal(together.x, torch.cat([tokens.x for tokens in alone]))
    assert torch.equal(together.at, torch.cat([tokens.at for tokens in alone]))
    assert_same(patches(torch.stack([images[0]] * 2), 2), patches([images[0]] * 2, 2))


def test_series_tokens_are_variates_or_time_steps() -> None:
    values = torch.randn(2, 6, 3)
    variates, steps = series(values), series(values, token="time")
    assert torch.equal(variates.x.unflatten(0, (2, 3)), values.transpose(1, 2))
    assert torch.equal(steps.x.unflatten(0, (2, 6)), values)
    assert (variates.lengths.tolist(), steps.lengths.tolist()) == ([3, 3], [6, 6])


@pytest.mark.parametrize("stride", [None, 2])
def test_series_tokens_are_patches_of_one_variate(stride: int | None) -> None:
    values = torch.randn(2, 8, 3)
    tokens = series(values, token="patch", patch=4, stride=stride)
    step = stride or 4
    for window, of_window, at in zip(values, tokens.unbatch(), tokens.at.chunk(2), strict=True):
        assert at[:, 0].tolist() == list(range(len(at)))
        for x, (variate, piece) in zip(of_window, at[:, 1:].tolist(), strict=True):
            assert torch.equal(x, window[piece * step : piece * step + 4, variate])
    assert tokens.lengths.tolist() == ([6, 6] if stride is None else [9, 9])


def test_nodes_of_a_batch_are_those_of_each_graph() -> None:
    graphs = [Data(x=x, edge_index=torch.zeros(2, 0, dtype=torch.long)) for x in ragged()]
    batch = Batch.from_data_list(graphs)
    tokens = nodes(batch)
    assert_same(tokens, sequences([graph.x for graph in graphs]))
    assert_same(nodes(graphs[0]), sequences([graphs[0].x]))
    assert_same(nodes(Data(x=batch.x[:9], batch=batch.batch)), tokens)
    assert nodes(Data(x=torch.tensor([4, 2]))).x.tolist() == [4, 2]


def test_nodes_of_networkx_have_the_attributes_named() -> None:
    graph = networkx.Graph()
    graph.add_node("b", weight=2, place=(0.5, 1.5))
    graph.add_node("a", weight=3, place=(2.5, 3.5))
    tokens = nodes(graph, ["place", "weight"])
    assert tokens.x.tolist() == [[0.5, 1.5, 2.0], [2.5, 3.5, 3.0]]
    assert tokens.at.flatten().tolist() == [0, 1]


def test_tokens_pickle() -> None:
    tokens = sequences(ragged()).with_virtual(1)
    assert_same(pickle.loads(pickle.dumps(tokens)), tokens)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_tokens_travel_from_the_workers_of_a_data_loader(start: str) -> None:
    examples = ragged((3, 1, 2, 4))
    loader = DataLoader(
        examples, batch_size=2, num_workers=1, collate_fn=sequences, multiprocessing_context=start
    )
    first, second = loader
    assert_same(first, sequences(examples[:2]))
    assert_same(second, sequences(examples[2:]))


def test_lengths_stay_on_the_cpu() -> None:
    tokens = sequences(ragged()).with_virtual(1)
    moved = tokens.to("meta")
    assert [part.device.type for part in moved[:4]] == ["meta", "meta", "meta", "cpu"]
    assert moved.num_virtual == 1


def test_lightning_moves_tokens_by_their_own_method() -> None:
    apply_func = pytest.importorskip("lightning.fabric.utilities")
    tokens = sequences(ragged()).with_virtual(1)
    moved = apply_func.move_data_to_device({"source": tokens, "other": [tokens]}, "meta")
    for part in (moved["source"], moved["other"][0]):
        assert type(part) is Tokens
        assert (part.x.device.type, part.lengths.device.type) == ("meta", "cpu")
        assert part.num_virtual == 1


def test_data_loaders_pin_tokens_by_their_own_method(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils.data._utils.pin_memory import pin_memory

    pinned: list[Tensor] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: pinned.append(self) or self.clone())
    tokens = sequences(ragged()).with_virtual(1)
    (result,) = pin_memory([tokens])
    assert_same(result, tokens)
    assert [part is given for part, given in zip(pinned, tokens[:3], strict=True)] == [True] * 3
    assert result.lengths is tokens.lengths


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_tokens_go_to_a_gpu_and_back() -> None:
    tokens = sequences(ragged())
    moved = tokens.pin_memory().to("cuda", non_blocking=True).with_virtual(2)
    assert moved.lengths.device.type == "cpu"
    assert_same(moved.without_virtual().to("cpu"), tokens)
    values, mask = moved.padded()
    assert torch.equal(values[mask], moved.x)
