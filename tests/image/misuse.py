"""Calls of the `rbd` module, most of them mistakes, as text that Ceph's binding and ours run alike: for
:mod:`test_errors`. This file is run by Ceph's Python as well and imports nothing of the project.

Groups of rows share what their setup made and are run in their order by either side, on images of its own.
In a row's expressions are: `R` (an RBD), `ioctx`, `name` (of an image that is there), `new` (a name that is
not), `image` (open), `ro` (read-only), `snap` (open at its snapshot ``s``), `closed`; and what the setup adds.
"""

import time

SIZE = 4 << 20

CLOSED = """
    aio_close(None) aio_discard(0,1,None) aio_flush(None) aio_read(0,1,print) aio_write(b'x',0,None)
    aio_write_zeroes(0,1,None) access_timestamp() block_name_prefix() break_lock('client.1','c') config_get('k')
    config_list() config_remove('k') config_set('k','v') copy(ioctx,new) create_snap('s2') create_timestamp()
    data_pool_id() deep_copy(ioctx,new) diff_iterate(0,1,None,print) discard(0,1) features() flags() flatten()
    flush() get_name() get_parent_image_spec() get_snap_limit() group() id()
    invalidate_cache() is_exclusive_lock_owner() is_protected_snap('s') list_children() list_children2()
    list_descendants() list_lockers() list_snaps() lock_acquire(0) lock_break(0,'o') lock_exclusive('c')
    lock_get_owners() lock_release() lock_shared('c','t') metadata_get('k') metadata_list() metadata_remove('k')
    metadata_set('k','v') modify_timestamp() old_format() op_features() overlap() parent_id() parent_info()
    protect_snap('s') read(0,1) rebuild_object_map() remove_snap('s') remove_snap2('s',0) remove_snap_by_id(1)
    remove_snap_limit() rename_snap('s','t') require_not_closed() resize(5) rollback_to_snap('s') set_snap('s')
    set_snap_by_id(1) set_snap_limit(5) size() snap_exists('s') snap_get_group_namespace(1) snap_get_id('s')
    snap_get_mirror_namespace(1) snap_get_name(1) snap_get_namespace_type(1) snap_get_trash_namespace(1)
    sparsify(4096) stat() stripe_count() stripe_unit() unlock('c') unprotect_snap('s') update_features(4,True)
    watchers_list() write(b'x',0) write_zeroes(0,1) close()
"""

WRITES = """
    write(b'x',0) write(b'',0) discard(0,4096) write_zeroes(0,4096) resize(SIZE) resize(SIZE+1) resize(5,False)
    flatten() sparsify(4096) rename_snap('s','s') protect_snap('s') unprotect_snap('s') rollback_to_snap('s')
    set_snap_limit(5) remove_snap_limit() metadata_set('k','v') metadata_remove('k') config_set('rbd_cache','false')
    config_remove('rbd_cache') update_features(4,True) update_features(4,False) rebuild_object_map()
    lock_exclusive('c') lock_shared('c','t') unlock('c') break_lock('client.1','c') lock_acquire(0) lock_release()
    lock_break(0,'o') lock_get_owners() is_exclusive_lock_owner() flush() invalidate_cache() list_lockers()
    metadata_get('k') metadata_list() get_snap_limit()
    aio_(write,b'x',0) aio_(discard,0,4096) aio_(write_zeroes,0,4096) aio_(flush)
    create_snap('s2') remove_snap('s2') remove_snap('s3') remove_snap2('s',0) remove_snap2('s',3)
    remove_snap_by_id(sid)
"""

