"""A copy of a bundle is what was copied, or is made again."""

from serve.kept_bundles import KeptBundles


def test_a_copy_that_is_damaged_is_made_again(tmp_path, make_bundle):
    root, bundles = make_bundle("new"), KeptBundles(tmp_path / "kept", unused_s=60)
    _, kept = bundles.keep(root)
    (kept / "weights").write_text("torn")

    assert bundles.keep(root)[1] == kept

    assert (kept / "weights").read_text() == "new"
