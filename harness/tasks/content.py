"""What the content of a data set is, wherever its files lie and however they are cut."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harness.tasks.splits import SPLITS

if TYPE_CHECKING:
    from datasets import Dataset


def content_hash(splits: Mapping[str, Dataset]) -> str:
    """SHA-256 over the rows of every split, in order, in a layout that does not depend on chunking, nor on
    the width of offsets that a file's reader chose."""
    import pyarrow as pa

    digest = hashlib.sha256()
    for name in SPLITS:
        table = splits[name].with_format("arrow")[:]
        table = table.cast(pa.schema([(field.name, _wide(field.type)) for field in table.schema]))
        table = table.combine_chunks()
        digest.update(f"{name}:{table.schema}:{table.num_rows}".encode())
        for start in range(0, table.num_rows, 1000):
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table.slice(start, 1000))
            digest.update(sink.getvalue())
    return digest.hexdigest()


def _wide(kind: Any) -> Any:
    """An Arrow type with 64-bit offsets throughout."""
    import pyarrow as pa

    if pa.types.is_string(kind):
        return pa.large_string()
    if pa.types.is_binary(kind):
        return pa.large_binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.large_list(_wide(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _wide(field.type)) for field in kind])
    return kind
