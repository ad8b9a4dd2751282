"""What encoding a column of texts or pictures promises, whatever the encoder."""

import io
import logging
import os

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from cacs_ray.errors import InputError
from cacs_ray.features import content, content_source, text
from cacs_ray.features.content import encode_content, encode_distinct, encoder_size
from cacs_ray.features.content_cache import ContentCache
from cacs_ray.features.request_text import encode_request_text
from cacs_ray.features.spec import FieldSpec


class CountingEncoder:
    """A text becomes (its length, 1), a picture (its mean red, 1); calls are kept."""

    name, version, size, chunk_size = "counting", "1", 2, 3

    def __init__(self):
        self.seen = []

    def encode(self, contents):
        self.seen.extend(contents)
        first = [len(c) if isinstance(c, str) else c[..., 0].mean() for c in contents]
        return np.stack([first, np.ones(len(first))], axis=1).astype(np.float32)


@pytest.fixture
def counting(monkeypatch):
    encoder = CountingEncoder()
    monkeypatch.setattr(content_source, "text_encoder", lambda _: encoder)
    monkeypatch.setattr(content_source, "image_encoder", lambda _: encoder)
    return encoder


@pytest.fixture
def encode(tmp_path, counting):
    def call(values, kind="text"):
        return encode_content(
            values, kind, "counting", cache=tmp_path / "cache", root=tmp_path
        )

    return call


def picture(red: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (red, 0, 0)).save(file, "PNG")
    return file.getvalue()


