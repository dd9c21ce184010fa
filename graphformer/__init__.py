"""Attention is message passing: one operator, whose settings are transformers and graph networks.

`out_i = sum over j in N(i) of a_ij * v_j`, where a topology says who is in `N(i)` and a score
says how large `a_ij` is.
"""

from __future__ import annotations

__version__ = "0.1.0"
