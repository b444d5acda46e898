"""Frames of episodes as a moving picture (GIF, MP4) or a still one (PNG)."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from distributed_maddpg.errors import BadInput, TrainingError
from distributed_maddpg.evaluation.rendering import Frame
from distributed_maddpg.files import writable_file, written_aside

FORMATS = (".gif", ".mp4", ".png")
MAX_PIXELS = {".gif": 200_000_000, ".png": 100_000_000}
"""Of all frames together, which are kept in memory until the file is complete."""
PAUSE_S = 1.0
"""How much longer the end of an episode is shown."""
_COLOURS, _SAMPLES, _SAMPLED_PIXELS, _AT_ONCE = 128, 16, 2_000_000, 8_192
_FFMPEG_TIMEOUT_S = 300.0
_MOMENTS, _GAP, _GAP_COLOUR = 6, 4, "#c8c8c8"


@dataclass(frozen=True)
class Footage:
    """What was written: how many pictures of what size, how long they last, and the file's size."""

    frames: int
    width: int
    height: int
    seconds: float
    """0 of a still picture."""
    num_bytes: int


def picture_file(field: str, value: str | Path) -> Path:
    """Return the path of a file that pictures can be written to, before any is drawn.

    Raises:
        BadInput: naming the file as the value of `field`.
    """
    path = writable_file(field, value)
    if path.suffix.lower() not in FORMATS:
        raise BadInput(field, str(path), f"must end with {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    if path.suffix.lower() == ".mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        remedy = "needs imageio-ffmpeg: pip install 'distributed-maddpg[video]', or name a .gif"
        raise BadInput(field, str(path), remedy)
    return path


def write_video(frames: Iterable[Frame], path: Path, width: int, fps: float) -> Footage:
    """Write frames to a file, whose ending decides the format, and replace it if it exists.

    A GIF repeats, and like an MP4 shows the end of each episode a second longer. A PNG has a row for each
    episode: six moments from its first frame to its last one.

    Args:
        frames: at least one.
        path: see `picture_file`.
        width: of each frame in pixels.
        fps: frames a second; a GIF has hundredths of a second.

    Raises:
        BadInput: if there are more frames than a GIF or a PNG should hold.
    """
    kind = path.suffix.lower()
    if kind == ".png":
        return _write_sheet(frames, path, width)
    write = _write_gif if kind == ".gif" else _write_mp4
    return write(frames, path, width, fps)


def resized(frame: Frame, width: int) -> Image.Image:
    """Return a frame as a picture of this width; both sides are even, as H.264 needs them."""
    image = Image.fromarray(frame.image)
    height = width * image.height / image.width
    size = (2 * round(width / 2), max(2, 2 * round(height / 2)))
    return image if size == image.size else image.resize(size, Image.Resampling.HAMMING)


def _write_gif(frames: Iterable[Frame], path: Path, width: int, fps: float) -> Footage:
    frame_ms = 10 * round(100 / fps)
    images: list[Image.Image] = []
    durations: list[int] = []
    for frame in frames:
        images.append(resized(frame, width))
        _check_pixels(images, path)
        durations.append(frame_ms + round(1000 * PAUSE_S) * frame.last)
    palette = _palette(images)
    few = [_indexed(image, palette) for image in images]
    with written_aside(path) as draft:
        few[0].save(
            draft,
            format="GIF",
            save_all=True,
            append_images=few[1:],
            duration=durations,
            loop=0,
            optimize=True,
        )
    return Footage(len(few), *few[0].size, sum(durations) / 1000, path.stat().st_size)


def _check_pixels(images: Sequence[Image.Image], path: Path) -> None:
    kind = path.suffix.lower()
    if len(images) * images[0].width * images[0].height > MAX_PIXELS[kind]:
        remedy = f"would hold more than {len(images) - 1:,} frames of this size; ask for fewer episodes"
        raise BadInput("--out", str(path), f"{remedy}, a smaller --size, or an .mp4")


def _palette(images: Sequence[Image.Image]) -> npt.NDArray[np.int64]:
    """Return one palette [P, 3] for all frames, so that a colour does not change from one to the next.

    Half of it are the most frequent colours, exactly: the background and the insides of what is drawn. The
    others divide what is left evenly, for edges.
    """
    chosen = images[:: max(1, len(images) // _SAMPLES)]
    pixels = np.concatenate([np.asarray(image).reshape(-1, 3) for image in chosen])
    pixels = pixels[:: max(1, len(pixels) // _SAMPLED_PIXELS)]
    colours, counts = np.unique(_packed(pixels), return_counts=True)
    frequent = colours[np.argsort(-counts, kind="stable")[: _COLOURS // 2]]
    divided = Image.fromarray(pixels[None]).quantize(_COLOURS // 2, Image.Quantize.MEDIANCUT).getpalette()
    return np.concatenate([_unpacked(frequent), np.reshape(divided or [], (-1, 3)).astype(np.int64)])


def _indexed(image: Image.Image, palette: npt.NDArray[np.int64]) -> Image.Image:
    """Return a frame in the nearest colours of a palette; Pillow's own search ignores the last two bits."""
    pixels = np.asarray(image)
    colours, where = np.unique(_packed(pixels), return_inverse=True)
    nearest = np.empty(len(colours), np.uint8)
    for first in range(0, len(colours), _AT_ONCE):
        some = _unpacked(colours[first : first + _AT_ONCE])
        distances = np.square(some[:, None] - palette).sum(axis=2)  # [colours, P]
        nearest[first : first + _AT_ONCE] = distances.argmin(axis=1)
    indexed = Image.fromarray(nearest[where].reshape(pixels.shape[:2]))
    indexed.putpalette(palette.ravel().tolist())
    return indexed


def _packed(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Return the colours of pixels [..., 3] as one number each [...]."""
    packed: npt.NDArray[np.int64] = pixels.astype(np.int64) @ np.array([2**16, 2**8, 1])
    return packed


def _unpacked(colours: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=-1)


def _write_mp4(frames: Iterable[Frame], path: Path, width: int, fps: float) -> Footage:
    # An extra, of which the binary alone has 170 MB.
    import imageio_ffmpeg  # noqa: PLC0415

    ordered = iter(frames)
    first = resized(next(ordered), width)
    written = 0
    with written_aside(path.resolve()) as draft:
        writer: Any = imageio_ffmpeg.write_frames(
            str(draft),
            first.size,
            fps=fps,
            quality=8,
            macro_block_size=2,
            ffmpeg_log_level="error",
            ffmpeg_timeout=_FFMPEG_TIMEOUT_S,
            output_params=["-f", "mp4", "-movflags", "+faststart"],
        )
        writer.send(None)
        try:
            for image in itertools.chain([first], _with_pauses(ordered, width, fps)):
                writer.send(np.ascontiguousarray(image))
                written += 1
        finally:
            writer.close()  # waits for ffmpeg, or ends it
        encoded = int(imageio_ffmpeg.count_frames_and_secs(str(draft))[0]) if draft.exists() else 0
        if encoded != written:
            raise TrainingError(f"ffmpeg wrote {encoded} of {written} frames to {path}")
    return Footage(written, *first.size, written / fps, path.stat().st_size)


def _with_pauses(frames: Iterable[Frame], width: int, fps: float) -> Iterator[Image.Image]:
    """Yield the frames, those at an episode's end once more for each frame of its pause."""
    for frame in frames:
        image = resized(frame, width)
        yield from itertools.repeat(image, 1 + round(PAUSE_S * fps) * frame.last)


def _write_sheet(frames: Iterable[Frame], path: Path, width: int) -> Footage:
    rows: list[list[Image.Image]] = []
    for _, episode in itertools.groupby(frames, key=lambda frame: frame.episode):
        own = [resized(frame, width) for frame in episode]
        rows.append([own[index] for index in moments(len(own))])
        _check_pixels([image for row in rows for image in row], path)
    columns, (frame_width, height) = max(map(len, rows)), rows[0][0].size
    size = (columns * (frame_width + _GAP) - _GAP, len(rows) * (height + _GAP) - _GAP)
    sheet = Image.new("RGB", size, _GAP_COLOUR)
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            sheet.paste(image, (x * (frame_width + _GAP), y * (height + _GAP)))
    with written_aside(path) as draft:
        sheet.save(draft, format="PNG", optimize=True)
    return Footage(sum(map(len, rows)), *size, 0.0, path.stat().st_size)


def moments(num_frames: int) -> list[int]:
    """Return which frames of an episode a still picture shows: the first, the last and four in between."""
    spread = np.linspace(0, num_frames - 1, min(_MOMENTS, num_frames))
    return [round(float(index)) for index in spread]
