"""Readers of the public data sets, and the embedded ones; what they return, `tasks` trains on.

Text (`TextSplits`, or pairs of strings): `dates` (embedded), `multi30k`, `parallel` (own files, be
they larger than memory), `cleaning` (what is left out of them), `vocabulary` (characters or pieces
of words), `sampled_pieces` (BPE-dropout). Graphs (`GraphData`): `digits` (embedded),
`planetoid`, `heterophilous`, `graph_file` (own files). Each is imported from its own module, so
that reading a graph needs no text library.
"""