DATA = [
    "image.read(SIZE, 1)",
    "image.read(SIZE + 1, 10)",
    "image.read(SIZE - 1, 100)",
    "image.read(SIZE + 5, 0)",
    "image.read(0, 0)",
    "image.read(-1, 10)",
    "image.read(0, -1)",
    "image.read(1 << 64, 1)",
    "image.read('0', 1)",
    "image.read(0, '1')",
    "image.read(None, 1)",
    "image.read(0, None)",
    "image.read(True, True)",
    "image.read(1.5, 1)",
    "image.read(0, 1, None)",
    "image.read(0, 1, 'x')",
    "image.read(0, 1, 1 << 40)",
    "image.read(0)",
    "image.read(0, 5, 0x7c)",
    "image.write(b'x', SIZE)",
    "image.write(b'x', SIZE + 1)",
    "image.write(b'xyz', SIZE - 1)",
    "image.write(b'', SIZE)",
    "image.write(b'', SIZE + 1)",
    "image.write('text', 0)",
    "image.write(None, 0)",
    "image.write(5, 0)",
    "image.write(b'x', -1)",
    "image.write(b'x', 1 << 64)",
    "image.write(b'x', 'x')",
    "image.write(b'x', None)",
    "image.write(b'x', 2.9)",
    "image.write(b'x', 0, 'x')",
    "image.write(b'x', 0, 1 << 40)",
    "image.write(b'xyz', 0, 0x20)",
    "image.discard(SIZE + 1, 10)",
    "image.discard(SIZE, 10)",
    "image.discard(SIZE - 10, 100)",
    "image.discard(0, 0)",
    "image.discard(-1, 5)",
    "image.discard(0, -5)",
    "image.discard('x', 5)",
    "image.discard(0, None)",
    "image.write_zeroes(SIZE + 1, 10)",
    "image.write_zeroes(SIZE, 10)",
    "image.write_zeroes(SIZE - 10, 100)",
    "image.write_zeroes(0, 0)",
    "image.write_zeroes(-1, 5)",
    "image.write_zeroes(0, 5, 'x')",
    "image.write_zeroes(0, 5, 2)",
    "image.write_zeroes(0, 5, 1)",
    "aio(image.aio_read, 0, 5)",
    "aio(image.aio_read, SIZE, 5)",
    "aio(image.aio_read, SIZE - 1, 5)",
    "aio(image.aio_read, -1, 5)",
    "aio(image.aio_read, 'x', 5)",
    "aio(image.aio_write, b'x', 0)",
    "aio(image.aio_write, b'x', SIZE)",
    "aio(image.aio_write, b'xyz', SIZE - 1)",
    "aio(image.aio_write, 'text', 0)",
    "aio(image.aio_write, b'x', -1)",
    "aio(image.aio_discard, 0, 5)",
    "aio(image.aio_discard, SIZE + 1, 5)",
    "aio(image.aio_discard, None, 5)",
    "aio(image.aio_write_zeroes, 0, 5)",
    "aio(image.aio_write_zeroes, SIZE + 1, 5)",
    "image.aio_write_zeroes(0, 5, None, 'x')",
    "aio(image.aio_flush)",
    "aio(snap.aio_write, b'x', 0)",
    "image.flush(1)",
    "image.aio_flush()",
    "image.aio_read(0, 1)",
    "(image.write(b'data', 10), image.read(9, 6))[1]",
    "diff(image, 0, SIZE, None)",
    "diff(image, 0, SIZE, 's')",
    "diff(image, 0, SIZE, 's', True, True)",
    "diff(image, 0, SIZE, 'no-such-snap')",
    "diff(image, 0, SIZE, '')",
    "diff(image, -1, SIZE, None)",
    "diff(image, 0, -1, None)",
    "diff(image, 'x', 1, None)",
    "diff(image, SIZE, 1, None)",
    "diff(image, SIZE + 1, 1, None)",
    "diff(image, 0, 0, None)",
    "diff(image, 0, SIZE * 100, None)",
    "diff(snap, 0, SIZE, 's')",
    "diff(snap, 0, SIZE, None)",
    "image.diff_iterate(0, SIZE, None, lambda *a: 1 / 0)",
    "image.diff_iterate(0, SIZE, None, lambda *a: -5)",
    "image.diff_iterate(0, SIZE, None, lambda *a: 5)",
    "image.diff_iterate(0, SIZE, None, lambda *a: 'x')",
    "image.diff_iterate(0, SIZE, None, lambda a: 0)",
    "image.diff_iterate(0, SIZE, None, 5)",
    "image.diff_iterate(0, SIZE, None)",
    "image.resize(1 << 20, False)",
    "image.resize(SIZE, False)",
    "image.resize(-1)",
    "image.resize(1 << 64)",
    "image.resize('5')",
    "image.resize(None)",
    "image.resize()",
    "image.resize(SIZE // 2)",
    "image.size()",
    "image.read(SIZE // 2, 1)",
    "image.resize(SIZE)",
    "image.read(SIZE // 2, 3)",
    "image.sparsify(0)",
    "image.sparsify(4095)",
    "image.sparsify(4096)",
    "image.sparsify(1 << 30)",
    "image.sparsify('x')",
    "image.sparsify(-1)",
    "image.sparsify(1 << 64)",
]

PROPERTIES = [
    "image.overlap()",
    "image.parent_info()",
    "image.parent_id()",
    "image.get_parent_image_spec()",
    "image.stat()['obj_size']",
    "image.stat()['num_objs']",
    "image.stat()['parent_name'] in ('', b'')",
    "sorted(image.stat())",
    "image.old_format()",
    "image.get_name() == name",
    "image.features()",
    "image.op_features()",
    "image.flags()",
    "image.stripe_unit()",
    "image.stripe_count()",
    "image.data_pool_id() == ioctx.get_pool_id()",
    "image.group()",
    "image.block_name_prefix() == image.stat()['block_name_prefix']",
    "len(list(image.watchers_list()))",
    "sorted(list(image.watchers_list())[0])",
    "image.require_not_closed()",
    "snap.size()",
    "snap.stat()['size']",
    "snap.flags()",
    "image.flatten()",
    "image.list_children()",
    "list(image.list_children2())",
    "list(image.list_descendants())",
    "image.update_features(0, True)",
    "image.update_features(1, True)",
    "image.update_features(1, False)",
    "image.update_features(2, True)",
    "image.update_features(32, True)",
    "image.update_features(128, True)",
    "image.update_features(256, True)",
    "image.update_features(512, True)",
    "image.update_features(1 << 40, True)",
    "image.update_features(8, True)",
    "image.update_features(16, True)",
    "image.update_features(4, False)",
    "image.update_features(-1, True)",
    "image.update_features('x', True)",
    "image.update_features(None, True)",
    "image.update_features(4)",
    "ro.update_features(4, True)",
    "snap.update_features(4, True)",
    "image.update_features(4, True)",
    "image.update_features(4, True)",
    "image.update_features(8, True)",
    "image.features()",
    "image.update_features(16, True)",
    "image.update_features(4, False)",
    "image.update_features(16, False)",
    "image.update_features(24, False)",
    "image.features()",
    "image.update_features(28, False)",
    "image.update_features(4, False)",
    "image.features()",
    "image.rebuild_object_map()",
    "image.copy(ioctx, name)",
    "image.copy(ioctx, 5)",
    "image.copy(ioctx, '')",
    "image.copy(5, new)",
    "image.copy(ioctx, new, features='x')",
    "image.copy(ioctx, new, order=5)",
    "image.copy(ioctx, new, order=30)",
    "image.copy(ioctx, new, stripe_unit=3, stripe_count=7)",
    "image.copy(ioctx, new, data_pool='no-such-pool')",
    "image.copy(ioctx, new, data_pool=5)",
    "image.copy(ioctx)",
    "exists(new)",
    "image.deep_copy(ioctx, name)",
    "image.deep_copy(ioctx, '')",
    "image.deep_copy(5, new)",
    "image.deep_copy(ioctx, None)",
    "image.deep_copy(ioctx, new, order=5)",
    "image.deep_copy(ioctx, new, order='x')",
    "image.deep_copy(ioctx, new, stripe_unit=3, stripe_count=7)",
    "exists(new)",
    "(image.copy(ioctx, new), exists(new))",
    "image.copy(ioctx, new)",
    "image.deep_copy(ioctx, new)",
    "(R.remove(ioctx, new), exists(new))",
]

