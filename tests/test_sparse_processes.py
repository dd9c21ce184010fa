"""The kernels in other processes: workers that load data, and forks of one that has threads."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys

import pytest
import torch
from test_sparse import make_graph, needs_kernels, results
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


class Attentions(Dataset[Tensor]):
    """Each item is one attention, on two threads."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.graph = make_graph(300, 300, 9_000)
        self.operands = [torch.randn(300, 4, 8, generator=generator) for _ in range(3)]

    def __len__(self) -> int:
        return 2

    def __getitem__(self, item: int) -> Tensor:
        torch.set_num_threads(2)
        return results(self.graph, self.operands, "sparse")["gradient of key"]


@needs_kernels
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_kernels_run_in_workers(method: str) -> None:
    dataset = Attentions()
    expected = dataset[0]
    loader = DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context=method)
    for found in loader:
        assert torch.equal(found, expected)


# Nothing in the child but the kernels needs threads: torch's own operations would wait for ever.
FORK = """
import os, signal
import torch
import graphformer as gf
from graphformer.backends import kernels
torch.set_num_threads(2)
torch.ones(10**7).sum()  # starts threads that a child has not
graph = gf.window(15).bind(gf.sequences([torch.zeros(300, 1)]))
graph.csr, graph.transposed
operands = [torch.randn(300, 4, 8) for _ in range(3)]
assert not kernels._load.cache_info().currsize
if not os.fork():
    signal.alarm(20)
    gf.attend(*operands, graph, backend="sparse")
    os._exit(0)
assert os.wait()[1] == 0
"""


@needs_kernels
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_kernels_that_a_fork_loads_wait_for_no_thread_of_its_parent() -> None:
    subprocess.run([sys.executable, "-c", FORK], check=True, timeout=100)
