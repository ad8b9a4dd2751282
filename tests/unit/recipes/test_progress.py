"""What is said while a stage trains and nobody sits at a terminal."""

from cacs_ray.recipes.progress import training_progress

EPOCH = {"train/loss": 0.4, "validation/loss": 0.5, "rows_per_second": 2000.0}


def test_an_epoch_is_one_line_and_steps_are_none(caplog):
    with (
        caplog.at_level("INFO"),
        training_progress("teacher", 2, num_rows=10, steps_per_epoch=2) as tell,
    ):
        for epoch in range(2):
            tell(2 * epoch + 1, {"train/loss": 0.4})
            tell(2 * epoch + 2, EPOCH)
    first, second = caplog.messages
    assert "epoch 1 of 2  validation loss 0.5  2,000 rows/s" in first
    assert "epoch 2 of 2" in second


def test_training_that_goes_on_counts_the_epochs_before(caplog):
    with (
        caplog.at_level("INFO"),
        training_progress("teacher", 6, num_rows=10, steps_per_epoch=2) as tell,
    ):
        tell(6, EPOCH)
    assert "epoch 3 of 6" in caplog.messages[0]
