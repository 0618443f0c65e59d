"""Random maps, and Ceph's own answers to them.

`crush` writes CRUSH maps as text for crushtool, `cluster` puts them into OSDMaps with whatever else decides a
placement, `oracle` has the tools of a release make a map of it and place every group.
``python -m tests.osdmap.maps --seed 1 --count 1000`` plays.
"""
