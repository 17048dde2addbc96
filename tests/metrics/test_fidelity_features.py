"""Features of images and of samples: computed in batches, kept, and noticed when altered."""

import torch
from halves import CPU, Halves, Painter, small_set

from genlab.data.device import DeviceDataset
from genlab.extractors.base import Features
from genlab.fidelity.features import chosen, real_features, sample_features


def test_features_are_those_of_the_images_in_any_batches():
    data, extractor = small_set(), Halves()
    whole = extractor(data.stored(slice(None)))
    for batch_size in (3, 20, 100):
        found = real_features(extractor, data, None, batch_size)
        assert torch.equal(found.values, whole.values)
        assert torch.equal(found.logits, whole.logits)


def test_a_second_look_is_at_the_cache(cache):
    extractor = Halves()
    first = real_features(extractor, small_set(), 10, 4)
    assert (extractor.calls, len(list(cache.iterdir()))) == (3, 1)
    again = Halves()
    second = real_features(again, small_set(), 10, 5)
    assert again.calls == 0
    assert torch.equal(first.values, second.values)
    assert torch.equal(first.logits, second.logits)


def test_other_images_weights_and_counts_are_other_features(cache):
    heavier = Halves()
    heavier.weight += 1
    for extractor, data, limit in (
        (Halves(), small_set(), 10),
        (Halves(), small_set(seed=1), 10),
        (Halves(), small_set(), 11),
        (Halves(), small_set(), None),
        (Halves(), small_set(packed=True), 10),
        (heavier, small_set(), 10),
    ):
        real_features(extractor, data, limit, 50)
        assert extractor.calls == 1
    assert len(list(cache.iterdir())) == 6


def test_a_file_that_was_altered_is_noticed_and_replaced(cache, caplog):
    expected = real_features(Halves(), small_set(), None, 50)
    (path,) = cache.iterdir()
    stored = bytearray(path.read_bytes())
    stored[len(stored) // 2] ^= 1
    path.write_bytes(stored)
    extractor = Halves()
    found = real_features(extractor, small_set(), None, 50)
    assert extractor.calls == 1
    assert torch.equal(found.values, expected.values)
    assert "has been altered" in caplog.text
    assert "computing them anew" in caplog.text
    real_features(extractor, small_set(), None, 50)
    assert extractor.calls == 1


def test_a_cache_that_can_not_be_written_costs_time_alone(cache, caplog):
    cache.parent.mkdir()
    cache.write_text("in the way")
    extractor = Halves()
    for calls in (1, 2):
        found = real_features(extractor, small_set(), None, 50)
        assert len(found.values) == 20
        assert extractor.calls == calls
    assert "can't be kept" in caplog.text


def test_packed_images_have_the_features_of_their_pixels():
    packed = small_set(packed=True)
    pixels = DeviceDataset(packed.stored(slice(None)).unpack(), None, CPU, CPU)
    a, b = (real_features(Halves(), data, 7, 3).values for data in (packed, pixels))
    assert torch.equal(a, b)


def test_an_extractor_without_classes_has_no_logits():
    class Plain(Halves):
        def forward(self, x):
            return Features(super().forward(x).values)

    for _ in range(2):  # computed, and read
        assert real_features(Plain(), small_set(), None, 7).logits is None


def test_images_of_a_sorted_set_are_taken_from_all_of_it():
    data = DeviceDataset(torch.zeros(10, 1, 4, 4, dtype=torch.uint8), torch.arange(10) // 5, CPU, CPU)
    assert data.labels[chosen(data, 4)].tolist() == [0, 0, 1, 1]
    assert chosen(data, None).tolist() == chosen(data, 99).tolist() == list(range(10))


def test_samples_are_of_all_classes_evenly():
    model = Painter()
    features, y = sample_features(Halves(), model, 7, 3)
    assert y.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert torch.equal(torch.cat(model.asked), y)
    assert torch.equal(features.logits.argmax(1), y)


def test_an_unconditional_model_is_asked_for_no_class():
    model = Painter(num_classes=None)
    features, y = sample_features(Halves(), model, 7, 5)
    assert y is None
    assert model.asked == [None, None]
    assert features.values.shape == (7, 2)
