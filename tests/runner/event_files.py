"""What a run told TensorBoard, read back."""

from tensorboard.backend.event_processing.event_accumulator import (
    STORE_EVERYTHING_SIZE_GUIDANCE,
    EventAccumulator,
)


def read_events(run):
    return EventAccumulator(str(run / "tensorboard"), size_guidance=STORE_EVERYTHING_SIZE_GUIDANCE).Reload()
