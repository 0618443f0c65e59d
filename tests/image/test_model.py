"""Random sequences of all operations by pyrbd and librbd on the same images, against a model of them, as
hypothesis makes them, and the model by itself.

``PYRBD_MODEL=40`` makes it forty sequences; `python -m tests.image.model` makes them from seeds, for longer,
plays one again, and makes one that fails short.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tests.image.model.client import payload
from tests.image.model.engine import NEEDS, Engine, Mismatch, prepare, wipe
from tests.image.model.run import do
from tests.image.model.steps import Generator, Spec, Step, World, discarded

SEQUENCES = int(os.environ.get("PYRBD_MODEL", "8"))
KIB = 1024


# ---------------------------------------------------------------- the model by itself


def test_what_a_discard_makes_zero_as_measured() -> None:
    def zeroed(order: int, offset: int, length: int, **layout: int) -> list[tuple[int, int]]:
        return list(discarded(Spec(order, **layout), offset, length))

    assert zeroed(22, 1, 200 * KIB) == [(64 * KIB, 128 * KIB)]
    assert zeroed(22, 0, 65535) == []
    assert zeroed(12, 100, 4096) == [(100, 3996)], "to the end of an object, and no other part of one"
    assert zeroed(12, 4096, 4095) == []
    assert zeroed(17, 0, 512 * KIB, stripe_unit=4 * KIB, stripe_count=2)[:2] == [(0, 4096), (4096, 4096)]
    assert zeroed(17, 0, 100 * KIB, stripe_unit=4 * KIB, stripe_count=2) == [], "50 KiB of either object"


def test_stripes_of_the_model_are_disjoint() -> None:
    spec = Spec(16, stripe_unit=16 * KIB, stripe_count=3)
    pieces = list(spec.pieces(5, 400 * KIB))
    assert sum(n for _, _, n, _ in pieces) == 400 * KIB
    places = [(o, at + i * 512) for o, at, n, _ in pieces for i in range(n // 512)]
    assert len(set(places)) == len(places)
    assert all(at + n <= spec.object_size for _, at, n, _ in pieces)


def test_steps_of_a_seed_are_the_same_again() -> None:
    def steps(seed: int) -> list[Step]:
        world = World()
        generator = Generator(random.Random(seed), world)
        made = []
        for _ in range(300):
            made.append(generator.next())
            world.apply(made[-1])
        return made

    assert steps(3) == steps(3)
    kinds = {s[0] for seed in range(5) for s in steps(seed)}
    assert kinds == set(Generator.WEIGHTS), "each kind of step comes"
    assert payload(5, 1000) == payload(5, 1000)


# ---------------------------------------------------------------- with a cluster


@pytest.fixture(scope="module")
def model_conf(bluestore: str) -> str:
    """The cluster with erasure-coded pools, with nothing in them."""
    prepare(bluestore)
    wipe(bluestore)
    return bluestore


class Images(RuleBasedStateMachine):
    """A rule for each kind of step; what it is done with is drawn by hypothesis."""

    conf: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        wipe(self.conf)
        self.engine = Engine(self.conf)
        self.generator = Generator(random.Random(0), self.engine.world)
        self.steps: list[Step] = []
        self.failed = False

    def make(self, what: str, rng: random.Random) -> None:
        self.generator.rng = rng
        step = self.generator.make(what)
        if step is not None:
            self.do(step)

    def do(self, step: Step) -> None:
        need = NEEDS.get(step[0])
        if need is not None and need not in self.engine.clients[step[1]].has:
            step = (step[0], 1 - step[1], *step[2:])
        try:
            do(self.engine, step, self.steps)
        except Mismatch as e:
            self.failed = True
            steps = "".join(f"  {s!r},\n" for s in self.steps)
            raise AssertionError(f"{e}\nthe steps, for python -m tests.image.model --replay:\n[\n{steps}]") from None

    @initialize(rng=st.randoms(use_true_random=False))
    def begin(self, rng: random.Random) -> None:
        for _ in range(2):
            self.make("create", rng)

    @rule()
    def check_all(self) -> None:
        self.do(("check_all", 0, -1))

    def teardown(self) -> None:
        if self.failed:
            self.engine.abandon()
            return
        self.do(("check_all", 0, -1))
        self.engine.finish()


def _rule_of(what: str) -> Callable[..., None]:
    def done(self: Any, rng: random.Random) -> None:
        self.make(what, rng)

    done.__name__ = what
    ready = precondition(lambda self: what == "create" or bool(self.engine.world.live()))
    made: Callable[..., None] = ready(rule(rng=st.randoms(use_true_random=False))(done))
    return made


for _what in Generator.WEIGHTS:
    setattr(Images, f"do_{_what}", _rule_of(_what))


@pytest.mark.timeout(300 * SEQUENCES + 300)
def test_state_machine(model_conf: str) -> None:
    Images.conf = model_conf
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        type("ImagesOfThisRun", (Images,), {}),
        settings=settings(
            max_examples=SEQUENCES,
            derandomize="PYRBD_MODEL" not in os.environ,
            stateful_step_count=40,
            deadline=None,
            database=None,
            phases=(
                Phase.explicit,
                Phase.generate,
            ),  # `--shrink` is faster than hypothesis, which knows nothing of images
            suppress_health_check=list(HealthCheck),
        ),
    )
