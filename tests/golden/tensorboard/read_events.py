"""Print every scalar of a TensorBoard event file as `tag step value` lines, read by TensorBoard itself.

    python read_events.py events.out.tfevents.* | DIRECTORY

Exit status 1 when nothing is found, so that an unreadable file cannot pass for an empty run. TensorBoard stops silently
at the first record whose checksum is wrong: compare the number of lines as well.
"""
import sys

from tensorboard.backend.event_processing.event_accumulator import SCALARS, TENSORS, EventAccumulator
from tensorboard.util import tensor_util


def main(path):
    # 0 keeps all events; the default would sample.
    events = EventAccumulator(path, size_guidance={SCALARS: 0, TENSORS: 0})
    events.Reload()
    rows = [(tag, e.step, e.value) for tag in events.Tags()[SCALARS] for e in events.Scalars(tag)]
    for tag in events.Tags()[TENSORS]:  # scalars as TensorFlow 2 writes them
        rows += [(tag, e.step, tensor_util.make_ndarray(e.tensor_proto).item()) for e in events.Tensors(tag)
                 if tensor_util.make_ndarray(e.tensor_proto).size == 1]
    for tag, step, value in sorted(rows, key=lambda r: (r[0], r[1])):
        print(f"{tag} {step} {value:.9g}")
    if not rows:
        print(f"read_events: {path}: no scalars found", file=sys.stderr)
    return 0 if rows else 1


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
