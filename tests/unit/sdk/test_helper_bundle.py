"""Finding the built helper."""

from pathlib import Path

import pytest

from sealos_devbox import CapabilityError
from sealos_devbox._transport.helper_bundle import architecture_of, find_helper


def test_the_helper_of_an_architecture(tmp_path: Path) -> None:
    for architecture in ("amd64", "arm64"):
        helper = tmp_path / f"devbox-helper-linux-{architecture}"
        helper.write_bytes(b"")
        with pytest.raises(CapabilityError, match="not executable"):
            find_helper(architecture, directory=tmp_path)
        helper.chmod(0o755)
        assert find_helper(architecture, directory=tmp_path) == helper


def test_a_missing_helper_says_how_it_is_built(tmp_path: Path) -> None:
    with pytest.raises(CapabilityError, match=str(tmp_path)) as caught:
        find_helper("amd64", directory=tmp_path)
    assert "make build" in caught.value.hint


def test_processors() -> None:
    assert architecture_of("x86_64") == "amd64"
    assert architecture_of("aarch64") == "arm64"
    with pytest.raises(CapabilityError, match="riscv64"):
        architecture_of("riscv64")
