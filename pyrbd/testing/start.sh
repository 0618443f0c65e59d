#!/bin/bash
# Starts, in a container, the cluster whose configuration is in this directory: $MONS, a manager, $OSDS.
set -e
cd "$(dirname "$0")"
ceph() { command ceph -c ceph.conf "$@"; }
begin() { local kind=$1 id=$2; shift 2; "ceph-$kind" -i "$id" -c ceph.conf "$@"; }

mkdir -p run log crash mgr.x
xargs monmaptool < monmap.arguments > /dev/null
for id in $MONS; do
  mkdir -p "mon.$id"
  begin mon "$id" --mkfs --monmap monmap --keyring mkfs.keyring
done
for id in $MONS; do begin mon "$id"; done
begin mgr x
for id in $OSDS; do
  uuid=$(cat /proc/sys/kernel/random/uuid)
  mkdir -p "osd.$id"
  ceph osd new "$uuid" "$id" > /dev/null
  begin osd "$id" --mkfs --osd-uuid "$uuid" --no-mon-config --monmap monmap &
  making="$making $!"
done
for pid in $making; do wait "$pid"; done
for id in $OSDS; do begin osd "$id"; done
