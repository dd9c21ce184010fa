"""Models in folders: what they are made of in `config.json`, their weights in safetensors."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from torch import Tensor, nn

from graphformer.files import replacing, write_json
from graphformer.models.settings import own_name, restored

FORMAT = 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"
WHOSE = (
    "name a folder that save_pretrained has written, or the --out folder of a graphformer "
    "translate fit that has ended"
)


class Pretrained(nn.Module):
    """A model that is saved to a folder with all that it is made of, and loaded from there.

    Attributes:
        settings: the arguments that the model was made with; see `described`.
    """

    settings: dict[str, Any]

    def save_pretrained(self, folder: str | Path) -> None:
        """Leaves `config.json` and `model.safetensors` in `folder`, each whole or not at all.

        Weights that the model has in several places are saved once.
        """
        save_model(self, folder)

    @classmethod
    def from_pretrained(cls: type[Model], folder: str | Path, **settings: Any) -> Model:
        """The model that `save_pretrained` left in `folder`, on the CPU and in evaluation.

        Args:
            folder: where it is.
            settings: arguments of the model that take the place of those it was saved with. A
                score, a topology or positions of one's own have no notation: give them here, as
                in `from_pretrained(folder, score=Nearby(4))`.

        Raises:
            FileNotFoundError: there is no model in the folder.
            ValueError: it is damaged, of another kind or version, or needs what is one's own.
        """
        return load_model(read_saved(folder), cls, **settings)


Model = TypeVar("Model", bound=Pretrained)


class Saved(NamedTuple):
    """What a folder says of the model in it.

    Attributes:
        folder: where it is.
        config: all that its `config.json` has.
    """

    folder: Path
    config: dict[str, Any]

    @property
    def kind(self) -> str:
        """The name of the model's class."""
        return str(self.config["model"])

    @property
    def file(self) -> Path:
        return self.folder / CONFIG

    def read(self, name: str) -> bytes:
        """The file of this name, the very one that was saved with the model.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is another one, or damaged.
        """
        path, files = self.folder / name, self.config["files"]
        if not path.is_file() or name not in files:
            raise FileNotFoundError(f"{self.folder} lacks {name}: {WHOSE}")
        content = path.read_bytes()
        if digest(content) != files[name]:
            raise ValueError(
                f"{path} is not as it was saved with {CONFIG}: it is truncated, was changed, or "
                "one of the two is of another model; copy the folder anew, or save it again"
            )
        return content


def save_model(
    model: Pretrained,
    folder: str | Path,
    files: Sequence[str] = (),
    notes: Mapping[str, object] | None = None,
) -> None:
    """Leaves a model in `folder`; see `Pretrained.save_pretrained`.

    Args:
        model: to be saved.
        folder: that gets the files.
        files: names of those that were written there to be read with the model.
        notes: what else `config.json` is to say.
    """
    from safetensors.torch import save

    import graphformer

    folder = Path(folder)
    if folder.is_file():
        raise ValueError(f"{folder} is a file: name a folder to save the model in")
    # A copy, for no two tensors of a file may share memory, as those of an LSTM on a GPU do.
    tensors = {
        name: tensor.detach().to("cpu", copy=True).contiguous()
        for name, tensor in once_each(model).items()
    }
    with replacing(folder / WEIGHTS) as file:
        file.write(save(tensors, metadata={"format": "pt"}))
    digests = {name: digest((folder / name).read_bytes()) for name in (WEIGHTS, *files)}
    head = {"format": FORMAT, "graphformer": graphformer.__version__}
    described = {"model": type(model).__name__, **model.settings, **(notes or {})}
    # The last one, for it knows the others: a folder that was left half written is found out.
    write_json(folder / CONFIG, {**head, **described, "files": digests})


