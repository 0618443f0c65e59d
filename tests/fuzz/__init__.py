"""Everything that reads bytes is fuzzed: one target per `fuzz_*.py`, see :mod:`tests.fuzz.harness`.

``ci/fuzz`` runs them with atheris, guided by coverage; `test_corpus.py` replays what it found without.
"""
