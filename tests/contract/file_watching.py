"""What a watch of a box's files tells."""

import anyio
import pytest

from sealos_devbox import (
    AsyncFiles,
    BoxFileError,
)


class FileWatchContract:
    """Events of changes."""

    async def test_changes_are_seen(self, files: AsyncFiles) -> None:
        await files.make_dir("dir")
        with anyio.fail_after(20):
            async with files.watch() as watch:
                await files.write_file("dir/file", "x")
                event = await watch.receive()
                assert event is not None
                assert (event.kind, event.path) == ("created", "dir/file")
                assert event.info == await files.get_file_info("dir/file")
                await files.move_path("dir/file", "moved")
                event = await watch.receive()
                assert event is not None
                assert (event.kind, event.path, event.old_path) == ("moved", "moved", "dir/file")
                await files.delete("moved")
                event = await watch.receive()
                assert event is not None
                assert (event.kind, event.path, event.info) == ("deleted", "moved", None)
                await files.make_dir("new")
                await files.write_file("new/file", "y")
                seen = set()
                async for event in watch:
                    seen.add((event.kind, event.path))
                    if event.path == "new/file":
                        break
                assert ("created", "new") in seen

    async def test_watching_one_directory_only(self, files: AsyncFiles) -> None:
        await files.make_dir("dir/sub")
        with anyio.fail_after(20):
            async with files.watch("dir", recursive=False) as watch:
                await files.write_file("elsewhere", "x")
                await files.write_file("dir/sub/deep", "x")
                await files.write_file("dir/here", "x")
                event = await watch.receive()
                while event is not None and event.kind == "attributes":
                    event = await watch.receive()
                assert event is not None
                assert event.path == "dir/here"

    async def test_a_watch_has_to_be_opened(self, files: AsyncFiles) -> None:
        watch = files.watch()
        with pytest.raises(RuntimeError, match="with"):
            await watch.receive()
        with pytest.raises(BoxFileError):
            async with files.watch("nothing"):
                pass
