"""Which template is meant by what people write."""

import pytest

from sealos_devbox import TemplateMatch
from sealos_devbox._planning.templates import check_image, match_template

OFFERED = ["python", "node.js", "go", "c", "cpp", "net", "next.js", "debian-ssh", "spring-boot"]


@pytest.mark.parametrize(
    ("runtime", "language", "expected", "exact"),
    [
        ("python", None, "python", True),
        ("Python", None, "python", True),
        (None, "python", "python", True),
        ("python:3.11", None, "python", False),
        ("python@3.11", "python", "python", False),
        ("python3.11", None, "python", False),
        ("python-3.11", None, "python", False),
        ("node", None, "node.js", True),
        ("nodejs", None, "node.js", True),
        ("node:22", None, "node.js", False),
        ("golang:1.23", None, "go", False),
        ("c++", None, "cpp", True),
        ("C", None, "c", True),
        ("c#", None, "net", True),
        ("NextJS", None, "next.js", True),
        ("spring boot", None, "spring-boot", True),
        ("debian", None, "debian-ssh", True),
        ("pypy:3.10", "python", "python", False),
        ("go", "python", "go", False),
    ],
)
def test_what_is_meant(
    runtime: str | None, language: str | None, expected: str, exact: bool
) -> None:
    match = match_template(runtime, language, OFFERED)
    assert (match.runtime, match.exact, bool(match.note)) == (expected, exact, not exact)


@pytest.mark.parametrize(
    ("runtime", "said"),
    [
        ("pyhton", "did you mean 'python'"),
        ("node.sj", "did you mean 'node.js'"),
        ("golagn", "did you mean 'go'"),
        ("cobol", "it has: c, cpp"),
        ("", "name a runtime or a language"),
    ],
)
def test_what_is_not_there(runtime: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        match_template(runtime, None, OFFERED)


@pytest.mark.parametrize(
    ("requested", "image", "exact", "said"),
    [
        ("python:3.11", "r.example/devbox/python:3.11", True, ""),
        ("python:3.11", "r.example/devbox/python:3.11.4-x", True, ""),
        ("python:3.1", "r.example/devbox/python:3.11", False, "is 3.11"),
        ("python:3.11", "r.example:5000/devbox/python", False, "as before"),
        ("python:3.11", None, False, "as before"),
        ("next:v14", "r.example/next:14", True, ""),
    ],
)
def test_the_image_tells_the_version(
    requested: str, image: str | None, exact: bool, said: str
) -> None:
    match = check_image(TemplateMatch(requested, "x", exact=False, note="as before"), image)
    assert match.exact is exact
    assert said in match.note
