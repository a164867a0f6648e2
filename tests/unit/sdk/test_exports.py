"""What is public is what is named."""

import sealos_devbox


def order(name: str) -> tuple[int, str]:
    """Constants, classes, functions: the order that the linter keeps __all__ in."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def test_all_is_sorted_and_complete() -> None:
    public = {
        name
        for name, value in vars(sealos_devbox).items()
        if not name.startswith("_") and not isinstance(value, type(sealos_devbox))
    }
    assert set(sealos_devbox.__all__) == public | {"__version__"}
    assert sealos_devbox.__all__ == sorted(sealos_devbox.__all__, key=order)
