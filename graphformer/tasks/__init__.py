"""Training by domain, on Lightning.

What every task shares: a `Learner` (`learner`) says its loss as a sum and a count, a `Loader`
(`loader`) brings it batches in a `BatchOrder` (`batches`), and `train` (`run`) does the rest: it
leaves a table and checkpoints (`history`, `resume`), and goes on from them to the same weights.
`write_metrics` (`record`) says what was measured, and how.
"""
