"""RBD on object operations: header, layout, data, directory. The code here is written once
as coroutines that await completions; `pyrbd.rbd` and `pyrbd.aio` are its two front doors."""
