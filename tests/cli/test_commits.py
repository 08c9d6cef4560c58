"""The commit of a clone, a worktree, or no clone at all."""

from __future__ import annotations

from pathlib import Path

from alphaedit_plugin.cli.commits import commit_of

COMMIT = "14cea8245f" + "0" * 30


def test_the_commit_of_a_clone(tmp_path: Path) -> None:
    assert commit_of(tmp_path) is None
    git = tmp_path / ".git"
    git.mkdir()
    assert commit_of(tmp_path) is None
    (git / "HEAD").write_text(f"{COMMIT}\n")
    assert commit_of(tmp_path) == COMMIT
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    assert commit_of(tmp_path) is None
    (git / "packed-refs").write_text(f"# pack-refs\n{COMMIT} refs/heads/main\n")
    assert commit_of(tmp_path) == COMMIT
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "refs" / "heads" / "main").write_text("f" * 40 + "\n")
    assert commit_of(tmp_path) == "f" * 40


def test_the_commit_of_a_worktree(tmp_path: Path) -> None:
    tree, own = tmp_path / "tree", tmp_path / "main" / ".git" / "worktrees" / "tree"
    own.mkdir(parents=True)
    tree.mkdir()
    (tree / ".git").write_text(f"gitdir: {own}\n")
    (own / "HEAD").write_text("ref: refs/heads/side\n")
    (own / "commondir").write_text("../..\n")
    (own.parents[1] / "packed-refs").write_text(f"{COMMIT} refs/heads/side\n")
    assert commit_of(tree) == COMMIT
