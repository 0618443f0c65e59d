"""Run with Ceph's own modules: makes an image with a random history, and says what they tell of its differences.

Arguments: ceph.conf, the pool, a name for the image, a seed, and what to make: a JSON object with `size`, `order`,
`features`, and where wanted `stripe_unit`, `stripe_count`, `parent` [image, snapshot], `steps`, `shrinks`, `removes`.
Prints a JSON object: `snaps` [[id, name]] and `cases` [[at, from, offset, length, include_parent, whole, extents]].
"""

import json
import random
import sys

import rados
import rbd

conf, pool, name, seed, options = sys.argv[1:]
o = json.loads(options)
rng = random.Random(int(seed))
cluster = rados.Rados(conffile=conf)
cluster.connect()
ioctx = cluster.open_ioctx(pool)
size, order = o["size"], o["order"]
more = {k: o[k] for k in ("stripe_unit", "stripe_count") if k in o}
if "parent" in o:
    rbd.RBD().clone(ioctx, *o["parent"], ioctx, name, features=o["features"], order=order, **more)
else:
    rbd.RBD().create(ioctx, name, size, order, old_format=False, features=o["features"], **more)

snaps = []
with rbd.Image(ioctx, name) as image:
    image.resize(size)
    for step in range(o.get("steps", 40)):
        current = image.size()
        kind = rng.choice(["write"] * 6 + ["discard"] * 3 + ["whole", "snap", "snap", "grow", "shrink", "remove"])
        offset = rng.randrange(current)
        if kind == "write":
            length = min(rng.choice([512, 4096, 70000, 200000]), current - offset)
            image.write(bytes([step + 1]) * length, offset)
        elif kind == "whole":
            start = offset >> order << order
            image.write(bytes([step + 1]) * min(1 << order, current - start), start)
        elif kind == "discard":
            start = rng.choice([offset, offset >> order << order])
            image.discard(start, min(rng.choice([65536, 1 << order, 3 << order]), current - start))
        elif kind == "snap":
            image.create_snap(f"s{step}")
            snaps.append(f"s{step}")
        elif kind == "grow":
            image.resize(min(4 * size, current + rng.randrange(1, 3 << order)))
        elif kind == "shrink" and o.get("shrinks"):
            image.resize(max(1, current - rng.randrange(1, 3 << order)))
        elif kind == "remove" and o.get("removes") and len(snaps) > 2:
            image.remove_snap(snaps.pop(rng.randrange(len(snaps))))
    image.flush()
    listed = [[s["id"], s["name"]] for s in image.list_snaps()]


def differences(image, *arguments):
    found = []
    try:
        image.diff_iterate(*arguments[:3], lambda *extent: found.append(list(extent)), *arguments[3:])
    except rbd.OSError as e:
        return type(e).__name__
    return found


cases = []
for at in [None, *[s for _, s in listed]]:
    with rbd.Image(ioctx, name, snapshot=at, read_only=True) as image:
        current = image.size()
        for begin in [None, *[s for _, s in listed]]:
            for whole in (False, True):
                for parent in (True, False) if begin is None else (True,):
                    ranges = [(0, current)]
                    for _ in range(2):
                        start = rng.randrange(current)
                        ranges.append((start, rng.randrange(1, current + 1)))
                    for offset, length in ranges:
                        found = differences(image, offset, length, begin, parent, whole)
                        cases.append([at, begin, offset, length, parent, whole, found])
print(json.dumps({"version": rbd.RBD().version(), "snaps": listed, "cases": cases}))
