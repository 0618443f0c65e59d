"""The log is a story: each line says whom it is about (`docs/logging.md`)."""

from __future__ import annotations

import logging
import re
import subprocess
import sys

import pytest

from pyrbd import rados
from tests.rados.test_connect import key_of


def test_the_story_of_an_operation(conf: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "pyrbd")
    with rados.Rados(conffile=conf) as cluster, cluster.open_ioctx("rbd") as ioctx:
        cluster.mon_command('{"prefix": "config-key set", "key": "k", "val": "confidential"}', b"secret input")
        ioctx.write_full("logged", b"data of a user")
        ioctx.read("logged")
        with pytest.raises(rados.ObjectNotFound):
            ioctx.read("not there")
        cluster.mgr_command('{"prefix": "pg stat"}', b"", timeout=60)
        ioctx.remove_object("logged")
    said = "\n".join(record.getMessage() for record in caplog.records)
    for line in (
        r"\[mon\.\S+\] in as client\.\d+ at v2:",
        r"\[mon\.\w+ tid=\d+\] MMonCommand",
        r"\[osd\.\d+ tid=1\] WRITEFULL of \S*logged, 14 bytes, by osdmap \d+",
        r"\[osd\.\d+ tid=1\] answer: done",
        r"\[osd\.\d+ tid=2\] answer: done, 14 bytes",
        r"\[osd\.\d+ tid=3\] answer: ENOENT",
        r"\[mgr\.\w+\] MMgrCommand",
    ):
        assert re.search(line, said), line
    for secret in (key_of(conf), "confidential", "secret input", "data of a user"):
        assert secret not in said
    operators = [r.getMessage() for r in caplog.records if r.levelno >= logging.INFO]
    assert len(operators) <= 4, operators
    assert all(r.levelno < logging.WARNING for r in caplog.records)


def test_a_level_that_changes_is_noticed(ioctx: rados.Ioctx, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("pyrbd.objecter")
    old = logger.level
    try:
        logger.setLevel(logging.DEBUG)
        while not any("STAT of" in r.getMessage() for r in caplog.records):
            try:
                ioctx.stat("nothing")
            except rados.ObjectNotFound:
                pass
        logger.setLevel(logging.WARNING)
        caplog.clear()
        try:
            ioctx.stat("nothing")
        except rados.ObjectNotFound:
            pass
        assert not caplog.records
    finally:
        logger.setLevel(old)


def test_logging_is_not_imported_for_those_who_do_not_use_it(conf: str) -> None:
    code = (
        "import sys\nfrom pyrbd import rados\n"
        "with rados.Rados(conffile=sys.argv[1]) as c, c.open_ioctx('rbd') as io:\n"
        "    io.write_full('quiet', b'x'); io.remove_object('quiet')\n"
        "    assert 'logging' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, conf], check=True)
