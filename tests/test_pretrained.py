"""Models come back from their folders as they were, and what cannot come back says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import graphformer as gf
from graphformer.models.decode import greedy
from graphformer.models.pretrained import CONFIG, WEIGHTS, Pretrained
from graphformer.models.recurrent import AttentionalLSTM
from graphformer.models.sequence import LanguageModel, Size, Transformer
from graphformer.positions import Learned
from graphformer.tokens import sequences

VOCABULARY, HEADS = 11, 4
SIZE = Size(dim=16, heads=HEADS, layers=2, hidden=24, dropout=0.5)

TRANSFORMERS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "cosine": {"score": f"Cosine({HEADS})"},
    "of each its own": {"score": ("Gaussian(2.0)", f"Bahdanau({HEADS})"), "cross_score": "Mean()"},
    "objects": {"score": gf.Rotary(gf.Cosine(HEADS)) + gf.ALiBi(HEADS), "positions": None},
    "learned": {"score": f"DotProduct() + T5Bias({HEADS})", "positions": Learned(16, 16)},
    "kv heads": {"size": Size(dim=16, heads=HEADS, layers=1, kv_heads=2, norm_first=False)},
    "topologies": {
        "encoder_topology": gf.window(8) | gf.global_tokens(1),
        "decoder_topology": "strided(2) | window(1)",
    },
    "convolutions": {"feed_forward": ("convolution(3)", "convolution(2)")},
    "three tables": {"vocabulary": (VOCABULARY, 9)},
}
WRITERS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "rotary": {"score": "Rotary(DotProduct())", "positions": None, "topology": "window(3)"},
    "additive": {"score": f"Additive({HEADS})", "feed_forward": "convolution(4)"},
}
LSTMS: dict[str, dict[str, Any]] = {
    "bahdanau": {},
    "products": {"cross_score": "DotProduct()", "vocabulary": (VOCABULARY, 9)},
}
CASES = [
    pytest.param(kind, settings, id=f"{kind.__name__} {name}")
    for kind, all_settings in (
        (Transformer, TRANSFORMERS),
        (LanguageModel, WRITERS),
        (AttentionalLSTM, LSTMS),
    )
    for name, settings in all_settings.items()
]


def make(kind: type[Pretrained], settings: dict[str, Any]) -> Pretrained:
    """A model whose weights are no fresh ones."""
    model = kind(**{"vocabulary": VOCABULARY, "size": SIZE} | settings)
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def logits(model: Pretrained) -> Tensor:
    torch.manual_seed(7)
    tokens = [sequences([torch.randint(9, (length,)) for length in (5, 2, 4)]) for _ in range(2)]
    with torch.no_grad():
        return model(*tokens[: 1 if isinstance(model, LanguageModel) else 2])


@pytest.mark.parametrize(("kind", "settings"), CASES)
def test_saving_and_loading_changes_nothing(
    kind: type[Pretrained], settings: dict[str, Any], tmp_path: Path
) -> None:
    model = make(kind, settings)
    state = torch.get_rng_state()
    model.save_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), state), "training goes on as if nothing were saved"
    loaded = kind.from_pretrained(tmp_path)
    assert not loaded.training
    assert loaded.settings == model.settings
    assert torch.equal(logits(loaded), logits(model))
    named, found = dict(model.named_parameters()), dict(loaded.named_parameters())
    assert list(named) == list(found), "what is one parameter stays one"
    assert all(torch.equal(named[name], found[name]) for name in named)
    again = tmp_path / "again"
    loaded.save_pretrained(str(again))
    for name in (CONFIG, WEIGHTS):
        assert (again / name).read_bytes() == (tmp_path / name).read_bytes()


@pytest.mark.parametrize("kind", [Transformer, AttentionalLSTM])
def test_tied_weights_are_saved_once_and_stay_tied(kind: type[Any], tmp_path: Path) -> None:
    model = make(kind, {})
    model.save_pretrained(tmp_path)
    tables = [
        each for each in load_file(tmp_path / WEIGHTS).values() if each.shape[0] == VOCABULARY
    ]
    assert len(tables) == 1
    loaded = kind.from_pretrained(tmp_path)
    assert loaded.source.weight is loaded.target.weight
    assert loaded.output_weight is loaded.target.weight


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_weights_keep_their_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    model = LanguageModel(VOCABULARY, SIZE).to(dtype)
    model.save_pretrained(tmp_path)
    loaded = LanguageModel.from_pretrained(tmp_path)
    for one, other in zip(loaded.parameters(), model.parameters(), strict=True):
        assert one.dtype is dtype
        assert torch.equal(one, other)


def test_config_says_all_in_its_own_notation(tmp_path: Path) -> None:
    make(Transformer, TRANSFORMERS["topologies"] | {"score": gf.Cosine(HEADS)}).save_pretrained(
        tmp_path
    )
    config = json.loads((tmp_path / CONFIG).read_text("utf-8"))
    assert config["model"] == "Transformer"
    assert config["encoder_topology"] == "window(8) | global_tokens(1)"
    assert config["score"] == "Cosine(4)"
    assert config["size"]["hidden"] == 24
    assert config["vocabulary"] == VOCABULARY


def test_a_loaded_model_decodes(tmp_path: Path) -> None:
    make(Transformer, {}).save_pretrained(tmp_path)
    loaded = Transformer.from_pretrained(tmp_path, decoder_topology="window(2)")
    assert repr(loaded.decoder_topology) == "window(2) & causal()"
    source = sequences([torch.tensor([4, 5])])
    assert len(greedy(loaded, source, begin=2, end=3, max_length=3)) == 1


# ---- what is one's own ----


class Nearby(gf.BilinearScore):
    """The dot product, of which only a part counts."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def prepare_query(self, query: Tensor, side: gf.Side) -> Tensor:
        return query * self.share


