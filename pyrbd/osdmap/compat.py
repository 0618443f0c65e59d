"""The oldest release of clients that can use a map (`src/osd/OSDMap.cc` OSDMap::get_min_compat_client)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .crush import BUCKET_STRAW2, MSR_RULE_TYPES, CrushMap, Rule
from .features import RELEASE_LUMINOUS, RELEASE_REEF
from .pool import FLAG_HASHPSPOOL

if TYPE_CHECKING:
    from .osdmap import OSDMap

RELEASE_ARGONAUT, RELEASE_DUMPLING, RELEASE_FIREFLY, RELEASE_HAMMER, RELEASE_JEWEL = 1, 4, 6, 8, 10
RELEASE_SQUID = 19

_SET_CHOOSELEAF_VARY_R = 12
_SET_CHOOSELEAF_STABLE = 13
_DEFAULT_CHOOSE_ARGS = -1


def min_compat_client(m: OSDMap, release: int) -> int:
    """As a tool of this release tells it: what is newer it does not look for."""
    from .placement import DEFAULT_PRIMARY_AFFINITY

    crush = m.crush
    t = crush.tunables
    msr = (t.msr_descents, t.msr_collision_tries) != (100, 100)
    if release >= RELEASE_SQUID and (msr or any(rule.type in MSR_RULE_TYPES for rule in crush.rules.values())):
        return RELEASE_SQUID
    if release >= RELEASE_REEF and m.pg_upmap_primaries:
        return RELEASE_REEF
    if m.pg_upmap or m.pg_upmap_items or _incompatible_choose_args(crush):
        return RELEASE_LUMINOUS
    if t.chooseleaf_stable or _some_rule_has(m, _SET_CHOOSELEAF_STABLE):
        return RELEASE_JEWEL
    if any(b.alg == BUCKET_STRAW2 for b in crush.buckets.values()):
        return RELEASE_HAMMER
    if (
        any(a != DEFAULT_PRIMARY_AFFINITY for a in m.primary_affinity)
        or t.chooseleaf_vary_r
        or _some_rule_has(m, _SET_CHOOSELEAF_VARY_R)
        or any(p.tiers or p.tier_of >= 0 for p in m.pools.values())
    ):
        return RELEASE_FIREFLY
    if t.chooseleaf_descend_once or any(p.flags & FLAG_HASHPSPOOL for p in m.pools.values()):
        return RELEASE_DUMPLING
    return RELEASE_ARGONAUT


def _some_rule_has(m: OSDMap, op: int) -> bool:
    """Whether the rule of some pool has such a step."""
    none = Rule(0, ())
    return any(step.op == op for p in m.pools.values() for step in m.crush.rules.get(p.crush_rule, none).steps)


def _incompatible_choose_args(crush: CrushMap) -> bool:
    """CrushWrapper::has_incompat_choose_args: more than one set of weights."""
    if not crush.choose_args:
        return False
    if list(crush.choose_args) != [_DEFAULT_CHOOSE_ARGS]:
        return True
    args = [a for a in crush.choose_args[_DEFAULT_CHOOSE_ARGS].values() if a.weight_sets or a.ids]
    return any(len(a.weight_sets) != 1 or a.ids for a in args)
