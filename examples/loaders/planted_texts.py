"""Texts of authors who live in communities, planted, so that the best answer to every question is known.

Nothing that is measured on them says anything about real texts. What is made up:

- Authors belong to one of K communities each and follow others, mostly of their own. That network is all that author
  vectors may be trained on.
- A text has a label, a topic and words, drawn in this order:
      label    1 with a probability that depends on the author's community alone
      topic    half of the time the community's own, or else any
      words    each of three kinds: common ones, words of a topic (mostly the text's own), and ones that lean towards
               a label
- Where a collection has ``turned`` communities, what leans towards 1 elsewhere leans towards 0 there: the same words
  mean the opposite.

Given community and label, a text says no more about its author; so in a collection without turned communities the log
odds of its label are a sum of one number per word and one per community, and a linear probe can be right. In one with
turned communities it cannot: what a word is worth then depends on the author.

``ceilings`` are the posterior probabilities themselves, from the text alone and from text and community. No other
score has more true positives among as many false ones (Neyman and Pearson), so none has a greater ROC-AUC or average
precision but by the luck of a sample.

Shapes: U authors, K communities, n texts, T topics, V words, S the two ways in which words lean.
"""

__all__ = ["Ceilings", "Collection", "Communities", "PlantedTexts", "ceilings", "planted_communities", "planted_texts"]

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.special import expit, logsumexp

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TOPICS = 12
COMMON_WORDS, TOPIC_WORDS, LABEL_WORDS = 200, 80, 80  # of each topic
SHARES = (0.45, 0.35, 0.2)  # of the words of a text, by kind
OWN_TOPIC = 0.5  # how often a text is of its community's own topic
ON_TOPIC = 0.8  # how often a topic word is one of the text's own topic
SHORTEST, MORE_WORDS = 8, 10  # a text has 8 words, and 10 more on average


@dataclass(frozen=True)
class Collection:
    """What the labels of a collection depend on.

    Attributes:
        name: What it is called.
        prior: Probability of label 1 in each community, (K,).
        lean: Standard deviation of the label words' log likelihood ratios.
        turned: Communities in which they lean the other way.
    """

    name: str
    prior: tuple[float, ...]
    lean: float = 0.8
    turned: frozenset[int] = frozenset()


@dataclass(frozen=True, eq=False)
class Communities:
    """Authors and whom they follow.

    Attributes:
        community: Of each author, (U,); authors are row numbers.
        follows: Columns source, target; no pair twice, nobody follows himself.
    """

    community: Ints
    follows: pd.DataFrame


@dataclass(frozen=True, eq=False)
class PlantedTexts:
    """The texts of a collection and what they were drawn from.

    Attributes:
        author: (n,).
        label: 0 or 1, (n,).
        words: Texts as strings, (n,).
        counts: How often each word is in each text, (n, V).
        likelihood: Probability of a word given lean, topic and label, (S, T, 2, V).
        topics: Probability of a topic given the community, (K, T).
    """

    author: Ints
    label: Ints
    words: list[str]
    counts: csr_matrix
    likelihood: Floats
    topics: Floats


@dataclass(frozen=True, eq=False)
class Ceilings:
    """Posterior probabilities of label 1, (n,) each.

    Attributes:
        text: Given the text.
        author: Given the author's community.
        both: Given text and community.
    """

    text: Floats
    author: Floats
    both: Floats


def planted_communities(
    *, authors: int = 6000, communities: int = 10, degree: int = 12, noise: float = 0.4, seed: int = 0
) -> Communities:
    """Make up authors, each of whom follows ``degree`` others or a few less.

    Args:
        authors: Their number, U.
        communities: Of them, K.
        degree: Draws of whom to follow, for each; what comes twice counts once.
        noise: Share of the draws that are of anyone.
        seed: Of all draws.
    """
    rng = np.random.default_rng(seed)
    community = rng.integers(0, communities, authors)
    popularity = rng.lognormal(0.0, 1.0, authors)
    source = np.repeat(np.arange(authors), degree)
    target = rng.choice(authors, len(source), p=popularity / popularity.sum())
    inside = rng.random(len(source)) >= noise
    for name in range(communities):
        members = np.flatnonzero(community == name)
        own = inside & (community[source] == name)
        if len(members):
            chance = popularity[members] / popularity[members].sum()
            target[own] = rng.choice(members, int(own.sum()), p=chance)
    follows = pd.DataFrame({"source": source, "target": target})
    return Communities(community, follows[source != target].drop_duplicates(ignore_index=True))


