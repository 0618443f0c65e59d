"""Configuration as librados reads it: ceph.conf, environment, arguments, the monitors' configuration
(`src/common/ConfUtils.cc`, `src/common/config.cc`, `doc/rados/configuration/ceph-conf.rst`).

Precedence, highest first: `set` (and ``conf={}``), arguments, the environment, the file's sections
``[client.NAME]``, ``[client]``, ``[global]``, ``conf_defaults={}``, what the monitors sent
(``ceph config set``), Ceph's defaults.
"""

from __future__ import annotations

import errno
import os
import socket
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence

from ..errors import ConfigError
from ..log import Log
from .option_table import BOOL, FIXED, FLOAT, NOT_FROM_MONITORS, OPTIONS, STR
from .options import canonical, normalize, parse_seconds

_log = Log("config")

MAX_FILE_SIZE = 64 << 20
MAX_EXPANSION = 1 << 26
"""Bytes that may be gone through, and made, to replace the variables in a value."""
MAX_KEY_SIZE = 1024
DEFAULT_FILES = "/etc/ceph/$cluster.conf,$home/.ceph/$cluster.conf,$cluster.conf"

MON, PROGRAM, FILE, ENV, CMDLINE, OVERRIDE = range(6)
"""Where a value comes from; a higher one hides a lower one (``CONF_*`` in `src/common/config.h`)."""

_OVERRIDING_ARGS = {
    "-m": "mon_host",
    "--mon_host": "mon_host",
    "-k": "keyring",
    "--keyring": "keyring",
    "-M": "monmap",
    "--monmap": "monmap",
    "--bind": "public_addr",
}
"""Arguments that set an option as `conf_set` does, and take nothing attached but ``=value``."""
_KEYFILE_ARGS = ("-K", "--keyfile")
_IGNORED_ARGS = frozenset(("--no_mon_config", "--mon_config", "--foreground", "-f", "--show_config"))


def split_list(text: str) -> list[str]:
    """The items of a list separated by commas, semicolons or blanks."""
    for c in ",;\t\n":
        text = text.replace(c, " ")
    return text.split()


def parse_conf(text: str, where: str = "ceph.conf") -> dict[str, dict[str, str]]:
    """Sections of a configuration file: {section: {option: value}}.

    Comments begin with ``#`` or ``;``, a backslash at the end of a line joins the next,
    values may be quoted, a later line replaces an earlier one.

    Raises:
        ConfigError: EINVAL, with the line's number.
    """
    sections: dict[str, dict[str, str]] = {}
    current = sections.setdefault("global", {})
    pending, start = "", 0
    for number, raw in enumerate([*text.splitlines(), ""], 1):
        line = pending + raw
        start = start if pending else number
        if raw.endswith("\\"):
            pending = line[:-1]
            continue
        pending = ""
        line = line.strip()
        if not line or line[0] in "#;":
            continue
        if line.startswith("["):
            end = line.find("]")
            rest = line[end + 1 :].strip()
            if end < 0 or (rest and rest[0] not in "#;"):
                raise ConfigError(f"{where}, line {start}: a section is written [NAME]")
            current = sections.setdefault(line[1:end].strip(), {})
            continue
        key, eq, value = line.partition("=")
        if not eq or not key.strip():
            raise ConfigError(f"{where}, line {start}: neither a section nor 'option = value'")
        current[normalize(key)] = _value(value.strip(), where, start)
    return sections


def _value(text: str, where: str, line: int) -> str:
    """A value without its quotes, escapes and trailing comment."""
    if text[:1] in ("'", '"'):
        quote = text[0]
        out, i = [], 1
        while i < len(text) and text[i] != quote:
            if text[i] == "\\" and i + 1 < len(text):
                i += 1
            out.append(text[i])
            i += 1
        rest = text[i + 1 :].strip()
        if i >= len(text) or (rest and rest[0] not in "#;"):
            raise ConfigError(f"{where}, line {line}: the quote is not closed")
        return "".join(out)
    out, i = [], 0
    while i < len(text):
        c = text[i]
        if c == "\\" and i + 1 < len(text) and text[i + 1] in "#;\\'\"":
            i += 1
            out.append(text[i])
        elif c in "#;":
            break
        else:
            out.append(c)
        i += 1
    return "".join(out).strip()