SNAPSHOTS = [
    "image.create_snap('s')",
    "image.create_snap(5)",
    "image.create_snap(None)",
    "image.create_snap('t', 'x')",
    "image.create_snap('t', -1)",
    "image.create_snap('t', 1 << 40)",
    "image.create_snap('')",
    "image.create_snap()",
    "image.create_snap('t', 1)",
    "image.create_snap(b'u', 2)",
    "[s['name'] for s in image.list_snaps()]",
    "[(s['size'], s['namespace'], sorted(s)) for s in image.list_snaps()]",
    "len(list(image.list_snaps())) and (lambda i: (list(i) == list(i)))(image.list_snaps())",
    "next(image.list_snaps())",
    "image.remove_snap('no-such-snap')",
    "image.remove_snap(5)",
    "image.remove_snap(None)",
    "image.remove_snap('')",
    "image.remove_snap2('no-such-snap', 0)",
    "image.remove_snap2('t', 'x')",
    "image.remove_snap2('t', -1)",
    "image.remove_snap_by_id(12345678)",
    "image.remove_snap_by_id(-1)",
    "image.remove_snap_by_id('x')",
    "image.remove_snap_by_id(None)",
    "image.rename_snap('no-such-snap', 'x')",
    "image.rename_snap('t', 's')",
    "image.rename_snap('t', 't')",
    "image.rename_snap('t', 5)",
    "image.rename_snap(None, 't')",
    "image.rename_snap('t', 'v')",
    "image.snap_exists('v')",
    "image.snap_exists('t')",
    "image.snap_exists(5)",
    "image.snap_exists('')",
    "image.snap_get_id('no-such-snap')",
    "image.snap_get_id(5)",
    "image.snap_get_id('s') == sid",
    "image.snap_get_name(sid)",
    "image.snap_get_name(12345678)",
    "image.snap_get_name('x')",
    "image.snap_get_name(-1)",
    "image.snap_get_name(1 << 63)",
    "image.snap_get_namespace_type(sid)",
    "image.snap_get_namespace_type(12345678)",
    "image.snap_get_namespace_type(-1)",
    "image.snap_get_trash_namespace(sid)",
    "image.snap_get_trash_namespace(12345678)",
    "image.snap_get_mirror_namespace(sid)",
    "image.snap_get_mirror_namespace(12345678)",
    "image.snap_get_group_namespace(sid)",
    "image.snap_get_group_namespace(12345678)",
    "image.get_snap_timestamp('x')",
    "type(image.get_snap_timestamp(sid)).__name__",
    "image.is_protected_snap('no-such-snap')",
    "image.is_protected_snap(5)",
    "image.is_protected_snap('s')",
    "image.protect_snap('no-such-snap')",
    "image.protect_snap(5)",
    "image.unprotect_snap('no-such-snap')",
    "image.unprotect_snap('s')",
    "image.unprotect_snap(None)",
    "image.protect_snap('s')",
    "image.protect_snap('s')",
    "image.is_protected_snap('s')",
    "image.remove_snap('s')",
    "image.remove_snap2('s', 0)",
    "image.remove_snap_by_id(sid)",
    "image.rename_snap('s', 'w')",
    "image.rename_snap('w', 's')",
    "image.rollback_to_snap('no-such-snap')",
    "image.rollback_to_snap(5)",
    "image.rollback_to_snap('s')",
    "image.set_snap('no-such-snap')",
    "image.set_snap(5)",
    "image.set_snap('')",
    "image.set_snap('s')",
    "image.write(b'x', 0)",
    "image.create_snap('x')",
    "image.remove_snap('u')",
    "image.resize(5)",
    "image.discard(0, 4096)",
    "image.rollback_to_snap('s')",
    "image.size()",
    "image.set_snap(None)",
    "image.set_snap_by_id(12345678)",
    "image.set_snap_by_id('x')",
    "image.set_snap_by_id(-5)",
    "image.set_snap_by_id(sid)",
    "image.write(b'x', 0)",
    "image.set_snap_by_id(0)",
    "image.write(b'x', 0)",
    "image.set_snap_by_id(None)",
    "image.get_snap_limit()",
    "image.set_snap_limit('x')",
    "image.set_snap_limit(-1)",
    "image.set_snap_limit(None)",
    "image.set_snap_limit(1)",
    "image.set_snap_limit(3)",
    "image.create_snap('y')",
    "image.get_snap_limit()",
    "image.remove_snap_limit()",
    "image.get_snap_limit()",
    "rbd.Image(ioctx, name, 'no-such-snap')",
    "rbd.Image(ioctx, name, 'no-such-snap', read_only=True)",
    "rbd.Image(ioctx, name, '').close()",
    "image.unprotect_snap('s')",
    "image.remove_snap2('s', 1)",
    "image.remove_snap('v')",
    "image.remove_snap_by_id(image.snap_get_id('u'))",
    "[s['name'] for s in image.list_snaps()]",
    "image.rollback_to_snap('s')",
]