def planted_texts(collection: Collection, author: Ints, community: Ints, *, seed: int = 0) -> PlantedTexts:
    """Make up a text for each of the authors ``author`` (n,), whose communities are in ``community`` (U,)."""
    rng = np.random.default_rng(seed)
    of = community[author]
    label = (rng.random(len(author)) < np.asarray(collection.prior)[of]).astype(np.int64)
    topics = np.full((len(collection.prior), TOPICS), (1.0 - OWN_TOPIC) / TOPICS)
    topics[np.arange(len(topics)), np.arange(len(topics)) % TOPICS] += OWN_TOPIC
    topic = (rng.random((len(of), 1)) > topics.cumsum(axis=1)[of]).sum(axis=1).clip(max=TOPICS - 1)
    likelihood = _likelihood(rng, collection.lean)  # (S, T, 2, V)
    turned = np.isin(of, list(collection.turned)).astype(np.int64)
    kind = np.ravel_multi_index((turned, topic, label), likelihood.shape[:3])
    length = SHORTEST + rng.poisson(MORE_WORDS, len(of))
    word = _draw(rng, likelihood.reshape(-1, likelihood.shape[3]), np.repeat(kind, length))
    text = np.repeat(np.arange(len(of)), length)
    counts = csr_matrix((np.ones(len(word)), (text, word)), shape=(len(of), likelihood.shape[3]))
    spelled = np.char.add("w", np.arange(likelihood.shape[3]).astype(str))[word]
    words = [" ".join(part) for part in np.split(spelled, np.cumsum(length)[:-1])]
    return PlantedTexts(author, label, words, counts, likelihood, topics)


def _likelihood(rng: np.random.Generator, lean: float) -> Floats:
    """Probability of each word given lean, topic and label, (S, T, 2, V)."""
    common, topical = (1.0 / np.arange(1, size + 1) ** power for size, power in ((COMMON_WORDS, 1), (TOPIC_WORDS, 0.7)))
    of_topic = ON_TOPIC * np.eye(TOPICS) + (1.0 - ON_TOPIC) / TOPICS  # (T, T): the text's topic, the word's
    ratio = rng.normal(0.0, lean, LABEL_WORDS) / 2.0
    chance = np.empty((2, TOPICS, 2, COMMON_WORDS + TOPICS * TOPIC_WORDS + LABEL_WORDS))
    for turned, sign in enumerate((1.0, -1.0)):
        for label in (0, 1):
            leaning = np.exp(sign * ratio * (2 * label - 1))
            for topic in range(TOPICS):
                kinds = (common, np.outer(of_topic[topic], topical).ravel(), leaning)
                parts = [share * kind / kind.sum() for share, kind in zip(SHARES, kinds, strict=True)]
                chance[turned, topic, label] = np.concatenate(parts)
    return chance


def _draw(rng: np.random.Generator, chance: Floats, kind: Ints) -> Ints:
    """Draw a column of row ``kind`` of ``chance`` for each kind."""
    drawn = np.empty(len(kind), dtype=np.int64)
    for row in np.unique(kind):
        own = kind == row
        drawn[own] = rng.choice(chance.shape[1], int(own.sum()), p=chance[row])
    return drawn


def ceilings(collection: Collection, texts: PlantedTexts, community: Ints) -> Ceilings:
    """Return what one who knows how texts are made, and the communities of the authors (U,), says of each."""
    prior, shares = np.asarray(collection.prior), np.bincount(community, minlength=len(collection.prior))
    kinds = texts.likelihood.shape[:3]
    logs = np.log(texts.likelihood).reshape(-1, texts.likelihood.shape[3])
    of_words = np.asarray(texts.counts @ logs.T).reshape(-1, *kinds)  # (n, S, T, 2)
    joint = np.empty((len(texts.label), len(prior), 2))  # log probability of words and label, given the community
    for name, chance in enumerate(prior):
        given = of_words[:, int(name in collection.turned)] + np.log(texts.topics[name])[:, None]
        joint[:, name] = logsumexp(given, axis=1) + np.log([1.0 - chance, chance])
    with np.errstate(divide="ignore"):  # a community of nobody
        text = logsumexp(joint + np.log(shares)[:, None], axis=1)
    of = community[texts.author]
    both = joint[np.arange(len(of)), of]
    return Ceilings(text=expit(text[:, 1] - text[:, 0]), author=prior[of], both=expit(both[:, 1] - both[:, 0]))
