#!/bin/bash
# Starts, in a container, the cluster whose configuration is in this directory: $MONS, a manager, $OSDS.
set -e
here=$(cd "$(dirname "$0")" && pwd)
cd / # Debian's daemons look for their plugins from there
ceph() { command ceph -c "$here/ceph.conf" "$@"; }
begin() { local kind=$1 id=$2; shift 2; "ceph-$kind" -i "$id" -c "$here/ceph.conf" "$@"; }

mkdir -p "$here"/{run,log,crash,mgr.x}
xargs monmaptool < "$here/monmap.arguments" > /dev/null
for id in $MONS; do
  mkdir -p "$here/mon.$id"
  begin mon "$id" --mkfs --monmap "$here/monmap" --keyring "$here/mkfs.keyring"
done
for id in $MONS; do begin mon "$id"; done
begin mgr x
for id in $OSDS; do
  uuid=$(cat /proc/sys/kernel/random/uuid)
  mkdir -p "$here/osd.$id"
  ceph osd new "$uuid" "$id" > /dev/null
  begin osd "$id" --mkfs --osd-uuid "$uuid" --no-mon-config --monmap "$here/monmap" &
  making="$making $!"
done
for pid in $making; do wait "$pid"; done
for id in $OSDS; do begin osd "$id"; done
