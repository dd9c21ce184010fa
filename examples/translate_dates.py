"""A Transformer translates German dates into English, character by character.

python examples/translate_dates.py

The encoder's graph is complete, the decoder's causal, and a bipartite graph joins them. Sentences
of all lengths lie in one flat list: there is no padding, and so no mask.
"""

from __future__ import annotations

import argparse

import torch
from tokenizers import Tokenizer
from torch.nn import functional as F

from graphformer import Tokens, sequences
from graphformer.data.dates import dates
from graphformer.data.parallel import Pairs
from graphformer.data.vocabulary import END, START, train_characters
from graphformer.models.decode import greedy
from graphformer.models.sequence import Size, Transformer


def make_tokens(tokenizer: Tokenizer, texts: list[str], start: bool, end: bool) -> Tokens:
    """Texts as tokens, with the special ones before and behind them."""
    ids = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    return sequences([torch.tensor([START] * start + example + [END] * end) for example in ids])


def train(model: Transformer, tokenizer: Tokenizer, pairs: Pairs, num_steps: int) -> None:
    """Teaches the model to guess each next character of the English date."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=num_steps)
    for step in range(1, num_steps + 1):
        chosen = [pairs[index] for index in torch.randint(len(pairs), (64,)).tolist()]
        german, english = map(list, zip(*chosen, strict=True))
        source = make_tokens(tokenizer, german, start=False, end=True)
        target = make_tokens(tokenizer, english, start=True, end=False)
        following = make_tokens(tokenizer, english, start=False, end=True)
        loss = F.cross_entropy(model(source, target), following.x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}, {loss.item():.4f} nats a character")


def translate(model: Transformer, tokenizer: Tokenizer, german: list[str]) -> list[str]:
    """The likeliest English date, character by character."""
    model.eval()
    source = make_tokens(tokenizer, german, start=False, end=True)
    found = greedy(model, source, begin=START, end=END, max_length=64)
    return [tokenizer.decode(ids.tolist()) for ids in found]


def main(num_steps: int, num_test: int) -> None:
    torch.manual_seed(0)
    corpus = dates(num_test=num_test)
    tokenizer = train_characters(text for pair in corpus.train for text in pair)
    size = Size(dim=64, heads=2, layers=2, hidden=128, dropout=0.0)
    model = Transformer(tokenizer.get_vocab_size(), size)
    train(model, tokenizer, corpus.train, num_steps)

    german, english = map(list, zip(*corpus.test, strict=True))
    found = translate(model, tokenizer, german)
    exact = sum(map(str.__eq__, found, english)) / len(english)
    print(f"\n{exact:.1%} of {len(english)} dates of years never seen are exactly right\n")
    for source, target in list(zip(german, found, strict=True))[:5]:
        print(f"{source:<45} {target}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="train for a few steps only")
    quick = parser.parse_args().quick
    main(num_steps=5 if quick else 800, num_test=10 if quick else 200)
