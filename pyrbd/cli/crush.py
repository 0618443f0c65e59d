"""`pyrbd crush`: what a CRUSH map is, and what its rules choose; of a file, an osdmap, or the cluster as it is now.

Output is that of `crushtool` (`src/tools/crushtool.cc`, `src/crush/CrushTester.cc`, `src/crush/CrushTreeDumper.h`) of
tentacle. That of older releases differs where a rule's mask does not fit, which nothing looks at any more.
"""

from __future__ import annotations

import argparse
import errno
import math
import struct
import sys
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import DecodeError
from .osdmap import CRUSH_MAGIC, any_name, decode_osdmap, map_options, no_command, read_file, read_osdmap
from .output import CommandError, print_table
from .parser import MapParser, cluster_options, suppress_cluster_defaults

if TYPE_CHECKING:
    from ..osdmap.crush import Bucket, CrushMap

MAX_DEVICES = 1 << 22
"""Devices that a map may have to be tested: as many weights are kept."""

MAX_LINES = 1 << 20
"""Lines of the largest tree that is printed. One bucket may be in several, and a damaged map may so have a tree
without an end in sight."""


def register(sub: Any) -> None:
    """Adds `crush` to the commands of a parser."""
    text = "Show a CRUSH map, and what its rules choose."
    group = sub.add_parser("crush", help=text, description=text)
    group.set_defaults(run=lambda args: no_command(group), who="pyrbd crush")
    commands = group.add_subparsers(metavar="<command>", dest="crush_command", parser_class=MapParser)

    def add(name: str, run: object, text: str, more: str) -> argparse.ArgumentParser:
        p: argparse.ArgumentParser = commands.add_parser(
            name, help=text, description=f"{text} {more}", parents=[cluster_options()[0]]
        )
        p.set_defaults(run=run, who="pyrbd crush")
        map_options(p, "a CRUSH map, or an osdmap with one; '-' for stdin")
        return p

    p = add("test", test, "Print what rules choose for a range of inputs.", "As `crushtool -i FILE --test` does.")
    p.add_argument("--rule", type=_natural, metavar="N", help="only this rule [default: all]")
    p.add_argument("--num-rep", type=_natural, metavar="N", help="devices to choose")
    p.add_argument("--min-rep", type=_natural, metavar="N", help="the fewest devices to choose, with --max-rep")
    p.add_argument("--max-rep", type=_natural, metavar="N", help="the most devices to choose, with --min-rep")
    p.add_argument("--x", type=_natural, metavar="N", help="only this input")
    p.add_argument("--min-x", type=_natural, metavar="N", help="the first input [default: 0, and the last one is 1023]")
    p.add_argument("--max-x", type=_natural, metavar="N", help="the last input")
    p.add_argument(
        "--weight",
        nargs=2,
        action="append",
        default=[],
        metavar=("OSD", "W"),
        help="how far a device is in, from 0 to 1 [default: 1 for devices that are in some bucket]",
    )
    p.add_argument("--show-mappings", action="store_true", help="a line for each input")
    p.add_argument("--show-bad-mappings", action="store_true", help="a line for each input with too few devices")
    p.add_argument("--show-statistics", action="store_true", help="how many devices were chosen how often")
    p.add_argument("--show-utilization", action="store_true", help="statistics, and how often each device was chosen")
    suppress_cluster_defaults(p)

    p = add("tree", tree, "Print the buckets and devices.", "As `crushtool -i FILE --tree` does.")
    suppress_cluster_defaults(p)


def _natural(text: str) -> int:
    number = int(text) if text.isdecimal() else -1
    if not 0 <= number < 1 << 31:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to {(1 << 31) - 1}")
    return number


def read_crush(args: argparse.Namespace) -> CrushMap:
    """The CRUSH map that the command line names: a file with one, or that of an osdmap.

    Raises:
        CommandError: none is named, or it cannot be read.
    """
    from ..osdmap.crush import CrushMap

    if args.live:
        return read_osdmap(args).crush
    data, name = read_file(args, crush=True)
    if not data.startswith(CRUSH_MAGIC):
        return decode_osdmap(data, name).crush
    try:
        return CrushMap.decode(data)
    except DecodeError as e:
        raise CommandError(f"{name}: {e}", e.errno) from None


# ---------------------------------------------------------------- test