class Cosine(gf.Cosine):
    """A score of one's own by the name of one of the library's."""

    def prepare_key(self, key: Tensor, side: gf.Side) -> Tensor:
        return key


class Ramp(nn.Module):
    """Positions that grow."""

    def forward(self, positions: Tensor) -> Tensor:
        return positions.unsqueeze(1).expand(-1, 16) / 10


capped = gf.DotProduct()
capped.pointwise = gf.SoftCap(5.0)


@pytest.mark.parametrize(
    ("own", "name"),
    [
        ({"score": Nearby(0.5)}, r"score Nearby\(0\.5\)"),
        ({"score": ("DotProduct()", Nearby(0.5))}, r"score Nearby\(0\.5\)"),
        ({"cross_score": Cosine(HEADS)}, r"cross_score Cosine\(4\)"),
        ({"score": capped}, r"score DotProduct\(\)"),
        ({"positions": Ramp()}, "positions Ramp"),
        ({"encoder_topology": gf.where(lambda pair: pair.distance > -3)}, "encoder_topology where"),
    ],
    ids=["score", "one of two", "a known name", "a changed score", "positions", "topology"],
)
def test_what_is_ones_own_is_asked_for_by_name(
    own: dict[str, Any], name: str, tmp_path: Path
) -> None:
    model = make(Transformer, own)
    model.save_pretrained(tmp_path)
    (setting,) = own
    expected = rf"config\.json was saved with {name}.*from_pretrained\('.*', {setting}=\.\.\.\)"
    with pytest.raises(ValueError, match=expected):
        Transformer.from_pretrained(tmp_path)
    loaded = Transformer.from_pretrained(tmp_path, **own)
    assert torch.equal(logits(loaded), logits(model))


# ---- refusals ----


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make(Transformer, {}).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_truncated_files_are_refused_by_name(name: str, share: float, folder: Path) -> None:
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=rf"{name} is (damaged|not as it was saved).*copy the fol"):
        Transformer.from_pretrained(folder)


def test_a_flipped_bit_is_found(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-9] ^= 1
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors is not as it was saved"):
        Transformer.from_pretrained(folder)


def test_files_of_two_models_are_told_apart(folder: Path, tmp_path: Path) -> None:
    make(Transformer, {}).save_pretrained(tmp_path / "other")
    (folder / WEIGHTS).write_bytes((tmp_path / "other" / WEIGHTS).read_bytes())
    with pytest.raises(ValueError, match="or one of the two is of another model"):
        Transformer.from_pretrained(folder)


def test_an_interrupted_save_leaves_whole_files_and_is_found_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (folder / CONFIG).read_bytes()

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("graphformer.models.pretrained.write_json", fail)
    with pytest.raises(KeyboardInterrupt):
        make(Transformer, {}).save_pretrained(folder)
    assert (folder / CONFIG).read_bytes() == before
    assert not list(folder.glob("*.unfinished"))
    with pytest.raises(ValueError, match="copy the folder anew, or save it again"):
        Transformer.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "has format 99, written by graphformer .*reads format 1: install"),
        ({"model": None}, "holds a None, not a Transformer"),
        ({"model": "LanguageModel"}, r"holds a LanguageModel, .*LanguageModel\.from_pretrained\('"),
        ({"files": None}, "does not describe a model: save it anew"),
        ({"size": {"a": 2}}, "does not describe a Transformer: .*'a'"),
        ({"score": "Nearby(3)"}, r"config\.json: unknown name 'Nearby' in the score"),
        ({"vocabulary": 12}, r"does not fit the model .*source.weight is \[11, 16\], and is to be"),
        ({"score": f"Cosine({HEADS})"}, "does not fit .*: it lacks decoder.0"),
    ],
)
def test_descriptions_of_something_else_are_refused(
    change: dict[str, Any], message: str, folder: Path
) -> None:
    config = json.loads((folder / CONFIG).read_text("utf-8"))
    (folder / CONFIG).write_text(json.dumps(config | change), "utf-8")
    with pytest.raises(ValueError, match=message):
        Transformer.from_pretrained(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model_type": "marian"}', r"was not written by graphformer \(it is of a marian model"),
        ("[]", r"was not written by graphformer: name a folder that save_pretrained"),
        ("{", r"config\.json is damaged: .*copy the folder anew"),
    ],
)
def test_foreign_descriptions_are_refused(text: str, message: str, folder: Path) -> None:
    (folder / CONFIG).write_text(text, "utf-8")
    with pytest.raises(ValueError, match=message):
        Transformer.from_pretrained(folder)


def test_folders_without_a_model_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="name one of those in it: model"):
        Transformer.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"lacks config\.json: name a folder that save_pr"):
        Transformer.from_pretrained(tmp_path / "nowhere")
    (folder / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match=r"model lacks model\.safetensors"):
        Transformer.from_pretrained(folder)
    with pytest.raises(ValueError, match=r"is a file: name a folder"):
        make(Transformer, {}).save_pretrained(folder / CONFIG)
    with pytest.raises(TypeError, match="Transformer has no setting 'scores': it has vocabulary"):
        Transformer.from_pretrained(folder, scores="DotProduct()")