METADATA = [
    "image.metadata_get('no-such-key')",
    "image.metadata_get(5)",
    "image.metadata_get(None)",
    "image.metadata_remove('no-such-key')",
    "image.metadata_remove(5)",
    "image.metadata_set('k', 5)",
    "image.metadata_set(5, 'v')",
    "image.metadata_set(None, None)",
    "image.metadata_set('k')",
    "image.metadata_set('k', 'v')",
    "image.metadata_set('', 'v')",
    "image.metadata_get('k')",
    "list(image.metadata_list())",
    "image.metadata_set('conf_no_such_option', 'v')",
    "image.metadata_set('conf_rbd_cache', 'maybe')",
    "image.metadata_set('conf_rbd_default_features', '1')",
    "image.config_get('rbd_cache')",
    "image.config_get('no_such_option')",
    "image.config_get(5)",
    "image.config_get(b'rbd_cache')",
    "image.config_set('no_such_option', 'v')",
    "image.config_set('rbd_cache', 'maybe')",
    "image.config_set('rbd_cache', 5)",
    "image.config_set(None, 'v')",
    "image.config_set('rbd_cache', 'false')",
    "image.config_get('rbd_cache')",
    "[o for o in image.config_list() if o['name'] == 'rbd_cache']",
    "image.config_remove('rbd_cache')",
    "image.config_remove('rbd_cache')",
    "image.config_remove(5)",
    "sorted(next(iter(image.config_list())))",
    "image.metadata_remove('k')",
    "ro.metadata_get('no-such-key')",
    "R.pool_metadata_get(ioctx, 'no-such-key')",
    "R.pool_metadata_get(ioctx, 5)",
    "R.pool_metadata_get(5, 'k')",
    "R.pool_metadata_set(ioctx, 'k', 5)",
    "R.pool_metadata_set(ioctx, None, 'v')",
    "R.pool_metadata_remove(ioctx, 'no-such-key')",
    "R.pool_metadata_set(ioctx, 'conf_rbd_cache', 'maybe')",
    "R.pool_metadata_set(ioctx, 'conf_no_such_option', 'maybe')",
    "R.config_get(ioctx, 'no_such_option')",
    "R.config_get(ioctx, 5)",
    "R.config_set(ioctx, 'no_such_option', 'v')",
    "R.config_set(ioctx, 'rbd_cache', 'maybe')",
    "R.config_set(ioctx, 'rbd_cache', 5)",
    "R.config_remove(ioctx, 'rbd_cache')",
    "R.config_remove(ioctx, None)",
]

LOCKS = [
    "image.list_lockers()",
    "image.unlock('c')",
    "image.unlock(5)",
    "image.lock_exclusive(5)",
    "image.lock_exclusive(None)",
    "image.lock_exclusive()",
    "image.lock_exclusive('c')",
    "image.lock_exclusive('c')",
    "image.lock_exclusive('d')",
    "image.lock_shared('d', 't')",
    "image.lock_shared('c', 't')",
    "sorted(image.list_lockers())",
    "(image.list_lockers()['tag'], image.list_lockers()['exclusive'], image.list_lockers()['lockers'][0][1])",
    "image.break_lock('client.99999999', 'c')",
    "image.break_lock('nobody', 'c')",
    "image.break_lock('', 'c')",
    "image.break_lock(5, 'c')",
    "image.break_lock('client.1', None)",
    "image.unlock('d')",
    "image.unlock('c')",
    "image.lock_shared('c', 5)",
    "image.lock_shared('c')",
    "image.lock_shared('c', 't')",
    "image.lock_shared('d', 't')",
    "image.lock_shared('e', 'another')",
    "len(image.list_lockers()['lockers'])",
    "(image.unlock('c'), image.unlock('d'))",
    "image.lock_get_owners()",
    "image.lock_acquire(0)",
    "image.lock_acquire('x')",
    "image.lock_release()",
    "image.lock_break(0, 'o')",
    "image.lock_break(1, 'o')",
    "image.lock_break(0, 5)",
    "image.is_exclusive_lock_owner()",
]

