"""Quality against seconds: points of training runs, and how soon one trainer is as good as another."""

__all__ = ["Point", "best", "frontier", "said", "seconds_to_reach", "time_ratio"]

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """What a setting had reached after some training.

    Attributes:
        trainer: Whose it is.
        setting: Its name.
        epochs: Passes or iterations.
        seconds: Of training alone.
        wall_seconds: Of the whole run, with reading, starting and ending.
        valid: Quality on the validation part, by which points are chosen.
        test: Quality on the test part, which is reported.
        seed: Of the run.
    """

    trainer: str
    setting: str
    epochs: int
    seconds: float
    wall_seconds: float
    valid: float
    test: float
    seed: int = 0


def best(points: Iterable[Point]) -> Point:
    """Return the point that is best on the validation part; of equals the soonest."""
    return max(points, key=lambda point: (point.valid, -point.seconds))


def frontier(points: Iterable[Point]) -> list[Point]:
    """Return, by seconds, the points that are better on the validation part than all that come as soon."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda point: (point.seconds, -point.valid)):
        if not kept or point.valid > kept[-1].valid:
            kept.append(point)
    return kept


def seconds_to_reach(points: Iterable[Point], valid: float) -> float | None:
    """Return the least seconds of a point that is at least as good on the validation part; None where none is."""
    return min((point.seconds for point in points if point.valid >= valid), default=None)


def time_ratio(ours: Iterable[Point], theirs: Sequence[Point], share: float = 1.0) -> float | None:
    """Return our seconds to ``share`` of their best quality over their seconds to it; None where we never reach it.

    A share of .99 keeps a last gain within the noise from making them look slow.
    """
    goal = share * best(theirs).valid
    reached = seconds_to_reach(ours, goal)
    return None if reached is None else reached / min(point.seconds for point in theirs if point.valid >= goal)


def said(reached: float | None, seconds: float) -> str:
    """Say what ``seconds_to_reach`` found beside the seconds of the other."""
    if reached is None:
        return f"never, beside {seconds:.2f} s"
    return f"{reached:.2f} s beside {seconds:.2f} s, ratio {reached / seconds:.3f}"
