"""Which row of a table an id stands in, for many ids at once.

Arrow's `index_in` hashes all known ids again at each call, which costs more than the
search as soon as a table has more rows than a batch. Here they are hashed once.
"""

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

# Fixed, so that equal texts have equal hashes in all processes of a run.
_SEED = 20_220_711


class IdIndex:
    """Distinct known ids by hash; small enough to travel to workers.

    Args:
        ids: string [K], distinct, without nulls.
    """

    def __init__(self, ids: pa.Array | pa.ChunkedArray) -> None:
        self._ids = one_array(ids).cast(pa.string())
        hashes = hash_texts(self._ids)
        self._order = np.argsort(hashes).astype(np.int32)
        self._hashes = hashes[self._order]
        self._is_unsure = bool((self._hashes[1:] == self._hashes[:-1]).any())

    def __len__(self) -> int:
        return len(self._ids)

    def find(self, values: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Return the row of each value, int64 [N]; -1 for null and unknown.

        >>> IdIndex(pa.array(["hat", "shoe"])).find(pa.array(["shoe", None, "x"]))
        array([ 1, -1, -1])
        """
        text = one_array(values).cast(pa.string())
        if not len(self._ids) or not len(text):
            return np.full(len(text), -1, np.int64)
        if self._is_unsure:
            rows = pc.index_in(text, value_set=self._ids, skip_nulls=True)
            return rows.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        place = self._place(hash_texts(text))
        row = self._order[place].astype(np.int64)
        # Equal hashes are only a hint: an unknown text may share one.
        is_same = pc.equal(self._ids.take(pa.array(row)), text).fill_null(False)
        return np.where(is_same.to_numpy(zero_copy_only=False), row, -1)

    def _place(self, wanted: np.ndarray) -> np.ndarray:
        # In order of hash the search walks through memory instead of jumping.
        order = np.argsort(wanted)
        place = np.empty(len(wanted), np.int64)
        place[order] = np.searchsorted(self._hashes, wanted[order])
        clipped: np.ndarray = np.minimum(place, len(self._hashes) - 1)
        return clipped


def hash_texts(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Hash texts to 64 bits: uint64 [N], equal within one version of polars."""
    texts = pl.Series(values=pl.from_arrow(one_array(values)), dtype=pl.String)
    return texts.hash(_SEED).to_numpy()


def one_array(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return a column as one array."""
    if not isinstance(values, pa.ChunkedArray):
        return values
    if values.num_chunks == 1:
        return values.chunk(0)
    return pa.concat_arrays(values.chunks) if values.chunks else values.combine_chunks()