def test_order_is_kept_and_null_is_unknown_while_empty_is_a_text(encode):
    encoded = encode(pa.array(["abc", None, "", "a"]))
    assert encoded.tolist() == [[3, 1, 1], [0, 0, 0], [0, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize(
    "values",
    [
        pa.chunked_array([["ab", None], [], ["c"]]),
        pa.array(["ab", None, "c"], pa.large_string()),
        pa.array(["ab", None, "c"], pa.string_view()),
        pa.array(["ab", None, "c"]).dictionary_encode(),
    ],
    ids=["chunks", "large", "view", "dictionary"],
)
def test_every_kind_of_string_column_means_the_same(encode, values):
    assert encode(values).tolist() == [[2, 1, 1], [0, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize("kind", ["text", "image"])
@pytest.mark.parametrize(
    ("values", "num_rows"),
    [
        (pa.array([], pa.string()), 0),
        (pa.chunked_array([], pa.string()), 0),
        (pa.nulls(2), 2),
        (pa.nulls(2, pa.string()), 2),
    ],
    ids=["empty", "no chunk", "null type", "all null"],
)
def test_nothing_known_is_all_zeros(encode, counting, kind, values, num_rows):
    encoded = encode(values, kind)
    assert encoded.shape == (num_rows, 3)
    assert encoded.dtype == np.float32
    assert not encoded.any()
    assert counting.seen == []


def test_each_distinct_text_is_encoded_once(encode, counting):
    encoded = encode(pa.array(["aa", "b", "aa", None, "b", "aa"]))
    assert counting.seen == ["aa", "b"]
    assert encoded[:, 0].tolist() == [2, 1, 2, 0, 1, 2]


def test_a_second_call_finds_everything_in_the_cache(encode, counting):
    texts = pa.array([f"{'x' * n}" for n in range(10)])
    first = encode(texts)
    counting.encode = None  # would raise
    assert encode(texts.take(list(range(9, -1, -1)))).tolist() == first[::-1].tolist()


def test_only_what_is_missing_is_encoded(encode, counting):
    encode(pa.array(["a", "b"]))
    encode(pa.array(["c", "a", "d"]))
    assert counting.seen == ["a", "b", "c", "d"]


def test_another_version_of_the_encoder_is_another_content(encode, counting):
    encode(pa.array(["a"]))
    counting.version = "2"
    encode(pa.array(["a"]))
    assert counting.seen == ["a", "a"]


def test_an_interruption_loses_one_chunk_at_most(encode, counting):
    whole, counting.seen = counting.encode, []

    def stops(texts):
        if "g" in texts:
            raise KeyboardInterrupt
        return whole(texts)

    counting.encode = stops
    texts = pa.array(list("abcdefgh"))  # chunks of three: abc, def, gh
    with pytest.raises(KeyboardInterrupt):
        encode(texts)
    counting.encode, counting.seen = whole, []
    encode(texts)
    assert counting.seen == ["g", "h"]


@pytest.mark.parametrize("harm", ["truncated", "empty", "one bit", "other columns"])
def test_a_damaged_shard_is_left_out_and_its_contents_encoded_again(
    encode, counting, tmp_path, caplog, harm
):
    first = encode(pa.array(["a", "bb", "ccc", "dddd"]))
    shards = sorted(tmp_path.glob("cache/counting/*.parquet"))
    assert len(shards) == 2
    for shard in shards:
        stored = bytearray(shard.read_bytes())
        if harm == "one bit":
            stored[len(stored) // 4] ^= 1
        shard.write_bytes(
            {"truncated": stored[:-20], "empty": b"", "one bit": stored}.get(harm, b"")
        )
        if harm == "other columns":
            pa.parquet.write_table(pa.table({"digest": ["x"]}), shard)

    counting.seen = []
    with caplog.at_level(logging.WARNING):
        again = encode(pa.array(["a", "bb", "ccc", "dddd"]))

    assert again.tolist() == first.tolist()
    assert counting.seen == ["a", "bb", "ccc", "dddd"]
    assert "is damaged and left out" in caplog.text
    counting.encode = None
    assert encode(pa.array(["a"])).tolist() == [[1, 1, 1]]


def test_a_damaged_bit_never_gives_a_wrong_vector(tmp_path):
    vectors = np.float32([[1, 2], [3, 4]])
    digests = ["a" * 32, "b" * 32]
    ContentCache(tmp_path, 2).append(digests, vectors)
    (shard,) = tmp_path.iterdir()
    stored = shard.read_bytes()
    for place in range(0, len(stored), 7):
        damaged = bytearray(stored)
        damaged[place] ^= 1 << place % 8
        shard.write_bytes(damaged)
        found, is_cached = ContentCache(tmp_path, 2).lookup(digests)
        assert found[is_cached].tolist() == vectors[is_cached].tolist(), place


def test_nothing_is_left_beside_the_shards(encode, tmp_path):
    encode(pa.array(["a"]))
    assert [p.suffix for p in (tmp_path / "cache/counting").iterdir()] == [".parquet"]


def test_distinct_rows_and_their_index_give_the_whole_column(tmp_path, counting):
    rows, index = encode_distinct(
        pa.array(["b", None, "aa", "b"]),
        "text",
        "counting",
        cache=tmp_path,
        root=tmp_path,
    )
    assert rows.tolist() == [[0, 0, 0], [1, 1, 1], [2, 1, 1]]
    assert index.tolist() == [1, 0, 2, 1]


def test_bytes_that_are_no_utf8_are_still_a_text(encode):
    broken = pa.Array.from_buffers(
        pa.string(),
        1,
        [None, pa.py_buffer(np.int32([0, 2]).tobytes()), pa.py_buffer(b"a\xff")],
    )
    assert encode(broken).tolist() == [[2, 1, 1]]


def test_pictures_come_as_bytes_or_as_paths(encode, counting, tmp_path):
    (tmp_path / "img").mkdir()
    (tmp_path / "img/a.png").write_bytes(picture(100))
    (tmp_path / "img/same.png").write_bytes(picture(100))
    as_paths = encode(pa.array(["img/same.png", "img/a.png", None]), "image")
    as_bytes = encode(pa.array([picture(100), None, picture(7)]), "image")
    assert as_paths.tolist() == [[100, 1, 1], [100, 1, 1], [0, 0, 0]]
    assert as_bytes.tolist() == [[100, 1, 1], [0, 0, 0], [7, 1, 1]]
    assert len(counting.seen) == 2


def test_a_changed_picture_under_an_old_name_is_encoded_anew(encode, tmp_path):
    (tmp_path / "a.png").write_bytes(picture(1))
    encode(pa.array(["a.png"]), "image")
    (tmp_path / "a.png").write_bytes(picture(2))
    assert encode(pa.array(["a.png"]), "image").tolist() == [[2, 1, 1]]


def test_unreadable_pictures_count_as_unknown_and_are_named(encode, tmp_path, caplog):
    (tmp_path / "good.png").write_bytes(picture(9))
    (tmp_path / "torn.png").write_bytes(picture(9)[:40])
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    paths = ["torn.png", "good.png", "absent.png", "pipe", "torn.png"]
    with caplog.at_level(logging.WARNING):
        encoded = encode(pa.array(paths), "image")
    assert encoded[:, -1].tolist() == [0, 1, 0, 0, 0]
    assert not encoded[[0, 2, 3, 4]].any()
    assert "3 of 4 distinct pictures" in caplog.text
    assert "torn.png, absent.png, pipe" in caplog.text


def test_a_repaired_picture_is_known_again(encode, tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    assert encode(pa.array(["a.png"]), "image")[0, -1] == 0
    (tmp_path / "a.png").write_bytes(picture(5))
    assert encode(pa.array(["a.png"]), "image").tolist() == [[5, 1, 1]]


@pytest.mark.parametrize(
    "path", ["../secret.png", "a/../../secret.png", "/etc/passwd", "link.png", "a\0b"]
)
def test_a_path_may_not_leave_the_dataset(tmp_path, counting, path):
    root = tmp_path / "dataset"
    root.mkdir()
    (tmp_path / "secret.png").write_bytes(picture(1))
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(InputError, match="picture_path_confined"):
        encode_content(
            pa.array([path]), "image", "counting", cache=tmp_path / "c", root=root
        )
    assert counting.seen == []


@pytest.mark.parametrize(
    ("values", "kind"),
    [([1, 2], "text"), ([b"x"], "text"), ([[1.0]], "image"), ([1], "image")],
)
def test_values_of_another_type_are_refused(encode, values, kind):
    with pytest.raises(InputError, match="wrong_type"):
        encode(pa.array(values), kind)


@pytest.mark.parametrize("kind", ["text", "image"])
def test_an_unknown_encoder_is_refused(tmp_path, kind):
    with pytest.raises(InputError, match="known_encoder"):
        encode_content(pa.array(["a"]), kind, "hashed", cache=tmp_path, root=tmp_path)


def test_an_encoder_of_the_other_kind_is_refused(tmp_path):
    with pytest.raises(InputError, match="known_encoder"):
        encode_content(
            pa.array(["a"]), "image", "hashed-ngrams", cache=tmp_path, root=tmp_path
        )


def test_sizes_are_known_by_name():
    assert encoder_size("hashed-ngrams") == 256
    with pytest.raises(InputError, match="did you mean 'hashed-ngrams'"):
        encoder_size("hashed-ngram")


@pytest.mark.parametrize("name", ["all-minilm-l6-v2", "efficientnet-lite0"])
def test_without_the_extra_the_message_says_what_to_run(monkeypatch, name):
    monkeypatch.setattr(text, "has_modules", lambda *_: False)
    text.text_encoder.cache_clear()
    content.image_encoder.cache_clear()
    with pytest.raises(InputError, match=r"make setup-content.*content_extra_missing"):
        encoder_size(name)


@pytest.mark.parametrize(
    ("is_installed", "name"), [(True, "all-minilm-l6-v2"), (False, "hashed-ngrams")]
)
def test_the_default_text_encoder_is_the_best_installed(
    monkeypatch, is_installed, name
):
    monkeypatch.setattr(text, "has_modules", lambda *_: is_installed)
    assert content.default_text_encoder() == name


TITLE = FieldSpec(
    name="q", of="request", kind="text", column="q", size=256, encoder="hashed-ngrams"
)


def test_texts_of_requests_are_encoded_as_those_of_logs(tmp_path):
    queries = pa.chunked_array([["red shoes", None], ["", "red shoes"]])
    logged = encode_content(
        queries, "text", "hashed-ngrams", cache=tmp_path, root=tmp_path
    )
    assert np.array_equal(encode_request_text(TITLE, queries), logged)


def test_a_request_without_any_text_is_unknown():
    encoded = encode_request_text(TITLE, pa.chunked_array([pa.nulls(2)]))
    assert encoded.shape == (2, 257)
    assert not encoded.any()