def read_saved(folder: str | Path) -> Saved:
    """What the folder says of the model in it.

    Raises:
        FileNotFoundError: there is no model in the folder.
        ValueError: its description is damaged, or of another version.
    """
    folder = Path(folder)
    path = folder / CONFIG
    if not path.is_file():
        within = sorted(each.parent.name for each in folder.glob(f"*/{CONFIG}"))
        hint = f"name one of those in it: {', '.join(within)}" if within else WHOSE
        raise FileNotFoundError(f"{folder} holds no saved model, it lacks {CONFIG}: {hint}")
    try:
        config = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}; copy the folder anew") from error
    ours = isinstance(config, dict) and {"format", "graphformer"} <= config.keys()
    if not ours:
        of = config.get("model_type") if isinstance(config, dict) else None
        what = f" (it is of a {of} model)" if of else ""
        raise ValueError(f"{path} was not written by graphformer{what}: {WHOSE}")
    if config["format"] != FORMAT:
        raise ValueError(
            f"{path} has format {config['format']}, written by graphformer "
            f"{config['graphformer']}, and this version reads format {FORMAT}: install "
            f"graphformer {config['graphformer']}, or train and save it anew"
        )
    if "model" not in config or not isinstance(config.get("files"), dict):
        raise ValueError(f"{path} does not describe a model: save it anew")
    return Saved(folder, config)


def load_model(saved: Saved, kind: type[Model], **settings: Any) -> Model:
    """The model that was saved; see `Pretrained.from_pretrained`."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    if saved.kind != kind.__name__:
        raise ValueError(
            f"{saved.folder} holds a {saved.kind}, not a {kind.__name__}: write "
            f"{saved.kind}.from_pretrained({str(saved.folder)!r})"
        )
    model = make_model(saved, kind, settings)
    try:
        tensors = load(saved.read(WEIGHTS))
        load_tensors(model, tensors)
    except (SafetensorError, LookupError) as error:
        raise ValueError(
            f"{saved.folder / WEIGHTS} does not fit the model that {CONFIG} describes: {error}; "
            "save the model anew, or load it with the settings that it was trained with"
        ) from error
    return model.eval()


def make_model(saved: Saved, kind: type[Model], settings: Mapping[str, Any]) -> Model:
    """The model that `config.json` describes, with fresh weights.

    Raises:
        TypeError: there is no such setting.
        ValueError: it needs what is one's own, or does not describe such a model.
    """
    known = inspect.signature(kind).parameters
    for name in settings:
        if name not in known:
            raise TypeError(f"{kind.__name__} has no setting {name!r}: it has {', '.join(known)}")
    described = {name: saved.config[name] for name in known if name in saved.config}
    described.update(settings)
    for name, value in described.items():
        if (own := own_name(value)) is not None:
            raise ValueError(
                f"{saved.file} was saved with {name} {own}, which has no notation: pass it, as in "
                f"{kind.__name__}.from_pretrained({str(saved.folder)!r}, {name}=...)"
            )
    try:
        return kind(**restored(described))
    except TypeError as error:
        raise ValueError(f"{saved.file} does not describe a {kind.__name__}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{saved.file}: {error}") from error


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Gives the model these weights, each in the precision that it was saved in.

    Raises:
        LookupError: some are missing, have no place, or have another shape.
    """
    places = once_each(model)
    for what, names in (("lacks", places.keys() - tensors), ("has also", tensors.keys() - places)):
        if names:
            raise LookupError(f"it {what} {', '.join(sorted(names)[:3])}")
    for name, tensor in tensors.items():
        if tensor.shape != places[name].shape:
            needed = list(places[name].shape)
            raise LookupError(f"its {name} is {list(tensor.shape)}, and is to be {needed}")
        places[name].data = places[name].data.to(tensor.dtype)
    model.load_state_dict(tensors, strict=False)


def once_each(model: nn.Module) -> dict[str, Tensor]:
    """The weights of the model by name, those that it has in several places under the first."""
    found: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        found.setdefault(id(tensor), (name, tensor))
    return dict(found.values())


def digest(content: bytes) -> str:
    """What tells this content from any other."""
    return hashlib.sha256(content).hexdigest()
