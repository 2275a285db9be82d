"""Which stages of a pipeline can run side by side: chains of stages, and what each has to wait for."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Graph = Mapping[str, frozenset[str]]
"""Each stage, and the stages whose outputs it reads."""


@dataclass(frozen=True)
class Chain:
    """Stages that one process runs one after another, and the stages outside it that must be done before."""

    stages: tuple[str, ...]
    after: frozenset[str]


def parse_dot(text: str) -> Graph:
    """The graph that `dvc dag --dot` prints: `"a";` is a stage, `"a" -> "b";` says that b reads what a writes."""
    reads: dict[str, set[str]] = {}
    for line in text.splitlines():
        if edge := re.fullmatch(r'"([^"]+)" -> "([^"]+)";?', line.strip()):
            reads.setdefault(edge[1], set())
            reads.setdefault(edge[2], set()).add(edge[1])
        elif stage := re.fullmatch(r'"([^"]+)";?', line.strip()):
            reads.setdefault(stage[1], set())
    return {stage: frozenset(before) for stage, before in reads.items()}


def with_ancestors(graph: Graph, stages: Iterable[str]) -> set[str]:
    """The stages and all whose outputs they read, directly or not; KeyError for one that there is not."""
    found: set[str] = set()
    pending = list(stages)
    while pending:
        stage = pending.pop()
        if stage not in found:
            found.add(stage)
            pending += graph[stage]
    return found


def to_run(graph: Graph, changed: Iterable[str]) -> set[str]:
    """The changed stages and all that read, directly or not, what they write."""
    found = set(changed) & graph.keys()
    while more := {stage for stage, before in graph.items() if stage not in found and before & found}:
        found |= more
    return found


def chains(graph: Graph, stages: Iterable[str]) -> list[Chain]:
    """Split `stages` into chains, in an order in which each comes after those it waits for.

    A chain goes on as long as exactly one more stage could run next: where several could, they can do so side by side.
    """
    wanted = set(stages)
    before = {stage: graph[stage] & wanted for stage in graph if stage in wanted}
    made: list[Chain] = []
    done: set[str] = set()
    while waiting := [stage for stage in before if stage not in done]:
        first = next(stage for stage in waiting if before[stage] <= done)
        chain, known = [first], with_ancestors(before, [first])
        done.add(first)
        while True:
            following = [stage for stage in before if stage not in done and before[stage] <= known]
            following = [stage for stage in following if before[stage] & set(chain)]
            if len(following) != 1:
                break
            chain += following
            known |= {following[0]}
            done.add(following[0])
        made.append(Chain(tuple(chain), frozenset().union(*(before[stage] for stage in chain)) - frozenset(chain)))
    return made


def shares_of_time(seconds: Mapping[str, float], elapsed: float) -> list[str]:
    """Lines on where time went: minutes of each step (`train` of `train@digits-vae`), the longest first, and of all.

    Args:
        seconds: of each stage.
        elapsed: seconds by the clock; less than the sum where stages ran side by side.
    """
    steps: dict[str, list[float]] = {}
    for stage, one in seconds.items():
        steps.setdefault(stage.partition("@")[0], []).append(one)
    total = sum(seconds.values())
    lines = [f"{total / 60:.1f} minutes of stages in {elapsed / 60:.1f} minutes:"]
    for step, ones in sorted(steps.items(), key=lambda one: -sum(one[1])):
        stages = "1 stage" if len(ones) == 1 else f"{len(ones)} stages"
        lines.append(f"  {step:<12}{sum(ones) / 60:6.1f} min {sum(ones) / total:5.0%}  {stages}")
    return lines
