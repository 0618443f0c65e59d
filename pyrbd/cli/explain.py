"""The steps from a name to OSDs, laid out for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ..osdmap.draws import Candidate, Draw, RuleStep, Verdict
from ..osdmap.explain import Affinity, Explanation, Fold, osd_names

SHOWN = 4
"""How many items of a bucket are shown, the best first, unless all are asked for."""
ATTEMPTS = 20
"""How many tries of a step are shown; after these only the successful ones, unless all draws are asked for."""

_FIXED = 1 << 16
_LOG = 1 << 44


def print_explanation(e: Explanation, all_draws: bool, write: Callable[[str], object]) -> None:
    """Writes lines; with `all_draws` all items of each bucket that CRUSH looked into."""
    for line in _lines(e, all_draws):
        write(line + "\n")


def _lines(e: Explanation, all_draws: bool) -> Iterator[str]:
    yield f"object '{e.object}' in pool {e.pool} '{e.pool_name}', epoch {e.epoch}"
    if max(e.read_tier, e.write_tier) >= 0:
        pools = [
            f"{what} go to pool {pool}"
            for what, pool in (("reads", e.read_tier), ("writes", e.write_tier))
            if pool >= 0
        ]
        yield _row("cache tier", f"{' and '.join(pools)} first; what follows is where the object is in this one")
    yield ""
    yield "The name becomes a number"
    yield _row("hashed", _quoted(e))
    yield _row(f"{e.hash_name} hash", f"{e.hash:#010x}")
    yield ""
    yield "The number becomes a placement group"
    yield _row("stable_mod", _folded(e.pg, "pg_num"))
    yield _row("group", str(e.pgid))
    yield ""
    yield "The group becomes the input of CRUSH"
    yield _row("stable_mod", _folded(e.placement, "pgp_num"))
    seed = e.placement.result
    if e.hashpspool:
        yield _row("x", f"hash({seed}, pool {e.pool}) = {e.pps:#010x} = {e.pps}, as the pool has the flag hashpspool")
    else:
        yield _row("x", f"{seed} + pool {e.pool} = {e.pps}, as the pool lacks the flag hashpspool")
    yield ""
    kind = "erasure-coded" if e.erasure else "replicated"
    yield f"CRUSH runs rule {e.rule} '{e.rule_name}' for {e.size} OSDs ({kind})"
    if e.weights_of:
        yield _row("weights", f"of the weight set of {e.weights_of}, where it has some")
    for step in e.steps:
        yield from _step(step, all_draws)
    if not e.steps:
        yield "  there is no such rule"
    yield _row("found", osd_names(e.crush))
    yield ""
    yield "The map has the last word"
    if not e.stages and not e.affinity:
        yield "  no exceptions, and all of these OSDs are up"
    done = False
    for stage in e.stages:
        if stage.kind in ("pg_temp", "primary_temp") and not done:
            done = True
            yield from _up(e)
        yield _row(stage.kind, f"{stage.text} -> {osd_names(stage.osds)}" if stage.applied else stage.text)
    if not done:
        yield from _up(e)
    yield _row("acting", f"{osd_names(e.acting)}, primary {_primary(e.acting_primary)}")


def _row(name: str, text: str) -> str:
    return f"  {name:<20}{text}"


def _quoted(e: Explanation) -> str:
    text = e.hashed.decode("utf-8", "backslashreplace").replace("\x1f", "\\x1f")
    parts = []
    if e.namespace:
        parts.append("namespace, \\x1f")
    parts.append("locator key" if e.key else "name")
    return f"'{text}' ({', '.join(parts)})"


def _folded(fold: Fold, limit: str) -> str:
    masked = fold.value & fold.mask
    text = f"{fold.value:#x} & {fold.mask:#x} = {masked:#x}"
    if not fold.half:
        return f"{text}, below {limit} {fold.n}"
    half = fold.mask >> 1
    return f"{text}, not below {limit} {fold.n}: {fold.value:#x} & {half:#x} = {fold.result:#x}"


def _up(e: Explanation) -> Iterator[str]:
    for one in e.affinity:
        yield _row("affinity", _affinity(one))
    yield _row("up", f"{osd_names(e.up)}, primary {_primary(e.up_primary)}")


def _affinity(one: Affinity) -> str:
    wants = f"osd.{one.osd}: hash {one.hash:#06x}, affinity {one.affinity / _FIXED:.5f} ({one.affinity:#x})"
    return f"{wants}: {'primary' if one.accepted else 'not the primary, if another one can be'}"


def _primary(osd: int) -> str:
    return "none" if osd < 0 else f"osd.{osd}"


def _step(step: RuleStep, all_draws: bool) -> Iterator[str]:
    yield f"  {step.text}"
    left = 0
    for n, (ended, attempt) in enumerate(_attempts(step.events)):
        if n >= ATTEMPTS and not ended and not all_draws:
            left += 1
            continue
        if left:
            yield _skipped(left)
            left = 0
        first = attempt[0]
        if isinstance(first, Verdict) and first.verdict == "exhausted":
            yield f"    replica {first.replica}: {first.text}"
            continue
        again = f", try {first.tries + 1}" if first.tries else ""
        yield f"    replica {first.replica}{again}"
        for event in attempt:
            yield from _event(event, all_draws)
    if left:
        yield _skipped(left)
    if step.op.startswith("choose"):
        yield f"    -> {' '.join(step.result_names) or 'nothing'}"


def _skipped(tries: int) -> str:
    return f"    ({tries} more {'try' if tries == 1 else 'tries'}, in vain)"


def _attempts(events: Sequence[Draw | Verdict]) -> Iterator[tuple[bool, list[Draw | Verdict]]]:
    """The events of each try, and whether it was the last one for its replica."""
    attempt: list[Draw | Verdict] = []
    before = None
    for event in events:
        if not event.depth:
            number = (event.replica, event.tries)
            new = number != before if isinstance(event, Draw) else event.verdict == "exhausted"
            if new and attempt:
                yield False, attempt
                attempt = []
            before = number
        attempt.append(event)
        if isinstance(event, Verdict) and not event.depth and event.verdict in ("taken", "unusable", "exhausted"):
            yield True, attempt
            attempt, before = [], None
    if attempt:
        yield False, attempt


def _event(event: Draw | Verdict, all_draws: bool) -> Iterator[str]:
    indent = "      " + "    " * event.depth
    if isinstance(event, Verdict):
        what = f"{event.name}: " if event.verdict != "exhausted" else ""
        yield f"{indent}{what}{event.text}"
        return
    again = f", try {event.tries + 1}" if event.depth and event.tries else ""
    drawn = f"{indent}{event.type} {event.name}, r = {event.r}{again}: {event.item_name}"
    if event.items == 1 and not all_draws:
        yield f"{drawn}, as it has no other item"
        return
    yield f"{drawn} of {event.items}{_kind(event)}"
    yield from (f"{indent}  {line}" for line in _table(event, all_draws))


def _kind(draw: Draw) -> str:
    """How an item is chosen, where it is not by straw2, and whose weights count."""
    how = "" if draw.alg == "straw2" else f" ({draw.alg})"
    return how + (", by the weight set" if draw.weight_set else "")


def _table(draw: Draw, all_draws: bool) -> Iterator[str]:
    shown: Sequence[Candidate] = draw.candidates
    straws = draw.alg in ("straw", "straw2")
    if straws:
        # the longest straw first; of equal ones, the first in the bucket
        shown = sorted(shown, key=lambda c: (not c.won, c.draw is None, -(c.draw or 0)))
    left = 0
    if not all_draws and len(shown) > SHOWN + 1:
        # of straws the longest count, of a walk its end
        left = len(shown) - SHOWN
        shown = shown[:SHOWN] if straws else shown[-SHOWN:]
    head, cells = _COLUMNS[draw.alg]
    rows = [head, *(cells(c) for c in shown)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    for n, row in enumerate(rows):
        mark = "> " if n and shown[n - 1].won else "  "
        yield mark + "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))])
    if left:
        yield f"  ({left} {'shorter ones' if straws else 'before these'})"


def _weight(weight: int) -> str:
    return f"{weight / _FIXED:.5f}"


def _straw2(c: Candidate) -> list[str]:
    assert c.ln is not None
    draw = "-" if c.draw is None else f"{c.draw * _FIXED / _LOG:.8f}"
    return [c.name, _weight(c.weight), f"{c.hash:#06x}", f"{c.ln / _LOG:.6f}", draw]


def _scaled(c: Candidate) -> list[str]:
    assert c.scale is not None and c.draw is not None
    return [c.name, _weight(c.weight), f"{c.hash:#x}", _weight(c.scale), _weight(c.draw)]


def _straw(c: Candidate) -> list[str]:
    assert c.scale is not None and c.draw is not None
    return [c.name, _weight(c.weight), f"{c.hash:#06x}", _weight(c.scale), f"{c.draw / _FIXED / _FIXED:.8f}"]


def _uniform(c: Candidate) -> list[str]:
    return [c.name, f"{c.hash:#010x}", str(c.draw)]


_COLUMNS: dict[str, tuple[list[str], Callable[[Candidate], list[str]]]] = {
    "straw2": (["item", "weight", "hash", "log2", "log2 / weight"], _straw2),
    "straw": (["item", "weight", "hash", "straw", "hash * straw"], _straw),
    "list": (["item", "weight", "hash", "sum", "hash * sum"], _scaled),
    "tree": (["node", "left", "hash", "weight", "hash * weight"], _scaled),
    "uniform": (["item", "hash", "of those left"], _uniform),
    "permutation": (["item", "hash", "of those left"], _uniform),
}
