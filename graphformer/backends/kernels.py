"""The C++ kernels: where their library is, and how a call reaches it."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

NAME = "libgraphformer_kernels.so"
HOW_TO_GET = (
    "install GCC or Clang, then graphformer again from its source: "
    "pip install --force-reinstall --no-deps ."
)

# `GF_INTERFACE` of attention.h.
INTERFACE = 8
# Bytes from which on a tensor is worth larger pages.
LARGE = 1 << 22
# A fork has none of the threads of torch's team, which does not know.
_PROCESS = os.getpid()

SETS = ("avx512", "avx2", "portable")
DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}
NORMALIZE = ("softmax", "sum", "none", "scores")

_NUMBERS = (
    *("num_queries", "num_keys", "num_edges", "heads", "dim", "value_dim", "edge_dim", "sum_dim"),
    *("bias_heads", "pair_dim", "dtype", "pointwise", "pair", "normalize", "threads"),
    *("query_stride", "key_stride", "value_stride"),
    *("grad_query_stride", "grad_key_stride", "grad_value_stride"),
)
EDGES = ("ptr", "index", "key_ptr", "key_index", "key_place")
INPUTS = (
    *("query", "key", "value", "query_term", "key_term", "bias", "edge_query", "edge_data"),
    *("sum_data", "pair_weight", "pair_map", "pair_data"),
)
OUTPUTS = ("out", "edge_sum", "weights", "stat", "out_rest")
_OUTSIDE = ("grad_out", "grad_edge_sum", "grad_weights")
GRADIENTS = (
    *("grad_query", "grad_key", "grad_value", "grad_query_term", "grad_key_term", "grad_bias"),
    *("grad_edge_query", "grad_edge_data", "grad_sum_data", "grad_pair_weight", "grad_pair_map"),
    "grad_pair_data",
)


class Attention(ctypes.Structure):
    """`gf_attention` of attention.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in _NUMBERS),
        ("scale", ctypes.c_double),
        ("constant", ctypes.c_double),
        ("dropout", ctypes.c_double),
        ("seed", ctypes.c_uint64),
        *((name, ctypes.c_void_p) for name in (*EDGES, *INPUTS, *OUTPUTS, *_OUTSIDE)),
        *((name, ctypes.c_void_p) for name in GRADIENTS),
    )


class Tiles(ctypes.Structure):
    """`gf_tiles` of attention.h."""

    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in (
                *("num_examples", "heads", "kv_heads", "dim", "value_dim", "dtype", "causal"),
                "threads",
            )
        ),
        ("scale", ctypes.c_double),
        ("dropout", ctypes.c_double),
        ("seed", ctypes.c_uint64),
        *(
            (name, ctypes.c_int64)
            for name in (
                *("query_stride", "query_head", "key_stride", "key_head", "value_stride"),
                *("value_head", "grad_stride", "grad_head", "mask_example", "mask_row"),
            )
        ),
        *(
            (name, ctypes.c_void_p)
            for name in (
                *("query_ptr", "key_ptr", "mask", "query", "key", "value", "out", "log_sum"),
                *("grad_out", "grad_query", "grad_key", "grad_value"),
            )
        ),
    )


class Dropout(ctypes.Structure):
    """`gf_dropout` of attention.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("size", "dtype", "threads")),
        ("dropout", ctypes.c_double),
        ("seed", ctypes.c_uint64),
        *((name, ctypes.c_void_p) for name in ("x", "out")),
    )


class Turns(ctypes.Structure):
    """`gf_turns` of attention.h."""

    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in ("num_tokens", "heads", "width", "stride", "back", "dtype", "threads")
        ),
        *((name, ctypes.c_void_p) for name in ("cosine", "sine", "x", "out")),
    )


class Best(ctypes.Structure):
    """`gf_best` of attention.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "columns", "count", "dtype", "threads")),
        *((name, ctypes.c_void_p) for name in ("table", "values", "indices", "log_sums")),
    )


