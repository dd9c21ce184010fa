"""A recipe stands in for the defaults of a command, and whatever is given beside it wins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from graphformer.options import arguments_of, make_parser, names_of, parse
from graphformer.tasks import translate
from graphformer.tasks.translation.settings import RECIPES, Training, complete_settings

OUT = ["--out", "runs/one"]


def given(*words: str) -> dict[str, Any]:
    parser = make_parser("graphformer translate fit", translate.fit)
    return arguments_of(translate.fit, parse(parser, translate.fit, [*words, *OUT]))


@pytest.fixture
def recipes(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Recipes with options of each kind: left out by default or not, and of a part."""
    made = {"beam": 3, "encoder.score": "Gaussian()", "dim": 96, "minutes": 7.0}
    monkeypatch.setattr(Training, "recipes", {"multi30k": made, "other": {"dim": 32}})
    return made


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipes_are_options_that_make_sense(name: str) -> None:
    assert set(RECIPES[name]) <= set(names_of(translate.fit)) - {"out", "resume", "seed", "seeds"}
    arguments = given("--recipe", name)
    corpus, shape, training = (arguments[each] for each in ("corpus", "shape", "training"))
    completed = complete_settings(corpus, shape, training, arguments["job"].device)
    arguments["attending"].completed(completed[0].size).check_fits(completed[0].size)
    for option, value in RECIPES[name].items():
        assert value in [vars(part).get(option) for part in (corpus, shape, training)]


@pytest.mark.usefixtures("recipes")
def test_a_recipe_stands_in_for_defaults() -> None:
    arguments = given("--recipe", "multi30k")
    assert arguments["search"].beam == 3
    assert arguments["attending"].encoder.score == "Gaussian()"
    assert arguments["attending"].decoder.score is None
    assert arguments["shape"].dim == 96
    assert arguments["training"].minutes == 7.0
    assert given("--recipe=other")["shape"].dim == 32
    assert given()["search"].beam == 5, "without a recipe all is as before"


@pytest.mark.usefixtures("recipes")
def test_what_is_given_beside_a_recipe_wins_be_it_the_default(tmp_path: Path) -> None:
    words = ["--beam", "5", "--encoder.score", "DotProduct()", "--recipe", "multi30k"]
    arguments = given(*words)
    assert arguments["search"].beam == 5
    assert arguments["attending"].encoder.score == "DotProduct()"
    assert arguments["shape"].dim == 96
    settings = tmp_path / "settings.yaml"
    settings.write_text(yaml.safe_dump({"dim": 48, "encoder.topology": "window(3)"}))
    arguments = given("--config", str(settings), "--recipe", "multi30k")
    assert arguments["shape"].dim == 48
    assert arguments["attending"].encoder.topology == "window(3)"
    assert arguments["attending"].encoder.score == "Gaussian()"


@pytest.mark.usefixtures("recipes")
@pytest.mark.parametrize("limit", ["minutes", "epochs", "steps"])
def test_a_limit_beside_a_recipe_stands_alone(limit: str) -> None:
    training = given("--recipe", "multi30k", f"--{limit}", "2")["training"]
    limits = {name: getattr(training, name) for name in ("minutes", "epochs", "steps")}
    assert limits == {"minutes": None, "epochs": None, "steps": None, limit: 2}


def test_unknown_recipes_are_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="--recipe is 'best': write multi30k"):
        given("--recipe", "best")