def test(args: argparse.Namespace) -> None:
    any_name()
    low, high = (args.min_rep, args.max_rep) if args.num_rep is None else (args.num_rep, args.num_rep)
    if low is None or high is None:
        raise CommandError("must specify --num-rep or both --min-rep and --max-rep")
    first, last = (args.min_x, args.max_x) if args.x is None else (args.x, args.x)
    if first is None or last is None:
        first, last = 0, 1023
    given = _given_weights(args.weight)
    if not (args.show_mappings or args.show_bad_mappings or args.show_statistics or args.show_utilization):
        print("pyrbd crush: no output selected; use --show-X", file=sys.stderr)
    crush = read_crush(args)
    if crush.max_devices > MAX_DEVICES:
        raise CommandError(f"a CRUSH map with device {crush.max_devices - 1}: too many to test", errno.EFBIG)
    tester = Tester(crush, given)
    tester.mappings, tester.bad_mappings = args.show_mappings, args.show_bad_mappings
    tester.utilization = args.show_utilization
    tester.statistics = args.show_statistics or args.show_utilization
    rules = range(crush.max_rules) if args.rule is None else range(args.rule, min(args.rule + 1, crush.max_rules))
    for rule in rules:
        tester.test_rule(rule, range(first, last + 1), range(low, high + 1), sys.stdout.write)


def _given_weights(words: list[list[str]]) -> dict[int, int]:
    """CrushTester::set_device_weight, by device: 0x10000 is all."""
    found = {}
    for device, weight in words:
        try:
            number, value = int(device), float(weight)
        except ValueError:
            raise CommandError(f"--weight {device} {weight}: a device's number and a weight are needed") from None
        try:
            fixed = _float32(value) * 0x10000
        except OverflowError:
            fixed = math.inf
        # what is no int becomes the least one
        found[number] = min(max(int(fixed), 0), 0x10000) if abs(fixed) < 1 << 31 else 0
    return found


class Tester:
    """CrushTester: runs rules, and prints what is asked for."""

    mappings = bad_mappings = statistics = utilization = False

    def __init__(self, crush: CrushMap, given: dict[int, int]) -> None:
        self.crush = crush
        self.weights = [0] * crush.max_devices
        for bucket in crush.buckets.values():
            for item in bucket.items:
                if 0 <= item < crush.max_devices:
                    self.weights[item] = 0x10000
        for device, weight in given.items():
            if 0 <= device < crush.max_devices:
                self.weights[device] = weight
        self.total = _int32(sum(self.weights))
        self.choose_args = crush.choose_args_for(0)

    def test_rule(self, rule: int, inputs: range, replicas: range, write: Callable[[str], object]) -> None:
        """Tests one rule.

        Raises:
            DecodeError: the rule does not come to an end.
        """
        if rule not in self.crush.rules:
            if self.statistics:
                write(f"rule {rule} dne\n")
            return
        name = self.crush.rule_names.get(rule, "")
        if self.statistics:
            write(
                f"rule {rule} ({name}), x = {inputs.start}..{inputs.stop - 1}"
                f", numrep = {replicas.start}..{replicas.stop - 1}\n"
            )
        if not self.total:
            return
        for number in replicas:
            sizes: Counter[int] = Counter()
            stored: Counter[int] = Counter()
            for x in inputs:
                out = self.crush.do_rule(rule, x, number, self.weights, self.choose_args)
                sizes[len(out)] += 1
                stored.update(out)
                if self.mappings:
                    write(f"CRUSH rule {rule} x {x} {_vector(out)}\n")
                if self.bad_mappings and (len(out) != number or _NONE in out):
                    write(f"bad mapping rule {rule} x {x} num_rep {number} result {_vector(out)}\n")
            if self.statistics:
                for size, count in sorted(sizes.items()):
                    write(f"rule {rule} ({name}) num_rep {number} result size == {size}:\t{count}/{_count(inputs)}\n")
            if self.utilization:
                self.write_utilization(rule, number, _count(inputs), stored, write)

    def write_utilization(
        self, rule: int, number: int, inputs: int, stored: Counter[int], write: Callable[[str], object]
    ) -> None:
        """Of the devices that were chosen: how often, and how often they would be if all went by weight."""
        total = _float32(self.total)
        objects = _float32(_int32(min(number, self.most_affected(rule)) * inputs))
        for device, count in sorted(stored.items()):
            if 0 <= device < len(self.weights):
                expected = _float32(_float32(self.weights[device] / total) * objects)
                if expected > 0:
                    write(f"  device {device}:\t\t stored : {count}\t expected : {expected:g}\n")

    def most_affected(self, rule: int) -> int:
        """CrushTester::get_maximum_affected_by_rule: how many devices a rule could give. It takes the arguments of all
        steps but take and emit for numbers and types, and counts a type as often as there are steps with it."""
        crush = self.crush
        steps = [step for step in crush.rules[rule].steps if 2 <= step.op != 4]
        wanted = {step.arg2: step.arg1 for step in steps}
        there = Counter(bucket.type for slot, bucket in crush.buckets.items() if slot in crush.names)
        most = max(crush.max_buckets, crush.max_devices)
        for kind, times in Counter(step.arg2 for step in steps).items():
            count = there[kind] * times
            if 0 < wanted[kind] < count:
                count = wanted[kind]
            if 0 < count < most:
                most = count
        return most


