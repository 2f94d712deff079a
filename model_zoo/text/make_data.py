"""Make reviews that praise or do not, from a grammar.

A review has one, three or five clauses; each praises something or does not, by an adjective that a
"not" before it turns around, up to three words away. Most clauses decide. Names of things and other
words say nothing, so counting words is not enough: their order counts. A share of the labels is
wrong, so the best possible accuracy is known.

An Example has `text` (bytes, words with spaces between) and `label` (int64, 1 for praise).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from model_zoo import recipe

_GRAMMAR = {
    "good": "good great fine lovely superb charming clever bright moving fresh witty warm",
    "bad": "bad poor dull awful clumsy boring silly cold noisy stale weak tired",
    "thing": "film plot cast music ending dialogue scene hero book chapter style pace song voice",
    "verb": "is was seems seemed felt feels",
    "not": "not never hardly",
    "degree": "very quite really so too rather truly",
    "link": "and but while although ; ,",
}
WORDS = {kind: words.split() for kind, words in _GRAMMAR.items()}
WRONG_LABELS = 0.03


def draw(num_records: int, rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
    """Draw reviews and their labels, some of them wrong."""
    texts, labels = [], np.empty(num_records, np.int64)
    for record in range(num_records):
        num_clauses = int(rng.choice([1, 3, 5]))
        clauses, balance = [], 0
        for _ in range(num_clauses):
            words, praises = _clause(rng)
            clauses.append(" ".join(words))
            balance += 1 if praises else -1
        text = clauses[0]
        for clause in clauses[1:]:
            text += f" {rng.choice(WORDS['link'])} {clause}"
        texts.append(text)
        labels[record] = balance > 0
    wrong = rng.random(num_records) < WRONG_LABELS
    return texts, np.where(wrong, 1 - labels, labels)


def _clause(rng: np.random.Generator) -> tuple[list[str], bool]:
    praises, turned = bool(rng.random() < 0.5), bool(rng.random() < 0.5)
    words = ["the", rng.choice(WORDS["thing"]), rng.choice(WORDS["verb"])]
    if turned:
        words.append(rng.choice(WORDS["not"]))
    words += list(rng.choice(WORDS["degree"], int(rng.integers(0, 3))))
    words.append(rng.choice(WORDS["good" if praises != turned else "bad"]))
    return words, praises


def make(output: Path, num_records: int = 8_000, seed: int = 0) -> None:
    """Write ``train`` and ``test`` under a directory.

    Args:
      output: the directory.
      num_records: reviews to train on; a quarter as many are held out besides.
      seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    for name, count, num_shards in (("train", num_records, 4), ("test", num_records // 4, 1)):
        texts, labels = draw(count, rng)
        recipe.write(output / name, {"text": texts, "label": labels}, num_shards)


def main() -> None:
    """Run the command line."""
    parser = recipe.parser(__doc__, "text")
    parser.add_argument("--num_records", type=int, default=8_000, help="to train on")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    make(given.output, given.num_records, given.seed)
    print(
        f"{given.output}: {given.num_records:,} reviews to train on, {given.num_records // 4:,} "
        f"held out; best possible accuracy {1 - WRONG_LABELS:.2f}"
    )


if __name__ == "__main__":
    main()