class Config:
    """The options of one client.

    Args:
        name: the entity, as in ``client.admin``.
        cluster: the name that ``$cluster`` stands for; None for that of the file, without ``.conf``.
    """

    def __init__(
        self,
        name: str = "client.admin",
        cluster: str | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        defaults: Mapping[str, str] | None = None,
    ) -> None:
        kind, dot, ident = name.partition(".")
        if not dot or not kind or not ident:
            raise ConfigError(f"{name!r} is not the name of an entity, as in client.admin")
        self.name = name
        self.type = kind
        self.id = ident
        self.cluster = cluster or "ceph"
        self._cluster_given = bool(cluster)
        self.environ = os.environ if environ is None else environ
        self.files: list[str] = []
        self.started = False
        """Whether a client is connected with it: some options cannot be changed any more."""
        self._observers: dict[int, weakref.WeakMethod[Callable[[frozenset[str]], None]]] = {}
        self._sections: dict[str, dict[str, str]] = {}
        self._values: tuple[dict[str, str], ...] = tuple({} for _ in range(6))
        self._cache: dict[str, str | None] = {}
        for option, value in (defaults or {}).items():
            name = normalize(option)
            self._values[PROGRAM][name] = canonical(name, str(value))
        self.parse_env()

    def __repr__(self) -> str:
        return f"<Config {self.name} from {', '.join(self.files) or 'no file'}>"

    # ------------------------------------------------------------ sources

    def read_file(self, path: str | None = None) -> None:
        """Reads the first file of a list that exists; without one, ``$CEPH_CONF`` or the
        default places.

        Raises:
            ConfigError: ENOENT when there is none, EACCES, EINVAL for its contents, ENOSYS when a client
                is connected.
        """
        self._require_unstarted()
        given = path or self.environ.get("CEPH_CONF")
        candidates = [self._expand(p) for p in split_list(given or DEFAULT_FILES)]
        for candidate in candidates:
            try:
                with open(candidate, encoding="utf-8", errors="surrogateescape") as f:
                    text = f.read(MAX_FILE_SIZE + 1)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as e:
                raise ConfigError(
                    f"cannot read {candidate}: {e.strerror}",
                    errno=e.errno or errno.EIO,
                    hint="is it readable for this user?",
                ) from None
            if len(text) > MAX_FILE_SIZE:
                raise ConfigError(f"{candidate} is larger than {MAX_FILE_SIZE} bytes")
            sections = parse_conf(text, candidate)
            for section, values in sections.items():
                self._sections.setdefault(section, {}).update(values)
            if not self.files and not self._cluster_given:
                stem, suffix = os.path.splitext(os.path.basename(candidate))
                self.cluster = stem if suffix == ".conf" else "ceph"
            self.files.append(candidate)
            self._take_file()
            self.parse_env()
            return
        raise ConfigError(
            f"no configuration file: looked for {', '.join(candidates)}",
            errno=errno.ENOENT,
            hint="name one with conffile= or CEPH_CONF",
        )

    def _take_file(self) -> None:
        """What the file's sections say for us. A value that cannot be used is none, as in Ceph."""
        found: dict[str, str] = {}
        for section in self.sections():
            for name, value in self._sections.get(section, {}).items():
                found.setdefault(name, value)
        for name, value in found.items():
            try:
                self._put(FILE, name, value)
            except ConfigError as e:
                _log.warning("%s: %s; it is ignored", self.files[-1], e)

    def _require_unstarted(self) -> None:
        if self.started:
            raise ConfigError("the configuration of a connected client is only changed by set", errno=errno.ENOSYS)

    def parse_argv(self, args: Sequence[str], level: int = CMDLINE) -> list[str]:
        """Takes the options of Ceph out of `args` and gives the rest, as conf_parse_argv.

        Raises:
            ConfigError: EINVAL or ERANGE for a value, ENOSYS when a client is connected.
        """
        self._require_unstarted()
        rest: list[str] = []
        left = list(args)
        while left:
            arg = left.pop(0)
            if arg == "--":
                return [*rest, "--", *left]
            flag, eq, attached = arg.partition("=")
            flag = flag[:2] + flag[2:].replace("-", "_")
            name = flag[2:] if flag.startswith("--") else ""
            name, where = (name[8:], PROGRAM) if name.startswith("default_") and name not in OPTIONS else (name, level)
            if flag in _IGNORED_ARGS and not eq:
                continue
            if OPTIONS.get(name, ("",))[0] == BOOL and where == level:
                self._put(level, name, _flag(name, eq, attached, left))
            elif name.startswith("no_") and OPTIONS.get(name[3:], ("",))[0] == BOOL and not eq:
                self._put(level, name[3:], "false")
            elif flag in _KEYFILE_ARGS:
                self._read_key(_argument(arg, eq, attached, left))
            elif flag in _OVERRIDING_ARGS:
                self.set(_OVERRIDING_ARGS[flag], _argument(arg, eq, attached, left))
            elif name in OPTIONS:
                self._put(where, name, _argument(arg, eq, attached, left))
            else:
                rest.append(arg)
        return rest

    def _read_key(self, path: str) -> None:
        try:
            with open(path, encoding="ascii") as f:
                self.set("key", f.read(MAX_KEY_SIZE))
        except (OSError, ValueError) as e:
            _log.warning("cannot read the keyfile %s: %s", path, e.__class__.__name__)

    def parse_env(self, var: str = "CEPH_ARGS") -> None:
        """Takes options from the environment: those in `var`, written as arguments, and ``CEPH_KEYRING``,
        ``CEPH_LIB``, ``TMPDIR``. Nothing of it is an error; a connected client does not look."""
        if self.started:
            return
        import shlex

        environ = self.environ
        for key, options in (
            ("CEPH_KEYRING", ("keyring",)),
            ("CEPH_LIB", ("erasure_code_dir", "plugin_dir")),
            ("TMPDIR", ("tmp_dir",)),
        ):
            value = environ.get(key)
            if value is not None:
                for option in options:
                    self._put(ENV, option, value)
        if environ.get(var):
            try:
                self.parse_argv(shlex.split(environ[var]), ENV)
            except (ConfigError, ValueError) as e:
                _log.warning("%s: %s", var, e)

    def set(self, option: str, value: str) -> None:
        """Overrides an option.

        Raises:
            ConfigError: ENOENT for an option that does not exist, EINVAL (or ERANGE) for its value, EPERM for
                one that a connected client cannot change.
        """
        name = normalize(option)
        if name not in OPTIONS:
            raise ConfigError(f"there is no option {option!r}", errno=errno.ENOENT)
        self._put(OVERRIDE, name, str(value))

    def set_from_monitors(self, values: Mapping[str, str]) -> None:
        """Takes what the monitors' configuration has for us now, in place of what they sent before
        (`md_config_t::set_mon_vals`). What is ours to decide, or cannot be changed any more, is left out."""
        new: dict[str, str] = {}
        for name, value in values.items():
            if name in NOT_FROM_MONITORS:
                continue
            try:
                text = canonical(name, value)
                self._check_changeable(name, text)
            except ConfigError as e:
                _log.info("the monitors' configuration: %s; it is ignored", e)
                if name in self._values[MON]:
                    new[name] = self._values[MON][name]
            else:
                new[name] = text
        old = self._values[MON]
        names = [n for n in {*old, *new} if old.get(n) != new.get(n)]
        before = {n: self._raw(n) for n in names}
        old.clear()
        old.update(new)
        self._changed(frozenset(n for n in names if self._raw(n) != before[n]))

    def _put(self, level: int, name: str, value: str) -> None:
        text = canonical(name, value)
        self._check_changeable(name, text)
        before = self._raw(name)
        self._values[level][name] = text
        if self._raw(name) != before:
            self._changed(frozenset((name,)))

    def _check_changeable(self, name: str, value: str) -> None:
        if self.started and name in FIXED and value != self._raw(name):
            raise ConfigError(f"option {name} cannot be changed while connected", errno=errno.EPERM)

    def _changed(self, names: frozenset[str]) -> None:
        if names:
            self._cache.clear()
            for observer in list(self._observers.values()):
                fn = observer()
                if fn is not None:
                    fn(names)

    def observe(self, method: Callable[[frozenset[str]], None]) -> None:
        """Has a method called with the names of options whose values have changed, by the thread in
        which that happens, as long as its object lives."""
        key = id(getattr(method, "__self__", method))
        self._observers[key] = weakref.WeakMethod(method, lambda _: self._observers.pop(key, None))

    # ------------------------------------------------------------ answers

    def crush_location(self) -> frozenset[tuple[str, str]]:
        """Where in the CRUSH map this client is, {(type of bucket, name)}: the option of that name,
        as in ``root=default rack=a host=b``, or else this host in the default tree."""
        text = self.get("crush_location") or ""
        words = text.translate(str.maketrans(";,\t", "   ")).split()
        pairs = [word.partition("=") for word in words]
        if words and all(value for _, _, value in pairs):
            return frozenset((kind, value) for kind, _, value in pairs)
        if words:
            _log.warning("crush_location %r is not of the form type=name ...", text)
        return frozenset({("host", short_hostname()), ("root", "default")})

    def sections(self) -> Iterable[str]:
        """The sections that apply, the most special first."""
        return (self.name, self.type, "global")

    def get(self, option: str) -> str | None:
        """The value in effect as text, variables expanded; None for an unknown option."""
        value = self._cache.get(option)
        if value is None:
            name = normalize(option)
            value = self._raw(name)
            if value is not None and "$" in value:
                return self._expand(value, frozenset((name,))) if self._expands(name) else value
            self._cache[option] = value
        return value

    def _raw(self, name: str) -> str | None:
        for values in reversed(self._values):
            value = values.get(name)
            if value is not None:
                return value
        return canonical(name, OPTIONS[name][1]) if name in OPTIONS else None

    @staticmethod
    def _expands(name: str) -> bool:
        return name not in OPTIONS or OPTIONS[name][0] == STR

    def section(self, name: str) -> Mapping[str, str]:
        """The raw options of one section of the file."""
        return self._sections.get(name, {})

    def section_names(self) -> list[str]:
        return list(self._sections)

    def get_bool(self, option: str) -> bool:
        return self.get(option) == "true"

    def get_int(self, option: str) -> int:
        return int(self.get(option) or 0)

    def get_float(self, option: str) -> float:
        """A number, or a time span in seconds."""
        value = self.get(option) or "0"
        return float(value) if OPTIONS.get(option, ("",))[0] == FLOAT else parse_seconds(value)

    def get_list(self, option: str) -> list[str]:
        return split_list(self.get(option) or "")

    def _expand(self, text: str, seen: frozenset[str] = frozenset(), room: list[int] | None = None) -> str:
        """Replaces ``$cluster``, ``${name}`` and the names of other options (`md_config_t::_expand_meta`).

        Args:
            room: for how many bytes more; options that name each other many times would have no end.
        Raises:
            ConfigError: EINVAL.
        """
        out, rest = "", text
        left = [MAX_EXPANSION] if room is None else room
        while "$" in rest:
            left[0] -= len(rest)
            if left[0] < 0:
                raise ConfigError("an option's value is too long when the variables in it are replaced")
            before, _, rest = rest.partition("$")
            out += before
            braced = rest.startswith("{")
            tail = rest[braced:].lstrip("abcdefghijklmnopqrstuvwxyz_")
            name = rest[braced : len(rest) - len(tail)]
            whole = "$" + rest[: len(rest) - len(tail)]
            if braced and not tail.startswith("}"):
                out, rest = out + "$", tail
                continue
            if braced:
                tail, whole = tail[1:], whole + "}"
            rest = tail
            if not name:
                out += "$"
            elif name == "home":
                out = self.environ.get("HOME", "")  # and not what is before it, as in Ceph
            elif name in _VARIABLES:
                out += _VARIABLES[name](self)
            elif name in seen:
                return f"${name}"
            elif name in OPTIONS:
                value = self._raw(name) or ""
                value = self._expand(value, seen | {name}, left) if self._expands(name) else value
                left[0] -= len(value)
                out += value
            else:
                out += whole
        return out + rest

    def _host(self) -> str:
        return self._raw("host") or short_hostname()


