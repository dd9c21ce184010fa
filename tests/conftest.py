"""What every test stands on: checked shapes, poisoned memory, fixed seeds, real data if present."""

from __future__ import annotations

import functools
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import jaxtyping
import pytest
import torch
from beartype._check.code import codemain
from hypothesis import HealthCheck, settings
from torch import Tensor

TYPECHECK = os.environ.get("GRAPHFORMER_TYPECHECK", "1") != "0"
if TYPECHECK:
    # It looks at one item of a list, drawn at random, but not from what is tested to be random.
    codemain.getrandbits = random.Random(0).getrandbits
    # Before any test imports graphformer: the hook rewrites modules as they are loaded. An integer
    # is taken where a float is annotated, as type checkers do.
    jaxtyping.install_import_hook(
        "graphformer", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
    )

ROOT = Path(__file__).resolve().parents[1]

settings.register_profile(
    "graphformer",
    deadline=None,  # the first example of a test pays for imports and caches
    derandomize="CI" in os.environ,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("graphformer")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `compiled` need a process of their own: `make test` starts it."""
    skip = pytest.mark.skip(
        reason="torch.compile cannot look into the checker of shapes: run them with "
        "GRAPHFORMER_TYPECHECK=0 pytest -m compiled"
    )
    for item in items:
        if TYPECHECK and item.get_closest_marker("compiled"):
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def seed() -> int:
    """Each test starts from the same random state, whatever ran before it."""
    torch.manual_seed(0)
    return 0


@pytest.fixture(autouse=True, scope="session")
def poisoned_memory() -> Iterator[None]:
    """Memory that nobody wrote reads as NaN, or as the largest integer.

    torch fills it so in its deterministic mode only, and to be reproducible without that mode is
    one of the contracts.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in ("empty", "empty_like", "empty_strided"):
            patch.setattr(torch, name, poisoned(getattr(torch, name)))
        for name in ("new_empty", "new_empty_strided"):
            patch.setattr(Tensor, name, poisoned(getattr(Tensor, name)))
        yield


@pytest.fixture(autouse=True, scope="session")
def no_cache_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests plan by built-in costs, whatever was measured on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAPHFORMER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="session")
def quick_trials() -> Iterator[None]:
    """Which executor is faster is measured in no time: tests ask whether both are right."""
    from graphformer.backends import executors

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executors, "TRIAL_SCORES", 2**8)
        patch.setattr(executors, "TRIAL_TOKENS", 2**6)
        patch.setattr(executors, "TURNS", 1)
        patch.setattr(executors, "LENGTHS", (8, 24))
        yield


def poisoned(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`make`, whose result is filled with what no computation survives unseen."""

    @functools.wraps(make)
    def make_poisoned(*args: object, **kwargs: object) -> Tensor:
        tensor = make(*args, **kwargs)
        if tensor.layout is not torch.strided or tensor.is_quantized:
            return tensor
        with torch.no_grad():
            if tensor.is_floating_point() or tensor.is_complex():
                return tensor.fill_(float("nan"))
            if tensor.dtype is torch.bool:
                return tensor.fill_(True)
            return tensor.fill_(torch.iinfo(tensor.dtype).max)

    return make_poisoned


@pytest.fixture(params=["portable", "avx2", "avx512"])
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set that the machine has."""
    from graphformer.backends import kernels

    if (missing := kernels.why_missing()) is not None:
        pytest.skip(missing)
    before = kernels.instruction_set()
    try:
        kernels.use_instruction_set(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    yield request.param
    kernels.use_instruction_set(str(before))


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Threads could add in any order."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments reach the function whatever their shape, so that it can refuse them itself."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public data sets, of which none is part of the project."""
    folder = Path(os.environ.get("GRAPHFORMER_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder}: set GRAPHFORMER_DATA to the folder that has them")
    return folder