EXCLUSIVE = [
    "list(image.lock_get_owners())",
    "image.is_exclusive_lock_owner()",
    "image.lock_release()",
    "image.lock_break(0, 'o')",
    "image.lock_break(1, 'o')",
    "image.lock_acquire(1)",
    "image.lock_acquire(7)",
    "image.lock_acquire(-1)",
    "image.lock_acquire('x')",
    "image.lock_acquire(None)",
    "image.lock_acquire()",
    "image.lock_acquire(0)",
    "image.lock_acquire(0)",
    "image.is_exclusive_lock_owner()",
    "[(o['mode'], sorted(o)) for o in image.lock_get_owners()]",
    "image.lock_break(0, 'someone else')",
    "fresh(lambda i: (i.list_lockers()['tag'], i.list_lockers()['exclusive']))",
    "fresh(lambda i: i.list_lockers()['lockers'][0][1].split()[0])",
    "image.lock_exclusive('c')",
    "image.lock_shared('c', 't')",
    "image.unlock('c')",
    "other.is_exclusive_lock_owner()",
    "[o['mode'] for o in other.lock_get_owners()]",
    "image.lock_release()",
    "image.lock_release()",
    "image.is_exclusive_lock_owner()",
    "fresh(lambda i: i.list_lockers())",
    "image.write(b'x', 0)",
    "image.is_exclusive_lock_owner()",
    "image.rebuild_object_map()",
    "image.flags()",
    "ro.lock_get_owners()",
    "ro.is_exclusive_lock_owner()",
    "ro.rebuild_object_map()",
    "snap.rebuild_object_map()",
    "image.update_features(64 << 10, True)",
    "image.update_features(16, False)",
    "image.features()",
    "image.update_features(8, True)",
    "image.update_features(32, False)",
    "image.update_features(32, True)",
    "image.features()",
]

POOL = [
    "R.create(ioctx, name, 1)",
    "R.create(ioctx, name, 1, old_format=True)",
    "R.create(ioctx, new, 1, 11, False, 1)",
    "R.create(ioctx, new, 1, 26, False, 1)",
    "R.create(ioctx, new, 1, 1 << 40, False, 1)",
    "R.create(ioctx, new, 1, -1, False, 1)",
    "R.create(ioctx, new, 1, 'x', False, 1)",
    "R.create(ioctx, new, -1, features=1)",
    "R.create(ioctx, new, 1 << 64, features=1)",
    "R.create(ioctx, new, None, features=1)",
    "R.create(ioctx, new, '1', features=1)",
    "R.create(ioctx, new)",
    "R.create(ioctx, 5, 1)",
    "R.create(ioctx, None, 1)",
    "R.create(5, new, 1)",
    "R.create(ioctx, new, 1, features='x')",
    "R.create(ioctx, new, 1, features=-1)",
    "R.create(ioctx, new, 1, features=1 << 40)",
    "R.create(ioctx, new, 1, features=8)",
    "R.create(ioctx, new, 1, 22, False, 3, 7, 2)",
    "R.create(ioctx, new, 1, 22, False, 3, 65536, 0)",
    "R.create(ioctx, new, 1, 22, False, 3, 0, 4)",
    "R.create(ioctx, new, 1, 22, False, 3, 8 << 20, 4)",
    "R.create(ioctx, new, 1, 22, False, 3, 'x', 4)",
    "R.create(ioctx, new, 1, 22, False, 3, -1, 4)",
    "R.create(ioctx, new, 1, features=1, data_pool='no-such-pool')",
    "R.create(ioctx, new, 1, features=1, data_pool=5)",
    "R.create(ioctx, new, 1, 22, True, 1)",
    "R.create(ioctx, new, 1, 22, True, 0, 65536, 2)",
    "R.create(ioctx, new, 1, 22, True, data_pool='rbd')",
    "R.create(ioctx, new, 1, 11, True)",
    "exists(new)",
    "R.create(ioctx, new, 1, features=16)",
    "(lambda i: (i.features(), i.close()))(rbd.Image(ioctx, new))",
    "R.remove(ioctx, new)",
    "rbd.Image(ioctx, 'no-such-image')",
    "rbd.Image(ioctx, 'no-such-image', read_only=True)",
    "rbd.Image(ioctx, '')",
    "rbd.Image(ioctx)",
    "rbd.Image(ioctx, name, image_id='x')",
    "rbd.Image(ioctx, image_id='no-such-id')",
    "rbd.Image(ioctx, image_id='')",
    "rbd.Image(5, name)",
    "(lambda i: (i.get_name() == name, i.close()))(rbd.Image(ioctx, image_id=image.id()))",
    "aio_open('no-such-image')",
    "aio_open(name)",
    "aio_open(name, 'no-such-snap')",
    "aio_open(name, 's', True)",
    "aio_open(None)",
    "R.remove(ioctx, 'no-such-image')",
    "R.remove(ioctx, name)",
    "R.remove(ioctx, '')",
    "R.remove(ioctx, 5)",
    "R.remove(5, name)",
    "R.remove(ioctx)",
    "R.rename(ioctx, 'no-such-image', 'x')",
    "R.rename(ioctx, name, name)",
    "R.rename(ioctx, name, 5)",
    "R.rename(ioctx, None, new)",
    "R.rename(5, name, new)",
    "R.list(5)",
    "R.list()",
    "R.list2(5)",
    "name in R.list(ioctx)",
    "[sorted(i) for i in R.list2(ioctx) if i['name'] == name]",
    "next(R.list2(ioctx))",
    "R.clone(ioctx, 'no-such-image', 's', ioctx, new, 1)",
    "R.clone(ioctx, name, 'no-such-snap', ioctx, new, 1)",
    "R.clone(ioctx, name, 's', ioctx, new, 1)",
    "R.clone(ioctx, name, 's', ioctx, name, 1)",
    "R.clone(ioctx, name, 's', ioctx, 5, 1)",
    "R.clone(ioctx, None, 's', ioctx, new, 1)",
    "R.clone(5, name, 's', ioctx, new, 1)",
    "R.clone(ioctx, name, 's', 5, new, 1)",
    "R.clone(ioctx, name, 's', ioctx, new, 'x')",
    "R.clone(ioctx, name, 's', ioctx, new, -1)",
    "R.clone(ioctx, name, 's', ioctx, new, 1, 5)",
    "R.clone(ioctx, name, 's', ioctx, new, 1, 30)",
    "R.clone(ioctx, name, 's', ioctx, new, 1, 'x')",
    "R.clone(ioctx, name, 's', ioctx, new, 1, 22, 7, 2)",
    "R.clone(ioctx, name, 's', ioctx, new, 1, data_pool=5)",
    "R.clone(ioctx, name, 's', ioctx, new, 1, data_pool='no-such-pool')",
    "R.clone(ioctx, name, 's', 'x', new, 1)",
    "R.clone(ioctx, name)",
    "exists(new)",
    "R.features_to_string(0)",
    "R.features_to_string(61)",
    "R.features_to_string(4095)",
    "R.features_to_string(1 << 40)",
    "R.features_to_string(-1)",
    "R.features_to_string('x')",
    "R.features_to_string(None)",
    "R.features_from_string('')",
    "R.features_from_string('layering')",
    "R.features_from_string('layering, journaling')",
    "R.features_from_string('layering,,journaling')",
    "R.features_from_string('striping')",
    "R.features_from_string('stripingv2')",
    "R.features_from_string('61')",
    "R.features_from_string('4096')",
    "R.features_from_string('-1')",
    "R.features_from_string('x')",
    "R.features_from_string(b'layering')",
    "R.features_from_string(5)",
    "R.features_from_string(None)",
    "R.pool_init(5, True)",
    "R.pool_init(ioctx, True)",
    "R.pool_init(ioctx, False)",
    "R.pool_init(ioctx)",
    "sorted(R.pool_stats_get(ioctx))",
    "R.pool_stats_get(5)",
    "cluster.open_ioctx('no-such-pool')",
]

