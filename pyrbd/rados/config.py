"""Configuration as librados reads it: ceph.conf, environment, arguments
(`src/common/ConfUtils.cc`, `src/common/config.cc`, `doc/rados/configuration/ceph-conf.rst`).

Precedence, highest first: `set` (and ``conf={}``), the environment, the file's sections
``[client.NAME]``, ``[client]``, ``[global]``, Ceph's defaults.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable, Mapping, Sequence

from ..errors import ConfigError
from ..log import Log
from .options import BOOL, OPTIONS, canonical, normalize, parse_seconds

_log = Log("config")

MAX_FILE_SIZE = 64 << 20
DEFAULT_FILES = "/etc/ceph/$cluster.conf,$home/.ceph/$cluster.conf,$cluster.conf"

_SHORT_ARGS = {
    "c": "conf",
    "m": "mon_host",
    "n": "name",
    "i": "id",
    "k": "keyring",
    "K": "keyfile",
}
_EARLY_ARGS = frozenset(("conf", "name", "id", "user", "cluster", "setuser", "setgroup"))


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
        cluster: the name that ``$cluster`` stands for.
    """

    def __init__(
        self,
        name: str = "client.admin",
        cluster: str = "ceph",
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
        self.cluster = cluster
        self.environ = dict(os.environ if environ is None else environ)
        self.files: list[str] = []
        self._sections: dict[str, dict[str, str]] = {}
        self._defaults = {normalize(k): str(v) for k, v in (defaults or {}).items()}
        self._env: dict[str, str] = {}
        self._overrides: dict[str, str] = {}
        if self.environ.get("CEPH_KEYRING"):
            self._env["keyring"] = self.environ["CEPH_KEYRING"]

    def __repr__(self) -> str:
        return f"<Config {self.name} from {', '.join(self.files) or 'no file'}>"

    # ------------------------------------------------------------ sources

    def read_file(self, path: str | None = None) -> None:
        """Reads the first file of a list that exists; without one, ``$CEPH_CONF`` or the
        default places.

        Raises:
            ConfigError: ENOENT when there is none, EACCES, EINVAL for its contents.
        """
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
            self.files.append(candidate)
            return
        raise ConfigError(
            f"no configuration file: looked for {', '.join(candidates)}",
            errno=errno.ENOENT,
            hint="name one with conffile= or CEPH_CONF",
        )

    def parse_argv(self, args: Sequence[str]) -> list[str]:
        """Takes the options of Ceph out of `args` and gives the rest, as conf_parse_argv."""
        rest: list[str] = []
        it = iter(args)
        for arg in it:
            if arg == "--":
                rest += ["--", *it]
                break
            name, eq, value = _option_of(arg)
            known = name in OPTIONS or name in _EARLY_ARGS
            negated = name[3:] if name.startswith("no_") and OPTIONS.get(name[3:], ("",))[0] == BOOL else ""
            if negated and not eq:
                self._overrides[negated] = "false"
            elif not known:
                rest.append(arg)
            elif not eq and OPTIONS.get(name, ("",))[0] == BOOL:
                self._overrides[name] = "true"
            else:
                text = value if eq else next(it, None)
                if text is None:
                    raise ConfigError(f"option {arg} needs a value")
                if name not in _EARLY_ARGS:
                    self.set(name, text)
        return rest

    def parse_env(self, var: str = "CEPH_ARGS") -> None:
        """Options from an environment variable that holds arguments."""
        import shlex

        try:
            words = shlex.split(self.environ.get(var, ""))
        except ValueError as e:
            raise ConfigError(f"{var}: {e}") from None
        self.parse_argv(words)

    def set(self, option: str, value: str) -> None:
        """Overrides an option.

        Raises:
            ConfigError: ENOENT for an option that does not exist, EINVAL for its value.
        """
        name = normalize(option)
        if name not in OPTIONS:
            raise ConfigError(f"there is no option {option!r}", errno=errno.ENOENT)
        self._overrides[name] = canonical(name, str(value))

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
        return frozenset({("host", socket.gethostname().partition(".")[0]), ("root", "default")})

    def sections(self) -> Iterable[str]:
        """The sections that apply, the most special first."""
        return (self.name, self.type, "global")

    def get(self, option: str) -> str | None:
        """The value in effect as text, variables expanded; None for an unknown option."""
        name = normalize(option)
        raw = self._raw(name)
        if raw is None:
            return None
        value = self._expand(raw, frozenset((name,)))
        if name not in OPTIONS:
            return value
        try:
            return canonical(name, value)
        except ConfigError as e:  # as in Ceph, a file's value that cannot be used is none
            _log.info("%s", e)
            return canonical(name, self._expand(OPTIONS[name][1]))

    def _raw(self, name: str) -> str | None:
        for source in (self._overrides, self._env):
            if name in source:
                return source[name]
        for section in self.sections():
            value = self._sections.get(section, {}).get(name)
            if value is not None:
                return value
        if name in self._defaults:
            return self._defaults[name]
        return OPTIONS[name][1] if name in OPTIONS else None

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
        return parse_seconds(self.get(option) or "0")

    def get_list(self, option: str) -> list[str]:
        return split_list(self.get(option) or "")

    def _expand(self, text: str, seen: frozenset[str] = frozenset()) -> str:
        """Replaces ``$cluster``, ``${name}`` and the names of other options."""
        if "$" not in text:
            return text
        import re

        known = {
            "cluster": self.cluster,
            "name": self.name,
            "type": self.type,
            "id": self.id,
            "num": self.id,
            "pid": str(os.getpid()),
            "host": self._raw("host") or (os.uname().nodename.split(".")[0] if hasattr(os, "uname") else ""),
            "home": os.path.expanduser("~"),
            "cctid": str(id(self)),
        }

        def replace(m: re.Match[str]) -> str:
            name = m.group(1) or m.group(2)
            if name in known:
                return known[name]
            if name in seen or name not in OPTIONS:
                return m.group(0)
            return self._expand(self._raw(name) or "", seen | {name})

        return re.sub(r"\$(?:\{(\w+)\}|([A-Za-z_]+))", replace, text)


def _option_of(arg: str) -> tuple[str, bool, str]:
    """(name, whether a value is attached, value) of an argument that looks like an option."""
    if arg.startswith("--") and len(arg) > 2:
        name, eq, value = arg[2:].partition("=")
        return normalize(name.replace("-", "_")), bool(eq), value
    if arg.startswith("-") and len(arg) >= 2 and arg[1] in _SHORT_ARGS:
        return _SHORT_ARGS[arg[1]], len(arg) > 2, arg[2:].removeprefix("=")
    return "", False, ""


def early_args(args: Sequence[str], environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """What has to be known before the configuration is read: name, id, cluster, conf."""
    import shlex

    environ = os.environ if environ is None else environ
    found: dict[str, str] = {}
    for words in (shlex.split(environ.get("CEPH_ARGS", "")), args):
        it = iter(words)
        for arg in it:
            if arg == "--":
                break
            name, eq, value = _option_of(arg)
            if name in ("conf", "name", "id", "user", "cluster"):
                text = value if eq else next(it, None)
                if text is None:
                    raise ConfigError(f"option {arg} needs a value")
                found["id" if name == "user" else name] = text
    return found
