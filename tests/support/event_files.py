"""Reads TensorBoard's event files."""

from tensorboardX.proto.event_pb2 import Event


def events(path):
    """Yield the events of a file. A record is: length, its checksum, the event, its checksum."""
    data, at = path.read_bytes(), 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 8], "little")
        yield Event.FromString(data[at + 12 : at + 12 + length])
        at += 16 + length
