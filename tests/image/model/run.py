"""Sequences: made at random, played again, made shorter."""

from __future__ import annotations

import random
import time

from .engine import NEEDS, Engine, Mismatch, wipe
from .steps import Generator, Inapplicable, Step

CHECKPOINT = 15


def run(engine: Engine, rng: random.Random, n: int, steps: list[Step], without: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    """Makes and does `n` steps, which it appends to `steps`; compares everything now and then and at the end."""
    generator = Generator(rng, engine.world)
    for what in without:
        generator.weights.pop(what, None)
    for what, need in NEEDS.items():
        if not any(need in c.has for c in engine.clients):
            generator.weights.pop(what, None)
    while len(steps) < n:
        step = generator.next()
        need = NEEDS.get(step[0])
        if need is not None and need not in engine.clients[step[1]].has:
            engine.missing[step[0]] += 1
            step = (step[0], 1 - step[1], *step[2:])
        do(engine, step, steps)
        if len(steps) % CHECKPOINT == 0:
            do(engine, ("check_all", 0, -1), steps)
    do(engine, ("check_all", 0, -1), steps)


def do(engine: Engine, step: Step, steps: list[Step]) -> None:
    steps.append(step)
    begun = time.monotonic()
    if step[0] == "check_all":
        engine.check_all()
    else:
        engine.do(step)
    took = time.monotonic() - begun
    engine.spent[step[0]] += took  # type: ignore[assignment]
    engine.say(f"{len(steps):4} {took:5.2f} s  {step!r:.200}")


def play(engine: Engine, steps: list[Step]) -> None:
    """Does steps again, without those that mean nothing any more."""
    done: list[Step] = []
    for step in steps:
        try:
            do(engine, tuple(step), done)
        except Inapplicable:
            engine.say(f"left out: {step!r:.200}")


def kind_of(message: str) -> str:
    """What two failures must have in common to be the same."""
    return "".join(ch for ch in message.split("\n")[0][:160] if not ch.isdigit())[:70]


def shrink(conf: str, roles: tuple[str, str], steps: list[Step], tries: int, message: str) -> list[Step]:
    """Leaves out what the failure does not need: halves, quarters, ... single steps."""
    want = kind_of(message)

    def fails(candidate: list[Step]) -> bool:
        wipe(conf)
        engine = Engine(conf, roles)
        try:
            play(engine, candidate)
        except Mismatch as e:
            return kind_of(str(e)) == want
        except AssertionError:
            return False
        finally:
            engine.abandon()
        return False

    size = max(1, len(steps) // 2)
    while tries > 0 and size >= 1:
        at, shorter = 0, False
        while at < len(steps) - 1 and tries > 0:
            candidate = steps[:at] + steps[min(at + size, len(steps) - 1) :]
            tries -= 1
            if fails(candidate):
                steps, shorter = candidate, True
            else:
                at += size
        if size == 1 and not shorter:
            break
        size = max(1, size // 2) if size > 1 or shorter else 0
        print(f"shrunk to {len(steps)} steps", flush=True)
    return steps