_NONE = 0x7FFFFFFF


def _count(inputs: range) -> int:
    return inputs.stop - inputs.start


def _vector(out: list[int]) -> str:
    return f"[{','.join(map(str, out))}]"


def _int32(n: int) -> int:
    """An int that overflowed."""
    return (n + (1 << 31)) % (1 << 32) - (1 << 31)


def _float32(value: float) -> float:
    """As it is in a float."""
    found: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return found


# ---------------------------------------------------------------- tree


def tree(args: argparse.Namespace) -> None:
    any_name()
    crush = read_crush(args)
    header = ["ID", "CLASS", "WEIGHT"]
    header += ["(compat)" if index == -1 else str(index) for index in sorted(crush.choose_args)]
    print_table([*header, "TYPE NAME"], tree_rows(crush), set(range(len(header))))


def tree_rows(crush: CrushMap) -> list[list[str]]:
    """CrushTreePlainDumper: a row for each item below each root, those of device classes among them.

    Raises:
        CommandError: there are too many.
    """
    from ..osdmap.draws import item_weight

    inside = {item for bucket in crush.buckets.values() for item in bucket.items}
    roots = sorted(bucket.id for bucket in crush.buckets.values() if bucket.id not in inside)
    order = _Order(crush)
    if sum(map(order.lines, roots)) > MAX_LINES:
        raise CommandError(f"a CRUSH map whose tree has more than {MAX_LINES} lines", errno.EFBIG)
    sets = [args for _, args in sorted(crush.choose_args.items())]
    rows = []
    pending: list[tuple[int, int, Bucket | None, int]] = [(root, 0, None, 0) for root in reversed(roots)]
    while pending:
        item, depth, above, i = pending.pop()
        bucket = crush.buckets.get(item)
        class_name = crush.class_names.get(crush.classes.get(item, -1), "")
        if above is None:
            row = [str(item), class_name, _weight(bucket.weight if bucket else 0)]
            row += [""] * len(sets)
        else:
            row = [str(item), class_name, _weight(_int32(item_weight(above, i)))]
            for args in sets:
                arg = args.get(above.id)
                row.append(_weight(arg.weight_sets[0][above.items.index(item)]) if arg and arg.weight_sets else "")
        if item < 0:
            kind = crush.type_names.get(bucket.type, "") if bucket else ""
            name = f"{kind} {crush.names.get(item, '')}"
        else:
            name = f"osd.{item}"
        rows.append([*row, "    " * depth + name])
        if bucket is not None:
            pending += [(bucket.items[i], depth + 1, bucket, i) for i in reversed(order.places(item))]
    return rows


class _Order:
    """In what order the items of buckets are shown, and how many lines that makes."""

    def __init__(self, crush: CrushMap) -> None:
        self.crush = crush
        self._places: dict[int, list[int]] = {}
        self._lines: dict[int, int] = {}

    def places(self, bucket: int) -> list[int]:
        """Places of items within a bucket: devices by class and number, buckets by name. An item that is in it twice
        is shown once, as is one of two buckets of the same name."""
        found = self._places.get(bucket)
        if found is None:
            first: dict[bytes, int] = {}
            for i, item in enumerate(self.crush.buckets[bucket].items):
                first.setdefault(self._key(item), i)
            found = self._places[bucket] = [first[key] for key in sorted(first)]
        return found

    def _key(self, item: int) -> bytes:
        crush = self.crush
        if item >= 0:
            text = f"{crush.class_names.get(crush.classes.get(item, -1), '')}_osd.{item:08}"
        else:
            text = f"_{crush.names.get(item, '')}"
        return text.encode("utf-8", "surrogateescape")

    def lines(self, item: int) -> int:
        """Lines of the tree below a bucket, with its own. Trees are not deep: that is checked at decoding."""
        if item not in self.crush.buckets:
            return 1
        found = self._lines.get(item)
        if found is None:
            items = self.crush.buckets[item].items
            found = self._lines[item] = 1 + sum(self.lines(items[i]) for i in self.places(item))
        return found


def _weight(fixed: int) -> str:
    """weightf_t."""
    value = _float32(_float32(fixed) / 0x10000)
    if value < _LEAST:
        return "-"
    return "0" if value < _TINY else f"{value:.5f}"


_LEAST, _TINY = _float32(-0.01), _float32(0.000001)