def why_missing() -> str | None:
    """Why there are no kernels and how to get them, or None where they can be used."""
    found = _load()
    return found if isinstance(found, str) else None


def library() -> ctypes.CDLL:
    """The loaded library.

    Raises:
        RuntimeError: if there is none.
    """
    found = _load()
    if isinstance(found, str):
        raise RuntimeError(found)
    return found


def instruction_set() -> str | None:
    """The instruction set in use, such as "avx512", or None without kernels."""
    found = _load()
    return None if isinstance(found, str) else found.gf_instruction_set().decode()


def use_instruction_set(name: str) -> None:
    """Runs the kernels of another instruction set from now on, as tests do.

    Raises:
        ValueError: if the machine does not have it.
    """
    if library().gf_use_instruction_set(name.encode()) != 0:
        raise ValueError(f"this machine has no instruction set {name!r}")


def call(function: str, numbers: dict[str, Any], tensors: dict[str, Tensor | None]) -> None:
    """Runs "forward" or "backward" on tensors of which each is contiguous, or has its stride told.

    Raises:
        MemoryError: if there is no memory for what lies between.
    """
    attention = Attention(threads=torch.get_num_threads(), **numbers)
    for name, tensor in tensors.items():
        if tensor is not None:
            setattr(attention, name, tensor.data_ptr())
    status = getattr(library(), f"gf_{function}")(ctypes.byref(attention))
    if status:
        raise MemoryError(
            f"no memory for the {function} of an attention over {numbers['num_edges']:,} edges "
            f"with {numbers['heads']} heads; split the batch"
        )


def draw_seed() -> int:
    """What dropout hashes, from torch's generator."""
    return int(torch.empty((), dtype=torch.int64).random_())


def run_tiles(numbers: dict[str, Any], tensors: dict[str, Tensor | None]) -> None:
    """Runs the attention of examples, or its backward.

    Raises:
        MemoryError: if there is no memory for the scores of a block of queries.
    """
    pointers = {name: tensor.data_ptr() for name, tensor in tensors.items() if tensor is not None}
    tiles = Tiles(threads=torch.get_num_threads(), **numbers, **pointers)
    if library().gf_run_tiles(ctypes.byref(tiles)):
        raise MemoryError(
            f"no memory for the scores of {numbers['num_examples']:,} examples; split the batch"
        )


def drop(x: Tensor, p: float, seed: int) -> Tensor:
    """Entries of a contiguous tensor, zero with probability `p` and scaled to make up, anew."""
    out = torch.empty_like(x)
    threads = torch.get_num_threads()
    dropout = Dropout(x.numel(), DTYPES[x.dtype], threads, p, seed, x.data_ptr(), out.data_ptr())
    library().gf_drop(ctypes.byref(dropout))
    return out


