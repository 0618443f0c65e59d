"""Two clients and a model: random operations on the same images by pyrbd and by librbd.

    python -m tests.image.model --seed 7 --seconds 60       # a cluster is started for it
    python -m tests.image.model --seed 7 --conf ceph.conf   # on one that runs (bluestore)
    python -m tests.image.model --roles librbd,librbd       # the model against librbd alone

`steps.py` makes steps, which are literals, and predicts what comes of them in memory;
`client.py` is the program that does them with either module; `engine.py` lets two clients do
them and compares everything. A run that fails prints its seed and its steps, and
``--shrink`` makes them few.
"""