_VARIABLES: dict[str, Callable[[Config], str]] = {
    "cluster": lambda c: c.cluster,
    "name": lambda c: c.name,
    "type": lambda c: c.type,
    "id": lambda c: c.id,
    "num": lambda c: c.id,
    "pid": lambda c: c.environ.get("PID") or str(os.getpid()),
    "host": Config._host,
    "cctid": lambda c: str(id(c)),
}


def short_hostname() -> str:
    """The name of this machine without its domain."""
    return socket.gethostname().partition(".")[0]


def _argument(arg: str, attached: str, value: str, left: list[str]) -> str:
    if attached:
        return value
    if not left:
        raise ConfigError(f"option {arg} needs a value")
    return left.pop(0)


def _flag(name: str, attached: str, value: str, left: list[str]) -> str:
    """The value of a boolean option: attached, or the next argument if that is one, else true."""
    values = {"true": "true", "1": "true", "false": "false", "0": "false"}
    if attached:
        if value not in values:
            raise ConfigError(f"option {name}: {value!r} is neither true nor false")
        return values[value]
    return values[left.pop(0)] if left and left[0] in values else "true"


_EARLY_ARGS = {"-c": "conf", "-n": "name", "-i": "id"}


def _early_option(arg: str) -> tuple[str, bool, str]:
    """(name, whether a value is attached, value) of an argument that looks like an option."""
    if arg.startswith("--") and len(arg) > 2:
        name, eq, value = arg[2:].partition("=")
        return name.replace("-", "_"), bool(eq), value
    return _EARLY_ARGS.get(arg[:2], ""), len(arg) > 2, arg[2:].removeprefix("=")


def _words_of(environ: Mapping[str, str], var: str) -> list[str]:
    """The arguments in an environment variable."""
    import shlex

    try:
        return shlex.split(environ.get(var, ""))
    except ValueError as e:
        raise ConfigError(f"{var}: {e}") from None


def early_args(args: Sequence[str], environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """What has to be known before the configuration is read: name, id, cluster, conf.

    Raises:
        ConfigError: EINVAL.
    """
    environ = os.environ if environ is None else environ
    found: dict[str, str] = {}
    for words in (_words_of(environ, "CEPH_ARGS"), args):
        it = iter(words)
        for arg in it:
            if arg == "--":
                break
            name, eq, value = _early_option(arg)
            if name in ("conf", "name", "id", "user", "cluster"):
                text = value if eq else next(it, None)
                if text is None:
                    raise ConfigError(f"option {arg} needs a value")
                found["id" if name == "user" else name] = text
    return found
