"""Files of frames, read back."""

import re
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image, ImageSequence

from distributed_maddpg.errors import BadInput, TrainingError
from distributed_maddpg.evaluation.rendering import Frame
from distributed_maddpg.report import video
from distributed_maddpg.report.video import Footage, moments, picture_file, write_video

COLOURS = [(170, 70, 70), (70, 70, 170), (30, 130, 30), (30, 30, 30), (200, 150, 40), (255, 255, 255)]


def frames(num_episodes=2, num_frames=3, size=(60, 80)):
    """Return frames of episodes, each of one colour but for a white column."""
    made = []
    for index in range(num_episodes * num_frames):
        image = np.full((*size, 3), COLOURS[index % len(COLOURS)], np.uint8)
        image[:, : size[1] // 4] = 255
        made.append(
            Frame(image, index // num_frames, index % num_frames, index % num_frames == num_frames - 1)
        )
    return made


def test_a_gif_has_every_frame_its_exact_colours_and_a_pause_at_the_end_of_an_episode(tmp_path):
    path = tmp_path / "x.gif"
    written = write_video(frames(), path, 80, fps=20)
    assert written == Footage(6, 80, 60, 2.3, path.stat().st_size)
    with Image.open(path) as image:
        assert image.info["loop"] == 0
        read = [(frame.info["duration"], frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
    assert [duration for duration, _ in read] == [50, 50, 1050] * 2
    for (_, shown), colour in zip(read, COLOURS, strict=True):
        assert shown.size == (80, 60)
        assert shown.getpixel((40, 30)) == colour
        assert shown.getpixel((5, 30)) == (255, 255, 255)


def test_an_mp4_has_every_frame_and_repeats_the_last_ones(tmp_path):
    path = tmp_path / "-x.mp4"
    written = write_video(frames(), path, 80, fps=4)
    assert written == Footage(14, 80, 60, 3.5, path.stat().st_size)
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(ffmpeg, capture_output=True, check=True, timeout=60)
    # What browsers and players take.
    assert re.search(r"Video: h264 .*yuv420p.*, 80x60.*, 4 fps", done.stderr.decode())
    read = np.frombuffer(done.stdout, np.uint8).reshape(-1, 60, 80, 3)
    shown = [COLOURS[i] for i in (0, 1, *[2] * 5, 3, 4, *[5] * 5)]
    assert len(read) == len(shown)
    for picture, colour in zip(read, shown, strict=True):
        np.testing.assert_allclose(picture[30, 60], colour, atol=12)  # colour is compressed


def test_a_png_has_a_row_for_each_episode(tmp_path):
    path = tmp_path / "x.PNG"
    written = write_video(frames(2, 3), path, 40, fps=10)
    assert (written.frames, written.width, written.height, written.seconds) == (6, 3 * 44 - 4, 2 * 34 - 4, 0)
    with Image.open(path) as sheet:
        assert sheet.size == (128, 64)
        for index, colour in enumerate(COLOURS):
            assert sheet.getpixel((44 * (index % 3) + 25, 34 * (index // 3) + 15)) == colour
        assert sheet.getpixel((41, 5)) == (200, 200, 200)


def test_a_png_shows_six_moments_from_the_first_frame_to_the_last():
    assert moments(26) == [0, 5, 10, 15, 20, 25]
    assert moments(7) == [0, 1, 2, 4, 5, 6]
    assert moments(2) == [0, 1]


@pytest.mark.parametrize(("width", "size"), [(39, (40, 30)), (33, (32, 24)), (160, (160, 120))])
def test_both_sides_are_even(width, size):
    assert video.resized(frames(1, 1)[0], width).size == size


def test_a_file_is_replaced_only_by_a_complete_one(tmp_path):
    path = tmp_path / "x.gif"
    write_video(frames(1, 2), path, 80, fps=10)
    before = path.read_bytes()

    def failing():
        yield frames()[0]
        raise RuntimeError("the environment failed")

    for name in ("x.gif", "y.mp4", "z.png"):
        with pytest.raises(RuntimeError):
            write_video(failing(), tmp_path / name, 80, fps=10)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before
    write_video(frames(2, 3), path, 80, fps=10)
    with Image.open(path) as image:
        assert image.n_frames == 6


@pytest.mark.parametrize("kind", [".gif", ".png"])
def test_a_file_does_not_grow_without_bound(tmp_path, monkeypatch, kind):
    monkeypatch.setitem(video.MAX_PIXELS, kind, 6 * 80 * 60 - 1)
    with pytest.raises(BadInput, match=r"more than 5 frames of this size; ask for .* or an \.mp4"):
        write_video(frames(), tmp_path / f"x{kind}", 80, fps=10)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_refused_before_anything_is_drawn(tmp_path, monkeypatch):
    def refusal(path):
        with pytest.raises(BadInput) as caught:
            picture_file("--out", path)
        return str(caught.value)

    assert "must end with .gif, .mp4 or .png" in refusal(tmp_path / "x.avi")
    assert "is a folder; name a file" in refusal(tmp_path)
    assert "lies in no folder; create" in refusal(tmp_path / "missing" / "x.gif")
    assert "must be a path of this machine" in refusal("s3://bucket/x.gif")
    monkeypatch.setattr(video.importlib.util, "find_spec", lambda _: None)
    assert "needs imageio-ffmpeg: pip install 'distributed-maddpg[video]'" in refusal(tmp_path / "x.mp4")
    assert picture_file("--out", str(tmp_path / "x.gif")) == tmp_path / "x.gif"


def test_a_film_that_ffmpeg_did_not_finish_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(imageio_ffmpeg, "count_frames_and_secs", lambda _: (3, 0.3))
    with pytest.raises(TrainingError, match="ffmpeg wrote 3 of 14 frames"):
        write_video(frames(), tmp_path / "x.mp4", 80, fps=4)
    assert not list(tmp_path.iterdir())
