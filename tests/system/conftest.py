"""The command line, run in this process."""

import sys
from collections.abc import Callable

import pytest

from stretchscope.pipeline import cli

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in this process; gives exit status, standard output and standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["stretchscope", *map(str, arguments)])
        capsys.readouterr()
        try:
            cli.main()
        except SystemExit as stopped:
            status = int(stopped.code or 0)
        else:
            pytest.fail("the command line ended without an exit status")
        out, err = capsys.readouterr()
        return status, out, err

    return call