TRASH = [
    "R.trash_move(ioctx, 'no-such-image')",
    "R.trash_move(ioctx, 5)",
    "R.trash_move(5, name)",
    "R.trash_move(ioctx, name, 'x')",
    "R.trash_move(ioctx, name, -1)",
    "R.trash_move(ioctx, name)",
    "R.trash_get(ioctx, 'no-such-id')",
    "R.trash_get(ioctx, 5)",
    "R.trash_get(ioctx, '')",
    "R.trash_remove(ioctx, 'no-such-id')",
    "R.trash_remove(ioctx, 'no-such-id', True)",
    "R.trash_remove(ioctx, 5)",
    "R.trash_remove(ioctx, 'x', 'y')",
    "R.trash_restore(ioctx, 'no-such-id', 'x')",
    "R.trash_restore(ioctx, 'no-such-id', 5)",
    "R.trash_restore(ioctx, None, 'x')",
    "R.trash_list(5)",
    "R.trash_purge(5)",
    "R.trash_purge(ioctx, None, 'x')",
    "R.trash_purge(ioctx, 5)",
    "R.trash_purge(ioctx, None, 1.5)",
    "R.trash_purge(ioctx, None, -5.0)",
    "(R.create(ioctx, new, SIZE, 20, False, 1), R.trash_move(ioctx, new, 3600), exists(new))",
    "sorted(R.trash_get(ioctx, trashed()))",
    "[sorted(t) for t in R.trash_list(ioctx) if t['name'] == new]",
    "[(t['source'], type(t['deletion_time']).__name__) for t in R.trash_list(ioctx) if t['name'] == new]",
    "(lambda t: (t['deferment_end_time'] - t['deletion_time']).total_seconds())(R.trash_get(ioctx, trashed()))",
    "next(R.trash_list(ioctx))",
    "R.trash_get(ioctx, trashed())['name'] == new",
    "R.trash_remove(ioctx, trashed())",
    "R.trash_restore(ioctx, trashed(), name)",
    "rbd.Image(ioctx, new)",
    "(lambda i: i.close())(rbd.Image(ioctx, image_id=trashed()))",
    "R.trash_restore(ioctx, trashed(), new)",
    "exists(new)",
    "trashed()",
    "R.trash_move(ioctx, new)",
    "R.trash_move(ioctx, new)",
    "R.trash_remove(ioctx, trashed())",
    "trashed()",
    "R.namespace_create(ioctx, 5)",
    "R.namespace_create(ioctx, '')",
    "R.namespace_create(5, 'n')",
    "R.namespace_create(ioctx, new)",
    "R.namespace_create(ioctx, new)",
    "R.namespace_exists(ioctx, new)",
    "R.namespace_exists(ioctx, 'no-such-namespace')",
    "R.namespace_exists(ioctx, None)",
    "R.namespace_exists(ioctx, '')",
    "new in R.namespace_list(ioctx)",
    "R.namespace_list(5)",
    "(ioctx.set_namespace(new), R.create(ioctx, 'i', 1), ioctx.set_namespace(''))",
    "R.namespace_remove(ioctx, new)",
    "(ioctx.set_namespace(new), R.remove(ioctx, 'i'), ioctx.set_namespace(''))",
    "R.namespace_remove(ioctx, new)",
    "R.namespace_remove(ioctx, new)",
    "R.namespace_remove(ioctx, '')",
    "R.namespace_remove(ioctx, 5)",
    "(ioctx.set_namespace(new), R.list(ioctx))",
    "R.create(ioctx, 'i', 1)",
    "rbd.Image(ioctx, 'i')",
    "R.namespace_create(ioctx, new + 'y')",
    "ioctx.set_namespace('')",
    "R.namespace_remove(ioctx, new + 'y')",
]

