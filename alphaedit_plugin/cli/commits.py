"""Which commit a folder is at, read without git: it need not be installed."""

from __future__ import annotations

from pathlib import Path


def commit_of(folder: Path) -> str | None:
    """The commit that a git clone has checked out; ``None`` where that cannot be read."""
    git = folder / ".git"
    try:
        if git.is_file():  # a worktree or submodule
            git = folder / git.read_text().partition("gitdir:")[2].strip()
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref:"):
            return head
        name = head.removeprefix("ref:").strip()
        common = git / "commondir"
        places = [git, git / common.read_text().strip()] if common.is_file() else [git]
        for place in places:
            if (place / name).is_file():
                return (place / name).read_text().strip()
        for line in (places[-1] / "packed-refs").read_text().splitlines():
            if line.endswith(f" {name}"):
                return line.partition(" ")[0]
    except (OSError, UnicodeDecodeError):
        return None
    return None
