"""Frames of video files: every reader sees the same ones, upright, whatever is wrong with the file."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from slicer.core.images.image_files import read_image
from slicer.core.video.frames import Decoded, Reader, frames, name_of, parse_name, read_frame
from slicer.errors import ImageError
from slicer.models import zoo
from slicer.models.images import Preprocess
from tests.unit.video_files import HEIGHT, WIDTH, columns, every, make_video, set_matrix

TENTH = Fraction(1, 10)
ONE = 1 << 16


def test_frames_come_in_order_with_their_timestamps(tmp_path: Path) -> None:
    file = make_video(tmp_path / "a.mp4", every(TENTH, 8))
    found = list(frames(file))
    assert [frame.time_s for frame in found] == pytest.approx([k / 10 for k in range(8)], abs=1e-3)
    assert [columns(frame.picture()) for frame in found] == list(range(8))


def test_frames_that_were_coded_out_of_order_come_in_the_order_in_which_they_are_shown(tmp_path: Path) -> None:
    file = make_video(tmp_path / "b.mkv", every(TENTH, 12), codec="libx264")
    with av.open(str(file)) as container:
        coded = [packet.pts for packet in container.demux(video=0) if packet.pts is not None]
    assert coded != sorted(coded), "the file has B-frames"
    assert [columns(frame.picture()) for frame in frames(file)] == list(range(12))


def test_a_name_leads_to_its_frame_wherever_an_images_path_does(tmp_path: Path) -> None:
    file = make_video(tmp_path / "a.mp4", every(TENTH, 6))
    names = [name_of(file, frame.pts) for frame in frames(file)]
    assert parse_name(names[3]) is not None and parse_name(file) is None
    # Forwards, the same again, with gaps, backwards.
    assert [columns(read_image(names[k])) for k in (0, 1, 1, 4, 2, 5, 0)] == [0, 1, 1, 4, 2, 5, 0]
    preprocess = Preprocess(zoo.resolve("digits_vit"))
    assert np.array_equal(preprocess(names[4]), preprocess(read_image(names[4])))


def test_the_same_frame_is_not_decoded_twice_and_the_next_one_reads_on(tmp_path: Path) -> None:
    file = make_video(tmp_path / "a.mp4", every(TENTH, 6))
    pts = [frame.pts for frame in frames(file)]
    reader = Reader(str(file))
    reader.at(pts[2])
    file.unlink()  # the open file goes on; beginning again would fail
    assert [columns(reader.at(pts[k])) for k in (2, 3, 5)] == [2, 3, 5]
    with pytest.raises(ImageError, match="no such file"):
        reader.at(pts[0])


@pytest.mark.parametrize(
    ("matrix", "turn"),
    [
        ((0, ONE, -ONE, 0), Image.Transpose.ROTATE_270),  # a phone held upright: clockwise
        ((-ONE, 0, 0, -ONE), Image.Transpose.ROTATE_180),
        ((0, -ONE, ONE, 0), Image.Transpose.ROTATE_90),
        ((-ONE, 0, 0, ONE), Image.Transpose.FLIP_LEFT_RIGHT),
    ],
)
def test_a_display_matrix_is_applied(tmp_path: Path, matrix: tuple[int, ...], turn: Image.Transpose) -> None:
    file = make_video(tmp_path / "a.mp4", every(TENTH, 4))
    stored = list(frames(file))[3].picture()
    met = Decoded()
    shown = list(frames(set_matrix(file, *matrix), met))[3].picture()
    assert np.array_equal(np.asarray(shown), np.asarray(stored.transpose(turn))) and met.turned


def test_a_clockwise_turn_brings_the_left_edge_to_the_top(tmp_path: Path) -> None:
    file = set_matrix(make_video(tmp_path / "a.mp4", every(TENTH, 4)), 0, ONE, -ONE, 0)
    pixels = np.asarray(list(frames(file))[3].picture().convert("L"))
    assert pixels.shape == (WIDTH, HEIGHT) and pixels[:10].min() > 127 > pixels[20:].max()


def test_a_matrix_that_is_no_quarter_turn_is_told_and_not_applied(tmp_path: Path) -> None:
    met = Decoded()
    file = set_matrix(make_video(tmp_path / "a.mp4", every(TENTH, 3)), 46341, 46341, -46341, 46341)
    assert [frame.picture().size for frame in frames(file, met)] == [(WIDTH, HEIGHT)] * 3
    assert met.skewed and not met.turned


def test_broken_packets_in_the_middle_cost_their_own_frames(tmp_path: Path) -> None:
    file = make_video(tmp_path / "a.mkv", every(TENTH, 10), codec="mjpeg")
    with av.open(str(file)) as container:
        packets = [(packet.pts, bytes(packet)) for packet in container.demux(video=0) if packet.size]
    data = file.read_bytes()
    for _, packet in packets[4:6]:
        assert data.count(packet) == 1
        data = data.replace(packet, bytes(len(packet)))
    file.write_bytes(data)
    met = Decoded()
    assert [frame.pts for frame in frames(file, met)] == [pts for k, (pts, _) in enumerate(packets) if k not in (4, 5)]
    assert met.broken == 2 and met.broken_at_s == pytest.approx(0.4)
    with pytest.raises(ImageError, match=f"no frame with timestamp {packets[4][0]}"):
        read_frame(str(file), packets[4][0] or 0)


def test_what_is_no_video_is_refused_with_its_name_and_a_remedy(tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    sound = tmp_path / "sound.wav"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))  # type: ignore[attr-defined]
    lost = make_video(tmp_path / "lost.mp4", every(TENTH, 10))
    lost.write_bytes(lost.read_bytes().partition(b"moov")[0])  # the index, which stands at the end
    cases = {
        tmp_path / "none.mp4": "there is no such file",
        text: "cannot be read as a video",
        sound: "no video stream, but audio",
        lost: "cut off",
    }
    for file, words in cases.items():
        with pytest.raises(ImageError, match=words) as caught:
            list(frames(file))
        assert str(file) in str(caught.value)


def test_without_pyav_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImageError, match=r"pip install 'av>=17,<19'"):
        list(frames(tmp_path / "a.mp4"))


def test_an_images_own_file_may_have_such_a_name(tmp_path: Path) -> None:
    odd = tmp_path / "a#pts=7"
    Image.new("RGB", (3, 2)).save(odd, format="PNG")
    assert read_image(odd).size == (3, 2)