CLONES = [
    "child.overlap()",
    "child.parent_info() == ('rbd', name, 's')",
    "child.parent_id() == image.id()",
    "[child.get_parent_image_spec()[k] for k in ('pool_name', 'pool_namespace', 'snap_name')]",
    "child.get_parent_image_spec()['image_name'] == name",
    "child.op_features()",
    "fresh(lambda i: i.op_features())",
    "image.list_children() == [('rbd', new)]",
    "[(sorted(c), c['pool'], c['image'] == new, c['trash']) for c in image.list_children2()]",
    "[c['image'] == new for c in image.list_descendants()]",
    "snap.list_children() == [('rbd', new)]",
    "image.remove_snap2('s', 0)",
    "[(s['namespace'], sorted(s)) for s in image.list_snaps()]",
    "image.snap_exists('s')",
    "[image.snap_get_trash_namespace(s['id'])['original_name'] for s in image.list_snaps()]",
    "child.parent_info()[:2] == ('rbd', name)",
    "image.create_snap('s')",
    "R.remove(ioctx, name)",
    "R.clone(ioctx, name, 's', ioctx, new, 1)",
    "child.resize(SIZE // 2)",
    "child.overlap()",
    "child.resize(SIZE * 2)",
    "child.overlap()",
    "child.read(SIZE - 3, 6)",
    "child.read(0, 5)",
    "child.write(b'y', 1)",
    "child.read(0, 5)",
    "child.flatten('x')",
    "child.flatten(lambda *a: -1)",
    "child.flatten()",
    "child.flatten()",
    "child.parent_info()",
    "child.get_parent_image_spec()",
    "child.overlap()",
    "child.read(0, 5)",
    "image.list_children()",
    "[s['name'] for s in image.list_snaps()]",
]

OLD = [
    "image.old_format()",
    "image.id()",
    "image.features()",
    "image.flags()",
    "image.op_features()",
    "image.stripe_unit()",
    "image.stripe_count()",
    "image.read(0, 3)",
    "image.write(b'abc', 0)",
    "image.read(0, 3)",
    "image.protect_snap('s')",
    "image.is_protected_snap('s')",
    "image.unprotect_snap('s')",
    "image.update_features(4, True)",
    "image.metadata_set('k', 'v')",
    "image.metadata_get('k')",
    "list(image.metadata_list())",
    "image.lock_acquire(0)",
    "image.lock_get_owners()",
    "image.lock_exclusive('c')",
    "image.list_lockers()['lockers'][0][1]",
    "image.unlock('c')",
    "image.parent_info()",
    "image.overlap()",
    "image.flatten()",
    "image.rebuild_object_map()",
    "image.list_children()",
    "list(image.list_children2())",
    "image.get_snap_limit()",
    "image.set_snap_limit(5)",
    "image.create_snap('s')",
    "image.create_snap('t')",
    "image.rename_snap('t', 'u')",
    "[(s['name'], s['size'], s['namespace']) for s in image.list_snaps()]",
    "image.rollback_to_snap('s')",
    "image.read(0, 3)",
    "image.remove_snap('u')",
    "image.remove_snap('t')",
    "image.group()",
    "type(image.create_timestamp()).__name__",
    "R.clone(ioctx, name, 's', ioctx, new, 1)",
    "R.trash_move(ioctx, name)",
    "R.rename(ioctx, name, name)",
    "[i['id'] for i in R.list2(ioctx) if i['name'] == name]",
    "image.resize(5)",
    "image.size()",
]

