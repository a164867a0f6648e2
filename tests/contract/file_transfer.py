"""What a box's files keep when many are copied at once."""

import errno
import os
from pathlib import Path

import pytest

from sealos_devbox import (
    AsyncFiles,
    BoxFileNotFoundError,
    BoxIsADirectoryError,
    Source,
)


class TransferContract:
    """Uploads and downloads."""

    tick_ns = 1
    """What a time of the box is a multiple of."""

    async def test_uploading_contents(self, files: AsyncFiles) -> None:
        await files.write_file("old", "old", mode=0o600)
        results = await files.upload_files(
            [(b"new", "old"), (b"1", "x/y/1"), (b"2", "x/y/2"), (b"", "empty")]
        )
        assert [(r.path, r.local, r.size, r.error) for r in results] == [
            ("old", None, 3, None),
            ("x/y/1", None, 1, None),
            ("x/y/2", None, 1, None),
            ("empty", None, 0, None),
        ]
        assert await files.read_file("old") == b"new"
        assert (await files.get_file_info("old")).mode == 0o600
        assert await files.read_file("x/y/2") == b"2"
        assert await files.read_file("empty") == b""

    @pytest.mark.slow
    async def test_uploading_and_downloading_files(self, files: AsyncFiles, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.mkdir()
        contents = {f"f{number}": os.urandom(number * 1000) for number in range(40)}
        contents["large"] = os.urandom(20_000_000)
        for name, content in contents.items():
            (source / name).write_bytes(content)
        (source / "f1").chmod(0o755)
        (source / "f2").chmod(0o600)
        os.utime(source / "f1", ns=(1, 1_234_567_890_123_456_789))
        results = await files.upload_files(
            {source / name: f"in/{name}" for name in contents}, preserve_mtime=True
        )
        assert [result.size for result in results] == [len(data) for data in contents.values()]
        assert results[0].local == str(source / "f0")
        first = await files.get_file_info("in/f1")
        stamp = 1_234_567_890_123_456_789 // self.tick_ns * self.tick_ns
        assert (first.mode, first.mtime_ns) == (0o755, stamp)
        target = tmp_path / "target"
        down = await files.download_files(
            [f"in/{name}" for name in contents], target, preserve_mtime=True
        )
        assert [result.error for result in down] == [None] * len(contents)
        for name, content in contents.items():
            assert (target / "in" / name).read_bytes() == content
        assert (target / "in" / "f1").stat().st_mode & 0o777 == 0o755
        assert (target / "in" / "f2").stat().st_mode & 0o777 == 0o600
        assert (target / "in" / "f1").stat().st_mtime_ns == stamp
        assert sorted(os.listdir(target / "in")) == sorted(contents)

    async def test_a_file_that_fails_does_not_stop_the_others(
        self, files: AsyncFiles, tmp_path: Path
    ) -> None:
        await files.make_dir("dir")
        await files.write_file("file", "x")
        wanted: list[tuple[Source, str]] = [
            (b"1", "good"),
            (b"2", "dir"),
            (tmp_path / "nothing", "missing"),
            (b"3", "file/below"),
            (b"4", "also/good"),
        ]
        results = await files.upload_files(wanted, check=False)
        assert [result.error and result.error.errno for result in results] == [
            None,
            errno.EISDIR,
            errno.ENOENT,
            errno.ENOTDIR,
            None,
        ]
        with pytest.raises(BoxIsADirectoryError) as caught:
            await files.upload_files(wanted)
        assert caught.value.__notes__ == ["3 of 5 files were not transferred"]
        assert await files.read_file("also/good") == b"4"
        down = await files.download_files(
            ["good", "dir", "nothing", "also/good"], tmp_path / "to", check=False
        )
        assert down[0].error is None
        assert isinstance(down[2].error, BoxFileNotFoundError)
        assert down[1].error is not None
        assert (tmp_path / "to" / "also" / "good").read_bytes() == b"4"
        with pytest.raises(OSError, match=r"dir|nothing"):
            await files.download_files(["good", "nothing"], tmp_path / "to")
        with pytest.raises(TypeError, match="several"):
            await files.download_files("good", tmp_path / "to")

    async def test_downloads_stay_in_their_directory(
        self, files: AsyncFiles, tmp_path: Path
    ) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "kept").write_text("kept")
        target = tmp_path / "target"
        target.mkdir()
        (target / "dir").symlink_to(outside)
        (target / "link").symlink_to(outside / "kept")
        await files.upload_files([(b"1", "dir/stolen"), (b"2", "link"), (bytes(100_000), "dir/l")])
        results = await files.download_files(["dir/stolen", "link", "dir/l"], target, check=False)
        assert isinstance(results[0].error, PermissionError)
        assert results[1].error is None
        assert isinstance(results[2].error, PermissionError)
        assert os.listdir(outside) == ["kept"]
        assert (outside / "kept").read_text() == "kept"
        assert (target / "link").read_bytes() == b"2"
        assert not (target / "link").is_symlink()