def turn(x: Tensor, cosine: Tensor, sine: Tensor, back: bool) -> Tensor:
    """Pairs of coordinates of [token, head, width], half the width apart, turned, or back."""
    size, heads, width = x.shape
    for each in (cosine, sine):
        if each.shape != (size, width // 2):
            raise ValueError(
                f"angles of shape {list(each.shape)} turn no pairs of {list(x.shape)}: make them "
                f"[{size}, {width // 2}]"
            )
    if x.numel() and not x[0].is_contiguous():
        x = x.contiguous()
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    numbers = size, heads, width, x.stride(0), back, DTYPES[x.dtype], torch.get_num_threads()
    tensors = cosine.contiguous(), sine.contiguous(), x, out
    library().gf_turn(ctypes.byref(Turns(*numbers, *(each.data_ptr() for each in tensors))))
    return out


def find_best(table: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The largest entries of each row of a contiguous table, their columns, and its log-sum-exp."""
    rows, columns = table.shape
    precision = torch.promote_types(table.dtype, torch.float32)
    values = table.new_empty(rows, count, dtype=precision)
    indices = table.new_empty(rows, count, dtype=torch.int64)
    log_sums = table.new_empty(rows, dtype=precision)
    numbers = rows, columns, count, DTYPES[table.dtype], torch.get_num_threads()
    tensors = table, values, indices, log_sums
    best = Best(*numbers, *(each.data_ptr() for each in tensors))
    library().gf_find_best(ctypes.byref(best))
    return values, indices, log_sums


def expect_writes(tensor: Tensor) -> Tensor:
    """`tensor`, which will be written at once: where it is large, so are the pages asked for.

    Without kernels, and elsewhere than on the CPU, nothing is asked for.
    """
    size = tensor.numel() * tensor.element_size()
    if size >= LARGE and tensor.device.type == "cpu" and why_missing() is None:
        library().gf_expect_writes(tensor.data_ptr(), size)
    return tensor


def _path() -> Path:
    named = os.environ.get("GRAPHFORMER_KERNELS")
    if named:
        return Path(named)
    beside = Path(__file__).parents[1] / "csrc" / NAME
    try:
        # An editable install has the sources in one folder and the library in another.
        installed = Path(str(distribution("graphformer").locate_file(f"graphformer/csrc/{NAME}")))
    except PackageNotFoundError:
        return beside
    return beside if beside.is_file() else installed


@cache
def _load() -> ctypes.CDLL | str:
    path = _path()
    if not path.is_file():
        return f"its C++ kernels are not there ({path}): {HOW_TO_GET}"
    try:
        found = ctypes.CDLL(str(path))
        for name in ("gf_interface", "gf_attention_size"):
            getattr(found, name).restype = ctypes.c_int64
        speaks = found.gf_interface(), found.gf_attention_size()
    except (OSError, AttributeError) as error:
        return f"its C++ kernels cannot be loaded ({error}): {HOW_TO_GET}"
    if speaks != (INTERFACE, ctypes.sizeof(Attention)):
        return f"its C++ kernels ({path}) are of another version: {HOW_TO_GET}"
    found.gf_instruction_set.restype = ctypes.c_char_p
    for name in ("gf_has_instruction_set", "gf_use_instruction_set"):
        getattr(found, name).argtypes = [ctypes.c_char_p]
    for name in ("gf_forward", "gf_backward"):
        getattr(found, name).argtypes = [ctypes.POINTER(Attention)]
    found.gf_run_tiles.argtypes = [ctypes.POINTER(Tiles)]
    found.gf_drop.argtypes = [ctypes.POINTER(Dropout)]
    found.gf_turn.argtypes = [ctypes.POINTER(Turns)]
    found.gf_find_best.argtypes = [ctypes.POINTER(Best)]
    found.gf_expect_writes.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    found.gf_expect_writes.restype = None
    found.gf_use_team.argtypes = [ctypes.c_void_p]
    found.gf_use_team.restype = None
    found.gf_use_team(_team_of_torch())
    if (named := os.environ.get("GRAPHFORMER_ISA")) and not found.gf_has_instruction_set(
        named.encode()
    ):
        known = [name for name in SETS if found.gf_has_instruction_set(name.encode())]
        raise ValueError(
            f"GRAPHFORMER_ISA is {named!r}: this machine has {', '.join(known)}; write one "
            "of them, or nothing for the best"
        )
    return found


def _team_of_torch() -> int | None:
    """The address of what starts a team of torch's OpenMP threads, or None where that is not found.

    Its threads wait busily for a while after each of torch's operations. Threads of our own would
    have to wait for them. In a fork there are none of them, and whoever starts the team waits for
    ever; kernels that were loaded before the fork know.
    """
    if os.getpid() != _PROCESS:
        return None
    for path in (Path(torch.__file__).parent / "lib").glob("libgomp*.so*"):
        try:
            # Loaded already: this asks for a handle, and never for a second runtime.
            runtime = ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD | os.RTLD_NOW)
            return ctypes.cast(runtime.GOMP_parallel, ctypes.c_void_p).value
        except (OSError, AttributeError):
            continue
    return None