MAKE = "R.create(ioctx, name, SIZE, 20, False, {})"
FILL = "with rbd.Image(ioctx, name) as i: i.write(b'x' * 5000, 0); i.create_snap('s')"
OPEN = """
sid = next(iter(rbd.Image(ioctx, name).list_snaps()))['id']
image = rbd.Image(ioctx, name)
ro = rbd.Image(ioctx, name, read_only=True)
snap = rbd.Image(ioctx, name, 's')
closed = rbd.Image(ioctx, name, read_only=True)
closed.close()
"""
CLONE = """
cluster.conf_set('rbd_default_clone_format', '2')
R.clone(ioctx, name, 's', ioctx, new, {})
child = rbd.Image(ioctx, new)
"""


def _writes(target):
    rows = []
    for call in WRITES.split():
        if call.startswith("aio_("):
            method, _, arguments = call[5:-1].partition(",")
            rows.append(f"aio({target}.aio_{method}" + (f", {arguments})" if arguments else ")"))
        else:
            rows.append(f"{target}.{call}")
    return rows


PLAIN = MAKE.format(1) + "\n" + FILL + OPEN
LOCKED = MAKE.format(61) + "\n" + FILL + OPEN

GROUPS = {
    "closed": (PLAIN, [f"closed.{call}" for call in CLOSED.split()]),
    "read-only": (PLAIN, _writes("ro")),
    "at a snapshot": (PLAIN, _writes("snap")),
    "read-only, all features": (LOCKED, _writes("ro")),
    "data": (PLAIN, DATA),
    "data, all features": (LOCKED, DATA),
    "properties": (PLAIN, PROPERTIES),
    "snapshots": (PLAIN, SNAPSHOTS),
    "snapshots, all features": (LOCKED, SNAPSHOTS),
    "metadata": (PLAIN, METADATA),
    "locks": (PLAIN, LOCKS),
    "the exclusive lock": (LOCKED + "\nother = rbd.Image(ioctx, name)", EXCLUSIVE),
    "pool": (PLAIN, POOL),
    "trash and namespaces": (PLAIN, TRASH),
    "clones": (PLAIN + CLONE.format(1), CLONES),
    "clones, all features": (LOCKED + CLONE.format(61), CLONES),
    "format 1": (
        "cluster.conf_set('rbd_default_format', '1')\nR.create(ioctx, name, SIZE, 20, True)\n" + FILL + OPEN,
        OLD,
    ),
}


def plain(value):
    """A result as JSON, without what differs from run to run."""
    if isinstance(value, (bool, int, float, str, type(None))):
        return value
    if isinstance(value, bytes):
        return f"{len(value)} bytes, {value[:8].hex()}"
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return type(value).__name__


def outcome(expression, scope):
    """["ok", the result], or [the exception, its errno]."""
    try:
        value = eval(expression, scope)  # noqa: S307 - the text above
    except BaseException as e:
        if isinstance(e, OverflowError):  # ours is an InvalidArgument as well
            return ["OverflowError", None]
        return [type(e).__name__, getattr(e, "errno", None)]
    return ["ok", plain(value)]


def play(group, rbd, cluster, ioctx, name):
    """The outcomes of a group's rows, in order."""
    setup, rows = GROUPS[group]
    R = rbd.RBD()
    scope = {"rbd": rbd, "cluster": cluster, "ioctx": ioctx, "name": name, "new": name + "-new", "R": R, "SIZE": SIZE}

    def aio(method, *arguments):
        told = []
        completion = method(*arguments, lambda c, *data: told.append(data))
        completion.wait_for_complete_and_cb()
        return completion.get_return_value(), told

    def aio_open(*arguments):
        told = []
        completion = R.aio_open_image(lambda c, image: told.append(image), ioctx, *arguments)
        completion.wait_for_complete_and_cb()
        if not completion.get_return_value():
            told[0].close()
        return completion.get_return_value()

    def diff(image, offset, length, since, *more):
        found = []
        image.diff_iterate(offset, length, since, lambda *extent: found.append(extent), *more)
        return found

    def fresh(use):
        with rbd.Image(ioctx, name, read_only=True) as image:
            return use(image)

    scope["fresh"] = fresh
    scope["aio"], scope["aio_open"], scope["diff"] = aio, aio_open, diff
    scope["exists"] = lambda n: n in R.list(ioctx)
    scope["trashed"] = lambda: next(t["id"] for t in R.trash_list(ioctx) if t["name"] == scope["new"])
    exec(setup, scope)  # noqa: S102 - the text above
    found = []
    for row in rows:
        started = time.monotonic()
        found.append(outcome(row, scope))
        if time.monotonic() - started > 20:
            found[-1].append("slow")
    ioctx.set_namespace("")
    cluster.conf_set("rbd_default_clone_format", "1")
    cluster.conf_set("rbd_default_format", "2")
    for key in ("child", "other", "snap", "ro", "image"):
        if key in scope:
            scope[key].close()
    _tidy(rbd, R, ioctx, name)
    return found


def _tidy(rbd, R, ioctx, name):
    for left in (name + "-new", name):
        try:
            with rbd.Image(ioctx, left) as image:
                for s in list(image.list_snaps()):
                    if s["namespace"] == 0 and image.is_protected_snap(s["name"]):
                        image.unprotect_snap(s["name"])
                    image.remove_snap_by_id(s["id"])
        except Exception:  # what could not be tidied up is removed by nobody, and in nobody's way
            pass
        try:
            R.remove(ioctx, left)
        except Exception:
            pass
